"""Jobs and their folders on disk, from which a server that starts again knows them.

<folder>/jobs/<id>/job.json           the record; written whole or not at all
<folder>/jobs/<id>/portrait/<name>    the inputs, under names that can do no harm
<folder>/jobs/<id>/driving/<name>
<folder>/jobs/<id>/result.mp4 ...     see RESULTS; they count once the job is done
"""

import dataclasses
import json
import pathlib
import shutil

from exp_jax.files.atomic import is_partial, remove_folder, write_text
from exp_jax.studio.uploads import is_id

QUEUED, RUNNING, DONE, FAILED, CANCELLED = STATES = (
  'queued',
  'running',
  'done',
  'failed',
  'cancelled',
)
ENDED = (DONE, FAILED, CANCELLED)
RESULTS = {  # name for clients -> (file, media type)
  'video': ('result.mp4', 'video/mp4'),
  'preview': ('preview.mp4', 'video/mp4'),
  'side_by_side': ('result_side_by_side.mp4', 'video/mp4'),
  'sheet': ('result_sheet.png', 'image/png'),
  'record': ('result.json', 'application/json'),
  'motion': ('motion.npz', 'application/octet-stream'),
  'head': ('head.png', 'image/png'),
  'faces': ('faces.json', 'application/json'),
  'subject': ('subject.npz', 'application/octet-stream'),
  'normals': ('normals.zip', 'application/zip'),
}


@dataclasses.dataclass
class Job:
  """One job. What follows `attempts` is not on disk: it is of this moment.

  Attributes:
    id: its name for clients, which cannot be guessed.
    kind: 'animate'; 'portrait': the fitted head over the portrait; 'fit': a subject and its normals.
    engine: what draws.
    options: {name: JSON value} as the client gave them; files by the path below the job's folder.
    portrait: name of the file.
    driving: name of the file, '' where there is none.
    created: seconds since 1970.
    expires: when it is deleted with all its files; counted anew from its end.
    preview: seconds of the result that are shown before the rest is drawn, 0 for none.
    state: one of STATES.
    words: one sentence on why it failed; '' else.
    warnings: sentences about input that was used although something is wrong with it.
    started: seconds since 1970, or None.
    ended: the same.
    attempts: how often it was begun.
    stage: what is under way.
    done: steps of the stage.
    total: of them, or None where it is not known.
    remaining: seconds until the end, or None where it is not known.
    cancelling: whether it was asked to stop.
  """

  id: str
  kind: str
  engine: str
  options: dict
  portrait: str
  driving: str
  created: float
  expires: float
  preview: float = 0.0
  state: str = QUEUED
  words: str = ''
  warnings: list[str] = dataclasses.field(default_factory=list)
  started: float | None = None
  ended: float | None = None
  attempts: int = 0
  stage: str = ''
  done: int = 0
  total: int | None = None
  remaining: float | None = None
  cancelling: bool = False


_OF_THE_MOMENT = ('stage', 'done', 'total', 'remaining', 'cancelling')


def folder_of(jobs: pathlib.Path, job: Job) -> pathlib.Path:
  """The folder of a job."""
  return jobs / job.id


def save(folder: pathlib.Path, job: Job) -> None:
  """Writes the record into the job's folder."""
  values = {
    name: value for name, value in dataclasses.asdict(job).items() if name not in _OF_THE_MOMENT
  }
  write_text(folder / 'job.json', json.dumps(values, indent=1))


def results_of(folder: pathlib.Path, job: Job) -> dict[str, pathlib.Path]:
  """{name for clients: file} of a job that is done; of one that runs its preview alone, of others nothing."""
  names = {DONE: tuple(RESULTS), RUNNING: ('preview',)}.get(job.state, ())
  return {
    name: folder / RESULTS[name][0] for name in names if (folder / RESULTS[name][0]).is_file()
  }


def remove_results(folder: pathlib.Path) -> None:
  """Takes away what a job has made so far, whole or not; its inputs and its record stay."""
  for path in list(folder.iterdir()):
    if path.name in {file for file, _ in RESULTS.values()} or is_partial(path):
      shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def remove_inputs(folder: pathlib.Path) -> None:
  """Takes away the files that a job was given."""
  for name in ('portrait', 'driving', 'files'):
    shutil.rmtree(folder / name, ignore_errors=True)


def load_all(jobs: pathlib.Path) -> list[Job]:
  """The jobs of a folder, the oldest first.

  What a kill left half-made, and folders without a readable record, are removed.
  """
  found = []
  for folder in list(jobs.iterdir()):
    job = None if is_partial(folder) or not is_id(folder.name) else _read(folder)
    if job is None:
      remove_folder(folder) if folder.is_dir() else folder.unlink(missing_ok=True)
    else:
      found.append(job)
  return sorted(found, key=lambda job: job.created)


def _read(folder: pathlib.Path) -> Job | None:
  try:
    job = Job(**json.loads((folder / 'job.json').read_text(encoding='utf8')))
  except (OSError, ValueError, TypeError, RecursionError):
    return None
  return job if job.id == folder.name and job.state in STATES else None
