"""Variance-preserving diffusion in discrete time: schedules with zero terminal SNR, what networks
predict, DDIM.

  x_t = a_t x0 + s_t eps,   a_t = sqrt(alpha_bar_t),   s_t = sqrt(1 - alpha_bar_t),   SNR_t = alpha_bar_t / (1 - alpha_bar_t)
  v   = a_t eps - s_t x0,   x0 = a_t x_t - s_t v,   eps = s_t x_t + a_t v

Published Stable-Diffusion-like schedules end above zero SNR, so that pure noise is never seen in
training; `zero_terminal_snr` shifts and stretches a_t to end at zero. There eps tells nothing of
x0: predict v or x0.

Schedules are host arrays in float64. A function of arrays takes alpha_bar at the times of its
examples, `bars_at(bars, times)`: one for all [], one an example [B], or one a frame [B, T] for
clips [B, T, H, W, C].
Letters: n sampling steps, N training steps, B examples, T frames.

Source: Ho et al., DDPM, 2020; Song et al., DDIM, 2021, eq. 12; Salimans & Ho, 2022, app. D; Lin et
al., Common diffusion noise schedules are flawed, 2024, algorithm 1; Hang et al., Efficient
diffusion training via Min-SNR weighting, 2023, eq. 8; Hoogeboom et al., Simple diffusion, 2023, eq.
4; Guttenberg, Diffusion with offset noise, 2023.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

PREDICTIONS = ('eps', 'v', 'x0')


def _check_prediction(prediction: str):
  if prediction not in PREDICTIONS:
    raise ValueError(f'unknown prediction {prediction!r}, choose from {PREDICTIONS}')


def alpha_bars(
  *, steps: int = 1000, start: float = 0.00085, end: float = 0.012, how: str = 'scaled_linear'
) -> np.ndarray:
  """[N] cumulative products of 1 - beta; betas linear, or linear in their roots ('scaled_linear',
  Stable Diffusion's)."""
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


def clip_betas(bars: np.ndarray, most: float = 0.99) -> np.ndarray:
  """The schedule [N] whose steps take away at most this share: beta_t = 1 - bar_t / bar_{t-1},
  clipped, multiplied again."""
  before = np.append(1.0, bars[:-1])
  betas = np.minimum(1.0 - bars / np.maximum(before, 1e-300), most)
  return np.cumprod(1.0 - betas)


def shift_snr(bars: np.ndarray, ratio: float) -> np.ndarray:
  """The schedule [N] whose signal-to-noise ratios are `ratio` times as large; below 1 for larger
  images and longer clips."""
  return ratio * bars / (ratio * bars + 1.0 - bars)


def bars_at(bars: np.ndarray, times: jax.Array) -> jax.Array:
  """alpha_bar, float32, at integer times of any shape, such as [B] or, one a frame, [B, T]."""
  return jnp.asarray(bars, jnp.float32)[times]


def _over(bar, x):
  """alpha_bar [], [B] or [B, T] with the trailing axes of x [B, (T,) ...]."""
  bar = jnp.asarray(bar)
  if bar.shape != x.shape[: bar.ndim]:
    raise ValueError(f'alpha_bar {bar.shape} does not fit the leading axes of data {x.shape}')
  return bar.reshape(bar.shape + (1,) * (x.ndim - bar.ndim))


def add_noise(x0: jax.Array, noise: jax.Array, bar: jax.Array) -> jax.Array:
  """Noisy data x_t.

  Args:
    x0: [B, ...], or clips [B, T, ...] where bar is per frame.
    noise: as x0.
    bar: alpha_bar, [], [B] or [B, T]; see `bars_at`.

  Raises:
    ValueError: if bar does not fit the leading axes of x0.
  """
  bar = _over(bar, x0)
  return jnp.sqrt(bar) * x0 + jnp.sqrt(1.0 - bar) * noise


def target(x0: jax.Array, noise: jax.Array, bar: jax.Array, prediction: str) -> jax.Array:
  """What a network of that `prediction` should return; shapes as of `add_noise`.

  Raises:
    ValueError: if the prediction is unknown, or bar does not fit the leading axes of x0.
  """
  _check_prediction(prediction)
  if prediction == 'v':
    bar = _over(bar, x0)
    return jnp.sqrt(bar) * noise - jnp.sqrt(1.0 - bar) * x0
  return noise if prediction == 'eps' else x0


def min_snr_weight(bar: jax.Array, gamma: float, prediction: str) -> jax.Array:
  """Weights of the squared error of a prediction: that of x0, min(SNR, gamma), in the units of what
  is predicted.

  eps: min(SNR, gamma) / SNR.   v: min(SNR + 1, gamma) / (SNR + 1), as trainers of v have it: the one is added before the
  minimum.   x0: min(SNR, gamma).   Finite at both ends of the schedule.

  Args:
    bar: alpha_bar of any shape.
    gamma: 5 in the paper.

  Raises:
    ValueError: if the prediction is unknown.
  """
  _check_prediction(prediction)
  noise = 1.0 - jnp.asarray(bar)
  if prediction == 'v':
    return jnp.minimum(1.0, gamma * noise)
  bounded = gamma * noise < bar  # SNR > gamma
  if prediction == 'x0':
    return jnp.where(bounded, gamma, bar / jnp.where(bounded, 1.0, noise))
  return jnp.where(bounded, gamma * noise / jnp.where(bounded, bar, 1.0), 1.0)


def offset_noise(rng: jax.Array, shape: tuple[int, ...], amount: float) -> jax.Array:
  """Normal noise [B, ..., C] plus `amount` times normal noise [B, 1, ..., 1, C] that all frames and
  pixels share.

  With it a network learns to change the mean colour of a picture, which plain noise hardly hides.
  """
  own, shared = jax.random.split(rng)
  everywhere = (shape[0], *(1,) * (len(shape) - 2), shape[-1])
  return jax.random.normal(own, shape) + amount * jax.random.normal(shared, everywhere)


def x0_and_noise(
  predicted: jax.Array, x: jax.Array, bar: jax.Array, prediction: str
) -> tuple[jax.Array, jax.Array]:
  """(x0, eps) that a prediction stands for at x_t; where alpha_bar is 0 and eps is predicted, x0
  is 0.

  Raises:
    ValueError: if the prediction is unknown, or bar does not fit the leading axes of x.
  """
  _check_prediction(prediction)
  bar = _over(bar, x)
  a, s = jnp.sqrt(bar), jnp.sqrt(1.0 - bar)
  if prediction == 'v':
    return a * x - s * predicted, s * x + a * predicted
  if prediction == 'eps':
    known = a > 0
    return jnp.where(known, (x - s * predicted) / jnp.where(known, a, 1.0), 0.0), predicted
  known = s > 0
  return predicted, jnp.where(known, (x - a * predicted) / jnp.where(known, s, 1.0), 0.0)


def sampling_times(
  steps: int, *, train_steps: int = 1000, spacing: str = 'trailing', offset: int = 1
) -> np.ndarray:
  """[n] falling training times. trailing: N - 1 first, as zero terminal SNR needs; leading: k N /
  n + offset, the old way.

  Raises:
    ValueError: if the spacing is unknown, or there are more steps than training times.
  """
  if not 1 <= steps <= train_steps:
    raise ValueError(f'steps must be 1 to {train_steps}, got {steps}')
  if spacing == 'trailing':
    return np.round(np.arange(train_steps, 0, -train_steps / steps)).astype(int) - 1
  if spacing == 'leading':
    return (np.arange(steps) * (train_steps // steps))[::-1] + offset
  raise ValueError(f"unknown spacing {spacing!r}, choose from ['leading', 'trailing']")


def ddim_step(
  x: jax.Array, predicted: jax.Array, bar: jax.Array, following: jax.Array, prediction: str
) -> jax.Array:
  """One step of DDIM without noise: x_t and what the network says of it -> x at the next time.

  Args:
    x: [B, ...]. predicted: the same shape.
    bar, following: alpha_bar now and afterwards, [], [B] or [B, T].

  Raises:
    ValueError: as `x0_and_noise`.
  """
  x0, eps = x0_and_noise(predicted, x, bar, prediction)
  return add_noise(x0, eps, following)


def ddim(
  predict: Callable,
  noise: jax.Array,
  bars: np.ndarray,
  times: np.ndarray,
  *,
  prediction: str,
  eta: float = 0.0,
  rng: jax.Array | None = None,
  last_bar: float = 1.0,
) -> jax.Array:
  """Samples along `times`; predict(x, t []) -> the network's prediction. One `lax.scan`.

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
  spread = eta * np.sqrt(
    np.clip(
      (1 - after) / np.maximum(1 - now, 1e-12) * (1 - now / np.maximum(after, 1e-12)), 0, None
    )
  )
  rows = jnp.asarray(
    np.stack([now, after, spread], axis=1), jnp.promote_types(noise.dtype, jnp.float32)
  )
  keys = jax.random.split(jax.random.key(0) if rng is None else rng, len(times))

  def step(x, part):
    (bar, following, sigma), t, key = part
    x0, eps = x0_and_noise(predict(x, t), x, bar, prediction)
    x = jnp.sqrt(following) * x0 + jnp.sqrt(jnp.maximum(1.0 - following - sigma**2, 0.0)) * eps
    return (x + sigma * jax.random.normal(key, x.shape, x.dtype) if eta else x), None

  return jax.lax.scan(step, noise, (rows, jnp.asarray(times), keys))[0]
