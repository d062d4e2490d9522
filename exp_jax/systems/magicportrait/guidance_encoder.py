"""What a guidance map is to the denoiser: channels added behind its first convolution.

One encoder a map, all of the same size.

  conv, SiLU -> [conv, SiLU, conv of stride 2, SiLU] a width but the last -> self-attention over
  pixels -> conv, zero at creation

No time enters: one call serves all steps of a sampler. The published checkpoint has an attention at
each width; only the last one is called, and only that is built. With `fold` n the map is folded by
n first, n x n pixels into channels, which a CPU's small networks need; the published encoder has
none.

Letters: H, W pixels, h, w latent rows and columns, W_0 width of the UNet's finest level.
Source: MagicPortrait, arXiv 2504.21497, section III-B, and its published code; table III for the
encoder without attention.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.networks.patch_vae import space_to_depth
from exp_jax.networks.sd_transformer import Transformer
from exp_jax.networks.sd_unet import conv3

VARIANTS = {
  'full': dict(widths=(16, 32, 96, 256), out=320),
  'tiny': dict(
    widths=(64,), out=64, heads=4, fold=4
  ),  # of configs/magicportrait.py:tiny; ours, as the next
  'smoke': dict(widths=(32, 32, 32), out=32, heads=2),
}
_zeros = nn.initializers.zeros


class GuidanceEncoder(nn.Module):
  """[..., H, W, 3] in 0..1 -> float32 [..., h, w, out].

  Attributes:
    widths: of the convolutions; rows and columns are halved between two of them. Multiples of 32 at
      the last.
    out: width of the output.
    heads: of the attention.
    attend: False: a convolution in place of the attention.
    fold: pixels along rows and columns that are folded into channels first.
    gain: factor of the output; above 1 the zero convolution learns faster by as much. 1 in the
      published network.
    remat: everything before the attention is computed again in the backward pass.
  """

  widths: tuple[int, ...]
  out: int
  heads: int = 8
  attend: bool = True
  fold: int = 1
  gain: float = 1.0
  dtype: str = 'float32'
  implementation: str = 'xla'
  remat: bool = False

  @property
  def stride(self) -> int:
    """Pixels per latent along rows and along columns."""
    return self.fold * 2 ** (len(self.widths) - 1)

  @nn.compact
  def __call__(self, maps: jax.Array) -> jax.Array:
    x = space_to_depth(maps, self.fold) if self.fold > 1 else maps
    lead, x = x.shape[:-3], x.reshape(-1, *x.shape[-3:]).astype(self.dtype)
    stem = nn.remat(_Stem) if self.remat else _Stem
    x = stem(self.widths, self.dtype, name='stem')(x)
    if self.attend:
      x = Transformer(self.heads, False, self.dtype, self.implementation, name='att')(x[:, None])[
        0
      ][:, 0]
    else:
      x = x + jax.nn.silu(conv3(self.widths[-1], self.dtype, 'conv')(x))
    x = nn.Conv(
      self.out,
      (3, 3),
      padding=((1, 1), (1, 1)),
      dtype=jnp.dtype(self.dtype),
      kernel_init=_zeros,
      name='conv_out',
    )(x)
    return self.gain * x.astype(jnp.float32).reshape(*lead, *x.shape[1:])


class _Stem(nn.Module):
  """The convolutions: [N, H, W, C] -> [N, h, w, widths[-1]]."""

  widths: tuple[int, ...]
  dtype: str

  @nn.compact
  def __call__(self, x):
    x = jax.nn.silu(conv3(self.widths[0], self.dtype, 'conv_in')(x))
    for i, (width, following) in enumerate(zip(self.widths, self.widths[1:])):
      x = jax.nn.silu(conv3(width, self.dtype, f'block{2 * i}')(x))
      x = jax.nn.silu(conv3(following, self.dtype, f'block{2 * i + 1}', 2)(x))
    return x


def guidance_encoder(variant: str, **overrides) -> GuidanceEncoder:
  """A `GuidanceEncoder` of the table, any field overridden.

  Raises:
    ValueError: if the variant is unknown.
  """
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}, choose from {sorted(VARIANTS)}')
  return GuidanceEncoder(**(VARIANTS[variant] | overrides))
