"""Convolutions over the transformer's output at latent resolution, for small networks whose tokens
are coarse.

An extension of the paper (`condition.preview`, see `dit.py`). Letters: B batch, F frames, h, w
latents, C channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.layers.norms import layer_norm
from exp_jax.networks.patch_vae import space_to_depth


class ResidualBlock(nn.Module):
  """x + conv(silu(conv(LN(x)))): [N, h, w, D] -> same; starts as the identity."""

  @nn.compact
  def __call__(self, x):
    y = jax.nn.silu(nn.Conv(x.shape[-1], (3, 3), name='conv1')(layer_norm(x)))
    return x + nn.Conv(x.shape[-1], (3, 3), kernel_init=nn.initializers.zeros, name='conv2')(y)


class Refiner(nn.Module):
  """Any number of codes [B, F, h, w, any] and normal maps [B, F, H, W, 3] in [0, 1] at times t [B]
  in [0, 1000] -> [B, F, h, w, out]; zero at the start."""

  out: int
  cell: int  # pixels of a latent's side
  width: int = 64
  blocks: int = 2

  @nn.compact
  def __call__(self, codes, normals, t):
    B, F, h, w, _ = codes[0].shape
    clock = jnp.broadcast_to(t.reshape(B, 1, 1, 1, 1) / 500.0 - 1.0, (B, F, h, w, 1))
    x = jnp.concatenate([*codes, space_to_depth(normals * 2.0 - 1.0, self.cell), clock], axis=-1)
    x = nn.Dense(self.width, name='in')(x).reshape(B * F, h, w, self.width)
    for i in range(self.blocks):
      x = ResidualBlock(name=f'block{i}')(x)
    x = nn.Dense(self.out, kernel_init=nn.initializers.zeros, name='out')(x)
    return x.reshape(B, F, h, w, self.out)
