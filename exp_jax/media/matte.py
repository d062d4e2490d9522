"""A person's matte at the picture's own edges.

Networks that tell people from backgrounds see small pictures: their mattes are some pixels too wide
or too narrow, and what is cut
out by them takes a rim of background along. Letters: H, W.
"""

import numpy as np
import scipy.ndimage

from exp_jax.media.fill import push_pull

_REACH = 12 / 512  # of the height, that a matte may be wrong by
_FLAT = 1e-4  # variance of colours in 0..1 below which a surface counts as of one colour
_DIFFERENT = 0.15  # distance of colours at which person and background can be told apart


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, flat: float) -> np.ndarray:
  """[H, W] values made locally linear in a guide [H, W, 3], so that their edges come to lie at its
  edges.

  Source: He, Sun, Tang, Guided Image Filtering, 2010, eq. 14-16.
  """
  box = lambda x: scipy.ndimage.uniform_filter(x, (2 * radius + 1,) * 2 + (0,) * (x.ndim - 2))
  mean, average = box(guide), box(values)
  covariance = box(guide * values[..., None]) - mean * average[..., None]
  spread = box(guide[..., :, None] * guide[..., None, :]) - mean[..., :, None] * mean[..., None, :]
  slope = np.linalg.solve(spread + flat * np.eye(3, dtype=guide.dtype), covariance[..., None])[
    ..., 0
  ]
  offset = average - (slope * mean).sum(-1)
  return np.clip((box(slope) * guide).sum(-1) + box(offset), 0, 1)


def refined_matte(photo: np.ndarray, matte: np.ndarray) -> np.ndarray:
  """A coarse matte [H, W] in 0..1 of a photo [H, W, 3] in 0..1, fitted to the photo near its
  outline; unchanged away from it.

  Near the outline a pixel is a mixture of the colours of the person further inside, F, and of the
  background further outside, B: alpha = (I - B).(F - B) / |F - B|^2, as far as the two differ and
  the guided filter does not find the pixel inside.
  """
  radius = max(1, round(_REACH * photo.shape[0]))
  inside = scipy.ndimage.minimum_filter(matte, 2 * radius + 1) > 0.97
  outside = scipy.ndimage.maximum_filter(matte, 2 * radius + 1) < 0.03
  if not inside.any() or not outside.any():
    return matte
  photo = photo.astype(np.float32)
  guided = guided_filter(photo, matte, radius, _FLAT)
  person, background = (push_pull(photo, known.astype(np.float32)) for known in (inside, outside))
  difference = person - background
  apart = (difference**2).sum(-1)
  mixed = np.clip(((photo - background) * difference).sum(-1) / np.maximum(apart, 1e-6), 0, 1)
  t = np.clip((guided - 0.85) / 0.12, 0, 1)
  mixed += t * t * (3 - 2 * t) * (guided - mixed)
  found = matte + apart / (apart + _DIFFERENT**2) * (mixed - matte)
  return np.where(inside | outside, matte, found).astype(np.float32)
