"""Encoders of the control signals: driving normal maps onto the token grid, the reference onto
latents.

| encoder | input | output |
|---|---|---|
| PoseEncoder | [B, N, H, W, 3 + E] in [0, 1]; frame 0 is repeated | [B, F, H/16, W/16, D] |
| ReferenceEncoder | [B, H, W, 3 or 6] image, normals or both in [0, 1] | [B, H/8, W/8, channels] |
| PatchEncoder | [..., H, W, C] in [0, 1] | [..., H/p, W/p, D], for per-frame autoencoders |

The first two have the layers of UniAnimate-DiT (strides fixed to Wan's 4 x 8 x 8 autoencoder and 1
x 2 x 2 patches); the last starts from space-to-depth, which costs a CPU almost nothing.
E further control channels (gaze, inner mouth, confidence) begin with zero columns: they change
nothing until trained.
Source: ExpPortrait, section 3.3; widths from the published template.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

_zeros = nn.initializers.zeros
_default = nn.initializers.lecun_normal()
_POSE_STRIDES = ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))
_REFERENCE_STRIDES = (1, 1, 1, 2, 2, 2)


def _only_normals(rng, shape, dtype=jnp.float32):
  """The default initializer for the first 3 input channels, zero for the others."""
  *window, channels, out = shape
  kernel = _default(rng, (*window, min(3, channels), out), dtype)
  return jnp.concatenate(
    [kernel, jnp.zeros((*window, channels - min(3, channels), out), dtype)], axis=-2
  )


def _only_normals_folded(patch):
  """The same for a linear layer over folded patches, where channels vary fastest."""

  def init(rng, shape, dtype=jnp.float32):
    kernel = _only_normals(rng, (patch, patch, shape[0] // patch**2, shape[1]), dtype)
    return kernel.reshape(shape)

  return init


class PoseEncoder(nn.Module):
  """3-D convolutions 3-16-...-16-D, in `dtype`. `zero_last` makes the first output zero."""

  width: int
  hidden: int = 16
  zero_last: bool = False
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, normals: jax.Array) -> jax.Array:
    x = jnp.concatenate([jnp.repeat(normals[:, :1], 3, axis=1), normals], axis=1)
    for i, strides in enumerate(_POSE_STRIDES):
      x = jax.nn.silu(
        nn.Conv(
          self.hidden,
          (3, 3, 3),
          strides,
          padding=1,
          name=f'conv{i}',
          dtype=self.dtype,
          kernel_init=_only_normals if i == 0 else _default,
        )(x)
      )
    return nn.Conv(
      self.width,
      (1, 2, 2),
      (1, 2, 2),
      padding='VALID',
      name='conv6',
      dtype=self.dtype,
      kernel_init=_zeros if self.zero_last else _default,
    )(x)


class ReferenceEncoder(nn.Module):
  """2-D convolutions 6-16-...-16-channels."""

  channels: int
  hidden: int = 16
  zero_last: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i, stride in enumerate(_REFERENCE_STRIDES):
      last = i == len(_REFERENCE_STRIDES) - 1
      x = nn.Conv(
        self.channels if last else self.hidden,
        (3, 3),
        (stride, stride),
        padding=1,
        name=f'conv{i}',
        kernel_init=_zeros if last and self.zero_last else _default,
      )(x)
      x = x if last else jax.nn.silu(x)
    return x


def _fold(x, patch):
  """[..., H, W, C] -> [..., H/patch, W/patch, patch*patch*C]."""
  *lead, H, W, C = x.shape
  x = x.reshape(*lead, H // patch, patch, W // patch, patch, C)
  return jnp.swapaxes(x, -4, -3).reshape(*lead, H // patch, W // patch, -1)


class PatchEncoder(nn.Module):
  """Fold, linear, one 3x3 convolution over neighbouring patches, linear: [..., H, W, C] -> [..., h,
  w, out]."""

  out: int
  patch: int
  hidden: int
  zero_last: bool = False
  control: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = _only_normals_folded(self.patch) if self.control else _default
    x = jax.nn.silu(
      nn.Dense(self.hidden, kernel_init=init, name='fold')(_fold(x * 2.0 - 1.0, self.patch))
    )
    folded = x.reshape(-1, *x.shape[-3:])
    x = x + nn.Conv(self.hidden, (3, 3), name='conv')(folded).reshape(x.shape)
    return nn.Dense(self.out, kernel_init=_zeros if self.zero_last else _default, name='out')(
      jax.nn.silu(x)
    )
