"""Kept frames: an interrupted result goes on with the same bits, and nothing damaged is trusted."""

import errno
import shutil

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.performance import kept_frames
from exp_jax.performance.kept_frames import KeptFrames, content_key, read_part
from exp_jax.performance.memory import Memory

T = 45
FRAMES = np.random.default_rng(0).integers(0, 255, (T, 5, 7, 3)).astype(np.uint8)
STEP = 16  # frames of so few pixels in a part


class Drawn:
  """Draws, and counts."""

  def __init__(self):
    self.numbers = []

  def __call__(self, first):
    for number in range(first, T):
      self.numbers.append(number)
      yield FRAMES[number]


def interrupted(folder, after, key='k'):
  """Draws until a number of frames were taken."""
  drawn = Drawn()
  frames = KeptFrames(folder, key, pytest.fail).over(T, drawn)
  for _ in range(after):
    next(frames)
  return drawn.numbers


def finished(folder, key='k', warn=pytest.fail):
  """The numbers of the frames that had to be drawn, and the kept frames."""
  drawn, kept = Drawn(), KeptFrames(folder, key, warn)
  np.testing.assert_array_equal(np.stack(list(kept.over(T, drawn))), FRAMES)
  return drawn.numbers, kept


def test_it_goes_on_where_whole_parts_end(tmp_path):
  assert interrupted(tmp_path, 40) == list(range(40))
  numbers, kept = finished(tmp_path)
  assert numbers == list(range(2 * STEP, T)) and kept.known == 2 * STEP
  kept.forget()
  assert not list(tmp_path.iterdir()) and len(finished(tmp_path)[0]) == T


def test_two_interruptions_and_one_that_had_all(tmp_path):
  interrupted(tmp_path, STEP + 1)
  assert interrupted(tmp_path, 2 * STEP + 1) == list(range(STEP, 2 * STEP + 1))
  assert finished(tmp_path)[0] == list(range(2 * STEP, T))


@pytest.mark.parametrize('where', (0, 33, 60, -1))
def test_a_damaged_part_is_drawn_again_and_so_is_what_follows(tmp_path, where):
  interrupted(tmp_path, 40)
  path = tmp_path / 'k' / f'{STEP:08d}.frames'
  content = bytearray(path.read_bytes())
  content[where] ^= 1
  path.write_bytes(content)
  assert read_part(path) is None
  assert finished(tmp_path)[0] == list(range(STEP, T))
  assert read_part(path) is not None


@pytest.mark.parametrize('damage', (lambda path: path.unlink(), lambda path: path.write_bytes(b'')))
def test_what_is_lost_or_empty(tmp_path, damage):
  interrupted(tmp_path, 40)
  damage(tmp_path / 'k' / '00000000.frames')
  assert finished(tmp_path)[0] == list(range(T))


def test_other_settings_never_meet(tmp_path):
  interrupted(tmp_path, 40, key='old')
  assert finished(tmp_path, key='new')[0] == list(range(T))
  assert [path.name for path in tmp_path.iterdir()] == ['new']


def test_they_are_bounded(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(kept_frames, 'MAX_KEPT_MB', 0.003)
  numbers, _ = finished(tmp_path, warn=said.append)
  sizes = [path.stat().st_size for path in (tmp_path / 'k').iterdir()]
  assert len(sizes) == 1 and sum(sizes) < 3000 and len(said) == 1 and 'up to number 16' in said[0]
  assert finished(tmp_path, warn=said.append)[0] == list(range(STEP, T))
  monkeypatch.setenv('EXP_JAX_MAX_KEPT_MB', 'much')
  with pytest.raises(UserError, match='EXP_JAX_MAX_KEPT_MB'):
    KeptFrames(tmp_path, 'k', said.append)


@pytest.mark.parametrize('fails', (False, True))
def test_a_full_disk_ends_the_keeping_and_not_the_drawing(tmp_path, monkeypatch, fails):
  said = []
  usage = shutil.disk_usage(tmp_path)
  if fails:

    def full(path):
      raise OSError(errno.ENOSPC, 'full')

    monkeypatch.setattr(kept_frames, 'replacing', full)
  else:
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=1 << 30))
  assert finished(tmp_path, warn=said.append)[0] == list(range(T))
  assert len(said) == 1 and not list((tmp_path / 'k').iterdir())


def test_large_frames_wait_in_small_parts(tmp_path):
  large = np.zeros((9, 1500, 1600, 3), np.uint8)
  kept = KeptFrames(tmp_path, 'k', pytest.fail)
  assert len(list(kept.over(9, lambda first: iter(large[first:])))) == 9
  assert [len(read_part(path)) for path in sorted((tmp_path / 'k').iterdir())] == [4, 4]


def test_a_key_tells_everything():
  one = lambda **change: content_key(
    *({'a': np.arange(6.0), 'b': ['x', None, 1], 'c': (np.zeros((2, 3)),)} | change).items()
  )
  keys = [
    one(),
    one(a=np.arange(6.0).astype(np.float32)),
    one(a=np.arange(6.0).reshape(2, 3)),
    one(a=np.nextafter(np.arange(6.0), 9)),
    one(b=['x', None, 1.0]),
    one(b=['x', 'None', 1]),
    one(b=['x', [None, 1]]),
    one(c=(np.zeros((3, 2)),)),
  ]
  assert len(set(keys)) == len(keys) and one() == keys[0]
  with pytest.raises(TypeError):
    content_key(Memory(1))
