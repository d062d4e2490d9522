"""How much points tremble: their second differences over time, which even motion does not have."""

import numpy as np


def second_differences(values: np.ndarray) -> np.ndarray:
  """[T, ...] -> [T - 2, ...], x(t + 1) - 2 x(t) + x(t - 1) in the type of the values; none of fewer
  than three frames."""
  return values[2:] - 2 * values[1:-1] + values[:-2]


def jitter_of(points: np.ndarray) -> float:
  """Root mean square second difference of points [T, N, D], in their unit; 0 for fewer than three
  frames or no points."""
  if len(points) < 3 or not points.size:
    return 0.0
  return float(np.sqrt(np.mean(np.sum(second_differences(points) ** 2, -1))))
