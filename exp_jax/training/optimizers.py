"""AdamW, factored moments or Muon, with warm-up, cosine decay and clipping; the exponential average
of the parameters."""

import functools
import math
import re
from typing import NamedTuple

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
  kind: str = 'adamw',
) -> optax.GradientTransformation:
  """AdamW (Loshchilov & Hutter, 2019) or Muon (see `scale_by_muon`) after clipping the global norm.

  Only parameters whose path matches `decay_pattern` decay: kernels, not norms, biases or tables.

  Args:
    kind: one of `settings.OPTIMIZERS`; 'muon' learns kernels by orthogonal steps and all else by Adam's.
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
  mu_dtype = None if moments == 'float32' else moments
  if kind == 'muon':
    return optax.chain(
      optax.clip_by_global_norm(clip_norm),
      scale_by_muon(betas=betas, mu_dtype=mu_dtype),
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
      mu_dtype=mu_dtype,
    ),
  )


class MuonState(NamedTuple):
  """Averages of gradients, and of their squares where Adam steps (empty where Muon does)."""

  count: jax.Array
  first: optax.Params
  second: optax.Params


def orthogonalized(x: jax.Array) -> jax.Array:
  """The nearest matrix with orthonormal rows or columns, roughly: singular values [M, N] -> 0.7 to 1.2.

  Five steps of an odd polynomial of degree 5 move every singular value that is not tiny towards 1.
  They are taken on the smaller Gram matrix, on which all of them commute, so that only two products
  have the size of the matrix itself.

  Source: K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024
  (coefficients).
  """
  a, b, c = 3.4445, -4.7750, 2.0315
  wide = x.shape[0] < x.shape[1]
  product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  gram = product(x, x.T) if wide else product(x.T, x)
  # the root of a Gram matrix's Frobenius norm bounds the largest singular value from above
  square = jnp.linalg.norm(gram) + 1e-20
  gram, one, total = gram / square, jnp.eye(len(gram), dtype=x.dtype), None
  for step in range(5):
    squared = product(gram, gram)
    factor = a * one + b * gram + c * squared
    total = factor if total is None else product(factor, total)
    if step < 4:
      gram = product(product(factor, gram), factor)
  total = total * jax.lax.rsqrt(square)
  return product(total, x) if wide else product(x, total)


def scale_by_muon(
  betas: tuple[float, float], *, mu_dtype: str | None = None, momentum: float = 0.95
) -> optax.GradientTransformation:
  """Orthogonal steps for kernels, Adam's steps for all other parameters.

  A kernel [..., M, N] is a matrix [... M, N] (a convolution's window counts as input). Its step has
  a root mean square of 0.2, about that of Adam's, so that both share a learning rate. Kernels of
  fewer than 8 rows or columns are Adam's, too.

  Args:
    betas: of Adam.
    mu_dtype: of the averages of gradients.
    momentum: of Muon, by Nesterov's rule.

  Source: Liu et al., Muon is scalable for LLM training, arXiv 2502.16982, equation 4.
  """
  rows = lambda x: math.prod(x.shape[:-1])
  is_matrix = lambda x: x.ndim in (2, 4) and min(rows(x), x.shape[-1]) >= 8

  def init(params):
    first = jax.tree.map(lambda p: jnp.zeros_like(p, dtype=mu_dtype), params)
    second = jax.tree.map(lambda p: jnp.zeros(() if is_matrix(p) else p.shape, p.dtype), params)
    return MuonState(jnp.zeros((), jnp.int32), first, second)

  def update(grads, state, params=None):
    del params
    count = state.count + 1
    decay = jax.tree.map(lambda g: momentum if is_matrix(g) else betas[0], grads)
    first = jax.tree.map(lambda d, m, g: d * m + (1 - d) * g, decay, state.first, grads)
    second = jax.tree.map(
      lambda v, g: v if is_matrix(g) else betas[1] * v + (1 - betas[1]) * g**2, state.second, grads
    )

    def step(m, v, g):
      if is_matrix(g):
        ahead = (momentum * m + (1 - momentum) * g).reshape(rows(g), g.shape[-1])
        size = 0.2 * math.sqrt(max(ahead.shape))
        return size * orthogonalized(ahead).reshape(g.shape)
      return m / (1 - betas[0] ** count) / (jnp.sqrt(v / (1 - betas[1] ** count)) + 1e-8)

    updates = jax.tree.map(step, first, second, grads)
    return updates, MuonState(
      count, jax.tree.map(lambda m, old: m.astype(old.dtype), first, state.first), second
    )

  return optax.GradientTransformation(init, update)


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
