"""Variance-preserving diffusion in discrete time: schedules with zero terminal SNR, what networks predict, DDIM.

  x_t = a_t x0 + s_t eps,   a_t = sqrt(alpha_bar_t),   s_t = sqrt(1 - alpha_bar_t)
  v   = a_t eps - s_t x0,   x0 = a_t x_t - s_t v,   eps = s_t x_t + a_t v

Published Stable-Diffusion-like schedules end above zero SNR, so that pure noise is never seen in training;
`zero_terminal_snr` shifts and stretches a_t to end at zero. There eps tells nothing of x0: predict v or x0.
Schedules are host arrays in float64. Letters: n sampling steps, N training steps.

Source: Ho et al., DDPM, 2020; Song et al., DDIM, 2021, eq. 12; Salimans & Ho, 2022, app. D; Lin et al., Common diffusion
noise schedules are flawed, 2024, algorithm 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

PREDICTIONS = ('eps', 'v', 'x0')


def alpha_bars(*, steps: int = 1000, start: float = 0.00085, end: float = 0.012, how: str = 'scaled_linear') -> np.ndarray:
  """[N] cumulative products of 1 - beta; betas linear, or linear in their roots ('scaled_linear', Stable Diffusion's)."""
  if how == 'scaled_linear':
    betas = np.linspace(start**0.5, end**0.5, steps) ** 2
  elif how == 'linear':
    betas = np.linspace(start, end, steps)
  else:
    raise ValueError(f"unknown schedule {how!r}, choose from ['linear', 'scaled_linear']")
  return np.cumprod(1.0 - betas)


def zero_terminal_snr(bars: np.ndarray) -> np.ndarray:
  """The schedule [N] with its last entry at zero and its first where it was."""
  root = np.sqrt(bars)
  return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def _over(value, x):
  value = jnp.asarray(value)
  return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))


def add_noise(x0: jax.Array, noise: jax.Array, bar: jax.Array) -> jax.Array:
  """x_t [B, ...] at alpha_bar [B] or []."""
  bar = _over(bar, x0)
  return jnp.sqrt(bar) * x0 + jnp.sqrt(1.0 - bar) * noise


def target(x0: jax.Array, noise: jax.Array, bar: jax.Array, prediction: str) -> jax.Array:
  """What a network of that `prediction` should say."""
  if prediction == 'v':
    bar = _over(bar, x0)
    return jnp.sqrt(bar) * noise - jnp.sqrt(1.0 - bar) * x0
  return {'eps': noise, 'x0': x0}[prediction]


def x0_and_noise(said: jax.Array, x: jax.Array, bar: jax.Array, prediction: str) -> tuple[jax.Array, jax.Array]:
  """(x0, eps) that a prediction stands for at x_t; where alpha_bar is 0 and eps is predicted, x0 is 0.

  Raises:
    ValueError: if the prediction is unknown.
  """
  bar = _over(bar, x)
  a, s = jnp.sqrt(bar), jnp.sqrt(1.0 - bar)
  if prediction == 'v':
    return a * x - s * said, s * x + a * said
  if prediction == 'eps':
    known = a > 0
    return jnp.where(known, (x - s * said) / jnp.where(known, a, 1.0), 0.0), said
  if prediction == 'x0':
    known = s > 0
    return said, jnp.where(known, (x - a * said) / jnp.where(known, s, 1.0), 0.0)
  raise ValueError(f'unknown prediction {prediction!r}, choose from {PREDICTIONS}')


def sampling_times(steps: int, *, train_steps: int = 1000, spacing: str = 'trailing', offset: int = 1) -> np.ndarray:
  """[n] falling training times. trailing: N - 1 first, as zero terminal SNR needs; leading: k N / n + offset, the old way."""
  if spacing == 'trailing':
    return np.round(np.arange(train_steps, 0, -train_steps / steps)).astype(int) - 1
  if spacing == 'leading':
    return (np.arange(steps) * (train_steps // steps))[::-1] + offset
  raise ValueError(f"unknown spacing {spacing!r}, choose from ['leading', 'trailing']")


def ddim(said_fn: Callable, noise: jax.Array, bars: np.ndarray, times: np.ndarray, *, prediction: str, eta: float = 0.0,
         rng: jax.Array | None = None, last_bar: float = 1.0) -> jax.Array:  # fmt: skip
  """Samples along `times`; said_fn(x, t []) -> the network's prediction. One `lax.scan`.

  Args:
    bars: [N] schedule. times: [n] from `sampling_times`.
    eta: 0 is DDIM, 1 has DDPM's variance and needs `rng`.
    last_bar: alpha_bar after the last step; 1, or bars[0] as old schedules have it.

  Raises:
    ValueError: if eta is positive without `rng`.
  """
  if eta and rng is None:
    raise ValueError('eta > 0 draws noise: pass rng')
  now = bars[times]
  after = np.append(now[1:], last_bar)
  spread = eta * np.sqrt(np.clip((1 - after) / np.maximum(1 - now, 1e-12) * (1 - now / np.maximum(after, 1e-12)), 0, None))
  rows = jnp.asarray(np.stack([now, after, spread], axis=1), jnp.promote_types(noise.dtype, jnp.float32))
  keys = jax.random.split(jax.random.key(0) if rng is None else rng, len(times))

  def step(x, part):
    (bar, following, sigma), t, key = part
    x0, eps = x0_and_noise(said_fn(x, t), x, bar, prediction)
    x = jnp.sqrt(following) * x0 + jnp.sqrt(jnp.maximum(1.0 - following - sigma**2, 0.0)) * eps
    return (x + sigma * jax.random.normal(key, x.shape, x.dtype) if eta else x), None

  return jax.lax.scan(step, noise, (rows, jnp.asarray(times), keys))[0]
