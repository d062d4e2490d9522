"""The built package: it carries what it needs, and from another folder it does what the checkout
does."""

import ast
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

from exp_jax import __main__ as dispatcher
from exp_jax.convert.heads import makehuman_wheel
from exp_jax.errors import UserError
from exp_jax.files import resources
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject, save_subject
from exp_jax.media.images import write_image
from exp_jax.media.video import read_video
from exp_jax.observe import sidecar
from exp_jax.observe.landmarks import interpreter

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = (
  'exp_jax',
  'configs',
  'pyproject.toml',
  'setup.py',
  'MANIFEST.in',
  'README.md',
  'LICENSE',
  'requirements-mediapipe.txt',
)
OURS = ('EXP_JAX_HOME', 'EXP_JAX_ASSETS', 'EXP_JAX_MEDIAPIPE', 'PYTHONPATH', 'PYTHONHOME')


def test_an_image_is_built_of_the_same_files_as_a_wheel():
  let_through = {
    line[1:] for line in (ROOT / '.dockerignore').read_text().splitlines() if line.startswith('!')
  }
  assert let_through == set(SOURCES)


def files_below(folder):
  return {
    p.relative_to(folder).as_posix()
    for p in folder.rglob('*')
    if p.is_file() and p.suffix != '.pyc'
  }


def environment(**more):
  return (
    {k: v for k, v in os.environ.items() if k not in OURS}
    | {'JAX_PLATFORMS': 'cpu'}
    | {k: str(v) for k, v in more.items()}
  )


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """The package as setup.py builds it: what a wheel holds, without metadata."""
  pytest.importorskip('setuptools')
  folder = tmp_path_factory.mktemp('built')
  subprocess.run(
    [
      sys.executable,
      'setup.py',
      '-q',
      'build',
      '--build-base',
      folder / 'base',
      '--build-lib',
      folder / 'lib',
    ],
    cwd=ROOT,
    check=True,
    capture_output=True,
  )
  return folder / 'lib'


def test_the_package_carries_all_its_files(built):
  package = built / 'exp_jax'
  assert [p.name for p in built.iterdir()] == ['exp_jax']
  carried = files_below(ROOT / 'exp_jax') | {'requirements-mediapipe.txt'}
  carried |= {f'configs/{name}' for name in files_below(ROOT / 'configs')}
  assert files_below(package) == carried
  assert {
    'py.typed',
    'heads/makehuman_landmarks.npz',
    'embedded/dit/params.safetensors',
    'configs/fit_head.py',
  } < carried
  for name in (
    'heads/makehuman_landmarks.npz',
    'configs/dit_a800.py',
    'requirements-mediapipe.txt',
  ):
    source = ROOT / name if (ROOT / name).exists() else ROOT / 'exp_jax' / name
    assert (package / name).read_bytes() == source.read_bytes()


LIGHT = """
import sys
from exp_jax import __main__ as dispatcher
from exp_jax.files import resources
from exp_jax.convert.heads import makehuman_wheel
from exp_jax.observe import sidecar
import exp_jax.commands.setup
for arguments in (['--version'], ['--help']):
  sys.argv[1:] = arguments
  dispatcher.main()
print('config', resources.config_file('configs/fit_head.py'))
print('model', resources.package_file('embedded', 'vae'))
print('head', makehuman_wheel.head_file(), makehuman_wheel.is_ready())
print('estimator', sidecar.python(), len(sidecar.lacking(sidecar.folder())) == len(sidecar.pins()))
print('heavy', sorted({'jax', 'numpy', 'absl'} & set(sys.modules)))
"""


def test_elsewhere_it_finds_its_own_files_and_starts_lightly(built, tmp_path):
  """A process that sees the built package only; its lines name the package's files and a home in
  the user's cache."""
  done = subprocess.run(
    [sys.executable, '-c', LIGHT],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=True,
    env=environment(PYTHONPATH=built, XDG_CACHE_HOME=tmp_path / 'cache'),
  )
  lines, home = done.stdout.splitlines(), tmp_path / 'cache' / 'exp_jax'
  assert lines[0] == f'exp_jax {dispatcher.__version__}' and any(
    line.startswith('  animate  ') for line in lines
  )
  assert lines[-5:] == [
    f'config {built}/exp_jax/configs/fit_head.py',
    f'model {built}/exp_jax/embedded/vae',
    f'head {home}/assets/heads/makehuman.npz False',
    f'estimator {home}/.venv-mediapipe/bin/python True',
    'heavy []',
  ]
  assert not home.exists()


@pytest.mark.parametrize(
  'arguments, words',
  [
    (
      ('train', '--config=configs/vae.py:bogus', '--workdir=run'),
      "configs/vae.py: unknown mode 'bogus'",
    ),
    (
      ('train', '--config', 'vae.py', '--config.batchsize=2', '--workdir=run'),
      "configs/vae.py has no key 'batchsize'; did you mean",
    ),
    (
      ('fit', '-i', 'a.jpg', '-o', 'run', '--config.sise=3'),
      "configs/fit_head.py has no key 'sise'; did you mean 'size'?",
    ),
  ],
  ids=lambda value: ' '.join(value)[:30] if isinstance(value, tuple) else '',
)
def test_elsewhere_commands_read_the_packaged_configs(built, tmp_path, arguments, words):
  done = subprocess.run(
    [sys.executable, '-m', 'exp_jax', *arguments],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    env=environment(PYTHONPATH=built),
  )
  assert done.returncode == 2 and f'error: {built}/exp_jax/{words}' in done.stderr, done.stderr
  assert not list(tmp_path.iterdir())


ABSENT = """
import importlib, sys
ABSENT = ('array_record', 'fcntl', 'grain', 'tensorflow_datasets', 'torch', 'mediapipe', 'onnxruntime', 'tensorboardX', 'wandb')
class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ABSENT:
      raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Refuse())
sys.modules.pop('fcntl', None)
for name in ('animate', 'demo', 'doctor', 'evaluate', 'export', 'prepare', 'render', 'setup', 'train', 'transfer', 'verify'):
  importlib.import_module(f'exp_jax.commands.{name}')
importlib.import_module('exp_jax.fitting.job')
"""


def test_commands_start_without_what_some_systems_lack():
  """No array-record, no fcntl on Windows; extras that are not installed."""
  done = subprocess.run(
    [sys.executable, '-c', ABSENT], capture_output=True, text=True, env=environment(PYTHONPATH=ROOT)
  )
  assert done.returncode == 0, done.stderr


def test_a_missing_landmark_table_is_no_head_with_fewer_landmarks(monkeypatch):
  """An installed copy once lacked the table, and the head had 12 landmarks instead of 478."""
  if not makehuman_wheel.head_file().exists():
    pytest.skip('`make setup` fetches the MakeHuman head')
  assert len(load_head('makehuman').landmark_names) == 478
  monkeypatch.setattr(resources, 'package_folder', lambda: pathlib.Path('/nowhere'))
  monkeypatch.setenv('EXP_JAX_ASSETS', str(ROOT / 'assets'))
  with pytest.raises(UserError, match='lacks heads/makehuman_landmarks.npz'):
    load_head('makehuman')


def test_every_command_is_listed():
  """Every file below the package that is a program, but the one that runs inside the estimator's
  environment."""
  programs, doors = set(), set()
  for path in (ROOT / 'exp_jax').rglob('*.py'):
    parts = path.relative_to(ROOT / 'exp_jax').with_suffix('').parts
    if any(
      isinstance(node, ast.If) and '__main__' in ast.unparse(node.test)
      for node in ast.parse(path.read_text()).body
    ):
      (programs if len(parts) > 1 else doors).add('.'.join(parts).removesuffix('.__main__'))
  assert {dispatcher.module_of(name) for name in dispatcher.NAMES} == programs - {
    'observe.mediapipe_worker'
  }
  assert {dispatcher.module_of(name) for name in doors - {'__main__'}} <= {
    p for p in programs if p.startswith('commands.')
  }
  public = {
    'demo',
    'fit',
    'transfer',
    'prepare',
    'train',
    'export',
    'animate',
    'evaluate',
    'render',
    'doctor',
    'verify',
  }
  assert doors == public | {'__main__'}, 'those that scripts start by `python -m exp_jax.NAME`'
  assert len(set(dispatcher.NAMES)) == len(dispatcher.NAMES)
  assert all(
    20 < len(dispatcher.summary(name)) and dispatcher.summary(name).endswith('.')
    for name in dispatcher.NAMES
  )


def test_the_dispatcher_passes_arguments_and_status_on(tmp_path):
  run = lambda *arguments: subprocess.run(
    [sys.executable, '-m', 'exp_jax', *arguments],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    env=environment(PYTHONPATH=ROOT),
  )
  done = run('verify', 'nothing')
  assert (
    done.returncode == 2 and done.stderr == "error: 'nothing' has no checkpoint and no export\n"
  )
  done = run('anmate')
  assert (
    done.returncode == 2
    and done.stderr == "error: there is no command 'anmate'; did you mean 'animate'?\n"
  )
  done = run('train', '--config=dit_a801.py', '--workdir=out')
  assert (
    done.returncode == 2
    and "no config file 'dit_a801.py'; the package has dit_a800.py, " in done.stderr
  )
  assert not list(tmp_path.iterdir())


def test_a_platform_that_is_not_there_is_one_sentence(tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'exp_jax.render', 'procedural', '-o', 'out'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    env=environment(PYTHONPATH=ROOT) | {'JAX_PLATFORMS': 'martian'},
  )
  assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
  assert (
    "error: JAX cannot start JAX_PLATFORMS='martian'" in done.stderr and 'unset it' in done.stderr
  )


_METADATA = """
import importlib.metadata as metadata
print(metadata.version('exp_jax'), sum('gradio' in line for line in metadata.requires('exp_jax')))
"""


def make_motion(path, frames=5):
  """A motion file whose head turns and whose mouth goes to and fro, so that smoothing shows; every
  number of it is known."""
  head = load_head('makehuman')
  count = len(densify(head, 0).coarse_ids)
  zero = lambda *shape: np.zeros(shape, np.float32)
  expression, pose = (
    zero(frames, head.expression_basis.shape[-1]),
    zero(frames, len(head.joint_names), 3),
  )
  expression[:, head.expression_names.index('mouthSmileLeft')] = 0.8 * (np.arange(frames) % 2)
  pose[:, head.joint('jaw'), 0] = 0.15 * (np.arange(frames) % 2)
  pose[:, head.joint('neck'), 1] = np.linspace(-0.1, 0.1, frames)
  save_subject(
    path,
    Subject(
      'motion',
      head.name,
      head_digest(head),
      0,
      (64, 64),
      10.0,
      zero(head.shape_basis.shape[-1]),
      expression,
      pose,
      np.tile(np.float32([0, 0, -0.6]), (frames, 1)),
      np.full(2, 150, np.float32),
      np.full(2, 32, np.float32),
      np.arange(frames, dtype=np.float32) / 10,
      zero(count, 3),
      np.zeros(0, np.int32),
      zero(frames, 0, 3),
    ),
  )


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """(bin folder, home): the wheel in an environment of its own, which sees the other packages of
  this one."""
  folder = tmp_path_factory.mktemp('installed')
  for name in (
    SOURCES
  ):  # a copy, so that no build/ is left in the source tree, and none of an older build gets in
    source = ROOT / name
    shutil.copytree(source, folder / 'source' / name) if source.is_dir() else shutil.copy2(
      source, folder / 'source' / name
    )
  pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q']
  done = subprocess.run(
    [*pip, 'wheel', '--no-deps', '-w', folder, folder / 'source'], capture_output=True, text=True
  )
  if 'setuptools' in done.stderr and 'ERROR: No matching distribution' in done.stderr:
    pytest.skip('pip cannot download setuptools to build the wheel')
  assert done.returncode == 0, done.stderr
  subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder / 'venv'], check=True)
  packages = next((folder / 'venv').glob('lib/python*/site-packages'))
  (packages / 'others.pth').write_text(sysconfig.get_path('purelib') + '\n')
  subprocess.run(
    [
      *pip,
      '--python',
      folder / 'venv' / 'bin' / 'python',
      'install',
      '--no-deps',
      *folder.glob('*.whl'),
    ],
    check=True,
  )
  home = folder / 'home'
  (home / 'assets' / 'wheels').mkdir(parents=True)
  return folder / 'venv' / 'bin', home


@pytest.mark.slow
def test_an_installed_copy_sets_itself_up_and_animates_like_the_checkout(installed, tmp_path):
  """From another folder: set-up (what it downloads lies there), the doctor, and the same frames."""
  astronaut = pytest.importorskip('skimage.data').astronaut
  try:
    python, wheel = interpreter(), resources.assets() / 'wheels' / makehuman_wheel.FILE
    load_head('makehuman')
  except UserError as error:
    pytest.skip(str(error))
  if not wheel.exists():
    pytest.skip(f'the wheel is not here: run {resources.setup_command()}')
  binaries, home = installed
  (home / 'assets' / 'wheels' / wheel.name).symlink_to(wheel)
  if not sidecar.is_foreign():
    (home / '.venv-mediapipe').symlink_to(python.parents[1])
  write_image(tmp_path / 'me.png', astronaut())
  make_motion(tmp_path / 'motion.npz')
  shared = {name: os.environ[name] for name in ('EXP_JAX_MEDIAPIPE',) if name in os.environ}
  # No shared compilation cache and one core: what is read from a cache and what several threads sum
  # need not be the same to the last bit on every processor (github.com/jax-ml/jax/issues/39741),
  # and a fit makes visible pixels of a last bit.
  core = {min(os.sched_getaffinity(0))} if hasattr(os, 'sched_setaffinity') else None
  alone = (lambda: os.sched_setaffinity(0, core)) if core else None

  def run(*command, **variables):
    done = subprocess.run(
      [str(word) for word in command],
      cwd=tmp_path,
      capture_output=True,
      text=True,
      env=environment(**shared, **variables),
      timeout=1500,
      preexec_fn=alone,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  ours = {'EXP_JAX_HOME': home}
  assert run(binaries / 'exp-jax', '--version') == f'exp_jax {dispatcher.__version__}\n'
  assert run(binaries / 'python', '-c', _METADATA).split() == [dispatcher.__version__, '1'], (
    'the extra ui'
  )
  assert 'converting' in run(binaries / 'exp-jax', 'setup', **ours)
  assert 'converting' not in run(binaries / 'python', '-m', 'exp_jax', 'setup', **ours)
  spoken = run(binaries / 'exp-jax', 'doctor', **ours)
  assert (
    'an installed copy' in spoken
    and 'packages are what is asked for' in spoken
    and 'problem' not in spoken
  )
  assert str(binaries.parent) in spoken and str(ROOT / 'exp_jax') not in spoken
  animate = ('-s', 'me.png', '-d', 'motion.npz', '--size', '64')
  run(binaries / 'exp-jax', 'animate', *animate, '-o', 'installed.mp4', **ours)
  run(sys.executable, '-m', 'exp_jax.animate', *animate, '-o', 'checkout.mp4', PYTHONPATH=ROOT)
  run(binaries / 'python', '-c', BY_PROGRAM, **ours)
  names = ('checkout', 'installed', 'program')
  frames = {name: read_video(tmp_path / f'{name}.mp4').frames for name in names}
  records = {name: json.loads((tmp_path / f'{name}.json').read_text()) for name in names}
  assert frames['checkout'].shape == (5, 64, 64, 3)
  assert np.abs(np.diff(frames['checkout'].astype(int), axis=0)).max() > 20, 'the face moves'
  for name in ('installed', 'program'):
    assert_same(records[name], records['checkout'])
    assert (
      10
      * np.log10(
        255**2 / max(np.square(frames[name] - frames['checkout'].astype(float)).mean(), 1e-9)
      )
      > 38
    )


BY_PROGRAM = """
import exp_jax
stages = []
with exp_jax.load('expportrait') as model:
  animation = model.animate('me.png', 'motion.npz', options=model.Options(size=64),
                            progress=lambda stage, done, total: stages.append(stage))
  animation.save('program.mp4', beside=False)
assert {'portrait', 'draw'} <= set(stages), stages
"""


def assert_same(found, wanted, name=''):
  """Records of the same work: all that is no measured number is equal, and numbers to 5 %.

  On one processor they are equal to the last digit; on another one two runs of the same program
  were not, and what a fit ends with amplifies a last bit. A copy that lacks a table or a model is
  off by far more, or says another digest.
  """
  if isinstance(wanted, dict):
    apart = {'seconds', 'output', 'output_sha256'}
    assert set(found) - apart == set(wanted) - apart, name
    for key in set(wanted) - apart:
      assert_same(found[key], wanted[key], f'{name}.{key}')
  elif isinstance(wanted, list):
    assert len(found) == len(wanted), name
    for i, (one, other) in enumerate(zip(found, wanted)):
      assert_same(one, other, f'{name}[{i}]')
  elif isinstance(wanted, float):
    assert found == pytest.approx(wanted, rel=0.05, abs=1e-6), name
  else:
    assert found == wanted, name
