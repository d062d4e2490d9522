"""What moves the generator: driver maps, or a vector of coefficients, as channels added behind the
UNet's first convolution.

  map encoder: conv -> [resnet, conv of stride 2] a width -> resnet -> GN, SiLU, conv that is zero
    at creation
  vector:      linear -> SiLU -> linear, the same at every place -> linear that is zero at creation          (an ablation)

No time enters either: one call serves all steps of a sampler. With `fold` n the map is folded by n
first, n x n pixels into channels, which a CPU's small networks need; the published encoder has
none.

Letters: H, W pixels, h, w latent rows and columns, C map channels, W_0 width of the UNet's finest
level.
Source: Loki, arXiv 2605.24176, figure 2 and its published code, sizes only.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.layers.norms import GroupNorm
from exp_jax.networks.patch_vae import space_to_depth
from exp_jax.networks.sd_transformer import GROUPS
from exp_jax.networks.sd_unet import Resnet, conv3

VARIANTS = {
  'full': dict(stem=64, widths=(128, 256, 320), out=320),
  'tiny': dict(stem=64, widths=(), out=64, fold=4),  # of configs/loki.py:tiny; ours, as the next
  'smoke': dict(stem=32, widths=(32, 32), out=32),
}
VECTOR_WIDTH = 320
_EPS = 1e-5
_zeros = nn.initializers.zeros


class MapEncoder(nn.Module):
  """[..., H, W, C] -> float32 [..., h, w, out].

  Attributes:
    stem: width of the first convolution.
    widths: of the stages, each of which halves rows and columns.
    out: width of the last stage and of the output.
    fold: pixels along rows and columns that are folded into channels first.
    gain: factor of the output; above 1 the zero convolution learns faster by as much. 1 in the
      published network.
    remat: the first two stages are computed again in the backward pass: at 512 pixels one of their
      maps takes a GiB.
  """

  stem: int
  widths: tuple[int, ...]
  out: int
  fold: int = 1
  gain: float = 1.0
  dtype: str = 'float32'
  remat: bool = False

  @property
  def stride(self) -> int:
    """Pixels per latent along rows and along columns."""
    return self.fold * 2 ** len(self.widths)

  @nn.compact
  def __call__(self, maps: jax.Array) -> jax.Array:
    x = space_to_depth(maps, self.fold) if self.fold > 1 else maps
    lead, x = x.shape[:-3], x.reshape(-1, *x.shape[-3:]).astype(self.dtype)
    x = conv3(self.stem, self.dtype, 'conv_in')(x)
    for i, width in enumerate(self.widths):
      resnet = nn.remat(Resnet) if self.remat and i < 2 else Resnet
      x = resnet(width, _EPS, self.dtype, name=f'down{i}')(x)
      x = conv3(width, self.dtype, f'down{i}_half', 2)(x)
    x = Resnet(self.out, _EPS, self.dtype, name='refine')(x)
    x = jax.nn.silu(GroupNorm(GROUPS, _EPS, name='norm_out')(x)).astype(self.dtype)
    x = nn.Conv(
      self.out,
      (3, 3),
      padding=((1, 1), (1, 1)),
      dtype=jnp.dtype(self.dtype),
      kernel_init=_zeros,
      name='conv_out',
    )(x)
    return self.gain * x.astype(jnp.float32).reshape(*lead, *x.shape[1:])


class VectorEncoder(nn.Module):
  """[..., D] coefficients -> float32 [..., h, w, out], the same at every place."""

  out: int
  grid: tuple[int, int]
  gain: float = 1.0

  @nn.compact
  def __call__(self, vectors: jax.Array) -> jax.Array:
    x = jax.nn.silu(nn.Dense(VECTOR_WIDTH, name='fc1')(vectors.astype(jnp.float32)))
    x = jax.nn.silu(nn.Dense(VECTOR_WIDTH, name='fc2')(x))
    x = self.gain * nn.Dense(self.out, kernel_init=_zeros, name='fc_out')(x)
    return jnp.broadcast_to(x[..., None, None, :], (*x.shape[:-1], *self.grid, self.out))


def map_encoder(variant: str, **overrides) -> MapEncoder:
  """A `MapEncoder` of the table, any field overridden.

  Raises:
    ValueError: if the variant is unknown.
  """
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}, choose from {sorted(VARIANTS)}')
  return MapEncoder(**(VARIANTS[variant] | overrides))
