"""What a mutation is, and how one is tried: a copy of the project with one line broken, and the
tests that must notice.

The working tree is never changed: every mutation has a folder of its own, which is gone afterwards,
also after a kill.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
_COPIED = (
  'exp_jax',
  'tests',
  'configs',
  'datasets',
  'benchmarks',
  'launch',
  'pyproject.toml',
  'setup.py',
  'requirements.txt',
  'requirements-mediapipe.txt',
)
_LINKED = ('assets', '.venv', '.venv-mediapipe')
_PROBE = 'mutation_probe'
_PROBE_SOURCE = """
import json, os, pathlib, sys
_failed = []


def pytest_runtest_logreport(report):
  if report.failed:
    _failed.append(f'{report.nodeid}' + ('' if report.when == 'call' else f' ({report.when})'))


def pytest_sessionfinish(session):
  files = {name: str(pathlib.Path(module.__file__).resolve()) for name, module in list(sys.modules.items())
           if name.split('.')[0] == 'exp_jax' and getattr(module, '__file__', None)}
  pathlib.Path(os.environ['MUTATION_REPORT']).write_text(json.dumps({'failed': _failed, 'files': files}))
"""


@dataclasses.dataclass(frozen=True)
class Mutation:
  """One line of mathematics and how it is broken.

  Attributes:
    name: short and unique, for the command line and the table.
    file: the file that is changed, relative to the project's root.
    old: text that stands in it exactly once.
    new: what takes its place.
    tests: what is run, as pytest takes it: test files or `file::test`, separated by spaces.
    meaning: what the broken line does, in a few words.
  """

  name: str
  file: str
  old: str
  new: str
  tests: str
  meaning: str

  @property
  def targets(self) -> tuple[str, ...]:
    return tuple(self.tests.split())


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of one mutation (or, without one, of its tests on the unbroken project).

  Attributes:
    status: 'killed' if a test failed, 'survived' if all passed, 'error' if the run says nothing
      (collection, time, imports).
    test: the first test that failed, or what went wrong.
    seconds: of the whole run of pytest.
  """

  status: str
  test: str
  seconds: float


def mistakes(mutations, root: pathlib.Path = ROOT) -> list[str]:
  """What makes a list stale, one sentence each: names used twice, old texts that are not there
  once, tests that are not there."""
  found, names = [], set()
  for mutation in mutations:
    say = lambda words, name=mutation.name: found.append(f'{name}: {words}')
    if mutation.name in names:
      say('the name is used twice')
    names.add(mutation.name)
    if mutation.old == mutation.new:
      say('nothing is changed')
    path = root / mutation.file
    count = path.read_text().count(mutation.old) if path.is_file() else 0
    if count != 1:
      say(
        f'the old text stands {count} times in {mutation.file}, not once: '
        f'{mutation.old.strip().splitlines()[0]!r}'
      )
    for target in mutation.targets:
      file, _, test = target.partition('::')
      if not (root / file).is_file():
        say(f'{file} does not exist')
      elif test and f'def {test.partition("[")[0]}(' not in (root / file).read_text():
        say(f'{file} has no {test}')
  return found


def digest(mutation: Mutation, root: pathlib.Path = ROOT) -> str:
  """16 hex digits of the mutation, the file that it changes and the files of its tests: an outcome
  holds while they stay the same."""
  files = sorted({mutation.file, *(target.partition('::')[0] for target in mutation.targets)})
  parts = [
    json.dumps(dataclasses.astuple(mutation)),
    *((root / file).read_text() for file in files),
  ]
  return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def copied(mutation: Mutation | None, root: pathlib.Path = ROOT):
  """A folder with a copy of the project in which the mutation is made; None makes none.

  Raises:
    ValueError: the old text does not stand in the file exactly once, so the list is stale.
  """
  with tempfile.TemporaryDirectory(prefix='mutation-') as folder:
    at = pathlib.Path(folder)
    for name in _COPIED:
      if (root / name).is_dir():
        shutil.copytree(root / name, at / name)
      elif (root / name).exists():
        shutil.copy2(root / name, at / name)
    for name in _LINKED:
      if (root / name).exists():
        (at / name).symlink_to((root / name).resolve(), target_is_directory=True)
    (at / f'{_PROBE}.py').write_text(_PROBE_SOURCE)
    if mutation is not None:
      file = at / mutation.file
      text = file.read_text()
      if text.count(mutation.old) != 1:
        raise ValueError(
          f'{mutation.name}: the old text stands {text.count(mutation.old)} times in '
          f'{mutation.file}, not once'
        )
      file.write_text(text.replace(mutation.old, mutation.new))
    yield at


def run_tests(
  mutation: Mutation | None,
  targets: tuple[str, ...],
  *,
  cache: pathlib.Path,
  limit: float,
  root: pathlib.Path = ROOT,
) -> Outcome:
  """Runs the quick tests among `targets` on a copy of the project with the mutation, up to the
  first that fails.

  Args:
    cache: folder of compiled programs that runs share; programs are found by their content, so no
      run sees another's line.
    limit: seconds after which the run is ended and counts as an error.
  """
  with copied(mutation, root) as at:
    report = at / 'report.json'
    command = [
      sys.executable,
      '-m',
      'pytest',
      '-p',
      _PROBE,
      '-p',
      'no:cacheprovider',
      '-m',
      'not slow and not long',
      '-x',
      '-q',
      '-n',
      '0',
      *targets,
    ]
    environment = os.environ | {
      'PYTHONPATH': str(at),
      'MUTATION_REPORT': str(report),
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': str(cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
    }
    began = time.monotonic()
    # a group of its own, so that programs which tests have started end with it
    process = subprocess.Popen(
      command,
      cwd=at,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )
    try:
      output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
      return Outcome('error', f'not done after {limit:.0f} seconds', time.monotonic() - began)
    finally:
      if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    seconds = time.monotonic() - began
    return _judged(mutation, process.returncode, output, report, at.resolve(), seconds)


def _judged(mutation, status, output, report, at, seconds) -> Outcome:
  last = output.strip().splitlines()[-1:] or ['no output']
  if not report.is_file():
    return Outcome('error', f'pytest did not finish: {last[0]}', seconds)
  found = json.loads(report.read_text())
  if foreign := [path for path in found['files'].values() if not path.startswith(f'{at}{os.sep}')]:
    return Outcome('error', f'not the copy was imported: {foreign[0]}', seconds)
  if status == 1 and found['failed']:
    first = found['failed'][0]  # a fixture that fails may be broken without any mutation
    return Outcome(
      'error' if first.endswith((' (setup)', ' (teardown)')) else 'killed', first, seconds
    )
  if status == 0:
    module = mutation and mutation.file.removesuffix('.py').replace('/', '.')
    note = '' if not module or module in found['files'] else f'{module} was never imported'
    return Outcome('survived', note or last[0], seconds)
  return Outcome(
    'error', f'pytest ended with status {status}: {(found["failed"] or last)[0]}', seconds
  )
