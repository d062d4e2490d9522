"""W, the warping network: where each place of the picture to come was in the source, and the
features found there.

For every keypoint k the whole volume moves by x_s,k - x_d,k; an hourglass looks at the moved
volumes and at the Gaussians that tell where keypoints went, and mixes the moves:  T = g + sum_k m_k
(x_s,k - x_d,k), m = softmax (the first move is none). The features are sampled at T, flattened to a
picture, and dimmed where nothing was seen in the source.

Letters: B batch, D, H, W volume, C channels, K keypoints. Source: LivePortrait section 3.2; Wang et
al., face vid2vid, 2021.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.systems.liveportrait.networks.convolutions import Conv, ConvNorm, even_kernel, halve
from exp_jax.systems.liveportrait.networks.volumes import (
  heatmaps,
  identity_grid,
  picture_of,
  sample_shifted,
  sample_volume,
)

VARIANTS = {
  'base': dict(
    channels=32, depth=16, width=256, dense_width=32, dense_most=1024, levels=5, compress=4
  ),
  'tiny': dict(channels=4, depth=4, width=16, dense_width=4, dense_most=16, levels=2, compress=2),
}
KEYPOINTS = 21
_VARIANCE = 0.01  # of the Gaussians, squared units of [-1, 1]


class Hourglass(nn.Module):
  """[B, D, H, W, C] -> [B, D, H, W, width + C]: pooling and repeating act on H and W only."""

  width: int
  most: int
  levels: int
  norm: str
  dtype: str

  @nn.compact
  def __call__(self, x):
    taps, kept = (3, 3, 3), [x]
    for i in range(self.levels):
      y = ConvNorm(
        min(self.most, self.width * 2 ** (i + 1)), taps, self.norm, self.dtype, name=f'down{i}'
      )(kept[-1])
      kept.append(halve(jax.nn.relu(y)))
    y = kept.pop()
    for i in reversed(range(self.levels)):
      y = ConvNorm(
        min(self.most, self.width * 2**i),
        taps,
        self.norm,
        self.dtype,
        factor=2,
        name=f'up{self.levels - 1 - i}',
      )(y)
      y = jnp.concatenate([jax.nn.relu(y), kept.pop()], -1)
    return jax.nn.relu(ConvNorm(y.shape[-1], taps, self.norm, self.dtype, name='last')(y))


class DenseMotion(nn.Module):
  """(volume [B, D, H, W, C], driving [B, K, 3], source [B, K, 3]) -> (places [B, D, H, W, 3], seen
  [B, H, W, 1])."""

  width: int
  most: int
  levels: int
  compress: int
  norm: str
  dtype: str

  @nn.compact
  def __call__(self, volume, driving, source):
    B, *size, _ = volume.shape
    few = jax.nn.relu(
      ConvNorm(self.compress, (1, 1, 1), self.norm, self.dtype, name='compress')(volume)
    )
    moves = jnp.concatenate([jnp.zeros((B, 1, 3)), source - driving], 1)  # [B, 1 + K, 3]
    moved = sample_shifted(few, moves)
    spots = heatmaps(driving, size, variance=_VARIANCE) - heatmaps(source, size, variance=_VARIANCE)
    spots = jnp.pad(spots, [(0, 0)] * 4 + [(1, 0)]).astype(few.dtype)
    # keypoint by keypoint
    seen = jnp.concatenate([spots[..., None], moved], -1).reshape(B, *size, -1)
    found = Hourglass(self.width, self.most, self.levels, self.norm, self.dtype, name='hourglass')(
      seen
    )
    equal = self.norm == 'group'
    mask = Conv(moves.shape[1], (7, 7, 7), self.dtype, few=True, equal=equal, name='mask')(found)
    mask = jax.nn.softmax(mask.astype(jnp.float32), -1)
    places = identity_grid(size) + jnp.einsum('bdhwk,bki->bdhwi', mask, moves)
    return places, jax.nn.sigmoid(
      Occlusion(self.dtype, equal, name='occlusion')(found).astype(jnp.float32)
    )


class Occlusion(nn.Module):
  """7 x 7 convolution of a volume, seen as a picture of C * D channels, to one channel: [B, D, H,
  W, C] -> [B, H, W, 1].

  The 49 taps are 49 outputs of a matrix product, added up shifted. Open at the start of training:
  0.88 everywhere.
  """

  dtype: str
  equal: bool  # see `convolutions.even_kernel`

  @nn.compact
  def __call__(self, x):
    _, D, H, W, C = x.shape
    kernel = self.param('kernel', nn.initializers.zeros, (7, 7, C * D, 1))
    kernel = (even_kernel(kernel) if self.equal else kernel).astype(self.dtype)
    bias = self.param('bias', nn.initializers.constant(2.0), (1,))
    taps = jnp.einsum('bdhwc,ijcd->bhwij', x, kernel.reshape(7, 7, C, D))
    taps = jnp.pad(taps, ((0, 0), (3, 3), (3, 3), (0, 0), (0, 0)))
    return sum(taps[:, i : i + H, j : j + W, i, j] for i in range(7) for j in range(7))[
      ..., None
    ] + bias.astype(self.dtype)


class WarpingNetwork(nn.Module):
  """(volume [B, D, H, W, C], driving [B, K, 3], source [B, K, 3]) -> features [B, H, W, width]; see
  `details`."""

  channels: int
  depth: int
  width: int
  dense_width: int
  dense_most: int
  levels: int
  compress: int
  norm: str = 'folded'
  dtype: str = 'float32'

  @nn.compact
  def __call__(
    self, volume: jax.Array, driving: jax.Array, source: jax.Array, details: bool = False
  ):
    volume = volume.astype(self.dtype)
    places, seen = DenseMotion(
      self.dense_width,
      self.dense_most,
      self.levels,
      self.compress,
      self.norm,
      self.dtype,
      name='dense',
    )(volume, driving, source)
    x = picture_of(sample_volume(volume, places))
    x = jax.nn.leaky_relu(
      ConvNorm(self.width, (3, 3), self.norm, self.dtype, name='third')(x), 0.01
    )
    x = Conv(self.width, (1, 1), self.dtype, name='fourth')(x) * seen.astype(self.dtype)
    return (x, {'deformation': places, 'occlusion': seen}) if details else x
