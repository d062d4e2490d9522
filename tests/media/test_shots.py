import numpy as np
import pytest

from exp_jax.media.shots import cuts, longest_shot


def _scene(seed, count, *, speed=1.5):
  """A disc that moves over a pattern of its own; uint8 [T, 72, 96, 3]."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:72, :96]
  ground = (
    120
    + 60 * np.sin(x / rng.uniform(5, 20) + rng.uniform(0, 6))[..., None] * rng.uniform(0.2, 1, 3)
    + rng.uniform(-50, 50, 3)
  )
  frames = []
  for t in range(count):
    disc = (x - 48 - speed * (t - count / 2)) ** 2 + (y - 36) ** 2 < 22**2
    noise = rng.normal(0, 3, ground.shape)
    frames.append(np.clip(np.where(disc[..., None], [200, 140, 110], ground) + noise, 0, 255))
  return np.uint8(frames)


def test_one_shot_has_no_cut_however_it_moves():
  for speed in (0, 1.5, 6):
    assert cuts(_scene(1, 20, speed=speed)) == []
  assert cuts(_scene(1, 1)) == [] and cuts(_scene(1, 2)) == []


@pytest.mark.parametrize('lengths', [(12, 9), (2, 20), (20, 2), (7, 8, 9)])
def test_every_cut_is_found_where_it_is(lengths):
  film = np.concatenate([_scene(i, n) for i, n in enumerate(lengths)])
  assert cuts(iter(film)) == list(np.cumsum(lengths)[:-1])


def test_a_flash_is_no_cut():
  film = _scene(3, 20)
  film[9] = 255
  assert cuts(film) == []


def test_a_pan_and_a_slow_light_are_no_cuts():
  wide = np.concatenate([_scene(4, 1)[0], _scene(5, 1)[0]], 1)
  assert cuts([wide[:, 8 * t : 8 * t + 96] for t in range(12)]) == []
  assert cuts(np.uint8(_scene(6, 20) * np.linspace(0.2, 1, 20)[:, None, None, None])) == []


def test_the_longest_shot():
  assert (
    longest_shot(20, [3, 9]) == (9, 20)
    and longest_shot(20, []) == (0, 20)
    and longest_shot(10, [5]) == (0, 5)
  )
