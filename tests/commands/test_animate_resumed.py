"""`animate` that is killed while it draws, and run again: the frames of a run without a kill, and
what was drawn is not drawn again."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.heads.head_files import load_head
from exp_jax.media.images import write_image
from exp_jax.media.video import read_video, write_video
from exp_jax.performance.results import beside
from tests.small_portrait import make_small_portrait
from tests.test_installed import make_motion

ROOT = pathlib.Path(__file__).parents[2]
COUNT, KILLED, KEPT = 40, 37, 32
COMPILED = {  # three processes compile once
  'PYTHONPATH': str(ROOT),
  'JAX_PLATFORMS': 'cpu',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}
# The command; a byte for every frame that is drawn, and a kill at one of them.
CHILD = """
import os, pathlib, signal, sys
import jax, numpy as np
jax.config.update('jax_disable_most_optimizations', True)
from exp_jax.commands.animate import main
from exp_jax.observe import shared_estimator
from exp_jax.systems.expportrait import portrait
from exp_jax.systems.liveportrait.painting import Painter
from tests.small_portrait import Truth

counter, last = pathlib.Path(sys.argv[1]), int(sys.argv[2])

def counted(draw):
  def drawn(*args):
    with open(counter, 'ab') as stream:
      stream.write(b'.')
    if counter.stat().st_size == last:
      os.kill(os.getpid(), signal.SIGKILL)
    return draw(*args)
  return drawn

portrait.draw_frame = counted(portrait.draw_frame)
Painter.faces_of = counted(Painter.faces_of)
if pathlib.Path('truth.npz').is_file():
  with np.load('truth.npz') as truth:
    found = Truth(truth['points'], truth['matte'])
  shared_estimator.FaceEstimator = lambda: found
main(sys.argv[3:])
"""


def run(folder, name, last, arguments) -> tuple[int, int]:
  """Exit status, and the number of frames that were drawn."""
  counter = folder / f'{name}.count'
  counter.write_bytes(b'')
  status = subprocess.run(
    [sys.executable, '-c', CHILD, str(counter), str(last), *arguments],
    cwd=folder,
    env=os.environ | COMPILED | {'JAX_COMPILATION_CACHE_DIR': str(folder / 'compiled')},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  )
  return status.returncode, counter.stat().st_size


def check(folder, arguments):
  assert run(folder, 'whole', 0, [*arguments, '-o', 'whole/a.mp4']) == (0, COUNT)
  assert run(folder, 'killed', KILLED, [*arguments, '-o', 'again/a.mp4']) == (
    -signal.SIGKILL,
    KILLED,
  )
  assert not (folder / 'again' / 'a.mp4').exists()
  parts = sorted(path.name for path in (folder / 'again').rglob('*.frames'))
  assert parts == ['00000000.frames', '00000016.frames']
  assert run(folder, 'again', 0, [*arguments, '-o', 'again/a.mp4']) == (0, COUNT - KEPT)
  whole, again = folder / 'whole' / 'a.mp4', folder / 'again' / 'a.mp4'
  for ending in ('.mp4', '_side_by_side.mp4'):
    one, two = (read_video(beside(path, ending)) for path in (whole, again))
    assert len(one.frames) == COUNT
    np.testing.assert_array_equal(one.frames, two.frames)
    np.testing.assert_array_equal(one.times, two.times)
  record = json.loads(beside(again, '.json').read_text())
  assert record['frames_drawn_before'] == KEPT
  names = [sorted(path.name for path in each.parent.iterdir()) for each in (whole, again)]
  assert names[0] == names[1], 'nothing is left over'


@pytest.mark.long
def test_the_preview_goes_on(tmp_path):
  try:
    load_head('makehuman')
  except UserError:
    pytest.skip('`make setup` makes the MakeHuman head')
  _, points, matte = make_small_portrait(tmp_path)
  np.savez(tmp_path / 'truth.npz', points=points, matte=matte)
  make_motion(tmp_path / 'long.npz', COUNT)
  check(tmp_path, ['-s', 'me.png', '-d', 'long.npz', '--size', '64', '--subjects', 'fits'])


@pytest.mark.long
@pytest.mark.parametrize('source', ('me.png', 'me.mp4'))
def test_liveportrait_goes_on(tmp_path, source):
  rng = np.random.default_rng(0)
  write_image(tmp_path / 'me.png', rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
  for name in ('me.mp4', 'd.mp4'):
    write_video(tmp_path / name, rng.integers(0, 255, (COUNT, 64, 64, 3)).astype(np.uint8), 10)
  arguments = ['--engine', 'liveportrait', '--random_weights', 'tiny', '--no_crop', '--by_index']
  check(tmp_path, ['-s', source, '-d', 'd.mp4', *arguments, '--crop_driving', 'no'])
