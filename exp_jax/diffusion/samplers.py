"""Samplers: from noise at sigma 1 to data at sigma 0, along a decreasing grid.

All take `denoise(x [B, ...], sigma []) -> velocity [B, ...]`, the noise and a grid [n + 1] whose last entry
is 0, and return the sample. The loop is one `lax.scan`; every coefficient is computed on the host in float64.

Letters: n steps; lambda(sigma) = log(1 - sigma) - log(sigma), the half log signal-to-noise ratio.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def sigma_grid(steps: int, amount: float = 5.0, *, convention: str = 'diffusers') -> np.ndarray:
  """float64 [steps + 1], decreasing, ending in 0. `amount` is the shift.

  plain:     u = 1 ... 1/n, for Euler.
  diffusers: u = 1 ... 0.001 without its end; sigma_0 stays 1e-6 below 1 so that lambda is finite.
  wan:       u = 0.999 ... 0 without its end, the grid of the original code.
  """
  starts = {'plain': (1.0, 0.0), 'diffusers': (1.0, 0.001), 'wan': (0.999, 0.0)}
  if convention not in starts:
    raise ValueError(f'unknown grid {convention!r}, choose from {sorted(starts)}')
  u = np.linspace(*starts[convention], steps + 1)[:-1]
  sigma = amount * u / (1.0 + (amount - 1.0) * u)
  if convention == 'diffusers':
    sigma = np.minimum(sigma, 1.0 - 1e-6)
  return np.append(sigma, 0.0)


def euler(denoise: Callable, noise: jax.Array, sigmas: np.ndarray) -> jax.Array:
  """First order: x <- x + (sigma' - sigma) v."""

  def step(x, pair):
    sigma, following = pair
    return x + (following - sigma) * denoise(x, sigma), None

  pairs = jnp.stack([sigmas[:-1], sigmas[1:]], axis=-1).astype(jnp.float32)
  return jax.lax.scan(step, noise, pairs)[0]


def heun(denoise: Callable, noise: jax.Array, sigmas: np.ndarray) -> jax.Array:
  """Second order: the mean of the velocities at both ends; the last step, to sigma 0, is Euler's.

  Source: Karras et al., Elucidating the design space, 2022, algorithm 1.
  """

  def step(x, pair):
    sigma, following = pair
    first = denoise(x, sigma)
    second = denoise(x + (following - sigma) * first, following)
    return x + (following - sigma) * 0.5 * (first + second), None

  pairs = jnp.stack([sigmas[:-1], sigmas[1:]], axis=-1).astype(jnp.float32)
  x = jax.lax.scan(step, noise, pairs[:-1])[0]
  sigma, following = pairs[-1]
  return x + (following - sigma) * denoise(x, sigma)


def _log_snr(sigma):
  with np.errstate(divide='ignore'):
    return np.log1p(-sigma) - np.log(sigma)


def unipc_coefficients(sigmas: np.ndarray) -> np.ndarray:
  """float64 [n, 10]: the rows of `unipc`, see there. Order 2, B(h) = expm1(-h)."""
  n, lam, rows = len(sigmas) - 1, _log_snr(np.asarray(sigmas, np.float64)), []
  order_before = 0
  for i in range(n):
    row = dict(sigma=sigmas[i], correct=0.0, c_x=0.0, c_before=0.0, c_older=0.0, c_now=0.0)
    if i:                                         # the corrector redoes step i - 1 with m_i known
      s0, s1, h = sigmas[i - 1], sigmas[i], lam[i] - lam[i - 1]
      E, a = np.expm1(-h), 1.0 - sigmas[i]
      older, now = 0.0, 0.5
      if order_before == 2:
        r = (lam[i - 2] - lam[i - 1]) / h
        b1 = (E / -h - 1.0) / E
        b2 = 2.0 * ((E / -h - 1.0) / -h - 0.5) / E
        older, now = np.linalg.solve([[1.0, 1.0], [r, 1.0]], [b1, b2])
        older = older / r
      row |= dict(correct=1.0, c_x=s1 / s0, c_older=-a * E * older, c_now=-a * E * now,
                  c_before=-a * E * (1.0 - older - now))
    order_before = min(2, n - i, i + 1)
    s0, s1, h = sigmas[i], sigmas[i + 1], lam[i + 1] - lam[i]
    E, a = np.expm1(-h), 1.0 - sigmas[i + 1]
    half = -a * E / (2.0 * (lam[i - 1] - lam[i]) / h) if order_before == 2 else 0.0
    row |= dict(p_x=s1 / s0, p_now=-a * E - half, p_before=half)
    rows.append([row[k] for k in ('sigma', 'correct', 'c_x', 'c_before', 'c_older', 'c_now',
                                  'p_x', 'p_now', 'p_before')] + [np.floor(1000.0 * sigmas[i])])
  return np.array(rows)


def unipc(denoise: Callable, noise: jax.Array, sigmas: np.ndarray, *,
          integer_clock: bool = False) -> jax.Array:
  """UniPC of order 2 on data predictions m = x - sigma v, as Wan samples.

  Each step corrects the sample with the new m, then predicts the next one:
    x  <- c_x x_before + c_before m' + c_older m'' + c_now m
    x+ <- p_x x + p_now m + p_before m'
  `integer_clock` hands the network floor(1000 sigma) / 1000, as the published samplers do.

  Source: Zhao et al., UniPC, 2023, algorithms 5-6 (data prediction, B2).
  """

  def step(carry, row):
    x, x_before, m_before, m_older = carry
    sigma, correct, c_x, c_before, c_older, c_now, p_x, p_now, p_before, clock = row
    m = x - sigma * denoise(x, clock / 1000.0 if integer_clock else sigma)
    corrected = c_x * x_before + c_before * m_before + c_older * m_older + c_now * m
    x = jnp.where(correct > 0, corrected, x)
    return (p_x * x + p_now * m + p_before * m_before, x, m, m_before), None

  zero = jnp.zeros_like(noise)
  rows = jnp.asarray(unipc_coefficients(sigmas), jnp.float32)
  return jax.lax.scan(step, (noise, noise, zero, zero), rows)[0][0]


SAMPLERS = {'euler': euler, 'heun': heun, 'unipc': unipc}
