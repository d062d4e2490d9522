"""Filters over time for motions: a random walk seen through noise, smoothed backwards and forwards.

  x_t = x_{t-1} + N(0, Q),  z_t = x_t + N(0, R),  x_0 = z_0 + N(0, 1)          Q = 1e-5

All coordinates of a sequence have the same variances, so one scalar gain per frame serves them all.
Larger R is smoother.
Source: Rauch, Tung and Striebel, 1965; variances of LivePortrait's published pipeline.
"""

import numpy as np

from exp_jax.geometry import nearest_rotation

PROCESS = 1e-5


def kalman_smooth(values: np.ndarray, variance: float) -> np.ndarray:
  """[T, ...] -> [T, ...] float32, smoothed over the first axis; variance 0 leaves all as it is."""
  z = np.asarray(values, np.float64)
  if variance == 0 or len(z) < 2:
    return np.asarray(values, np.float32)
  mean, before, after = np.empty_like(z), np.empty(len(z)), np.empty(len(z))
  guess, spread = z[0], 1.0
  for t in range(len(z)):
    gain = spread / (spread + variance)
    before[t] = spread
    mean[t], after[t] = guess + gain * (z[t] - guess), spread - gain * spread
    guess, spread = mean[t], after[t] + PROCESS
  for t in range(len(z) - 2, -1, -1):
    mean[t] += after[t] / before[t + 1] * (mean[t + 1] - mean[t])
  return mean.astype(np.float32)


def nearest_rotations(matrices: np.ndarray) -> np.ndarray:
  """[..., 3, 3] -> the rotations nearest to them (Frobenius norm), float32; see
  `geometry.nearest_rotation`."""
  return nearest_rotation(np.asarray(matrices, np.float64)).astype(np.float32)


def rotation_power(rotation: np.ndarray, share) -> np.ndarray:
  """[..., 3, 3] rotations turned by `share` [...] of their angle about the same axis."""
  from scipy.spatial.transform import Rotation

  shape = rotation.shape
  turns = Rotation.from_matrix(np.asarray(rotation, np.float64).reshape(-1, 3, 3)).as_rotvec()
  turns = turns * np.broadcast_to(np.asarray(share, np.float64), shape[:-2]).reshape(-1, 1)
  return Rotation.from_rotvec(turns).as_matrix().reshape(shape).astype(np.float32)
