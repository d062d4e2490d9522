"""AdamW with warm-up, cosine decay and clipping; the exponential moving average of the parameters."""

import re

import jax
import jax.numpy as jnp
import optax


def learning_rate(step: jax.Array, *, peak: float, warmup_steps: int, total_steps: int,
                  final_fraction: float = 1.0) -> jax.Array:
  """Linear to `peak`, then half a cosine to `final_fraction * peak`; fraction 1 stays constant."""
  step = jnp.asarray(step, jnp.float32)
  warm = jnp.minimum(1.0, (step + 1.0) / max(warmup_steps, 1))
  done = jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0.0, 1.0)
  cosine = final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
  return peak * warm * cosine


def make_optimizer(*, learning_rate: optax.Schedule | float, weight_decay: float = 0.01,
                   clip_norm: float = 1.0, betas: tuple[float, float] = (0.9, 0.999),
                   decay_pattern: str = r'.*kernel$') -> optax.GradientTransformation:
  """AdamW (Loshchilov & Hutter, 2019) after clipping the global norm.

  Only parameters whose path matches `decay_pattern` decay: kernels, not norms, biases or tables.
  """

  def decays(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, _: bool(re.match(decay_pattern, path_name(path))), params)

  return optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.adamw(learning_rate, b1=betas[0], b2=betas[1], weight_decay=weight_decay, mask=decays))


def path_name(path) -> str:
  """A key path of jax.tree_util as 'blocks/self/q/kernel'."""
  return '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path)


def ema_update(average, params, step: jax.Array, decay: float):
  """average <- d average + (1 - d) params, with d = min(decay, (1 + step) / (10 + step)).

  The ramp lets a young average forget its random start; `step` counts updates already made.
  """
  step = jnp.asarray(step, jnp.float32)
  d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return jax.tree.map(lambda a, p: d * a + (1.0 - d) * p, average, params)
