"""A coarse matte is fitted to the picture's edges: against a disk whose true matte is known."""

import numpy as np
import scipy.ndimage

from exp_jax.media.matte import refined_matte


def disk(size=128):
  """(true matte, photo) of a rough dark disk before a light wall that darkens to one side."""
  rows, columns = np.mgrid[:size, :size] + 0.5
  true = np.clip(40.5 - np.hypot(rows - 60, columns - 66), 0, 1)
  rng = np.random.default_rng(0)
  person = np.array([0.35, 0.25, 0.15]) + 0.03 * rng.normal(size=(size, size, 1))
  wall = (
    np.array([0.8, 0.8, 0.85])
    - 0.1 * columns[..., None] / size
    + 0.01 * rng.normal(size=(size, size, 1))
  )
  return true, np.float32(wall + true[..., None] * (person - wall))


def test_a_matte_that_is_too_wide_comes_to_lie_at_the_edge():
  true, photo = disk()
  coarse = np.float32(
    scipy.ndimage.gaussian_filter(
      np.float64(scipy.ndimage.binary_dilation(true > 0.5, iterations=2)), 1
    )
  )
  wrong = lambda matte: np.abs(matte - true).mean()
  refined = refined_matte(photo, coarse)
  assert wrong(refined) < 0.35 * wrong(coarse), (wrong(refined), wrong(coarse))
  far = np.abs(np.hypot(*(np.mgrid[:128, :128] - np.array([60, 66])[:, None, None])) - 41) > 12
  np.testing.assert_array_equal(refined[far], coarse[far])


def test_a_picture_of_one_colour_or_without_background_leaves_the_matte():
  matte = np.float32(np.clip(40 - np.hypot(*(np.mgrid[:96, :96] - 48)), 0, 1))
  np.testing.assert_allclose(
    refined_matte(np.full((96, 96, 3), 0.5, np.float32), matte), matte, atol=1e-3
  )
  everything = np.ones((32, 32), np.float32)
  np.testing.assert_array_equal(
    refined_matte(np.zeros((32, 32, 3), np.float32), everything), everything
  )
