"""Every command: --help ends with 0; bad input ends with one sentence that names the culprit, and
leaves nothing.

Commands with argparse run in this process; those with absl flags, which are global, as processes of
their own.
"""

import importlib
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from exp_jax.__main__ import module_of
from exp_jax.errors import UserError
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject, save_subject
from exp_jax.media.images import write_image
from exp_jax.media.video import write_video
from exp_jax.observe.landmarks import interpreter

ROOT = pathlib.Path(__file__).parent.parent
IN_PROCESS = (
  'prepare',
  'export',
  'animate',
  'evaluate',
  'render',
  'transfer',
  'demo',
  'exp_jax.actors.__main__',
  'convert.makehuman',
  'verify',
  'doctor',
  'setup',
)
AS_PROCESS = ('fit', 'train')


def _makehuman():
  try:
    return load_head('makehuman')
  except UserError:
    return None


def _estimator() -> bool:
  try:
    return bool(interpreter())
  except UserError:
    return False


needs_makehuman = pytest.mark.skipif(
  _makehuman() is None, reason='`make setup` fetches the MakeHuman head'
)
needs_estimator = pytest.mark.skipif(
  not _estimator(), reason='`make setup` installs the landmark estimator'
)


@pytest.fixture
def here(tmp_path, monkeypatch):
  """A folder with one input of each bad kind, and the current directory."""
  monkeypatch.chdir(tmp_path)
  for name in ('empty.jpg', 'empty.mp4'):
    (tmp_path / name).touch()
  for name in ('text.mp4', 'text.jpg', 'text.npz', 'text.py', 'taken'):
    (tmp_path / name).write_text('these are only words\n')
  write_image(tmp_path / 'blank.png', np.full((96, 128, 3), 90, np.uint8))
  write_video('small.mp4', np.zeros((3, 32, 48, 3), np.uint8), 10)
  write_video('other.mp4', np.zeros((2, 32, 48, 3), np.uint8), 10)
  with zipfile.ZipFile('hollow.whl', 'w') as archive:
    archive.writestr('nothing.txt', 'nothing')
  for name in ('clips', 'nothing'):
    (tmp_path / name).mkdir()
  write_video('clips/a.mp4', np.zeros((3, 32, 32, 3), np.uint8), 10)
  (tmp_path / 'nothing' / 'a.txt').touch()
  return tmp_path


def run(command, *arguments):
  """(status, standard error) of a command in this process."""
  main = importlib.import_module(
    command if command.startswith('exp_jax.') else f'exp_jax.{module_of(command)}'
  ).main
  try:
    return main([str(a) for a in arguments]) or 0
  except SystemExit as ended:
    return ended.code or 0


def run_alone(command, *arguments, **environment):
  return subprocess.run(
    [sys.executable, '-m', f'exp_jax.{command}', *map(str, arguments)],
    capture_output=True,
    text=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': f'{ROOT}'} | environment,
    timeout=120,
  )


def assert_one_sentence(status, words, error):
  lines = [line for line in error.replace('\r', '\n').splitlines() if line.strip()]
  spoken = [line for line in lines if '|' not in line]  # progress bars are drawn to the same stream
  assert status == 2, error
  assert len(spoken) == 1 and spoken[0].startswith('error: '), error
  assert words in spoken[0], error


def assert_nothing_left(folder):
  assert not [p for p in folder.rglob('*') if p.is_file()]


@pytest.mark.parametrize('command', IN_PROCESS)
def test_help_ends_with_zero(command, capsys):
  assert run(command, '--help') == 0
  said = capsys.readouterr()
  assert len(said.out) > 200 and not said.err


@pytest.mark.parametrize(
  'command',
  'setup doctor demo animate fit transfer render evaluate app serve train export verify fetch'.split(),
)
def test_help_of_what_users_call_does_not_load_jax(command):
  """Help comes in a fraction of a second: what computes is imported when it computes."""
  script = (
    'import sys\n'
    'from exp_jax.__main__ import main\n'
    f'sys.argv = ["exp-jax", {command!r}, "--help"]\n'
    'try:\n  main()\n'
    'finally:\n  print("loaded:", sorted({"jax", "flax", "scipy"} & set(sys.modules)))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', script],
    capture_output=True,
    text=True,
    env=os.environ | {'PYTHONPATH': f'{ROOT}'},
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == 'loaded: []'


@pytest.mark.parametrize('command', (*AS_PROCESS, 'animate'))
def test_help_of_a_process_ends_with_zero(command):
  done = run_alone(command, '--help')
  assert done.returncode == 0 and len(done.stdout) > 200 and not done.stderr


PREPARE = ('prepare', '--clips', 'clips', '--subjects', 'out', '-o', 'out')
ANIMATE = ('animate', '-o', 'out/a.mp4')
ACTORS = (
  'evaluate',
  'actors',
  '--export',
  'nowhere',
  '--transfer',
  'nowhere',
  '-o',
  'out',
  '--first',
  '0',
)


@pytest.mark.parametrize(
  'words, arguments',
  [
    ('--bogus', (*PREPARE, '--bogus')),
    ('--clips', ('prepare', '-o', 'out')),
    ("'nowhere'", (*PREPARE, '--clips', 'nowhere')),
    ("'nothing'", (*PREPARE, '--clips', 'nothing')),
    ('--size', (*PREPARE, '--size', '40')),
    ('--size', (*PREPARE, '--size', 'big')),
    ('--holdout', (*PREPARE, '--holdout', '-1')),
    ('1 held-out', (*PREPARE, '--holdout', '1')),
    ('nowhere.npz', (*PREPARE, '--head', 'nowhere.npz')),
    ('--bogus', ('export', '--workdir', 'nothing', '-o', 'out', '--bogus')),
    ('--workdir', ('export', '-o', 'out')),
    ('nowhere', ('export', '--workdir', 'nowhere', '-o', 'out')),
    ('nothing', ('export', '--workdir', 'nothing', '-o', 'out')),
    ('--bogus', (*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4', '--bogus')),
    ('--driving', (*ANIMATE, '-s', 'blank.png')),
    ("'nowhere.jpg'", (*ANIMATE, '-s', 'nowhere.jpg', '-d', 'small.mp4')),
    ("'nowhere.mp4'", (*ANIMATE, '-s', 'blank.png', '-d', 'nowhere.mp4')),
    ("'out/a.gif'", ('animate', '-o', 'out/a.gif', '-s', 'blank.png', '-d', 'small.mp4')),
    (
      "'small.mp4' is one of the inputs",
      ('animate', '-o', 'small.mp4', '-s', 'blank.png', '-d', 'small.mp4'),
    ),
    ('--engine', (*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4', '--engine', 'magic')),
    ('--export', (*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4', '--export', 'nowhere')),
    ('--source_frame', (*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4', '--source_frame', 'worst')),
    ('--smoothing', (*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4', '--smoothing', '-1')),
    ('--save_motion', (*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4', '--save_motion', 'm.mp4')),
    ('--no_face', (*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4', '--no_face', 'cry')),
    ("'nothing'", ('animate', '-o', 'out', '-s', 'nothing', '-d', 'small.mp4')),
    ('must be a folder too', (*ANIMATE, '-s', 'blank.png', '-d', 'clips')),
    ('--size', (*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4', '--size', '0')),
    ('--limit', (*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4', '--limit', '-3')),
    ('--steps', (*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4', '--steps', '0')),
    (
      '--expression_strength',
      (*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4', '--expression_strength', '9'),
    ),
    ('command', ('evaluate',)),
    ('--bogus', ('evaluate', 'pairs', '--result', 'small.mp4', '--truth', 'small.mp4', '--bogus')),
    (
      "'nowhere.mp4'",
      ('evaluate', 'pairs', '--result', 'nowhere.mp4', '--truth', 'small.mp4', '-o', 'out/s.json'),
    ),
    (
      "'text.mp4'",
      ('evaluate', 'pairs', '--result', 'text.mp4', '--truth', 'small.mp4', '-o', 'out/s.json'),
    ),
    (
      "'empty.mp4'",
      ('evaluate', 'pairs', '--result', 'small.mp4', '--truth', 'empty.mp4', '-o', 'out/s.json'),
    ),
    (
      "'other.mp4' is 2 of 48x32",
      ('evaluate', 'pairs', '--result', 'small.mp4', '--truth', 'other.mp4'),
    ),
    ("'nothing'", (*ACTORS, '--actors', 'nothing')),
    (
      "'taken",
      ('evaluate', 'pairs', '--result', 'small.mp4', '--truth', 'small.mp4', '-o', 'taken/s.json'),
    ),
    ('--bogus', ('render', 'procedural', '-o', 'out', '--bogus')),
    ('nowhere.npz', ('render', 'nowhere.npz', '-o', 'out')),
    ('text.npz', ('render', 'text.npz', '-o', 'out')),
    ("'antlers'", ('render', 'procedural', '-o', 'out', '--expression', 'antlers=1')),
    ('--size', ('render', 'procedural', '-o', 'out', '--size', '3')),
    ('--bogus', ('verify', 'nothing', '--bogus')),
    ("'nothing' has no checkpoint", ('verify', 'nothing')),
    ('--bogus', ('doctor', '--bogus')),
    ('--bogus', ('setup', '--bogus')),
    ("'nose'", ('setup', '--only', 'nose')),
    ("'nowhere.py'", ('doctor', '--config', 'nowhere.py')),
    ('--bogus', ('demo', '-o', 'out', '--bogus')),
    ("'nowhere.jpg'", ('demo', '-o', 'out', '--portrait', 'nowhere.jpg')),
    ("'nowhere.mp4'", ('demo', '-o', 'out', '--driving', 'nowhere.mp4')),
    ('--bogus', ('exp_jax.actors.__main__', '-o', 'out', '--bogus')),
    ('--size', ('exp_jax.actors.__main__', '-o', 'out', '--size', '33')),
    ('nowhere.npz', ('exp_jax.actors.__main__', '-o', 'out', '--head', 'nowhere.npz')),
    ('taken', ('exp_jax.actors.__main__', '-o', 'taken', '--head', 'procedural')),
    ('--bogus', ('convert.makehuman', 'hollow.whl', '-o', 'out/h.npz', '--bogus')),
    ('nowhere.whl', ('convert.makehuman', 'nowhere.whl', '-o', 'out/h.npz')),
    ('text.npz', ('convert.makehuman', 'text.npz', '-o', 'out/h.npz')),
    ('hollow.whl', ('convert.makehuman', 'hollow.whl', '-o', 'out/h.npz')),
  ],
  ids=lambda value: ' '.join(value)[:70] if isinstance(value, tuple) else '',
)
def test_bad_input_is_one_sentence(here, capsys, words, arguments):
  assert_one_sentence(run(*arguments), words, capsys.readouterr().err)
  assert_nothing_left(here / 'out')


@pytest.mark.long
@needs_makehuman
@needs_estimator
@pytest.mark.parametrize(
  'words, more',
  [
    ("'empty.jpg'", ('-s', 'empty.jpg', '-d', 'small.mp4')),
    ("'text.jpg'", ('-s', 'text.jpg', '-d', 'small.mp4')),
    ("'text.mp4'", ('-s', 'blank.png', '-d', 'text.mp4')),
    ('text.npz', ('-s', 'blank.png', '-d', 'text.npz')),
    ('nowhere', ('-s', 'blank.png', '-d', 'small.mp4', '--engine', 'dit', '--export', 'nowhere')),
    ('nowhere', ('-s', 'blank.png', '-d', 'small.mp4', '--transfer', 'nowhere')),
    ('left, right', ('-s', 'blank.png', '-d', 'small.mp4', '--driving_face', 'nobody')),
    ('no face found in blank', ('-s', 'blank.png', '-d', 'still.npz')),
  ],
  ids=lambda value: ' '.join(value) if isinstance(value, tuple) else '',
)
def test_animate_names_what_it_cannot_use(here, capsys, words, more):
  head = _makehuman()
  count = len(densify(head, 0).coarse_ids)
  zero = lambda *shape: np.zeros(shape, np.float32)
  save_subject(
    'still.npz',
    Subject(
      'still',
      head.name,
      head_digest(head),
      0,
      (64, 64),
      10.0,
      zero(176),
      zero(2, 49),
      zero(2, 6, 3),
      zero(2, 3) - 0.6,
      np.full(2, 150, np.float32),
      np.full(2, 32, np.float32),
      np.float32([0, 0.1]),
      zero(count, 3),
      np.zeros(0, np.int32),
      zero(2, 0, 3),
    ),
  )
  assert_one_sentence(run(*ANIMATE, *more), words, capsys.readouterr().err)
  assert_nothing_left(here / 'out')


FIT = ('fit', '-o', 'out')
CONFIGS = ROOT / 'configs'
SMOKE = f'--config={CONFIGS}/vae.py:smoke'


@pytest.mark.long
@pytest.mark.parametrize(
  'words, arguments',
  [
    ("'bogus'", (*FIT, '-i', 'blank.png', '--bogus')),
    ('at least one input', FIT),
    ("'stray'", (*FIT, '-i', 'blank.png', 'stray')),
    ("did you mean 'size'", (*FIT, '-i', 'blank.png', '--config.sise=3')),
    ("did you mean 'size'", (*FIT, '-i', 'blank.png', '--config.sise', '3')),
    ("'big'", (*FIT, '-i', 'blank.png', '--config.size=big')),
    ("'nowhere.py'", (*FIT, '-i', 'blank.png', '--config', 'nowhere.py')),
    ("'bogus'", (*FIT, '-i', 'blank.png', f'--config={CONFIGS}/fit_head.py:bogus')),
    ('config.levels', (*FIT, '-i', 'blank.png', '--config.levels=9')),
    ('config.offsets', (*FIT, '-i', 'blank.png', '--config.offsets=maybe')),
    ("'blank'", (*FIT, '-i', 'blank.png', '-i', 'clips/blank.jpg')),
    ('--config=', ('train', '--workdir=out')),
    ('--workdir', ('train', SMOKE)),
    ("'nowhere.py'", ('train', '--config=nowhere.py', '--workdir=out')),
    ('text.py', ('train', '--config=text.py', '--workdir=out')),
    ("'bogus'", ('train', f'--config={CONFIGS}/vae.py:bogus', '--workdir=out')),
    ("did you mean 'batch_size'", ('train', SMOKE, '--workdir=out', '--config.batchsize=2')),
    ("'bogus'", ('train', SMOKE, '--workdir=out', '--bogus')),
  ],
  ids=lambda value: ' '.join(value)[-60:] if isinstance(value, tuple) else '',
)
def test_bad_flags_are_one_sentence(here, words, arguments):
  done = run_alone(*arguments)
  assert_one_sentence(done.returncode, words, done.stderr)
  assert_nothing_left(here / 'out')


@pytest.mark.long
@needs_makehuman
@needs_estimator
def test_fit_names_what_it_cannot_use(here):
  done = run_alone(*FIT, '-i', 'blank.png', f'--config={CONFIGS}/fit_head.py:smoke')
  assert_one_sentence(done.returncode, 'no face found in blank', done.stderr)
  assert_nothing_left(here / 'out')


@needs_makehuman
def test_fit_goes_on_after_a_bad_input_and_names_each(here):
  names = ('nowhere.jpg', 'empty.jpg', 'text.mp4')
  done = run_alone(*FIT, *(f'-i={name}' for name in names), f'--config={CONFIGS}/fit_head.py:smoke')
  spoken = [
    line for line in done.stderr.replace('\r', '\n').splitlines() if line.startswith('error: ')
  ]
  assert done.returncode == 2 and len(spoken) == 3 and '3 of 3 inputs failed' in done.stderr, (
    done.stderr
  )
  assert all(repr(name) in line for name, line in zip(names, spoken))
  assert_nothing_left(here / 'out')


@pytest.mark.long
@pytest.mark.parametrize(
  'words, arguments',
  [
    (
      "'nothing'",
      (
        f'--config={CONFIGS}/expression_transfer.py:smoke',
        '--config.data.source=subjects',
        '--config.data.path=nothing',
        '--workdir=out',
      ),
    ),
    (
      "'nowhere'",
      (
        f'--config={CONFIGS}/vae.py:smoke',
        '--config.data.name=portrait_clips',
        '--config.data.path=nowhere',
        '--workdir=out',
      ),
    ),
    ("'taken", (SMOKE, '--workdir=taken/run')),
  ],
  ids=lambda value: value[0][-30:] if isinstance(value, tuple) else '',
)
def test_train_names_what_it_cannot_use(here, words, arguments):
  done = run_alone('train', *arguments)
  assert_one_sentence(done.returncode, words, done.stderr)
  assert_nothing_left(here / 'out')


def test_a_missing_estimator_names_the_remedy(here, monkeypatch, capsys):
  if _makehuman() is None:
    pytest.skip('`make setup` fetches the MakeHuman head')
  monkeypatch.setenv('EXP_JAX_MEDIAPIPE', '/nowhere/python')
  assert_one_sentence(
    run(*ANIMATE, '-s', 'blank.png', '-d', 'small.mp4'), 'make setup', capsys.readouterr().err
  )


def test_an_own_bug_keeps_its_traceback():
  from exp_jax.errors import exits_cleanly

  with pytest.raises(ZeroDivisionError):
    exits_cleanly(lambda: 1 / 0)()
  with pytest.raises(FileNotFoundError):
    exits_cleanly(lambda: open('/nowhere/at/all'))()


def test_the_walk_finds_its_helpers():
  """`make walk` is run seldom; it must not rot meanwhile."""
  done = subprocess.run(
    [sys.executable, '-m', 'tests.walk', '--help'], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0 and 'usage' in done.stdout, done.stderr
