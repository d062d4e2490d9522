"""Samplers: from noise at sigma 1 to data at sigma 0, along a decreasing grid.

All take `denoise(x [B, ...], sigma []) -> velocity [B, ...]`, the noise and a grid [n + 1] whose
last entry is 0, and return the sample. The loop is one `lax.scan`; every coefficient is computed on
the host in float64.

With `per_step`, a pytree of arrays [n, ...], they call denoise(x, sigma, row, memory) -> (velocity,
memory, kept) and return (sample, memory, kept [n, ...]): what a step is given, what passes from one
evaluation to the next (a step cache), what is kept of each. Heun evaluates twice a step and keeps
what the first evaluation gave.

Letters: n steps; lambda(sigma) = log(1 - sigma) - log(sigma), the half log signal-to-noise ratio.
"""

import functools
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


def _evaluator(denoise, per_step):
  """The given denoise, or a plain one, as (x, sigma, row, memory) -> (velocity, memory, kept)."""
  if per_step is not None:
    return denoise
  return lambda x, sigma, row, memory: (denoise(x, sigma), memory, None)


def _result(carry, kept, per_step):
  x, memory = carry
  return x if per_step is None else (x, memory, kept)


def euler(denoise: Callable, noise: jax.Array, sigmas: np.ndarray, *, per_step=None, memory=None):
  """First order: x <- x + (sigma' - sigma) v."""
  evaluate = _evaluator(denoise, per_step)

  def step(carry, part):
    (x, memory), ((sigma, following), row) = carry, part
    v, memory, kept = evaluate(x, sigma, row, memory)
    return (x + (following - sigma) * v, memory), kept

  pairs = jnp.stack([sigmas[:-1], sigmas[1:]], axis=-1).astype(jnp.float32)
  return _result(*jax.lax.scan(step, (noise, memory), (pairs, per_step)), per_step)


def heun(denoise: Callable, noise: jax.Array, sigmas: np.ndarray, *, per_step=None, memory=None):
  """Second order: the mean of the velocities at both ends; the last step, to sigma 0, is Euler's.

  Source: Karras et al., Elucidating the design space, 2022, algorithm 1.
  """
  evaluate = _evaluator(denoise, per_step)

  def step(carry, part):
    (x, memory), ((sigma, following), row) = carry, part
    first, memory, kept = evaluate(x, sigma, row, memory)
    second, memory, _ = evaluate(x + (following - sigma) * first, following, row, memory)
    return (x + (following - sigma) * 0.5 * (first + second), memory), kept

  pairs = jnp.stack([sigmas[:-1], sigmas[1:]], axis=-1).astype(jnp.float32)
  cut = lambda part: jax.tree.map(lambda r: r[part], per_step)
  carry, kept = jax.lax.scan(step, (noise, memory), (pairs[:-1], cut(slice(-1))))
  (x, memory), (sigma, following) = carry, pairs[-1]
  v, memory, last = evaluate(x, sigma, cut(-1), memory)
  kept = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), kept, last)
  return _result((x + (following - sigma) * v, memory), kept, per_step)


def _log_snr(sigma):
  with np.errstate(divide='ignore'):
    return np.log1p(-sigma) - np.log(sigma)


def unipc_coefficients(sigmas: np.ndarray) -> np.ndarray:
  """float64 [n, 10]: the rows of `unipc`, see there. Order 2, B(h) = expm1(-h)."""
  n, lam, rows = len(sigmas) - 1, _log_snr(np.asarray(sigmas, np.float64)), []
  order_before = 0
  for i in range(n):
    row = dict(sigma=sigmas[i], correct=0.0, c_x=0.0, c_before=0.0, c_older=0.0, c_now=0.0)
    if i:  # the corrector redoes step i - 1 with m_i known
      s0, s1, h = sigmas[i - 1], sigmas[i], lam[i] - lam[i - 1]
      E, a = np.expm1(-h), 1.0 - sigmas[i]
      older, now = 0.0, 0.5
      if order_before == 2:
        r = (lam[i - 2] - lam[i - 1]) / h
        b1 = (E / -h - 1.0) / E
        b2 = 2.0 * ((E / -h - 1.0) / -h - 0.5) / E
        older, now = np.linalg.solve([[1.0, 1.0], [r, 1.0]], [b1, b2])
        older = older / r
      row |= dict(
        correct=1.0,
        c_x=s1 / s0,
        c_older=-a * E * older,
        c_now=-a * E * now,
        c_before=-a * E * (1.0 - older - now),
      )
    order_before = min(2, n - i, i + 1)
    s0, s1, h = sigmas[i], sigmas[i + 1], lam[i + 1] - lam[i]
    E, a = np.expm1(-h), 1.0 - sigmas[i + 1]
    half = -a * E / (2.0 * (lam[i - 1] - lam[i]) / h) if order_before == 2 else 0.0
    row |= dict(p_x=s1 / s0, p_now=-a * E - half, p_before=half)
    rows.append(
      [
        row[k]
        for k in (
          'sigma',
          'correct',
          'c_x',
          'c_before',
          'c_older',
          'c_now',
          'p_x',
          'p_now',
          'p_before',
        )
      ]
      + [np.floor(1000.0 * sigmas[i])]
    )
  return np.array(rows)


def unipc(
  denoise: Callable,
  noise: jax.Array,
  sigmas: np.ndarray,
  *,
  integer_clock: bool = False,
  per_step=None,
  memory=None,
):
  """UniPC of order 2 on data predictions m = x - sigma v, as Wan samples.

  Each step corrects the sample with the new m, then predicts the next one:
    x  <- c_x x_before + c_before m' + c_older m'' + c_now m
    x+ <- p_x x + p_now m + p_before m'
  `integer_clock` hands the network floor(1000 sigma) / 1000, as the published samplers do.

  Source: Zhao et al., UniPC, 2023, algorithms 5-6 (data prediction, B2).
  """

  evaluate = _evaluator(denoise, per_step)

  def step(carry, part):
    (x, x_before, m_before, m_older, memory), (row, given) = carry, part
    sigma, correct, c_x, c_before, c_older, c_now, p_x, p_now, p_before, clock = row
    v, memory, kept = evaluate(x, clock / 1000.0 if integer_clock else sigma, given, memory)
    m = x - sigma * v
    corrected = c_x * x_before + c_before * m_before + c_older * m_older + c_now * m
    x = jnp.where(correct > 0, corrected, x)
    return (p_x * x + p_now * m + p_before * m_before, x, m, m_before, memory), kept

  zero = jnp.zeros_like(noise)
  rows = jnp.asarray(unipc_coefficients(sigmas), jnp.promote_types(noise.dtype, jnp.float32))
  carry, kept = jax.lax.scan(step, (noise, noise, zero, zero, memory), (rows, per_step))
  return _result((carry[0], carry[4]), kept, per_step)


SAMPLERS = {
  'euler': euler,
  'heun': heun,
  'unipc': unipc,
  'unipc_wan': functools.partial(unipc, integer_clock=True),
}
# the grids they are published with; the others: 'plain'
CONVENTIONS = {'unipc': 'diffusers', 'unipc_wan': 'wan'}
