"""The transformer of a Stable Diffusion UNet: attention over the pixels of a frame, text, and a
reference.

  n = LN(x);  x += attention(n [, reference]);  x += attention(LN(x), text);  x += GEGLU(LN(x))

This stands between two linear layers, whose output is added to the input.

With `across` the first attention sees the tokens of all frames of a clip at once, with the same
weights. What it sees of itself, n, is what another network of the same layout takes as its
reference. With `fusion` 'add' it is x before the norm, and it is added to the other network's x in
place of the keys.

Letters: B clips, T frames, h, w latent rows and columns, L = h w tokens, C channels, M text tokens,
D text width.
Source: Rombach et al., High-resolution image synthesis with latent diffusion models, 2022, appendix
E.2.1; Hu et al., Animate Anyone, 2024, section 3.2 (the reference); equations checked against
diffusers in tests/golden.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.layers.attention import attention
from exp_jax.layers.lora import Dense
from exp_jax.layers.mlp import GeGlu
from exp_jax.layers.norms import GroupNorm, LayerNorm
from exp_jax.layers.reference_attention import referring_attention, self_attention

GROUPS = 32
NORM_EPS = 1e-6  # of the group norm; a resnet's is 1e-5
_TOKEN_EPS = 1e-5  # of the layer norms


class Attention(nn.Module):
  """Multi-head attention without bias on queries, keys and values; parameters q, k, v, o.

  Fields: `width` C, `heads`, `across` whether frames see each other, `implementation` of
  layers/attention.py.
  """

  width: int
  heads: int
  dtype: str = 'float32'
  implementation: str = 'xla'
  across: bool = False

  @nn.compact
  def __call__(
    self,
    y: jax.Array,
    context: jax.Array | None = None,
    reference: jax.Array | None = None,
    keep: jax.Array | None = None,
  ) -> jax.Array:
    """Self-attention with or without a reference, or attention to a context.

    Args:
      y: [B, T, L, C] queries, and keys where there is no context.
      context: [B, M, D] keys of every frame, or None.
      reference: [B, Lr, C] more keys, which pass the same weights as y, or None.
      keep: [B] bool, which clips see their reference; None: all.

    Returns:
      [B, T, L, C] in `dtype`.
    """
    dtype = jnp.dtype(self.dtype)
    dense = functools.partial(Dense, self.width, dtype=dtype, use_bias=False)
    to_q, to_k, to_v = (dense(name=name) for name in 'qkv')
    heads = lambda x: x.reshape(*x.shape[:-1], self.heads, -1)
    q = heads(to_q(y))
    if context is not None:
      k, v = heads(to_k(context)), heads(to_v(context))
      flat = q.reshape(len(q), -1, *q.shape[3:])  # frames share the text: they are more queries
      out = attention(flat, k, v, implementation=self.implementation)
    else:
      k, v = heads(to_k(y)), heads(to_v(y))
      how = dict(across=self.across, implementation=self.implementation)
      if reference is None:
        out = self_attention(q, k, v, **how)
      else:
        more = heads(to_k(reference)), heads(to_v(reference))
        out = referring_attention(q, k, v, more, keep=keep, **how)
    return Dense(self.width, dtype=dtype, name='o')(out.reshape(y.shape))


class Block(nn.Module):
  """One layer on tokens: (x [B, T, L, C], text, reference, keep) -> (x, its own tokens for another
  network [B, T, L, C])."""

  heads: int
  text: bool
  dtype: str
  implementation: str
  across: bool
  fusion: str = 'concat'

  @nn.compact
  def __call__(self, x, text, reference, keep):
    C = x.shape[-1]
    attend = functools.partial(Attention, C, self.heads, self.dtype, self.implementation)
    normed = lambda name: LayerNorm(_TOKEN_EPS, name=name)(x).astype(self.dtype)
    if self.fusion == 'add':
      seen = x
      if reference is not None:
        seen_there = (
          reference[:, None]
          if keep is None
          else jnp.where(keep[:, None, None, None], reference[:, None], 0.0)
        )
        x = x + seen_there.astype(x.dtype)
      x = x + attend(self.across, name='self')(normed('norm1'))
    else:
      seen = normed('norm1')
      x = x + attend(self.across, name='self')(seen, None, reference, keep)
    if self.text:
      x = x + attend(name='cross')(normed('norm2'), text)
    return x + GeGlu(4 * C, C, self.dtype, name='ff')(normed('norm3')), seen


class Transformer(nn.Module):
  """(x [B, T, h, w, C], text [B, M, D] or None, reference [B, Lr, C] or None, keep [B] or None) ->
  (x, tokens [B, T, L, C]).

  The tokens are those that its self-attention saw of itself or, of fusion 'add', those before it.
  `text` says whether there is a cross-attention at all. Its two 1x1 convolutions, of Stable
  Diffusion 1.5, and the two linear layers of 2.1 are the same function.
  """

  heads: int
  text: bool
  dtype: str = 'float32'
  implementation: str = 'xla'
  across: bool = False
  fusion: str = 'concat'

  @nn.compact
  def __call__(self, x, text=None, reference=None, keep=None):
    B, T, h, w, C = x.shape
    dense = functools.partial(Dense, C, dtype=jnp.dtype(self.dtype))
    y = GroupNorm(GROUPS, NORM_EPS, name='norm')(x).astype(self.dtype)
    y = dense(name='proj_in')(y.reshape(B, T, h * w, C))
    block = Block(
      self.heads, self.text, self.dtype, self.implementation, self.across, self.fusion, name='block'
    )
    y, seen = block(y, text, reference, keep)
    return x + dense(name='proj_out')(y).reshape(x.shape), seen
