"""A command that is killed at random moments leaves nothing half-made under a final name; its rerun
leaves no trace of the kills."""

import csv
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from exp_jax.data.sources import PortraitClips, write_records
from exp_jax.data.synthetic import synthetic_clip
from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import load_subject
from exp_jax.media.images import read_image, write_image
from exp_jax.media.video import read_frames, write_video
from exp_jax.observe.landmarks import interpreter
from exp_jax.performance.kept_frames import read_part
from exp_jax.training.exports import load_export
from tests.convert.test_flame_param import exported  # noqa: F401
from tests.convert.test_subjects import head_file  # noqa: F401
from tests.media.films import write_film
from tests.systems.expportrait import prepare_films as films
from tests.systems.expportrait import test_encode as encoding
from tests.test_batches import ROOT
from tests.test_installed import make_motion

READERS = {
  '.png': read_image,
  '.jpg': read_image,
  '.mp4': lambda path: list(read_frames(path)),
  '.json': lambda path: json.loads(path.read_text()),
  '.npz': read_npz,
  '.f32': lambda path: np.fromfile(path, np.float32),
  '.md': lambda path: path.read_text(),
  '.array_record': lambda path: list(
    map(PortraitClips(str(path)).__getitem__, range(len(PortraitClips(str(path)))))
  ),
  '.jsonl': lambda path: list(map(json.loads, filter(None, path.read_text().splitlines()))),
  '.attempts': lambda path: None,
  '.frames': lambda path: len(read_part(path)),
}


def names(folder: pathlib.Path) -> list[str]:
  return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


def start(arguments):
  module = [] if arguments[0] == '-c' else ['-m']
  return subprocess.Popen(
    [sys.executable, *module, *map(str, arguments)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
    start_new_session=True,
  )


def clear(folder: pathlib.Path) -> None:
  for path in sorted(folder.rglob('*'), reverse=True):
    path.rmdir() if path.is_dir() else path.unlink()


def kill_and_finish(arguments, output: pathlib.Path, times: int, status: int = 0) -> None:
  """Runs whole for the time and the names, then is killed so often, each time to run to its end;
  `status`: of a whole run."""
  for _ in range(1 if times == 1 else 2):  # the first of many may fill a compilation cache
    clear(output)
    begun = time.monotonic()
    assert start(arguments).wait(900) == status
    seconds, expected = time.monotonic() - begun, names(output)
  draw, killed = random.Random(0), 0
  while killed < times:
    clear(output)
    process = start(arguments)
    time.sleep(draw.uniform(0.1, 1.0) * seconds)
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
      killed += 1
    else:
      seconds *= 0.8  # the run that was timed was a slow one
    process.wait()
    for name in names(output):
      if not pathlib.Path(name).name.startswith('.'):
        try:
          READERS[pathlib.Path(name).suffix](output / name)
        except (UserError, ValueError) as error:
          pytest.fail(f'{name} is half-made: {error}')
    assert start(arguments).wait(600) == status
    assert names(output) == expected, 'nothing is missing, nothing is left over'


TIMES = pytest.mark.parametrize('times', (1, pytest.param(20, marks=pytest.mark.slow)))


@pytest.mark.long
@TIMES
def test_evaluate(tmp_path, times):
  rng = np.random.default_rng(0)
  for name in 'abc':
    write_video(
      tmp_path / 'clips' / f'{name}.mp4', rng.integers(0, 255, (6, 64, 72, 3), np.uint8), 10
    )
  clips, output = tmp_path / 'clips', tmp_path / 'out'
  kill_and_finish(
    [
      'exp_jax',
      'evaluate',
      '--protocol',
      'all-self',
      '--result',
      clips,
      '--truth',
      clips,
      '--framing',
      'same',
      '--no_landmarks',
      '-o',
      output,
    ],
    output,
    times,
  )


@pytest.mark.long
@TIMES
def test_convert(exported, head_file, tmp_path, times):  # noqa: F811
  output = tmp_path / 'subjects'
  kill_and_finish(
    [
      'exp_jax.convert.subjects',
      exported[0],
      '--kind',
      'vhap',
      '--head',
      head_file,
      '-o',
      output,
      '--levels',
      '2',
    ],
    output,
    times,
  )
  assert load_subject(output / 'ann.npz').num_frames == 3


@pytest.mark.long
@TIMES
def test_prepare(tmp_path, times):
  (tmp_path / 'clips').mkdir()
  with open(tmp_path / 'clips' / 'list.csv', 'w', newline='') as stream:
    rows = csv.writer(stream)
    rows.writerow(('path', 'subject_id', 'begin'))
    for i in range(5):
      frames = films.frames_of(i)
      write_film(tmp_path / 'clips' / f'{i}.mp4', np.arange(len(frames)), 25, frames=frames)
      rows.writerow((f'{i}.mp4', f'person_{i}', ''))
  output = tmp_path / 'out'
  arguments = films.arguments(tmp_path / 'clips' / 'list.csv', output, '--holdout', '1')
  kill_and_finish(['tests.systems.expportrait.prepare_films', *arguments], output, times)
  assert len(PortraitClips(str(output / 'train.array_record'))) == 4


@pytest.mark.long
@TIMES
def test_encode(tmp_path, times):
  clips, output = tmp_path / 'clips', tmp_path / 'out'
  write_records(
    clips / 'train.array_record',
    [synthetic_clip(i, num_frames=21, height=16, width=16) for i in range(5)],
  )
  (clips / 'vae').mkdir()
  (clips / 'vae' / 'weights').write_bytes(b'some')
  script = (
    'import sys\nfrom tests.systems.expportrait import test_encode\nfrom '
    'exp_jax.systems.expportrait.records import encode\n'
    'test_encode.use_stand_in(setattr, 0.05)\nsys.exit(encode.main(sys.argv[1:]))'
  )
  kill_and_finish(['-c', script, *encoding.arguments(clips, output)], output, times)
  assert len(PortraitClips(str(output / 'encoded.array_record'))) == 20


@pytest.mark.long
@TIMES
def test_export(tmp_path, times):
  workdir, output = tmp_path / 'run', tmp_path / 'out' / 'export'
  train = [
    'exp_jax',
    'train',
    '--config=configs/expression_transfer.py:smoke',
    '--config.total_steps=2',
    f'--workdir={workdir}',
  ]
  assert start(train).wait(600) == 0
  arguments, draw, killed = (
    ['exp_jax', 'export', '--workdir', workdir, '-o', output],
    random.Random(0),
    0,
  )
  begun = time.monotonic()
  assert start(arguments).wait(600) == 0
  seconds, expected = time.monotonic() - begun, load_export(output)[1]
  while killed < times:
    shutil.rmtree(output.parent)
    process = start(arguments)
    time.sleep(draw.uniform(0.3, 1.0) * seconds)
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
      killed += 1
    else:
      seconds *= 0.8  # the run that was timed was a slow one
    process.wait()
    if not output.exists():
      assert start(arguments).wait(600) == 0
    jax.tree.map(np.testing.assert_array_equal, load_export(output)[1], expected)
    assert [path.name for path in output.parent.iterdir()] == ['export'], 'nothing is left over'


@pytest.fixture(scope='module')
def fitted(tmp_path_factory):
  """(a portrait of the estimator's astronaut, the folder of its subject, a compilation cache that
  makes later runs short)."""
  astronaut = pytest.importorskip('skimage.data').astronaut
  try:
    interpreter(), load_head('makehuman')
  except UserError as error:
    pytest.skip(str(error))
  folder = tmp_path_factory.mktemp('fitted')
  write_image(folder / 'me.png', astronaut())
  with pytest.MonkeyPatch.context() as patched:
    patched.setenv('JAX_COMPILATION_CACHE_DIR', str(folder / 'compiled'))
    patched.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
    patched.setenv('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
    assert start(FIT + ['-i', folder / 'me.png', '-o', folder / 'fits']).wait(900) == 0
    yield folder


FIT = ['exp_jax', 'fit', '--config=configs/fit_head.py:smoke']


@pytest.mark.slow
@pytest.mark.parametrize('times', [20])
def test_animate(fitted, tmp_path, times):
  make_motion(tmp_path / 'motion.npz')
  kill_and_finish(
    [
      'exp_jax',
      'animate',
      '-s',
      fitted / 'me.png',
      '--subjects',
      fitted / 'fits',
      '-d',
      tmp_path / 'motion.npz',
      '--size',
      '64',
      '-o',
      tmp_path / 'out' / 'me.mp4',
    ],
    tmp_path / 'out',
    times,
  )


@pytest.mark.slow
@pytest.mark.parametrize('times', [20])
def test_fit(fitted, tmp_path, times):
  output = tmp_path / 'out'
  kill_and_finish(FIT + ['-i', fitted / 'me.png', '-o', output], output, times)
  assert load_subject(output / 'me.npz').num_frames == 1
