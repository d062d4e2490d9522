"""The train state and one update of it: pure functions of (state, frozen, batch, rng).

Parameters come apart into trained and frozen ones, each a nested dict without the other's branches.
Frozen ones are an
argument of their own: never donated, without moments and average. B examples of a batch, k
accumulated parts.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import optax

from exp_jax.training.optimizers import ema_update, path_name


@flax.struct.dataclass
class TrainState:
  """Everything a restart needs but frozen parameters and data; a pytree, donated from step to
  step."""

  step: jax.Array  # [] int32, batches seen
  params: dict  # trained ones, float32
  opt_state: tuple
  ema: dict  # moving average of params, float32
  skipped: jax.Array  # [2] int32, updates skipped: in all, and in a row up to now


def split(params: dict, trainable) -> tuple[dict, dict]:
  """(trained, frozen) parts of a nested dict; `trainable` as in `Task`.

  Raises:
    ValueError: if nothing would be trained.
  """
  if trainable is None:
    return params, {}

  def part(tree, prefix, wanted):
    out = {}
    for key, value in tree.items():
      if isinstance(value, dict):
        if inner := part(value, f'{prefix}{key}/', wanted):
          out[key] = inner
      elif trainable(prefix + key) == wanted:
        out[key] = value
    return out

  trained = part(params, '', True)
  if not trained:
    raise ValueError('the task says that no parameter is trainable')
  return trained, part(params, '', False)


def merge(trained: dict, frozen: dict) -> dict:
  """The whole nested dict again."""
  out = dict(frozen)
  for key, value in trained.items():
    out[key] = merge(value, frozen[key]) if isinstance(value, dict) and key in frozen else value
  return out


def init_state(
  rng, *, init_fn, tx, trainable=None, frozen_dtype: str = 'float32'
) -> tuple[TrainState, dict]:
  """A fresh (state, frozen parameters); the average starts at the parameters.

  Frozen kernels have `frozen_dtype`.
  """
  params, frozen = split(init_fn(rng), trainable)
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    ema=jax.tree.map(jnp.copy, params),
    skipped=jnp.zeros(2, jnp.int32),
  )
  return state, cast_kernels(frozen, frozen_dtype)


def cast_kernels(params: dict, dtype: str) -> dict:
  """Kernels in `dtype`, all else as it is; the derivative reaches the float32 masters as float32.

  Done once at the head of a step, so that gathering sharded kernels moves half the bytes.
  """
  if dtype == 'float32':
    return params
  return jax.tree_util.tree_map_with_path(
    lambda path, x: x.astype(dtype) if path_name(path).endswith('kernel') else x, params
  )


def _parts(batch: dict, count: int) -> dict:
  """[B, ...] -> [k, B/k, ...]; part i has rows i, i + k, ...: every device keeps its own rows."""
  return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)


def loss_and_gradients(
  params, frozen, batch, rng, *, loss_fn, accumulate: int = 1, compute_dtype: str = 'float32'
):
  """(loss, metrics, gradients), means over the batch; `accumulate` parts one after the other."""

  def loss(params, part, rng):
    return loss_fn(cast_kernels(merge(params, frozen), compute_dtype), part, rng)

  gradients = jax.value_and_grad(loss, has_aux=True)
  if accumulate == 1:
    (value, metrics), grads = gradients(params, batch, rng)
    return value, metrics, grads

  def add(total, one):
    part, i = one
    (value, metrics), grads = gradients(params, part, jax.random.fold_in(rng, i))
    return jax.tree.map(jnp.add, total, (value, metrics, grads)), None

  parts = _parts(batch, accumulate)
  shapes = jax.eval_shape(gradients, params, jax.tree.map(lambda x: x[0], parts), rng)
  (value, metrics), grads = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  total, _ = jax.lax.scan(add, (value, metrics, grads), (parts, jnp.arange(accumulate)))
  return jax.tree.map(lambda x: x / accumulate, total)


def train_step(
  state: TrainState,
  frozen: dict,
  batch: dict,
  rng,
  stop,
  *,
  loss_fn,
  tx,
  ema_decay: float,
  accumulate: int = 1,
  compute_dtype: str = 'float32',
  skip_norm: float = 0.0,
  held=None,
):
  """One update: (state, frozen, batch, rng, stop) -> (state, metrics).

  A loss or gradient that is not finite, or a gradient norm above `skip_norm` (0: none), changes
  nothing but `step` and
  `skipped`: parameters, moments and average keep their bits.

  Args:
    held: as in `Task`: what it takes from the parameters before keeps its bits, in the average too.
    stop: [devices] int32, above 0 where a host was told to stop; its maximum is a metric, so that
      all hosts learn of it at the same step.
  """
  rng = jax.random.fold_in(rng, state.step)  # same key at every restart
  loss, metrics, grads = loss_and_gradients(
    state.params,
    frozen,
    batch,
    rng,
    loss_fn=loss_fn,
    accumulate=accumulate,
    compute_dtype=compute_dtype,
  )
  norm = optax.tree.norm(grads)
  good = jnp.isfinite(loss) & jnp.isfinite(norm)
  if skip_norm:
    good &= norm <= skip_norm
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  ema = ema_update(state.ema, params, state.step, ema_decay)
  if held is not None:  # decay shrinks, and averaging rounds, what has no gradient
    params, ema = held(params, state.params), held(ema, state.ema)
  params, opt_state, ema = jax.tree.map(
    functools.partial(jnp.where, good),
    (params, opt_state, ema),
    (state.params, state.opt_state, state.ema),
  )
  total, in_a_row = state.skipped
  skipped = jnp.where(
    good, jnp.stack([total, jnp.zeros_like(total)]), jnp.stack([total + 1, in_a_row + 1])
  )
  metrics = metrics | {'loss': loss, 'grad_norm': norm, 'skipped': skipped, 'stop': stop.max()}
  return TrainState(
    step=state.step + 1, params=params, opt_state=opt_state, ema=ema, skipped=skipped
  ), metrics
