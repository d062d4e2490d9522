"""LPIPS, the distance of images in the eyes of a network. Images are RGB in [0, 1]."""

from collections.abc import Callable

import numpy as np

from exp_jax.metrics.score import Score, mean_score

BATCH = 8


def lpips(
  image: np.ndarray, truth: np.ndarray, *, distance: Callable, variant: str = 'LPIPS 0.1, AlexNet'
) -> Score:
  """Mean over frames of the LPIPS distance.

  Args:
    image, truth: [..., H, W, 3] in [0, 1].
    distance: (a, b) [B, H, W, 3] -> [B], such as `networks.perceptual.lpips_distance` with its
      parameters.

  Raises:
    ValueError: shapes differ, or values outside [0, 1].
  """
  image, truth = np.asarray(image, np.float32), np.asarray(truth, np.float32)
  if image.shape != truth.shape or image.ndim < 3 or image.shape[-1] != 3:
    raise ValueError(
      f'image and truth must both be [..., H, W, 3], got {image.shape} and {truth.shape}'
    )
  if not (0 <= min(image.min(), truth.min()) and max(image.max(), truth.max()) <= 1 + 1e-6):
    raise ValueError('images must be in [0, 1]: LPIPS of another range is another number')
  image, truth = (a.reshape(-1, *a.shape[-3:]) for a in (image, truth))
  parts = [
    np.asarray(distance(image[i : i + BATCH], truth[i : i + BATCH]))
    for i in range(0, len(image), BATCH)
  ]
  return mean_score(np.concatenate(parts), variant)
