"""The Wan 2.1 video transformer, text-to-video and image-to-video.

  tokens = patch embedding of the latents, ordered (frame, row, column)
  block:   x += g1 * self_attention(LN(x) (1 + k1) + s1)
           x += cross_attention(LN_affine(x), text [, image])
           x += g2 * ffn(LN(x) (1 + k2) + s2)
  head   = Linear(LN(x) (1 + k) + s), then tokens back to latents

q and k pass an RMS norm over the full width, before the heads; in self-attention they are then
rotated. Cross-attention has no gate; with an image it has two softmaxes over one query, summed.

Letters: B batch, F, H, W latent frames, rows, columns; f, r, c the token grid (F/pt, H/ph, W/pw);
S = f r c tokens, D width, h heads, e = D / h, L layers.
Inside a patch the order is (channel, pt, ph, pw) on the way in, (pt, ph, pw, channel) on the way
out.
Norms, modulation, time path, softmax, rotary and the output are float32; matrix products have
`dtype`.

Source: Wan 2.1 technical report, section 4; equations checked against diffusers in tests/golden.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.layers.context_parallel import context_size, parallel_attention, shard_tokens
from exp_jax.layers.embeddings import rotary_angles, rotate, sinusoid
from exp_jax.layers.lora import COLLECTION, Dense
from exp_jax.layers.mlp import Mlp
from exp_jax.layers.norms import LayerNorm, layer_norm, rms_norm
from exp_jax.layers.stack import apply_stacked, init_stacked

_SMALL = dict(width=1536, heads=12, ffn=8960, depth=30)
_LARGE = dict(width=5120, heads=40, ffn=13824, depth=40)
_IMAGE = dict(in_channels=36, image_dim=1280)
VARIANTS = {  # Wan 2.1 technical report, table 1; `tiny`, `tiny_i2v` and `demo` are ours
  'tiny': dict(width=32, heads=2, ffn=64, depth=2, text_dim=12, freq_dim=16),
  'tiny_i2v': dict(
    width=32, heads=2, ffn=64, depth=2, text_dim=12, freq_dim=16, in_channels=36, image_dim=16
  ),
  'demo': dict(width=192, heads=2, ffn=576, depth=4, text_dim=0, freq_dim=64, patch=(1, 4, 4)),
  'wan_1_3b': _SMALL,
  'wan_1_3b_i2v': _SMALL | _IMAGE,  # community layout; there is no official checkpoint
  'wan_14b_t2v': _LARGE,
  'wan_14b_i2v': _LARGE | _IMAGE,
  'wan_14b_flf2v': _LARGE
  | _IMAGE
  | dict(image_positions=514),  # first and last frame: 2 x 257 image tokens
}

_xavier = nn.initializers.xavier_uniform()
_small_normal = nn.initializers.normal(0.02)


def _table_init(rng, shape):
  return jax.random.normal(rng, shape) * shape[-1] ** -0.5


def patchify(x: jax.Array, patch: tuple[int, int, int]) -> jax.Array:
  """[B, F, H, W, C] -> [B, f, r, c, C*pt*ph*pw], channel slowest inside a patch."""
  (B, F, H, W, C), (pt, ph, pw) = x.shape, patch
  x = x.reshape(B, F // pt, pt, H // ph, ph, W // pw, pw, C).transpose(0, 1, 3, 5, 7, 2, 4, 6)
  return x.reshape(B, F // pt, H // ph, W // pw, -1)


def unpatchify(x: jax.Array, patch: tuple[int, int, int]) -> jax.Array:
  """[B, f, r, c, pt*ph*pw*C] -> [B, F, H, W, C], channel fastest inside a patch."""
  (B, f, r, c, _), (pt, ph, pw) = x.shape, patch
  x = x.reshape(B, f, r, c, pt, ph, pw, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
  return x.reshape(B, f * pt, r * ph, c * pw, -1)


class Attention(nn.Module):
  """Self- or cross-attention with RMS norm of q and k over the whole width, before the heads.

  Called as (y [B, S, D], context [B, M, D] or None, image [B, Mi, D] or None, angles [S, e/2] or
  None, how many of the keys are real or None).
  """

  width: int
  heads: int
  eps: float
  dtype: str
  implementation: str
  way: str
  image: bool = False

  @nn.compact
  def __call__(self, y, context=None, image=None, angles=None, keys=None):
    dense = functools.partial(Dense, self.width, dtype=jnp.dtype(self.dtype), kernel_init=_xavier)
    attend = functools.partial(parallel_attention, way=self.way, implementation=self.implementation)
    shared = context is not None  # conditions are whole on every device
    context = y if context is None else context

    def heads(x):
      return x.reshape(*x.shape[:-1], self.heads, -1)

    def normed(x, name):
      x = heads(rms_norm(x, self.param(name, nn.initializers.ones, (self.width,)), self.eps))
      return (x if angles is None else rotate(x, angles)).astype(self.dtype)

    q = normed(dense(name='q')(y), 'q_norm')
    k, v = normed(dense(name='k')(context), 'k_norm'), heads(dense(name='v')(context))
    o = attend(q, k, v, keys=keys, shared_keys=shared)
    if self.image:
      ki, vi = normed(dense(name='ki')(image), 'ki_norm'), heads(dense(name='vi')(image))
      o = o + attend(q, ki, vi, shared_keys=True)
    return dense(name='o')(o.reshape(*y.shape[:-1], self.width))


class Block(nn.Module):
  """One layer: (x [B, S, D], m [B, 1 or S, 6, D] float32, text, image, angles) -> x."""

  width: int
  heads: int
  ffn: int
  eps: float
  dtype: str
  implementation: str
  way: str
  text: bool
  image: bool
  keys: int | None = None

  @nn.compact
  def __call__(self, x, m, text, image, angles):
    attend = functools.partial(
      Attention, self.width, self.heads, self.eps, self.dtype, self.implementation, self.way
    )
    table = self.param('table', _table_init, (6, self.width))
    s1, k1, g1, s2, k2, g2 = jnp.moveaxis(table + m, -2, 0)  # each [B, 1 or S, D]
    y = (layer_norm(x, self.eps) * (1 + k1) + s1).astype(self.dtype)
    x = (x + g1 * attend(name='self')(y, angles=angles, keys=self.keys)).astype(x.dtype)
    if self.text:
      y = LayerNorm(self.eps, name='cross_norm')(x).astype(self.dtype)
      x = (x + attend(self.image, name='cross')(y, text, image)).astype(x.dtype)
    y = (layer_norm(x, self.eps) * (1 + k2) + s2).astype(self.dtype)
    y = Mlp(self.ffn, self.width, dtype=self.dtype, kernel_init=_xavier, name='ffn')(y)
    return (x + g2 * y).astype(x.dtype)


class TimeEmbedding(nn.Module):
  """t [...] in [0, 1000] -> te [..., D] for the head, m [..., 6, D] for the blocks. All float32."""

  width: int
  freq_dim: int

  @nn.compact
  def __call__(self, t):
    dense = functools.partial(Dense, kernel_init=_small_normal)
    te = dense(self.width, name='fc1')(sinusoid(t, self.freq_dim))
    te = dense(self.width, name='fc2')(jax.nn.silu(te))
    m = dense(6 * self.width, name='proj')(jax.nn.silu(te))
    return te, m.reshape(*m.shape[:-1], 6, self.width)


class ImageEmbedding(nn.Module):
  """CLIP tokens [B, Ti, 1280] -> [B, Ti, D]; `positions` > 0 adds a table (first-last-frame
  models)."""

  width: int
  dtype: str
  positions: int = 0

  @nn.compact
  def __call__(self, clip):
    if self.positions:
      clip = clip + self.param('pos', nn.initializers.zeros, (1, self.positions, clip.shape[-1]))
    dense = functools.partial(Dense, dtype=jnp.dtype(self.dtype), kernel_init=_xavier)
    clip = dense(clip.shape[-1], name='fc1')(LayerNorm(1e-5, name='norm1')(clip))
    clip = dense(self.width, name='fc2')(jax.nn.gelu(clip, approximate=False))
    return LayerNorm(1e-5, name='norm2')(clip).astype(self.dtype)


class Head(nn.Module):
  """[B, S, D], te [B, 1 or S, D] -> float32 [B, S, out]. Zero kernel at the start."""

  out: int
  eps: float

  @nn.compact
  def __call__(self, x, te):
    shift, scale = jnp.moveaxis(
      self.param('table', _table_init, (2, x.shape[-1])) + te[..., None, :], -2, 0
    )
    kernel = self.param('kernel', nn.initializers.zeros, (x.shape[-1], self.out))
    bias = self.param('bias', nn.initializers.zeros, (self.out,))
    return (layer_norm(x, self.eps) * (1 + scale) + shift) @ kernel + bias


class WanDiT(nn.Module):
  """The denoiser: (x, t, text, clip) -> velocity. `embed` and `transform` are its two halves.

  Fields beyond the sizes: `text_dim` 0 leaves cross-attention out; `image_dim` > 0 adds the image
  branch; `dtype` is the type of matrix products, `residual_dtype` of the stream between blocks.
  `attention` is a door of layers/attention.py; where the ambient mesh has an axis 'context' the
  tokens are split over it, `context` says how (layers/context_parallel.py); `remat` is a level of
  layers/stack.py (True and False: 'input' and 'none').
  Adapters of layers/lora.py come as the collection 'lora', with the paths of the parameters.
  """

  width: int
  heads: int
  ffn: int
  depth: int
  in_channels: int = 16
  out_channels: int = 16
  text_dim: int = 4096
  freq_dim: int = 256
  image_dim: int = 0
  image_positions: int = 0
  patch: tuple[int, int, int] = (1, 2, 2)
  eps: float = 1e-6
  dtype: str = 'float32'
  residual_dtype: str = 'float32'
  attention: str = 'xla'
  context: str = 'ulysses'
  remat: str = 'input'

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    self.patch_embedding = Dense(self.width, dtype=dtype, kernel_init=_xavier, name='patch')
    self.time = TimeEmbedding(self.width, self.freq_dim)
    if self.text_dim:
      self.text = Mlp(self.width, self.width, dtype=self.dtype, kernel_init=_small_normal)
    if self.image_dim:
      self.image = ImageEmbedding(self.width, self.dtype, self.image_positions)
    self.block = Block(
      self.width,
      self.heads,
      self.ffn,
      self.eps,
      self.dtype,
      self.attention,
      self.context,
      bool(self.text_dim),
      bool(self.image_dim),
      parent=None,
    )
    token = jnp.zeros((1, 1, self.width), dtype)
    m = jnp.zeros((1, 1, 6, self.width))
    angles = jnp.zeros((1, self.width // self.heads // 2))
    self.blocks = self.param(
      'blocks', init_stacked(self.block.clone(way=''), self.depth, token, m, token, token, angles)
    )
    size = self.patch[0] * self.patch[1] * self.patch[2]
    self.head = Head(size * self.out_channels, self.eps)

  def embed(self, x: jax.Array) -> jax.Array:
    """[B, F, H, W, in_channels] -> tokens on their grid [B, f, r, c, D]."""
    return self.patch_embedding(patchify(x, self.patch).astype(self.dtype))

  def transform(
    self,
    tokens: jax.Array,
    t: jax.Array,
    text: jax.Array | None = None,
    clip: jax.Array | None = None,
    *,
    reuse: tuple | None = None,
  ):
    """All blocks and the head.

    Args:
      tokens: [B, f, r, c, D]; conditions may already be added, reference frames put in front.
      t: [B] or, per token, [B, f*r*c], in [0, 1000].
      text: [B, Tx, text_dim], zero-padded after its true length; padding is attended to, as in Wan.
      clip: [B, Ti, image_dim] or None.
      reuse: None, or (run [] bool, what the blocks added last time [B, f*r*c, D]): where `run` is
        false the blocks are skipped and that is added again.

    Returns:
      float32 [B, f, r, c, pt*ph*pw*out_channels]; with `reuse` also what the blocks added.
    """
    B, *grid, D = tokens.shape
    te, m = self.time(t if t.ndim == 2 else t[:, None])  # [B, 1 or S, D], [B, 1 or S, 6, D]
    text = self.text(text.astype(self.dtype)) if self.text_dim else None
    clip = self.image(clip) if self.image_dim else None
    x = tokens.reshape(B, -1, D).astype(self.residual_dtype)
    if reuse is None:
      x = self._blocks(x, m, text, clip, tuple(grid))
      return self.head(x, te).reshape(B, *grid, -1)
    run, before = reuse
    added = jax.lax.cond(
      run, lambda: self._blocks(x, m, text, clip, tuple(grid)) - x, lambda: before.astype(x.dtype)
    )
    return self.head(x + added, te).reshape(B, *grid, -1), added

  def _blocks(self, x, m, text, clip, grid):
    S, angles = x.shape[1], rotary_angles(grid, self.width // self.heads)
    block, pad = self.block, -S % context_size()
    if pad:  # padded tokens are masked as keys, then cut
      x, angles = jnp.pad(x, ((0, 0), (0, pad), (0, 0))), jnp.pad(angles, ((0, pad), (0, 0)))
      m = m if m.shape[1] == 1 else jnp.pad(m, ((0, 0), (0, pad), (0, 0), (0, 0)))
      block = block.clone(keys=S)
    lora = (
      self.get_variable(COLLECTION, 'blocks') if self.has_variable(COLLECTION, 'blocks') else None
    )
    remat = {True: 'input', False: 'none'}.get(self.remat, self.remat)
    x = apply_stacked(
      block,
      self.blocks,
      shard_tokens(x),
      m,
      text,
      clip,
      jnp.asarray(angles),
      remat=remat,
      lora=lora,
    )
    return x[:, :S]

  def __call__(self, x, t, text=None, clip=None):
    """x [B, F, H, W, in_channels] -> float32 [B, F, H, W, out_channels]; see `transform`."""
    return unpatchify(self.transform(self.embed(x), t, text, clip), self.patch)


def wan_dit(variant: str, **overrides) -> WanDiT:
  """A `WanDiT` of the table, any field overridden.

  Raises:
    ValueError: if the variant is unknown.
  """
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}, choose from {sorted(VARIANTS)}')
  return WanDiT(**(VARIANTS[variant] | overrides))
