"""Image metrics, frame by frame, then averaged: PSNR, SSIM, L1. Images are RGB in [0, 1].

Each returns a `Score` that says which variant was computed, over how many frames, and what share of
the frames could be measured at all; a mean over fewer frames than asked for is never passed off as
the whole.
"""

import numpy as np
import scipy.ndimage

from exp_jax.metrics.score import Score, mean_score


def _frames(
  image: np.ndarray, truth: np.ndarray, mask
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  image, truth = np.asarray(image, np.float64), np.asarray(truth, np.float64)
  if image.shape != truth.shape or image.ndim < 3 or image.shape[-1] != 3:
    raise ValueError(
      f'image and truth must both be [..., H, W, 3], got {image.shape} and {truth.shape}'
    )
  if not (np.isfinite(image).all() and np.isfinite(truth).all()):
    raise ValueError('image or truth holds NaN or infinite pixels')
  if (
    max(image.max(initial=0), truth.max(initial=0)) > 1 + 1e-6
    or min(image.min(initial=0), truth.min(initial=0)) < 0
  ):
    raise ValueError('images must be in [0, 1]; divide uint8 by 255')
  shape = (-1, *image.shape[-3:])
  mask = None if mask is None else np.asarray(mask, np.float64).reshape(-1, *image.shape[-3:-1])
  return image.reshape(shape), truth.reshape(shape), mask


def _masked_mean(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
  """[N, H, W, 3] -> [N]; NaN where the mask of a frame is empty."""
  if mask is None:
    return values.mean((1, 2, 3))
  total = mask.sum((1, 2))
  sums = np.einsum('nhwc,nhw->n', values, mask) / 3
  return np.where(total > 0, sums / np.where(total > 0, total, 1), np.nan)


def psnr(image: np.ndarray, truth: np.ndarray, *, mask: np.ndarray | None = None) -> Score:
  """Peak signal-to-noise ratio, dB: 10 log10(1 / MSE) of each frame, then the mean over frames.

  Args:
    image, truth: [..., H, W, 3] in [0, 1].
    mask: [..., H, W] in [0, 1], which pixels count; None for all.

  Raises:
    ValueError: shapes differ, values outside [0, 1], or NaN.
  """
  image, truth, mask = _frames(image, truth, mask)
  error = _masked_mean((image - truth) ** 2, mask)
  with np.errstate(divide='ignore'):
    return mean_score(
      -10 * np.log10(error),
      'mean of per-frame PSNR, R=1' + (', masked' if mask is not None else ''),
    )


def l1(image: np.ndarray, truth: np.ndarray, *, mask: np.ndarray | None = None) -> Score:
  """Mean absolute error in [0, 1]; arguments as `psnr`."""
  image, truth, mask = _frames(image, truth, mask)
  return mean_score(
    _masked_mean(np.abs(image - truth), mask),
    'mean absolute error' + (', masked' if mask is not None else ''),
  )


def ssim(image: np.ndarray, truth: np.ndarray, *, mask: np.ndarray | None = None) -> Score:
  """Structural similarity: 11x11 Gaussian of sigma 1.5, population covariance, valid region, mean
  over RGB.

  Arguments as `psnr`; H and W must be at least 11. With a mask, the map is averaged over its valid
  part.
  Source: Wang et al., Image quality assessment, 2004, K1 0.01, K2 0.03, range 1.
  """
  image, truth, mask = _frames(image, truth, mask)
  if min(image.shape[1:3]) < 11:
    raise ValueError(f'SSIM needs at least 11 x 11 pixels, got {image.shape[1:3]}')

  def blur(values):
    for axis in (1, 2):
      values = scipy.ndimage.gaussian_filter1d(values, 1.5, axis=axis, truncate=3.5, mode='reflect')
    return values[:, 5:-5, 5:-5]

  mean_x, mean_y = blur(image), blur(truth)
  var_x, var_y = blur(image**2) - mean_x**2, blur(truth**2) - mean_y**2
  covariance = blur(image * truth) - mean_x * mean_y
  c1, c2 = 0.01**2, 0.03**2
  similarity = (
    (2 * mean_x * mean_y + c1)
    * (2 * covariance + c2)
    / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
  )
  inner = None if mask is None else mask[:, 5:-5, 5:-5]
  return mean_score(
    _masked_mean(similarity, inner),
    'Wang 2004: Gaussian 11, sigma 1.5, valid, RGB mean' + (', masked' if mask is not None else ''),
  )
