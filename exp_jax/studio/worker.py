"""The process that computes: it keeps its models loaded, does one job at a time, and can be told to
stop one.

Requests on standard input, one JSON object a line:

  {'do': 'inspect', 'path': ..., 'preview': ...}                what a file is; refused as the commands refuse it
  {'do': 'animate', 'portrait' or 'fit', 'job': id, 'folder': ..., 'portrait': ..., 'driving': ...,
   'engine': ..., 'loading': {...}, 'options': {...}, 'max_frames': ..., 'preview': seconds}
  {'do': 'cancel', 'job': id}
  {'do': 'open', 'draw', 'save', 'feed' or 'close', ...}         of a session, see `live.drawn_sessions`
  {'do': 'forget'}                                              what was fitted; models stay loaded

Reports on what was standard output: {'report': 'progress', 'stage', 'done', 'total', 'remaining'},
{'report': 'warning', 'words'}, {'report': 'preview'} once that is there, and last
{'report': 'done', ...}, {'report': 'failed', 'words', 'ours'} or {'report': 'cancelled'}. It ends
with its input.
"""

import argparse
import json
import os
import pathlib
import queue
import threading
import time
import traceback
from collections.abc import Callable

from exp_jax.errors import UserError, room_complaint
from exp_jax.files.programs.compiled import keep_compiled
from exp_jax.heads.personalized import save_subject
from exp_jax.progress import Cancelled, Watch
from exp_jax.studio.first_seconds import with_first_seconds
from exp_jax.studio.live.drawn_sessions import DOES, DrawnSessions
from exp_jax.studio.refusals import TooLarge, told

PREVIEW = 1024  # pixels, the longer side of a preview
_DRAWING, _LAST = ('draw', 'paint'), 'side by side'  # stages of an `Animation`
_PERIOD = 0.25  # seconds between two reports of a stage
Load = Callable[[str, dict], object]  # (engine, how it is loaded) -> model


def load_engine(engine: str, loading: dict):
  """The model of an engine, loaded as the server was started with it."""
  from exp_jax.commands.animate import loaded

  values = {name: value for name, value in loading.items() if name != 'export'}
  export = loading.get('export')
  return loaded(
    argparse.Namespace(
      engine=engine, export=None if export is None else pathlib.Path(export), **values
    )
  )


def read_options(engine: str, given: dict):
  """The options dataclass of an engine, of JSON values and paths."""
  from exp_jax.studio.requests import checked_options

  return checked_options(engine, given, pathlib.Path)


def inspect(path: pathlib.Path, preview: pathlib.Path) -> dict:
  """What a file is, from its content; all of a picture and the first frame of a clip are decoded.

  Args:
    path: the file.
    preview: where a small picture of it is written (.png); of a motion file there is none.

  Returns:
    {'kind': 'picture', 'clip' or 'motion', 'width', 'height', 'frames', 'rate', 'seconds'}; sizes
    are None for a motion file.

  Raises:
    UserError: as the commands complain of it.
  """
  if path.suffix.lower() == '.npz':
    from exp_jax.files.npz import read_npz

    read_npz(path)
    return {
      'kind': 'motion',
      'width': None,
      'height': None,
      'frames': None,
      'rate': None,
      'seconds': None,
    }
  from exp_jax.media.images import resize, write_image
  from exp_jax.performance.inputs import first_picture, footage

  clip = footage(path)
  frame = first_picture(clip) if clip.still else next(iter(clip.frames()))[0]
  height, width = frame.shape[:2]
  shrunk = min(1.0, PREVIEW / max(height, width))
  write_image(
    preview, resize(frame, (max(1, round(height * shrunk)), max(1, round(width * shrunk))))
  )
  seconds = None if clip.still or clip.count is None else float(clip.count / clip.rate)
  return {
    'kind': 'picture' if clip.still else 'clip',
    'width': int(width),
    'height': int(height),
    'frames': clip.count,
    'rate': None if clip.still else float(clip.rate),
    'seconds': seconds,
  }


class Reports:
  """Progress as reports, not too many of them, with the seconds that remain.

  Args:
    say: sends a report.
    max_frames: of a clip; a stage with more is refused.
  """

  def __init__(self, say: Callable[[dict], None], max_frames: int | None = None):
    self._say, self._most = say, max_frames
    self._stage, self._sent, self._began, self._stage_began = (
      None,
      0.0,
      time.monotonic(),
      time.monotonic(),
    )
    self._expected: tuple[float, float] | None = (
      None  # seconds until drawing begins, and of drawing
    )

  def expect(self, before: float, drawing: float) -> None:
    """What an estimate says: seconds before the first frame is drawn, and of all drawing."""
    self._expected = before, drawing

  def __call__(self, stage: str, done: int, total: int | None) -> None:
    now = time.monotonic()
    if self._most is not None and max(done, total or 0) > self._most:
      raise TooLarge(
        f'the clip has more than {self._most} frames, the limit of this server: give a shorter '
        'one, or set limit'
      )
    if stage != self._stage:
      self._stage, self._stage_began = stage, now
    elif now - self._sent < _PERIOD and not (total and done >= total):
      return
    self._sent = now
    self._say(
      {
        'report': 'progress',
        'stage': stage,
        'done': done,
        'total': total,
        'remaining': self._remaining(stage, done, total, now),
      }
    )

  def _remaining(self, stage: str, done: int, total: int | None, now: float) -> float | None:
    drawing = stage in _DRAWING
    if total and done and drawing:
      return round((now - self._stage_began) / done * (total - done), 1)
    if self._expected is None or stage == _LAST:
      return None
    before, whole = self._expected
    left = whole if drawing else max(before - (now - self._began), 0.0) + whole
    return round(left, 1) or None  # an estimate that was too short says nothing more


def run_animate(model, request: dict, options, reports: Reports, say, cancel) -> dict:
  """A video and what lies beside it, the driver's motion, and the portrait's subject where the
  system has one."""
  folder, portrait, driving = (
    pathlib.Path(request[name]) for name in ('folder', 'portrait', 'driving')
  )
  estimate = model.estimate(driving, options=options)
  drawing = estimate.seconds - estimate.first_frame
  reports.expect(estimate.first_frame, drawing)
  warn = lambda words: say({'report': 'warning', 'words': told(words)})
  animation = model.animate(
    portrait, driving, options=options, progress=reports, cancel=cancel, warn=warn
  )
  if animation.write_motion is not None:
    animation.write_motion(folder / 'motion.npz')
  if (
    getattr(model, 'name', '') == 'expportrait'
  ):  # it remembers the portrait that it has just fitted
    save_subject(
      folder / 'subject.npz',
      model.portrait(portrait, options=options, cancel=cancel).portrait.subject,
    )
  if seconds := request.get('preview'):
    animation = with_first_seconds(
      animation, seconds, folder / 'preview.mp4', lambda: say({'report': 'preview'})
    )
  frames = animation.save(folder / 'result.mp4')
  return {'frames': frames}


def run_portrait(model, request: dict, options, reports: Reports, say, cancel) -> dict:
  """The fitted head over the portrait, its subject, and where the faces are."""
  from exp_jax.studio.fitted_picture import write_fitted_picture

  reports.expect(model.estimate(1, options=options).first_frame, 0.0)
  return write_fitted_picture(
    model,
    pathlib.Path(request['portrait']),
    pathlib.Path(request['folder']),
    options=options,
    progress=reports,
    cancel=cancel,
  )


def run_fit(*given) -> dict:
  """A subject and its normals frame by frame."""
  from exp_jax.studio import fits

  return fits.run_fit(*given)


RUNS = {'animate': run_animate, 'portrait': run_portrait, 'fit': run_fit}


class Worker:
  """The loop over requests.

  Args:
    say: sends a report.
    load: gives the model of an engine.
    runs: {kind of job: function}.
    options: (engine, {name: value}) -> the options of a job.
  """

  def __init__(
    self,
    say: Callable[[dict], None],
    *,
    load: Load = load_engine,
    runs: dict[str, Callable] = RUNS,
    options: Callable[[str, dict], object] = read_options,
  ):
    self._say, self._load, self._runs, self._options = say, load, runs, options
    self._models: dict[str, object] = {}
    self._sessions = DrawnSessions(self._model, options)
    self._cancelled: set[str] = set()
    self._left = False

  def cancel(self, job: str) -> None:
    """Stops a job that runs, or that will come."""
    self._cancelled.add(job)

  def leave(self) -> None:
    """Stops whatever runs: whoever asked has gone."""
    self._left = True

  def answer(self, request: dict) -> None:
    """Does one request; its last report says how it ended."""
    try:
      if request['do'] == 'inspect':
        self._say(
          {
            'report': 'done',
            'found': inspect(pathlib.Path(request['path']), pathlib.Path(request['preview'])),
          }
        )
      elif request['do'] == 'forget':
        for model in self._models.values():
          model.close()
      elif request['do'] in DOES:
        self._say({'report': 'done'} | self._sessions.answer(request))
      else:
        self._say({'report': 'done'} | self._job(request))
    except UserError as error:
      self._say({'report': 'failed', 'words': told(error), 'ours': False})
    except BrokenPipeError:
      raise  # nobody reads
    except Exception as error:
      if isinstance(error, Cancelled):
        self._say({'report': 'cancelled'})
      elif words := room_complaint(error):
        self._say({'report': 'failed', 'words': told(words), 'ours': False})
      else:
        traceback.print_exc()
        words = f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
        self._say(
          {
            'report': 'failed',
            'words': told(f'an error of the program, not of your files: {words}'),
            'ours': True,
          }
        )

  def _model(self, engine: str, loading: dict):
    if engine not in self._models:
      self._models[engine] = self._load(engine, loading)
    return self._models[engine]

  def _job(self, request: dict) -> dict:
    job, engine = request['job'], request['engine']
    cancel = lambda: self._left or job in self._cancelled
    reports = Reports(self._say, request.get('max_frames'))
    options = self._options(engine, request['options'])
    if engine not in self._models:
      Watch(reports, cancel).wait_for(lambda: self._model(engine, request['loading']), 'load')
    try:
      return self._runs[request['do']](
        self._models[engine], request, options, reports, self._say, cancel
      )
    finally:
      self._cancelled.discard(job)


def main(**stand_ins) -> None:
  """Answers requests until the input ends; keywords as of `Worker`."""
  stream = os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # what libraries print is no report
  writing, waiting = threading.Lock(), queue.Queue()

  def say(report: dict) -> None:
    with writing:
      stream.write(json.dumps(report).encode() + b'\n')
      stream.flush()

  worker = Worker(say, **stand_ins)

  def read():
    for line in os.fdopen(
      os.dup(0), 'rb'
    ):  # sys.stdin, read here, would keep the interpreter from its end
      request = json.loads(line)
      worker.cancel(request['job']) if request['do'] == 'cancel' else waiting.put(request)
    worker.leave()
    waiting.put(None)

  threading.Thread(target=read, name='exp_jax requests', daemon=True).start()
  keep_compiled()
  while (request := waiting.get()) is not None:
    try:
      worker.answer(request)
    except BrokenPipeError:  # nobody reads what becomes of it
      break
