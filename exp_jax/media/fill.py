"""Filling holes of an image smoothly: push-pull pyramid interpolation.

Source: Gortler et al., The Lumigraph, 1996, sec. 3.4: known values are averaged into ever coarser
levels (pull), and holes are filled from the level above (push).
"""

import numpy as np


def _halve(values: np.ndarray) -> np.ndarray:
  height, width = values.shape[:2]
  values = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
  return (values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]) / 4


def _double(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """Bilinear with samples at pixel centres: each fine pixel is 3/4 near and 1/4 far, along each
  axis."""
  for axis in (0, 1):
    before = np.concatenate(
      [values.take([0], axis), values.take(range(values.shape[axis] - 1), axis)], axis
    )
    after = np.concatenate(
      [values.take(range(1, values.shape[axis]), axis), values.take([-1], axis)], axis
    )
    pair = np.stack([0.75 * values + 0.25 * before, 0.75 * values + 0.25 * after], axis + 1)
    values = pair.reshape(*values.shape[:axis], -1, *values.shape[axis + 1 :])
  return values[: shape[0], : shape[1]]


def push_pull(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Fills where `weights` is 0 from where it is 1, smoothly and without new extremes.

  Args:
    values: [H, W, C] float; ignored where the weight is 0.
    weights: [H, W] in [0, 1], how much each pixel is known; at least one must be positive.

  Returns:
    [H, W, C] float32, equal to `values` where the weight is 1.
  """
  weights = weights[..., None].astype(np.float32)
  weighted = values.astype(np.float32) * weights
  levels = [(weighted, weights)]
  while max(levels[-1][1].shape[:2]) > 1:
    weighted, weight = _halve(levels[-1][0]), _halve(levels[-1][1])
    # A level counts as known as soon as any of its pixels is: saturate, and keep values in
    # proportion.
    known = np.minimum(1, 4 * weight)
    levels.append((np.where(weight > 0, weighted / np.maximum(weight, 1e-12) * known, 0), known))
  filled = levels[-1][0] / np.maximum(levels[-1][1], 1e-12)
  for weighted, weight in reversed(levels[:-1]):
    filled = weighted + (1 - weight) * _double(filled, weight.shape[:2])
  return filled.astype(np.float32)
