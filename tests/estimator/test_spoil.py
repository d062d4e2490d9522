"""Truth moves with the picture: a ball whose normals and depth are known everywhere stays one."""

import numpy as np
import pytest

from exp_jax.estimator.spoil import crop, spoil

H = 80


def ball(x=42.0, y=37.0, radius=24.0) -> dict:
  """A stored picture of a ball, seen from afar; its one landmark at its centre."""
  columns, rows = np.arange(H) + 0.5 - x, (np.arange(H) + 0.5 - y)[:, None]
  columns, rows = np.broadcast_arrays(columns, rows)
  inside = columns**2 + rows**2 < (radius - 0.5) ** 2
  high = np.sqrt(np.maximum(radius**2 - columns**2 - rows**2, 1e-6))
  normals = np.stack([columns, rows, -high], -1) / radius * inside[..., None]
  points = np.zeros((478, 2), np.float32) + [x, y]
  return {
    'image': np.uint8(255 * np.stack([inside, 0 * inside, 0.5 + 0 * inside], -1)),
    'matte': np.uint8(255 * inside),
    'normals': np.uint8(np.round(127.5 * (normals + 1))),
    'depth': np.float16(np.where(inside, (radius - high) / H, 0)),
    'parts': np.uint8(inside),
    'landmarks': points,
  }


@pytest.mark.parametrize('seed', range(4))
def test_normals_turn_and_depth_scales_with_the_picture(seed):
  found = crop(ball(), np.random.default_rng(seed), 72)
  known = found['known'] > 0
  assert known.sum() > 300
  x, y = found['landmarks'][0]
  columns, rows = np.meshgrid(np.arange(72) + 0.5 - x, np.arange(72) + 0.5 - y)
  radius = np.sqrt(columns**2 + rows**2)[known] / np.maximum(
    np.linalg.norm(found['normals'][known][:, :2], axis=-1), 0.05
  )
  size = np.median(radius)
  middle = known & (np.hypot(columns, rows) < 0.8 * size)
  expected = np.stack([columns, rows], -1)[middle] / size
  # 8 bits and a linear reading
  assert np.abs(found['normals'][middle][:, :2] - expected).max() < 0.06
  high = 1 - np.sqrt(np.maximum(1 - (expected**2).sum(-1), 0))
  assert np.abs(found['depth'][middle] * 72 / size - high).max() < 0.03


def test_without_wildness_the_picture_is_only_resized():
  found = crop(ball(), np.random.default_rng(0), H, wild=False)
  np.testing.assert_allclose(found['image'] * 255, ball()['image'], atol=1e-3)
  np.testing.assert_allclose(found['landmarks'], ball()['landmarks'], atol=1e-4)


def test_what_covers_the_head_has_no_truth_and_equal_seeds_give_equal_pictures():
  few, hidden = 0, 0
  for seed in range(24):
    found = spoil(ball(), np.random.default_rng(seed), 64)
    again = spoil(ball(), np.random.default_rng(seed), 64)
    assert all(np.array_equal(found[name], again[name]) for name in found)
    assert {k: v.dtype.name for k, v in found.items()} == {
      'image': 'uint8',
      'normals': 'float16',
      'depth': 'float16',
      'parts': 'uint8',
      'known': 'uint8',
      'inside': 'uint8',
    }
    length = np.linalg.norm(found['normals'].astype(np.float32), axis=-1)[found['known'] > 0]
    assert not len(length) or np.abs(length - 1).max() < 2e-3
    few += found['image'].std() > 0.5
    hidden += not found['parts'].all() and found['known'].sum() < 0.9 * (found['parts'] > 0).sum()
  assert few > 20
