"""G, the SPADE decoder: warped features become the picture, at twice the size of the input crop.

A SPADE layer normalizes each channel over the picture and scales and shifts it, pixel by pixel, by
convolutions of the features:  y = (x - mean) / std (1 + gamma) + beta,  gamma, beta =
conv(relu(conv(features))).

Layers that look at the same features share one convolution here (`shared`: their channels side by
side), gamma and beta of a layer share another (`affine`), and where the features are repeated to a
larger size the convolution is done before repeating, phase by phase
(`convolutions.convolution_of_repeated`). Spectral norms are folded into the kernels.

Training from scratch starts grey and nearly without gamma and beta: a start that paints noise
teaches W to close its gate (occlusion) before features mean anything, and behind a closed gate
nothing learns.

Letters: B batch, H, W, C. Source: LivePortrait section 3.2; Park et al., SPADE, 2019; Shi et al.,
PixelShuffle, 2016.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.systems.liveportrait.networks.convolutions import Conv, repeat

VARIANTS = {
  'base': dict(features=256, hidden=128, width=512, blocks=6, ups=(256, 64)),
  'tiny': dict(features=16, hidden=4, width=16, blocks=2, ups=(8, 4)),
}


def instance_norm(x: jax.Array) -> jax.Array:
  """[B, H, W, C] -> float32, every channel of every picture with zero mean and unit variance."""
  x = x.astype(jnp.float32)
  x = x - x.mean((1, 2), keepdims=True)
  return x * jax.lax.rsqrt(jnp.square(x).mean((1, 2), keepdims=True) + 1e-5)


class Spade(nn.Module):
  """(x [B, H, W, C], hidden [B, H, W, hidden]) -> [B, H, W, C]."""

  dtype: str

  @nn.compact
  def __call__(self, x, hidden):
    gamma, beta = jnp.split(
      Conv(2 * x.shape[-1], (3, 3), self.dtype, gain=0.2, name='affine')(hidden), 2, -1
    )
    return instance_norm(x).astype(self.dtype) * (1 + gamma) + beta


class SpadeBlock(nn.Module):
  """(x [B, H, W, C], two or three hidden maps) -> [B, H, W, out]; the third is for the shortcut
  where C is not `out`."""

  out: int
  dtype: str

  @nn.compact
  def __call__(self, x, hidden):
    C = x.shape[-1]
    act = lambda y: jax.nn.leaky_relu(y, 0.2)
    y = Conv(min(C, self.out), (3, 3), self.dtype, name='conv0')(
      act(Spade(self.dtype, name='spade0')(x, hidden[0]))
    )
    y = Conv(self.out, (3, 3), self.dtype, name='conv1')(
      act(Spade(self.dtype, name='spade1')(y, hidden[1]))
    )
    if C != self.out:
      x = Spade(self.dtype, name='spade_s')(x, hidden[2])
      x = Conv(self.out, (1, 1), self.dtype, use_bias=False, name='conv_s')(x)
    return x + y


def shuffle(x: jax.Array) -> jax.Array:
  """PixelShuffle by 2: channel 4 c + 2 i + j of [B, H, W, 4 C] goes to pixel (2 h + i, 2 w + j),
  channel c."""
  B, H, W, C = x.shape
  return (
    x.reshape(B, H, W, C // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(B, 2 * H, 2 * W, C // 4)
  )


class Generator(nn.Module):
  """Features [B, H, W, features] -> pictures [B, 8 H, 8 W, 3] in [0, 1], float32."""

  features: int
  hidden: int
  width: int
  blocks: int
  ups: tuple[int, ...]
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, features: jax.Array) -> jax.Array:
    features = features.astype(self.dtype)
    x = Conv(self.width, (3, 3), self.dtype, name='fc')(features)
    shared = jax.nn.relu(
      Conv(2 * self.blocks * self.hidden, (3, 3), self.dtype, name='shared')(features)
    )
    parts = jnp.split(shared, 2 * self.blocks, -1)
    for i in range(self.blocks):
      x = SpadeBlock(self.width, self.dtype, name=f'middle{i}')(x, parts[2 * i : 2 * i + 2])
    for i, out in enumerate(self.ups):
      layers = 3 if out != x.shape[-1] else 2
      shared = Conv(
        layers * self.hidden, (3, 3), self.dtype, factor=2 ** (i + 1), name=f'up{i}_shared'
      )(features)
      x = SpadeBlock(out, self.dtype, name=f'up{i}')(
        repeat(x, 2), jnp.split(jax.nn.relu(shared), layers, -1)
      )
    x = Conv(12, (3, 3), self.dtype, gain=0.005, name='image')(jax.nn.leaky_relu(x, 0.2))
    return jax.nn.sigmoid(shuffle(x).astype(jnp.float32))
