"""Rectified flow: straight paths between data and noise, and the schedules that go with them.

  x_sigma = (1 - sigma) x0 + sigma eps        sigma 0 is data, 1 is noise
  v       = eps - x0                          dx/dsigma along the path
  shift_s(u) = s u / (1 + (s - 1) u)          s > 1 spends more steps near noise

Networks that predict x0 are turned into velocities by v = (x_sigma - x0) / sigma.
Arrays `[B, ...]`, sigma `[B]`. The network's clock is t = 1000 sigma.

Source: Lipman et al., Flow matching, 2023; Esser et al., Scaling rectified flow, 2024, eq. 23.
"""

import jax
import jax.numpy as jnp

TRAIN_STEPS = 1000
_MIN_SIGMA = 1e-3  # below it (x_sigma - x0) / sigma amplifies rounding more than it corrects


def shift(u: jax.Array, amount: float) -> jax.Array:
  """[...] in [0, 1] -> [...] in [0, 1], monotone, fixed at both ends."""
  return amount * u / (1.0 + (amount - 1.0) * u)


def _over(sigma, x):
  return sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim))


def interpolate(x0: jax.Array, noise: jax.Array, sigma: jax.Array) -> jax.Array:
  """x_sigma [B, ...] from data and noise [B, ...] and sigma [B]."""
  sigma = _over(sigma, x0)
  return (1.0 - sigma) * x0 + sigma * noise


def velocity_from_x0(x0: jax.Array, x_sigma: jax.Array, sigma: jax.Array) -> jax.Array:
  """The velocity that a predicted x0 stands for; sigma is kept above 1e-3."""
  return (x_sigma - x0) / jnp.maximum(_over(sigma, x_sigma), _MIN_SIGMA)


def _grid(rng, batch, amount):
  return shift(1.0 - jax.random.randint(rng, (batch,), 0, TRAIN_STEPS) / TRAIN_STEPS, amount)


def _uniform(rng, batch, amount):
  return shift(jax.random.uniform(rng, (batch,), minval=1e-5, maxval=1.0), amount)


def _logit_normal(rng, batch, amount):
  return shift(jax.nn.sigmoid(jax.random.normal(rng, (batch,))), amount)


def _noise_or_uniform(rng, batch, amount):
  """Half the draws are pure noise: few-step samplers of small models live or die by that step."""
  pick, draw = jax.random.split(rng)
  pure = jax.random.bernoulli(pick, 0.5, (batch,))
  return jnp.where(pure, 1.0, _uniform(draw, batch, amount))


SIGMA_DRAWS = {
  'grid': _grid,
  'uniform': _uniform,
  'logit_normal': _logit_normal,
  'noise_or_uniform': _noise_or_uniform,
}


def draw_sigma(rng: jax.Array, batch: int, *, how: str = 'grid', amount: float = 5.0) -> jax.Array:
  """[B] noise levels, already shifted. `how` is a key of `SIGMA_DRAWS`."""
  if how not in SIGMA_DRAWS:
    raise ValueError(f'unknown sigma draw {how!r}, choose from {sorted(SIGMA_DRAWS)}')
  return SIGMA_DRAWS[how](rng, batch, amount)


def loss_weight(sigma: jax.Array, *, how: str = 'bell') -> jax.Array:
  """[B] weights on the squared velocity error.

  bell:    exp(-2 ((t - 500) / 1000)^2) less its minimum, mean 1 over the 1000 training times (the
           weighting of the published fine-tunes).
  uniform: 1.
  eps:     (1 - sigma)^2, which turns the velocity error into the noise error of eq. 10 of the
    paper.
  x0:      sigma^2, which turns it into the squared error of x0.
  """
  if how == 'bell':

    def curve(t):
      return jnp.exp(-2.0 * ((t - 500.0) / 1000.0) ** 2)

    grid = curve(jnp.arange(1, TRAIN_STEPS + 1, dtype=jnp.float32))
    return (curve(1000.0 * sigma) - grid.min()) / (grid.mean() - grid.min())
  if how == 'uniform':
    return jnp.ones_like(sigma)
  if how == 'eps':
    return jnp.square(1.0 - sigma)
  if how == 'x0':
    return jnp.square(sigma)
  raise ValueError(f"unknown weighting {how!r}, choose from ['bell', 'eps', 'uniform', 'x0']")
