"""Resizing as the networks' authors did it, as separable matrices in numpy.

Sample positions have half-pixel centres and never look wider when shrinking (no antialiasing);
beyond the border the last pixel repeats. Cubic is Keys' kernel with a = -0.75. `halved` blurs by
the binomial kernel 1 4 6 4 1, mirrors at the border without repeating it, and keeps every second
pixel.

Source: R. Keys, Cubic convolution interpolation, 1981; Burt & Adelson, The Laplacian pyramid, 1983.
"""

import numpy as np

_BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16


def resize_linear(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """[H, W] or [H, W, C] -> `size` (height, width) by the two nearest samples of each axis."""
  return _separable(values, size, (0, 1), lambda d: np.maximum(1 - np.abs(d), 0))


def resize_cubic(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """[H, W] or [H, W, C] -> `size` (height, width) by the four nearest samples of each axis."""
  return _separable(values, size, (-1, 0, 1, 2), _keys)


def halved(values: np.ndarray) -> np.ndarray:
  """[H, W, C] -> [ceil(H / 2), ceil(W / 2), C]."""
  matrices = []
  for extent in values.shape[:2]:
    kept = (extent + 1) // 2
    matrix = np.zeros((kept, extent), np.float32)
    for offset, share in zip(range(-2, 3), _BINOMIAL):
      place = np.abs(2 * np.arange(kept) + offset)
      place = np.where(place >= extent, 2 * (extent - 1) - place, place)
      np.add.at(matrix, (np.arange(kept), np.clip(place, 0, extent - 1)), share)
    matrices.append(matrix)
  return np.einsum('ah,hwc,bw->abc', matrices[0], values, matrices[1], optimize=True)


def _keys(distance: np.ndarray) -> np.ndarray:
  """Keys' cubic kernel with a = -0.75."""
  a, d = -0.75, np.abs(distance)
  near = ((a + 2) * d - (a + 3)) * d * d + 1
  far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
  return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _separable(values, size, taps, kernel):
  """Applies one [out, in] matrix to each axis."""
  values = np.asarray(values, np.float32)
  matrices = []
  for extent, wanted in zip(values.shape, size):
    place = (np.arange(wanted) + 0.5) * extent / wanted - 0.5
    low = np.floor(place).astype(int)
    matrix = np.zeros((wanted, extent), np.float32)
    for tap in taps:
      np.add.at(
        matrix, (np.arange(wanted), np.clip(low + tap, 0, extent - 1)), kernel(place - low - tap)
      )
    matrices.append(matrix)
  return np.einsum('ah,hw...,bw->ab...', matrices[0], values, matrices[1], optimize=True)
