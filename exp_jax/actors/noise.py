"""Smooth seeded noise over points, numpy on the host; materials.py has its own for pixels."""

import numpy as np

_PRIMES = (73856093, 19349663, 83492791)  # of a common spatial hash


def value_noise(points: np.ndarray, rng: np.random.Generator, *, size: float) -> np.ndarray:
  """[N] smooth noise in about -1..1 over [N, C] `points`, features of `size` (their unit).

  Source: trilinear value noise with a cubic fade, Perlin, Improving Noise, 2002 (the fade).
  """
  table = rng.uniform(-1, 1, 4096)
  scaled = points / size + rng.uniform(0, 100, points.shape[1])
  cell = np.floor(scaled).astype(np.int64)
  part = scaled - cell
  part = part * part * (3 - 2 * part)
  total = np.zeros(len(points))
  for corner in np.ndindex(*[2] * points.shape[1]):
    share, place = np.ones(len(points)), np.zeros(len(points), np.int64)
    for axis, step in enumerate(corner):
      share = share * (part[:, axis] if step else 1 - part[:, axis])
      place += (cell[:, axis] + step) * _PRIMES[axis]
    total += share * table[place & 4095]
  return total


def fractal_noise(
  points: np.ndarray, rng: np.random.Generator, *, size: float, octaves: int = 3
) -> np.ndarray:
  """[N] sum of noises at `size`, half of it, a quarter..., each half as strong."""
  return sum(value_noise(points, rng, size=size / 2**k) / 2**k for k in range(octaves))
