"""AnimateDiff's motion module: attention of each pixel over the frames of a clip, put between the
blocks of an image network.

  y = linear(GN(x));   y += attention_j(LN_j(y) + p), j = 1, 2;   y += GEGLU(LN_3(y));   x + linear(y)

p is a sinusoid of the frame's index whose sines and cosines alternate, unlike those of diffusion
times. The last linear layer starts at zero, so that a fresh module is the identity.

Group norm looks at every frame by itself, as the networks were trained that are published.
diffusers normalizes all frames of a clip
together with the same weights, which is another function: norm='clip' is for weights that were
trained so.

Letters: B clips, T frames, h, w rows and columns, C channels.
Source: Guo et al., AnimateDiff, 2024, section 4.2; equations checked against diffusers in
tests/golden.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.layers.lora import Dense
from exp_jax.layers.mlp import GeGlu
from exp_jax.layers.norms import GroupNorm, LayerNorm
from exp_jax.networks.sd_transformer import GROUPS, NORM_EPS, Attention

NORMS = {'frame': 2, 'clip': 3}  # name -> axes over which group norm takes its statistics
_TOKEN_EPS = 1e-5


def frame_positions(frames: int, width: int) -> np.ndarray:
  """float32 [frames, width]: sin(p f_i) at channel 2i, cos(p f_i) at channel 2i + 1, f_i =
  10000^(-2i / width)."""
  angles = np.arange(frames)[:, None] * 10_000.0 ** (-np.arange(0, width, 2) / width)
  return (
    np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(frames, width).astype(np.float32)
  )


class MotionModule(nn.Module):
  """[B, T, h, w, C] -> same.

  Raises:
    ValueError: if `norm` is none of NORMS.
  """

  heads: int = 8
  norm: str = 'frame'
  dtype: str = 'float32'
  implementation: str = 'xla'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.norm not in NORMS:
      raise ValueError(f'unknown norm of motion modules {self.norm!r}, choose from {sorted(NORMS)}')
    B, T, h, w, C = x.shape
    dtype = jnp.dtype(self.dtype)
    y = GroupNorm(GROUPS, NORM_EPS, NORMS[self.norm], name='norm')(x).astype(dtype)
    # a pixel is a clip of one frame of T tokens
    y = jnp.moveaxis(y.reshape(B, T, h * w, C), 1, 2).reshape(B * h * w, 1, T, C)
    y = Dense(C, dtype=dtype, name='proj_in')(y)
    attend = functools.partial(Attention, C, self.heads, self.dtype, self.implementation)
    normed = lambda name: LayerNorm(_TOKEN_EPS, name=name)(y)
    for j in (1, 2):
      y = y + attend(name=f'attention{j}')(
        (normed(f'norm{j}') + frame_positions(T, C)).astype(dtype)
      )
    y = y + GeGlu(4 * C, C, self.dtype, name='ff')(normed('norm3').astype(dtype))
    y = Dense(C, dtype=dtype, kernel_init=nn.initializers.zeros, name='proj_out')(y)
    return x + jnp.moveaxis(y.reshape(B, h * w, T, C), 2, 1).reshape(x.shape)
