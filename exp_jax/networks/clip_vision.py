"""The visual tower of CLIP, whose last but one layer conditions Wan's image-to-video models.

  x = [class token, patches of 14 x 14] + positions, layer norm, then L - 1 of the L layers:
  x += attention(LN(x));  x += fc2(gelu(fc1(LN(x))))

No final norm: the tokens of layer L - 1 are used as they are, [B, 257, 1280] for 224 x 224 pixels.
The last layer, the final norm and the projection of a checkpoint are not needed and not kept.

Letters: B batch, N tokens, D width, h heads.
Source: Radford et al., CLIP, 2021; open-CLIP's ViT-H/14, as Wan 2.1 uses it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.layers.attention import attention
from exp_jax.layers.mlp import gelu_erf
from exp_jax.layers.norms import LayerNorm
from exp_jax.layers.stack import apply_stacked, init_stacked

VARIANTS = {
  'tiny': dict(width=16, heads=2, ffn=24, layers=3, patch=4, image=12),
  'vit_h_14': dict(width=1280, heads=16, ffn=5120, layers=32),
}
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def _bicubic(size: int, out: int) -> np.ndarray:
  """[out, size] weights of Keys' cubic with a = -0.75, edges repeated: torch's, not the a = -0.5 of
  jax.image."""
  place = (np.arange(out) + 0.5) * size / out - 0.5
  first = np.floor(place).astype(int)
  weights = np.zeros((out, size))
  for k in range(-1, 3):
    d = np.abs(place - first - k)
    near = ((1.25 * d - 2.25) * d) * d + 1.0
    far = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0
    np.add.at(
      weights, (np.arange(out), np.clip(first + k, 0, size - 1)), np.where(d <= 1, near, far)
    )
  return weights


def prepare(images: jax.Array, size: int = 224) -> jax.Array:
  """[B, H, W, 3] in [0, 1] -> [B, size, size, 3], squeezed to a square (bicubic, no antialias, as
  Wan does), normalized."""
  rows, columns = (jnp.asarray(_bicubic(n, size), jnp.float32) for n in images.shape[1:3])
  return (jnp.einsum('rh,bhwc,sw->brsc', rows, images, columns) - _MEAN) / _STD


class Layer(nn.Module):
  """One pre-norm layer: [B, N, D] -> [B, N, D]."""

  heads: int
  ffn: int

  @nn.compact
  def __call__(self, x):
    y = LayerNorm(1e-5, name='norm1')(x)
    q, k, v = (
      nn.Dense(x.shape[-1], name=n)(y).reshape(*x.shape[:-1], self.heads, -1) for n in 'qkv'
    )
    x = x + nn.Dense(x.shape[-1], name='o')(attention(q, k, v).reshape(x.shape))
    y = nn.Dense(self.ffn, name='fc1')(LayerNorm(1e-5, name='norm2')(x))
    return x + nn.Dense(x.shape[-1], name='fc2')(gelu_erf(y))


class ClipVision(nn.Module):
  """[B, H, W, 3] as `prepare` makes them -> [B, 1 + (H / patch)^2, D] of the last layer but one."""

  width: int
  heads: int
  ffn: int
  layers: int
  patch: int = 14
  image: int = 224

  @nn.compact
  def __call__(self, images):
    B, tokens = len(images), 1 + (self.image // self.patch) ** 2
    x = nn.Conv(
      self.width,
      (self.patch,) * 2,
      (self.patch,) * 2,
      padding='VALID',
      use_bias=False,
      name='patch',
    )(images)
    first = self.param('class', nn.initializers.normal(0.02), (self.width,))
    x = jnp.concatenate(
      [jnp.broadcast_to(first, (B, 1, self.width)), x.reshape(B, -1, self.width)], axis=1
    )
    x = LayerNorm(1e-5, name='norm')(
      x + self.param('positions', nn.initializers.normal(0.02), (tokens, self.width))
    )
    layer = Layer(self.heads, self.ffn, parent=None)
    blocks = self.param('blocks', init_stacked(layer, self.layers - 1, x[:1, :1]))
    return apply_stacked(layer, blocks, x)


def clip_vision(variant: str, **overrides) -> ClipVision:
  """A `ClipVision` of the table, any field overridden."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}, choose from {sorted(VARIANTS)}')
  return ClipVision(**(VARIANTS[variant] | overrides))
