"""AdamW or factored moments, with warm-up, cosine decay and clipping; the exponential average of
the parameters."""

import functools
import re

import jax
import jax.numpy as jnp
import optax


def learning_rate(
  step: jax.Array, *, peak: float, warmup_steps: int, total_steps: int, final_fraction: float = 1.0
) -> jax.Array:
  """Linear to `peak`, then half a cosine to `final_fraction * peak`; fraction 1 stays constant."""
  step = jnp.asarray(step, jnp.float32)
  warm = jnp.minimum(1.0, (step + 1.0) / max(warmup_steps, 1))
  done = jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0.0, 1.0)
  cosine = final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
  return peak * warm * cosine


def make_optimizer(
  *,
  learning_rate: optax.Schedule | float,
  weight_decay: float = 0.01,
  clip_norm: float = 1.0,
  betas: tuple[float, float] = (0.9, 0.999),
  decay_pattern: str = r'.*kernel$',
  moments: str = 'float32',
) -> optax.GradientTransformation:
  """AdamW (Loshchilov & Hutter, 2019) after clipping the global norm.

  Only parameters whose path matches `decay_pattern` decay: kernels, not norms, biases or tables.

  Args:
    moments: 'float32'; 'bfloat16' for the first moment alone (the second grows by 0.1 % a step,
      less than a step of bfloat16, and would stand still); 'factored' keeps no first moment and of
      the second one vector per axis of a matrix (Adafactor, Shazeer & Stern, 2018, sections 3 and
      6), 1/5000 of the memory at width 5120.
  """

  def decays(params):
    return jax.tree_util.tree_map_with_path(
      lambda path, _: bool(re.match(decay_pattern, path_name(path))), params
    )

  if moments == 'factored':
    return optax.chain(
      optax.clip_by_global_norm(clip_norm),
      optax.scale_by_factored_rms(),
      optax.clip_by_block_rms(1.0),
      optax.add_decayed_weights(weight_decay, mask=decays),
      optax.scale_by_learning_rate(learning_rate),
    )
  return optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.adamw(
      learning_rate,
      b1=betas[0],
      b2=betas[1],
      weight_decay=weight_decay,
      mask=decays,
      mu_dtype=None if moments == 'float32' else moments,
    ),
  )


def optimizer_of(section, total_steps: int) -> optax.GradientTransformation:
  """The optimizer of a config's `optimizer` section; `ema_decay` in it is not the optimizer's."""
  section = {k: v for k, v in dict(section).items() if k != 'ema_decay'}
  rate = functools.partial(
    learning_rate,
    peak=section.pop('learning_rate'),
    warmup_steps=section.pop('warmup_steps'),
    total_steps=total_steps,
    final_fraction=section.pop('final_fraction', 1.0),
  )
  return make_optimizer(learning_rate=rate, **section)


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
