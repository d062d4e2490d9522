"""Networks that exist for training only: discriminators, and the network that sees how open eyes
and lips are.

A discriminator scores patches; its kernels are divided by their largest singular value, found from
a fixed start by eight power iterations in every call, so that nothing but parameters is kept.
Source: Isola et al., pix2pix, 2017 (patches); Miyato et al., Spectral normalization, 2018.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

VARIANTS = {'base': dict(width=64, levels=4), 'tiny': dict(width=8, levels=2)}
REGIONS = ('whole', 'face', 'lips')


def spectral(kernel: jax.Array) -> jax.Array:
  """[..., I, O] over its largest singular value."""
  matrix = kernel.reshape(-1, kernel.shape[-1])
  v = jnp.ones(matrix.shape[-1]) / jnp.sqrt(matrix.shape[-1])
  still = jax.lax.stop_gradient(matrix)
  for _ in range(8):
    u = still @ v
    u = u / (jnp.linalg.norm(u) + 1e-12)
    v = u @ still
    v = v / (jnp.linalg.norm(v) + 1e-12)
  return kernel / jnp.maximum(u @ matrix @ v, 1e-6)


class SpectralConv(nn.Module):
  """4 x 4, stride 2 (or 1): [B, H, W, I] -> [B, H/2, W/2, O]."""

  features: int
  stride: int = 2

  @nn.compact
  def __call__(self, x):
    kernel = self.param('kernel', nn.initializers.he_normal(), (4, 4, x.shape[-1], self.features))
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return (
      jax.lax.conv_general_dilated(
        x, spectral(kernel), (self.stride,) * 2, 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )
      + bias
    )


class Discriminator(nn.Module):
  """[B, H, W, 3] in [0, 1] -> (scores [B, h, w, 1], features of every level)."""

  width: int
  levels: int

  @nn.compact
  def __call__(self, x):
    features, x = [], 2 * x - 1
    for i in range(self.levels):
      x = jax.nn.leaky_relu(SpectralConv(min(512, self.width * 2**i), name=f'level{i}')(x), 0.2)
      features.append(x)
    return SpectralConv(1, 1, name='score')(x), features


class Openness(nn.Module):
  """[B, S, S, 3] in [0, 1] -> [B, 3]: how open the left eye, the right eye and the lips are."""

  width: int
  levels: int

  @nn.compact
  def __call__(self, x):
    x = 2 * x - 1
    for i in range(self.levels + 1):
      x = nn.relu(nn.Conv(min(256, self.width * 2**i), (3, 3), (2, 2), name=f'level{i}')(x))
    B, H, W, C = x.shape
    # where it is matters: 4 x 4 cells
    x = x.reshape(B, 4, H // 4, 4, W // 4, C).mean((2, 4)).reshape(B, -1)
    return 0.25 + nn.Dense(3, name='out')(nn.relu(nn.Dense(64, name='hidden')(x)))


def critics(variant: str) -> tuple[Discriminator, Openness]:
  """The modules of a variant."""
  return Discriminator(**VARIANTS[variant]), Openness(**VARIANTS[variant])
