"""F, the appearance extractor: a portrait becomes a volume of features.

Conv - ReLU, then two of (conv - ReLU - mean of 2 x 2), then a 1 x 1 convolution whose channels are
split into depth, then six
pre-activated residual blocks in three dimensions. Letters: B batch, H, W pixels, D depth, C
channels.
Source: LivePortrait (arXiv 2407.03168), section 3.2; layers of the published weights.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.systems.liveportrait.networks.convolutions import Conv, ConvNorm, Norm, halve
from exp_jax.systems.liveportrait.networks.volumes import volume_of

VARIANTS = {
  'base': dict(width=64, downs=2, channels=32, depth=16, blocks=6),
  'tiny': dict(width=4, downs=2, channels=4, depth=4, blocks=2),
}


class ResidualBlock3d(nn.Module):
  """x + conv2(relu(norm2(conv1(relu(norm1(x)))))): [B, D, H, W, C] -> same; norm2 is folded into
  conv1."""

  norm: str
  dtype: str

  @nn.compact
  def __call__(self, x):
    taps, C = (3, 3, 3), x.shape[-1]
    y = jax.nn.relu(Norm(self.norm, name='norm1')(x))
    y = jax.nn.relu(ConvNorm(C, taps, self.norm, self.dtype, name='conv1')(y))
    return x + Conv(C, taps, self.dtype, name='conv2')(y)


class AppearanceExtractor(nn.Module):
  """[B, H, W, 3] in [0, 1] -> [B, D, H / 2^downs, W / 2^downs, C]."""

  width: int
  downs: int
  channels: int
  depth: int
  blocks: int
  norm: str = 'folded'
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    x = jax.nn.relu(ConvNorm(self.width, (3, 3), self.norm, self.dtype, name='first')(images))
    for i in range(self.downs):
      x = ConvNorm(self.width * 2 ** (i + 1), (3, 3), self.norm, self.dtype, name=f'down{i}')(x)
      x = halve(jax.nn.relu(x))
    x = Conv(self.channels * self.depth, (1, 1), self.dtype, name='second')(x)
    x = volume_of(x, self.depth)
    for i in range(self.blocks):
      x = ResidualBlock3d(self.norm, self.dtype, name=f'block{i}')(x)
    return x.astype(jnp.float32) if self.dtype == 'float32' else x
