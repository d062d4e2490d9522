"""The Python environment of the landmark estimator: where it is, what it lacks, and how it is made.

MediaPipe 0.10.21 needs older packages than JAX does, so it has an environment of its own,
`<home>/.venv-mediapipe` (see exp_jax.files.resources), with exactly the versions of
requirements-mediapipe.txt.
"""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

from exp_jax.errors import UserError
from exp_jax.files.resources import home, setup_command, top_level_file

FIRST_PYTHON, LAST_PYTHON = (3, 9), (3, 12)  # that MediaPipe 0.10.21 and its pins have wheels for
_READY = '.ready'  # written last; an environment without it was interrupted


def folder() -> pathlib.Path:
  """The environment's folder in the home."""
  return home() / '.venv-mediapipe'


def is_foreign() -> bool:
  """Whether EXP_JAX_MEDIAPIPE names an environment that is not ours to make."""
  return bool(os.environ.get('EXP_JAX_MEDIAPIPE'))


def python() -> pathlib.Path:
  """The Python with MediaPipe: $EXP_JAX_MEDIAPIPE, else that of `folder()`. It need not exist."""
  return pathlib.Path(os.environ['EXP_JAX_MEDIAPIPE']) if is_foreign() else _python_in(folder())


def _python_in(environment: pathlib.Path) -> pathlib.Path:
  return environment / ('Scripts/python.exe' if sys.platform == 'win32' else 'bin/python')


def pins() -> dict[str, str]:
  """{package: version} of requirements-mediapipe.txt."""
  text = top_level_file('requirements-mediapipe.txt').read_text()
  return dict(re.findall(r'^([\w.-]+)==([\w.]+)', text, re.MULTILINE))


def lacking(environment: pathlib.Path) -> list[str]:
  """The pins 'name==version' that are not wholly installed in an environment; all of them where
  there is none."""
  found = {}
  for packages in (
    *environment.glob('lib/python*/site-packages'),
    *environment.glob('Lib/site-packages'),
  ):
    for distribution in importlib.metadata.distributions(path=[str(packages)]):
      if distribution.read_text('RECORD'):  # pip writes it last
        found[_normal(distribution.metadata['Name'])] = distribution.version
  return [
    f'{name}=={version}' for name, version in pins().items() if found.get(_normal(name)) != version
  ]


def _normal(name: str) -> str:
  return re.sub(r'[-_.]+', '-', name).lower()


def is_ready(base: str | None = None) -> bool:
  """Whether `folder()` was made to its end, has every pin, and is of the same Python version as
  `base` where one is given."""
  if not (folder() / _READY).exists() or not _python_in(folder()).exists() or lacking(folder()):
    return False
  return base is None or _version_of(base) == _version_of(str(_python_in(folder())))


def install(base: str, say: Callable[[str], None]) -> None:
  """Makes `folder()`, or completes it after an interruption.

  Args:
    base: the Python that the environment is made with, 3.9 to 3.12.
    say: is given a line for each long step.

  Raises:
    UserError: no such Python, one that MediaPipe has no wheels for, or pip could not install; with
      the remedy.
  """
  version = _version_of(base)
  if not FIRST_PYTHON <= version <= LAST_PYTHON:
    raise UserError(
      f'MediaPipe 0.10.21 has wheels for Python 3.9 to 3.12, and {base} is '
      f'{version[0]}.{version[1]}: '
      'name another for the landmark estimator, such as --python python3.12'
    )
  environment = folder()
  (environment / _READY).unlink(missing_ok=True)
  environment.parent.mkdir(parents=True, exist_ok=True)
  if not _works(environment, version):
    say(f'landmark estimator: making {environment}')
    _run(
      [base, '-m', 'venv', '--clear', str(environment)],
      'the environment of the landmark estimator could not be made',
      'check that this Python has the modules venv and ensurepip',
    )
  if missing := lacking(environment):
    say(f'landmark estimator: installing {len(missing)} packages (about 130 MB)')
    _run(
      [
        str(_python_in(environment)),
        '-m',
        'pip',
        'install',
        '--quiet',
        '--disable-pip-version-check',
        '--no-deps',
        '--retries',
        '2',
        '-r',
        str(top_level_file('requirements-mediapipe.txt')),
      ],
      'the packages of the landmark estimator could not be installed',
      'check the connection to the package index',
    )
  if missing := lacking(environment):
    raise UserError(
      f'{environment} lacks {", ".join(missing)} after its installation: delete it and run '
      f'{setup_command()} again'
    )
  (environment / _READY).touch()


def _version_of(base: str) -> tuple[int, int]:
  try:
    told = subprocess.run(
      [base, '-c', 'import sys; print(*sys.version_info[:2])'],
      capture_output=True,
      text=True,
      timeout=60,
    )
    major, minor = map(int, told.stdout.split())
    return major, minor
  except (OSError, ValueError, subprocess.TimeoutExpired):
    raise UserError(
      f'--python {base!r} is no Python that starts: name one of 3.9 to 3.12'
    ) from None


def _works(environment: pathlib.Path, version: tuple[int, int]) -> bool:
  """Whether an environment has that Python version with pip, so that it is completed and not made
  anew."""
  executable = str(_python_in(environment))
  try:
    done = subprocess.run([executable, '-m', 'pip', '--version'], capture_output=True, timeout=60)
  except (OSError, subprocess.TimeoutExpired):
    return False
  return done.returncode == 0 and _version_of(executable) == version


def _run(command: list[str], failure: str, remedy: str) -> None:
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    words = next(
      (line for line in lines if line.startswith('ERROR:')),
      lines[-1] if lines else f'exit status {done.returncode}',
    )
    raise UserError(
      f'{failure} ({words.removeprefix("ERROR: ").strip()}): {remedy}, then run {setup_command()} '
      'again'
    )
