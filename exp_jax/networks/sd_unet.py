"""The UNet of Stable Diffusion 1.5 and 2.1 over clips: text, a reference's tokens, guidance in
pixels, motion modules, 3-D attention.

  conv_in [+ guidance] -> 4 levels of 2 stages (resnet, transformer, motion), halved between -> the
                       middle -> 4 levels of 3 stages that take a skip each, doubled between ->
                       norm, conv_out

Transformers stand at all levels but the coarsest, motion modules behind every stage but the last of
the middle. The weights of one
image serve clips: frames are a batch for all but motion modules, 3-D attention and 'clip' norms.

A reference network is a `SdUNet` whose `features` give the tokens that its self-attentions see, 16
arrays in the order of the forward pass; a network of the same layout takes them as `reference`.
With `three_d` self-attention sees all frames of a clip below the finest level, where it stays
within a frame.

A down convolution pads one pixel on all sides, an up convolution follows a repetition of pixels.
`head` False leaves the output norm and convolution out. A checkpoint of `attention_head_dim` 8 has
8 heads, whatever its name says.

Letters: B clips, T frames, h, w latent rows and columns, W_i width of level i, M text tokens.
Source: Rombach et al., High-resolution image synthesis with latent diffusion models, 2022, appendix
E. Guidance is MagicPortrait's and Loki's, 3-D attention Loki's. Equations are checked against
diffusers in tests/golden.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.layers.embeddings import sinusoid
from exp_jax.layers.lora import Dense
from exp_jax.layers.norms import GroupNorm
from exp_jax.layers.stack import keeps_attention
from exp_jax.networks.motion_module import MotionModule
from exp_jax.networks.sd_transformer import GROUPS, Transformer

_SIZES = dict(widths=(320, 640, 1280, 1280))
_TINY = dict(widths=(32, 64, 96, 96), text_dim=24)
VARIANTS = {  # the published files; tiny ones are ours
  'sd15': _SIZES | dict(heads=(8, 8, 8, 8), text_dim=768),
  'sd21': _SIZES | dict(heads=(5, 10, 20, 20), text_dim=1024),
  'tiny15': _TINY | dict(heads=(4, 4, 4, 4)),
  'tiny21': _TINY | dict(heads=(2, 4, 6, 6)),
  'tiny': dict(
    widths=(64, 96, 96), heads=(4, 6, 6), text_dim=0, in_channels=8, out_channels=8, blocks=1
  ),  # of configs/sd_tiny.py
}
FUSIONS = ('concat', 'add')  # how a reference is read
REMAT = ('none', 'input', 'attention')
_RESNET_EPS = 1e-5


def conv3(features: int, dtype: str, name: str, strides: int = 1) -> nn.Conv:
  """A 3x3 convolution that pads one pixel on every side; 'SAME' would pad other sides where it
  strides over even sizes."""
  return nn.Conv(
    features, (3, 3), strides, padding=((1, 1), (1, 1)), dtype=jnp.dtype(dtype), name=name
  )


def upsampled(x: jax.Array) -> jax.Array:
  """[..., h, w, C] -> [..., 2h, 2w, C], every pixel repeated."""
  return jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)


class Resnet(nn.Module):
  """(x [..., h, w, C], e [..., E] or None) -> [..., h, w, out]; the leading axes of e broadcast
  against those of x."""

  out: int
  eps: float = _RESNET_EPS
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x, e=None):
    def conv(y, norm, name):
      y = jax.nn.silu(GroupNorm(GROUPS, self.eps, name=norm)(y)).astype(self.dtype)
      return conv3(self.out, self.dtype, name)(y)

    y = conv(x, 'norm1', 'conv1')
    if e is not None:
      y = (
        y
        + Dense(self.out, dtype=jnp.dtype(self.dtype), name='time')(jax.nn.silu(e))[
          ..., None, None, :
        ]
      )
    y = conv(y, 'norm2', 'conv2')
    if x.shape[-1] != self.out:
      x = Dense(self.out, dtype=jnp.dtype(self.dtype), name='shortcut')(x)
    return x + y


class Stage(nn.Module):
  """Resnet, then a transformer where `heads` > 0, then a motion module where `motion` names its
  norm.

  Called as (x [B, T, h, w, C], e [B, 1 or T, E], text, reference, keep) -> (x, tokens of the
  transformer or None); see `Transformer`.
  """

  out: int
  heads: int
  text: bool
  across: bool
  motion: str
  motion_heads: int
  dtype: str
  implementation: str
  fusion: str = 'concat'

  @nn.compact
  def __call__(self, x, e, text, reference, keep):
    x, seen = Resnet(self.out, dtype=self.dtype, name='res')(x, e), None
    if self.heads:
      transformer = Transformer(
        self.heads, self.text, self.dtype, self.implementation, self.across, self.fusion, name='att'
      )
      x, seen = transformer(x, text, reference, keep)
    if self.motion:
      x = MotionModule(
        self.motion_heads, self.motion, self.dtype, self.implementation, name='motion'
      )(x)
    return x, seen


class TimeEmbedding(nn.Module):
  """t [...] in [0, 1000) -> float32 [..., 4 width]."""

  width: int

  @nn.compact
  def __call__(self, t):
    e = Dense(4 * self.width, name='fc1')(sinusoid(t, self.width))
    return Dense(4 * self.width, name='fc2')(jax.nn.silu(e))


class SdUNet(nn.Module):
  """The denoiser; `__call__` predicts, `features` gives the tokens of a reference.

  Attributes:
    widths: channels of the levels, finest first.
    heads: attention heads of the levels; the last entry serves the middle.
    text_dim: width of the text's tokens; 0: no cross-attention.
    blocks: stages of a level on the way down; one more on the way up.
    three_d: self-attention below the finest level sees all frames of a clip.
    motion: '': no motion modules; 'frame' or 'clip': the norm of `MotionModule`.
    motion_middle: whether the middle has one, as in AnimateDiff's second version.
    motion_heads: heads of motion modules.
    fusion: a reference's tokens are further keys and values of self-attention ('concat'), or added
      to the tokens before it ('add').
    head: whether there are the output norm and convolution.
    dtype: type of convolutions, matrix products and the stream; norms and softmax are float32.
    attention: a door of layers/attention.py.
    remat: what a stage keeps for the backward pass: 'none' drops nothing, 'input', 'attention'; see
      layers/stack.py.
  """

  widths: tuple[int, ...]
  heads: tuple[int, ...]
  text_dim: int
  in_channels: int = 4
  out_channels: int = 4
  blocks: int = 2
  three_d: bool = False
  motion: str = ''
  motion_middle: bool = True
  motion_heads: int = 8
  fusion: str = 'concat'
  head: bool = True
  dtype: str = 'float32'
  attention: str = 'xla'
  remat: str = 'none'

  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    text: jax.Array | None = None,
    *,
    guidance: jax.Array | None = None,
    reference: Sequence[jax.Array] | None = None,
    keep: jax.Array | None = None,
  ) -> jax.Array:
    """Predicts noise, or velocity: what the weights were trained for.

    Args:
      x: [B, T, h, w, in_channels] noisy latents; h and w are multiples of 2 to the power of the
        levels less one.
      t: [B], or [B, T] one a frame, times in [0, 1000).
      text: [B, M, text_dim], the same for all frames.
      guidance: [B, T, h, w, W_0], added behind the first convolution, so that the last skip carries
        it as well.
      reference: what `features` of a network of the same layout gave.
      keep: [B] bool, which clips see their reference; None: all.

    Returns:
      float32 [B, T, h, w, out_channels], or [B, T, h, w, W_0] without a head.

    Raises:
      ValueError: text or the reference are missing, too much or of another length; h or w do not
        divide; an unknown `remat`.
    """
    return self._forward(x, t, text, guidance, reference, keep)[0]

  def features(
    self, x: jax.Array, t: jax.Array, text: jax.Array | None = None
  ) -> tuple[jax.Array, ...]:
    """What the self-attentions see of one image: token arrays [B, h w / 4^level, W_level] in the
    order of the forward pass.

    Args:
      x: [B, h, w, in_channels] latents; those of the reference are clean, and t is 0.
      t: [B].
      text: [B, M, text_dim].
    """
    return tuple(seen[:, 0] for seen in self._forward(x[:, None], t, text, None, None, None)[1])

  @nn.compact
  def _forward(self, x, t, text, guidance, reference, keep):
    self._check(x, text, reference)
    # [B, 1 or T, E]
    e = TimeEmbedding(self.widths[0], name='time')(t if t.ndim == 2 else t[:, None])
    shared, bank = (e, text, keep), None if reference is None else iter(reference)
    h = conv3(self.widths[0], self.dtype, 'conv_in')(x.astype(self.dtype))
    h = h if guidance is None else h + guidance.astype(h.dtype)
    seen, skips = [], [h]
    h = self._down(h, skips, shared, bank, seen)
    h = self._middle(h, shared, bank, seen)
    h = self._up(h, skips, shared, bank, seen)
    if self.head:
      h = jax.nn.silu(GroupNorm(GROUPS, _RESNET_EPS, name='norm_out')(h)).astype(self.dtype)
      h = conv3(self.out_channels, self.dtype, 'conv_out')(h)
    return h.astype(jnp.float32), seen

  def _check(self, x, text, reference):
    levels, count = len(self.widths), self.transformers
    if self.fusion not in FUSIONS:
      raise ValueError(f'unknown fusion {self.fusion!r}, choose from {FUSIONS}')
    if self.remat not in REMAT:
      raise ValueError(f'unknown remat level {self.remat!r}, choose from {REMAT}')
    if any(n % 2 ** (levels - 1) for n in x.shape[-3:-1]):
      raise ValueError(
        f'latents of {x.shape[-3:-1]} rows and columns cannot be halved {levels - 1} times'
      )
    if (
      (text is None) == bool(self.text_dim) or text is not None and text.shape[-1] != self.text_dim
    ):
      raise ValueError(
        f'text of shape {None if text is None else text.shape}, but the network expects a width of '
        f'{self.text_dim}'
      )
    if reference is not None and len(reference) != count:
      raise ValueError(
        f'a reference of {len(reference)} arrays for a network of {count} transformers'
      )

  @property
  def transformers(self) -> int:
    """How many self-attentions there are, and arrays in a reference."""
    return (len(self.widths) - 1) * (2 * self.blocks + 1) + 1

  def _stage(self, h, name, level, shared, bank, seen, *, attend, motion=True):
    """One `Stage`; what its transformer saw is appended to `seen`."""
    e, text, keep = shared
    stage = {
      'none': lambda: Stage,
      'input': lambda: nn.remat(Stage),
      'attention': lambda: nn.remat(Stage, policy=keeps_attention),
    }[self.remat]()
    block = stage(
      self.widths[level],
      self.heads[level] if attend else 0,
      bool(self.text_dim),
      self.three_d and level > 0,
      self.motion if motion else '',
      self.motion_heads,
      self.dtype,
      self.attention,
      self.fusion,
      name=name,
    )
    h, tokens = block(h, e, text, next(bank).astype(self.dtype) if attend and bank else None, keep)
    if attend:
      seen.append(tokens)
    return h

  def _down(self, h, skips, shared, bank, seen):
    last = len(self.widths) - 1
    for level, width in enumerate(self.widths):
      for j in range(self.blocks):
        h = self._stage(h, f'down{level}_{j}', level, shared, bank, seen, attend=level < last)
        skips.append(h)
      if level < last:
        h = conv3(width, self.dtype, f'down{level}_half', 2)(h)
        skips.append(h)
    return h

  def _middle(self, h, shared, bank, seen):
    last = len(self.widths) - 1
    h = self._stage(h, 'middle_0', last, shared, bank, seen, attend=True, motion=self.motion_middle)
    return self._stage(h, 'middle_1', last, shared, bank, seen, attend=False, motion=False)

  def _up(self, h, skips, shared, bank, seen):
    last = len(self.widths) - 1
    for i in range(last + 1):
      level = last - i
      for j in range(self.blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = self._stage(h, f'up{i}_{j}', level, shared, bank, seen, attend=i > 0)
      if i < last:
        h = conv3(self.widths[level], self.dtype, f'up{i}_double')(upsampled(h))
    return h


def sd_unet(variant: str, **overrides) -> SdUNet:
  """A `SdUNet` of the table, any field overridden.

  Raises:
    ValueError: if the variant is unknown.
  """
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}, choose from {sorted(VARIANTS)}')
  return SdUNet(**(VARIANTS[variant] | overrides))
