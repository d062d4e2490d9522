"""L equal blocks with their parameters stacked on axis 0, applied by one rematerialized scan.

The compiled program holds one block whatever L is, and the parameters are plain stacked arrays, so that
sharding, conversion and EMA see `blocks.self.q.kernel [L, D, D]` and no layer lists.
"""

import flax.linen as nn
import jax


def init_stacked(block: nn.Module, depth: int, *example):
  """An initializer rng -> parameters of `depth` blocks, each leaf [L, ...].

  `block` must be detached (`parent=None`) and hold nothing but a `params` collection.
  """

  def init(rng):
    return jax.vmap(lambda key: block.init(key, *example)['params'])(jax.random.split(rng, depth))

  return init


def apply_stacked(block: nn.Module, params, x, *shared, remat: bool = True):
  """x -> block_{L-1}(... block_0(x, *shared) ..., *shared).

  Args:
    block: detached module, called as block(x, *shared) -> x of the same shape and type.
    params: what `init_stacked` made; leaves [L, ...].
    x: the residual stream.
    *shared: inputs common to all blocks (conditions, rotary table).
    remat: keep only each block's input for the backward pass, recompute the rest.
  """

  def step(x, layer):
    return block.apply({'params': layer}, x, *shared), None

  return jax.lax.scan(jax.checkpoint(step) if remat else step, x, params)[0]
