"""Adam for fields on a mesh: one second moment for a whole field, moments of their own for each
frame.

Letters: T frames, B of a step.
"""

import flax
import jax
import jax.numpy as jnp

from exp_jax.fitting.offsets.fields import MESH_FIELDS
from exp_jax.fitting.offsets.options import OffsetOptions

_CLIP = 4.0  # root mean squares of a field's gradient that make a full step


@flax.struct.dataclass
class Adam:
  """Moments of the shared unknowns by optax's definition, and of each frame's by themselves."""

  first: dict
  second: dict
  count: jax.Array  # [] or [T]


def no_steps(values: dict, shape: int | tuple[int, ...]) -> Adam:
  """Moments before the first step; `shape` of the counts."""
  return Adam(
    jax.tree.map(jnp.zeros_like, values),
    jax.tree.map(jnp.zeros_like, values),
    jnp.zeros(shape, jnp.int32),
  )


def step_sizes(options: OffsetOptions, moving: bool) -> dict:
  """Step sizes; metres, radians, or coefficients."""
  on = 1.0 if options.parameters else 0.0
  return {
    'shared': {
      'static_coarse': options.static_rate,
      'static_fine': options.static_rate / 2,
      'shape': 1e-2 * on,
      'albedo': 2e-2,
      'light': 2e-2,
    },
    'frame': {
      'dynamic_coarse': options.dynamic_rate * moving,
      'dynamic_fine': options.dynamic_rate * moving,
      'expression': 1e-2 * on,
      'head': 1e-3 * on,
      'jaw': 2e-3 * on,
      'translation': 3e-4 * on,
    },
  }


def adam_step(
  values: dict, grads: dict, state: Adam, rates: dict, rate: jax.Array
) -> tuple[dict, Adam]:
  """Adam (0.9, 0.99) with a step size per unknown; `rate` [] or, of rows, [B], scales it.

  Adam alone would move a vertex that nothing sees as far as one that all pixels pull; so mesh
  fields share one second moment, and the largest steps are clipped.

  Source: Kingma & Ba, Adam, 2015, algorithm 1; the shared moment after Nicolet et al., 2021,
  sec. 4.
  """
  count = state.count + 1
  along = lambda value, x: x.reshape(x.shape + (1,) * (value.ndim - x.ndim))
  first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.first, grads)
  second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, state.second, grads)
  rate = jnp.asarray(rate)

  def moved(name, value, m, v):
    steps = along(value, count)
    m, v = m / (1 - 0.9**steps), v / (1 - 0.99**steps)
    if name in MESH_FIELDS:  # one scale for the whole field: what is hidden hardly moves
      spread = jnp.sqrt(jnp.mean(v, axis=(-2, -1), keepdims=True))
      direction = jnp.clip(m / (_CLIP * spread + 1e-12), -1, 1)
    else:
      direction = m / (jnp.sqrt(v) + 1e-8)
    return value - rates[name] * along(value, rate) * direction

  result = {k: moved(k, values[k], first[k], second[k]) for k in values}
  return result, Adam(first, second, count)
