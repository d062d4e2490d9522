"""Flat streams of a data-dependent length under static shapes, kept flat under vmap.

`visit_all` walks the list in which owner i appears counts[i] times, a fixed-size chunk per trip of
a `while_loop`. The number of trips comes from the data, so nothing can overflow and nothing is
dropped; the chunk size is a matter of speed alone.

A vmapped `while_loop` runs every member as long as the slowest and selects on its whole state.
`over_frames` therefore lifts a function that is written for a leading frame axis: vmap turns into
one longer stream, or, on CPU, where the buffers of one frame stay in the cache, into a loop over
the frames.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

# From here on sums by rows beat cumsum on CPU; a shorter one compiles faster.
_LONG = 2**13
_ROW = 128
_CACHED = 4096  # pixels or faces whose few dozen numbers fit the second-level cache
_FAR = jnp.iinfo(jnp.int32).max


@flax.struct.dataclass
class Stream:
  """The flat list in which owner i appears counts[i] times; see `stream_of`."""

  owners: jax.Array  # [N + chunk] int32, the owners that appear at all, in order
  starts: jax.Array  # [N + chunk] int32, where each of them starts; beyond the last, 2^31 - 1
  total: jax.Array  # [] int32, length of the list
  chunk: int = flax.struct.field(pytree_node=False)


def stream_of(counts: jax.Array, *, chunk: int, most: int) -> Stream:
  """Prefix sums and compaction, in O(N).

  Args:
    counts: [N] int32 >= 0, N >= 1.
    chunk: items that `visit_all` takes at once.
    most: none of the counts is larger; known from shapes.

  Raises:
    ValueError: if the sum could overflow an int32.
  """
  size = counts.shape[0]
  if size * most + chunk >= 2**31:
    raise ValueError(f'{size} owners of up to {most} items do not fit int32: take fewer at once')
  present = counts > 0
  end, rank = _prefix_sum(counts, most), _prefix_sum(present.astype(jnp.int32))
  slot = jnp.where(present, rank - 1, size + chunk)  # out of range: dropped
  owners = jnp.zeros(size + chunk, jnp.int32)
  owners = owners.at[slot].set(jnp.arange(size, dtype=jnp.int32), mode='drop')
  starts = jnp.full(size + chunk, _FAR).at[slot].set(end - counts, mode='drop')
  return Stream(owners=owners, starts=starts, total=end[-1], chunk=chunk)


def _prefix_sum(values, most=1):
  """Inclusive sums of int32 [N] in 0..most; exact.

  Long ones go by rows: a product with a triangle of ones within them, exact in float32 below 2^24,
  then a short sum over the rows. Shifted additions or an associative scan take a dozen buffers of
  N, and seconds to compile.
  """
  size = values.shape[0]
  if size < _LONG or most * _ROW >= 2**24:
    return jnp.cumsum(values)
  rows = jnp.pad(values, (0, -size % _ROW)).reshape(-1, _ROW).astype(jnp.float32)
  triangle = jnp.triu(jnp.ones((_ROW, _ROW), jnp.float32))
  within = jnp.dot(rows, triangle, precision=lax.Precision.HIGHEST).astype(jnp.int32)
  totals = within[:, -1]
  before = _prefix_sum(totals, most * _ROW) - totals
  return (within + before[:, None]).reshape(-1)[:size]


def visit_all(
  stream: Stream,
  state: Any,
  visit: Callable[[Any, jax.Array, jax.Array, jax.Array], Any],
) -> Any:
  """Folds `visit` over all pairs (owner, local) with 0 <= local < counts[owner].

  Args:
    stream: of N owners.
    state: pytree carried from chunk to chunk.
    visit: (state, owner [C], local [C], valid [C]) -> state; items past the end are not valid.

  Returns:
    The final state.
  """
  chunk = stream.chunk

  def unfinished(carry):
    base, _, _ = carry
    return base < stream.total

  def step(carry):
    base, first, state = carry  # `first`: rank of the first owner that starts at or after `base`
    # at most `chunk` start here
    begins = lax.dynamic_slice(stream.starts, (first,), (chunk,)) - base
    marks = jnp.zeros(chunk, jnp.int32).at[begins].add(1, mode='drop')
    begun = _prefix_sum(marks)
    rank = first - 1 + begun
    item = base + jnp.arange(chunk, dtype=jnp.int32)
    state = visit(state, stream.owners[rank], item - stream.starts[rank], item < stream.total)
    return base + chunk, first + begun[-1], state

  return lax.while_loop(unfinished, step, (jnp.int32(0), jnp.int32(0), state))[-1]


@flax.struct.dataclass
class Chosen:
  """The indices at which a mask [N] is true; see `chosen_of`."""

  indices: jax.Array  # [N + chunk] int32, in order; 0 beyond the last
  total: jax.Array  # [] int32
  chunk: int = flax.struct.field(pytree_node=False)


def chosen_of(mask: jax.Array, *, chunk: int) -> Chosen:
  """Compaction of the mask [N] bool, N >= 1, for visits of `chunk` indices at once."""
  size = mask.shape[0]
  rank = _prefix_sum(mask.astype(jnp.int32))
  slot = jnp.where(mask, rank - 1, size + chunk)
  indices = jnp.zeros(size + chunk, jnp.int32)
  indices = indices.at[slot].set(jnp.arange(size, dtype=jnp.int32), mode='drop')
  return Chosen(indices=indices, total=rank[-1], chunk=chunk)


def visit_each(
  chosen: Chosen, state: Any, visit: Callable[[Any, jax.Array, jax.Array], Any]
) -> Any:
  """Folds `visit` (state, index [chunk], valid [chunk]) -> state over the chosen indices."""
  chunk = chosen.chunk

  def step(carry):
    base, state = carry
    valid = base + jnp.arange(chunk, dtype=jnp.int32) < chosen.total
    state = visit(state, lax.dynamic_slice(chosen.indices, (base,), (chunk,)), valid)
    return base + chunk, state

  return lax.while_loop(lambda carry: carry[0] < chosen.total, step, (jnp.int32(0), state))[1]


def visit_chosen(
  chosen: jax.Array, state: Any, visit: Callable[[Any, jax.Array, jax.Array], Any]
) -> Any:
  """Folds `visit` over the indices at which `chosen` [N] is true: on CPU some at a time, so that
  what it computes stays in the cache, elsewhere all N at once.

  Args:
    visit: (state, index [K], valid [K]) -> state.
  """
  everything = jnp.arange(chosen.shape[0], dtype=jnp.int32)
  return lax.platform_dependent(
    chosen,
    state,
    cpu=lambda chosen, state: visit_each(chosen_of(chosen, chunk=_CACHED), state, visit),
    default=lambda chosen, state: visit(state, everything, chosen),
  )


def visit_range(size: int, state: Any, visit: Callable[[Any, jax.Array, jax.Array], Any]) -> Any:
  """`visit_chosen` of all indices below `size`."""
  everything = jnp.arange(size, dtype=jnp.int32)

  def some_at_once(state):
    def step(carry):
      base, state = carry
      index = base + jnp.arange(_CACHED, dtype=jnp.int32)
      return base + _CACHED, visit(state, jnp.minimum(index, size - 1), index < size)

    return lax.while_loop(lambda carry: carry[0] < size, step, (jnp.int32(0), state))[1]

  return lax.platform_dependent(
    state, cpu=some_at_once, default=lambda state: visit(state, everything, everything >= 0)
  )


def keep_largest(
  best: jax.Array, winner: jax.Array, slot: jax.Array, key: jax.Array, owner: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Per slot keeps the largest key and, of equal keys, the lowest owner; order of items is
  irrelevant.

  Args:
    best: [S] int32, the largest key so far, 0 = none.
    winner: [S] int32, its owner.
    slot: [C] int32; out-of-range slots are dropped.
    key: [C] int32 > 0.
    owner: [C] int32.
  """
  nowhere = best.shape[0]
  # The barriers: else XLA may compute a key twice and round it differently, and reads `best` after
  # it is written, for which it keeps a copy of all slots in every trip.
  key = lax.optimization_barrier(key)
  nearer = key > best.at[slot].get(mode='fill', fill_value=0)
  nearer = lax.optimization_barrier(jnp.where(nearer, slot, nowhere))
  winner = winner.at[nearer].set(_FAR, mode='drop')
  best = best.at[nearer].max(key, mode='drop')
  after = best.at[slot].get(mode='fill', fill_value=0)
  winner = winner.at[jnp.where(key == after, slot, nowhere)].min(owner, mode='drop')
  return best, winner


def keep_largest_by_sort(
  best: jax.Array, winner: jax.Array, slot: jax.Array, key: jax.Array, owner: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """`keep_largest` with one sort and unique scatters, for devices on which scatters collide
  slowly.
  """
  size = best.shape[0]
  slot, key, owner = lax.sort((slot, -key, owner), num_keys=3)
  key = -key
  first = jnp.concatenate([jnp.ones(1, bool), slot[1:] != slot[:-1]])
  old_key = best.at[slot].get(mode='fill', fill_value=0)
  old_owner = winner.at[slot].get(mode='fill', fill_value=0)
  better = first & ((key > old_key) | ((key == old_key) & (owner < old_owner)))
  # Losers go to distinct slots past the end: they are dropped and the indices stay unique.
  target = jnp.where(better, slot, size + jnp.arange(slot.shape[0], dtype=jnp.int32))
  best = best.at[target].set(key, mode='drop', unique_indices=True)
  return best, winner.at[target].set(owner, mode='drop', unique_indices=True)


KEEP_LARGEST = {'scatter': keep_largest, 'sort': keep_largest_by_sort}


def over_frames(
  frames_function: Callable, *, shared: tuple[int, ...] = (), together: bool = False
) -> Callable:
  """Lifts a function over frames to one frame, such that vmap of it is a single call over all
  frames; on CPU a loop of calls over one frame each.

  Args:
    frames_function: takes arrays [B, ...] and returns a pytree of arrays [B, ...].
    shared: positions of arguments, such as faces, that may come as [1, ...] for all frames.
    together: one call over all frames on CPU, too.

  Returns:
    The function of one frame, without the leading axes. Vmaps nest: B is the product of their
    sizes.
  """

  @functools.cache
  def lifted(axes: int, own: tuple[bool, ...]) -> Callable:
    """For `axes` leading axes on the arguments of which `own` is true, none on the shared ones."""

    @custom_vmap
    def call(*args):
      lead = next((arg.shape[:axes] for arg, mine in zip(args, own) if mine), ())
      flat = [
        arg.reshape(-1, *arg.shape[axes:]) if mine else arg[None] for arg, mine in zip(args, own)
      ]
      result = frames_function(*flat) if together else _by_platform(frames_function, flat)
      return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), result)

    @call.def_vmap
    def batched(axis_size, in_batched, *args):
      lead = next((a.shape[b : b + axes] for a, mine, b in zip(args, own, in_batched) if mine), ())
      now_own = tuple(
        mine or has_axis or at not in shared
        for at, (mine, has_axis) in enumerate(zip(own, in_batched))
      )
      full = []
      for arg, mine, has_axis, becomes_own in zip(args, own, in_batched, now_own):
        if becomes_own:
          outer = arg.shape[:1] if has_axis else (1,)
          rest = arg.shape[has_axis:]
          inner, shape = (rest[:axes], rest[axes:]) if mine else ((1,) * len(lead), rest)
          arg = jnp.broadcast_to(arg.reshape(*outer, *inner, *shape), (axis_size, *lead, *shape))
        full.append(arg)
      result = lifted(axes + 1, now_own)(*full)
      return result, jax.tree.map(lambda _: True, result)

    return call

  return lambda *args: lifted(0, (False,) * len(args))(*args)


def _by_platform(frames_function, flat):
  """frames_function(*flat) of arrays [B, ...] or, of shared ones, [1, ...]."""
  frames = max(arg.shape[0] for arg in flat)
  if frames == 1:
    return frames_function(*flat)

  def one_by_one(*flat):
    own = [arg.shape[0] == frames for arg in flat]

    def one(parts):
      parts = iter(parts)
      args = [next(parts)[None] if mine else arg for arg, mine in zip(flat, own)]
      return jax.tree.map(lambda x: x[0], frames_function(*args))

    return lax.map(one, [arg for arg, mine in zip(flat, own) if mine])

  return lax.platform_dependent(*flat, cpu=one_by_one, default=frames_function)
