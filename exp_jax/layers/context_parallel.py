"""One sequence over several devices: tokens are split over the mesh axis 'context', attention is
exchanged.

  ulysses: all-to-all from tokens to heads, whole attention of h / n heads, all-to-all back. n must
    divide the heads.
  ring:    keys and values travel round the ring, each device merges what it sees by its log-sum-exp. Any n.

The mesh is the ambient one (`jax.set_mesh`); without an axis 'context' of more than one device no
token travels, so a network may name its way always. Batches are split over those of the axes data
and fsdp that the mesh has, heads over
'tensor'. Positions are global: slice the rotary table with the tokens, as the sharding does by
itself.

Letters: n devices of the axis, B batch, N tokens, h heads, e head width.
Source: Jacobs et al., DeepSpeed Ulysses, 2023; Liu et al., Ring attention, 2023.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from exp_jax.layers.attention import attention, attention_with_lse, merge

AXIS = 'context'
WAYS = ('', 'ulysses', 'ring')
# kernels that the compiler cannot split over devices by itself: each device is given its part
BY_HAND = ('splash',)


def context_size() -> int:
  """Devices of the axis 'context' of the ambient mesh; 1 if there is none."""
  return jax.sharding.get_abstract_mesh().shape.get(AXIS, 1)


def _axes(*names):
  shape = jax.sharding.get_abstract_mesh().shape
  return tuple(name for name in names if shape.get(name, 1) > 1) or None


def _examples_over(x: jax.Array) -> tuple[str, ...] | None:
  """The axes that examples are split over; None where they are too few, as the one that parameters
  are drawn for."""
  axes = _axes('data', 'fsdp')
  return (
    None
    if x.shape[0] % math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in axes or ())
    else axes
  )


def shard_tokens(x: jax.Array) -> jax.Array:
  """[B, N, ...] laid out over the ambient mesh, batch over data and fsdp, tokens over context; a
  no-op without one."""
  if context_size() == 1:
    return x
  return jax.lax.with_sharding_constraint(x, P(_examples_over(x), AXIS, *(None,) * (x.ndim - 2)))


def parallel_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  way: str,
  implementation: str,
  keys: int | None = None,
  shared_keys: bool = False,
) -> jax.Array:
  """`attention` with the tokens of q [B, N, h, e] over the axis 'context'.

  Args:
    k, v: [B, M, h, e]; tokens over 'context' too, or whole on every device with `shared_keys`
      (conditions).
    way: 'ulysses' or 'ring'; '' for `attention` itself. implementation: of the part on one device.
    keys: how many of all M keys are real; None: all.

  Raises:
    ValueError: if the way is unknown, or heads (ulysses) or tokens do not divide by the axis.
  """
  if way not in WAYS:
    raise ValueError(f'unknown way of context parallelism {way!r}, choose from {WAYS}')
  n, tensor = context_size(), _axes('tensor')
  if n == 1 or not way:
    local = functools.partial(attention, implementation=implementation, keys=keys)
    batch = _examples_over(q)
    if implementation not in BY_HAND or not (batch or tensor):
      return local(q, k, v)
    whole = P(batch, None, tensor, None)
    return jax.shard_map(local, in_specs=(whole,) * 3, out_specs=whole, check_vma=False)(q, k, v)
  heads = q.shape[2] // (jax.sharding.get_abstract_mesh().shape['tensor'] if tensor else 1)
  if q.shape[1] % n or (not shared_keys and k.shape[1] % n):
    raise ValueError(
      f'{q.shape[1]} queries and {k.shape[1]} keys do not divide by {n} devices of the axis '
      f'{AXIS!r}'
    )
  if way == 'ulysses' and heads % n and not shared_keys:
    raise ValueError(
      f"{heads} heads on a device do not divide by {n} devices of the axis {AXIS!r}: use 'ring'"
    )
  batch = _examples_over(q)
  tokens = P(batch, AXIS, tensor, None)
  given = P(batch, None, tensor, None) if shared_keys else tokens
  if shared_keys:
    local = functools.partial(attention, implementation=implementation, keys=keys)
  else:
    local = functools.partial(
      _ulysses if way == 'ulysses' else _ring, implementation=implementation, keys=keys
    )
  return jax.shard_map(local, in_specs=(tokens, given, given), out_specs=tokens, check_vma=False)(
    q, k, v
  )


def _ulysses(q, k, v, *, implementation, keys):
  to_heads = lambda x: jax.lax.all_to_all(x, AXIS, split_axis=2, concat_axis=1, tiled=True)
  o = attention(*map(to_heads, (q, k, v)), implementation=implementation, keys=keys)
  return jax.lax.all_to_all(o, AXIS, split_axis=1, concat_axis=2, tiled=True)


def _ring(q, k, v, *, implementation, keys):
  n, here, size = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS), k.shape[1]
  turn = [(i, (i + 1) % n) for i in range(n)]

  def local(k, v, step):
    owner = (here - step) % n
    real = None if keys is None else jnp.clip(keys - owner * size, 0, size)
    return attention_with_lse(q, k, v, implementation=implementation, keys=real)

  @jax.checkpoint
  def step(carry, index):
    k, v, out, lse = carry
    k, v = (jax.lax.ppermute(x, AXIS, turn) for x in (k, v))
    return (k, v, *merge(out, lse, *local(k, v, index))), None

  out, lse = local(k, v, 0)
  (_, _, out, _), _ = jax.lax.scan(step, (k, v, out.astype(jnp.float32), lse), jnp.arange(1, n))
  return out.astype(q.dtype)
