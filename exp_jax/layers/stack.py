"""L equal blocks with their parameters stacked on axis 0, applied by one rematerialized scan.

The compiled program holds one block whatever L is, and the parameters are plain stacked arrays, so
that sharding, conversion and EMA see `blocks.self.q.kernel [L, D, D]` and no layer lists.

What a block keeps for the backward pass, `remat`:

| level | kept per block | run again |
|---|---|---|
| none | everything | nothing |
| input | its input | the block |
| attention | its input, attention outputs and their statistics | the block without its attentions |
| offload | its input, in the host's memory | the block |
"""

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from exp_jax.layers.attention import LSE, OUT
from exp_jax.layers.lora import COLLECTION

REMAT = ('none', 'input', 'attention', 'offload')
_INPUT = 'block_input'
# cuDNN's forward: its outputs are o and lse
_KERNELS = 'dot_product_attention_fwd', 'dot_product_attention_fwd_wrapper'


def init_stacked(block: nn.Module, depth: int, *example):
  """An initializer rng -> parameters of `depth` blocks, each leaf [L, ...].

  `block` must be detached (`parent=None`) and hold nothing but a `params` collection.
  """

  def init(rng):
    return jax.vmap(lambda key: block.init(key, *example)['params'])(jax.random.split(rng, depth))

  return init


def keeps_attention(primitive, *args, **params):
  """A policy of `jax.checkpoint`: the outputs of attention and their statistics are kept, all else
  is run again."""
  named = jax.checkpoint_policies.save_only_these_names(OUT, LSE)(primitive, *args, **params)
  return primitive.name in _KERNELS or named


def apply_stacked(block: nn.Module, params, x, *shared, remat: str = 'input', lora=None):
  """x -> block_{L-1}(... block_0(x, *shared) ..., *shared).

  Args:
    block: detached module, called as block(x, *shared) -> x of the same shape and type.
    params: what `init_stacked` made; leaves [L, ...].
    x: the residual stream.
    *shared: inputs common to all blocks (conditions, rotary table).
    remat: a level of the table above.
    lora: adapters of the blocks (`layers/lora.py`), leaves [L, ...], or None.

  Raises:
    ValueError: if the level is unknown.
  """
  if remat not in REMAT:
    raise ValueError(f'unknown remat level {remat!r}, choose from {REMAT}')

  def step(x, layer):
    own, adapters = layer
    variables = {'params': own} | ({COLLECTION: adapters} if adapters else {})
    x = checkpoint_name(x, _INPUT) if remat == 'offload' else x
    return block.apply(variables, x, *shared), None

  if remat == 'input':
    step = jax.checkpoint(step)
  elif remat == 'attention':
    step = jax.checkpoint(step, policy=keeps_attention)
  elif remat == 'offload':
    step = jax.checkpoint(
      step,
      policy=jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_INPUT],
        offload_src='device',
        offload_dst='pinned_host',
      ),
    )
  return jax.lax.scan(step, x, (params, lora or {}))[0]
