"""A small convolutional network that sees normals, depth and parts of a head in one picture.

A U-Net whose first and last layers work on blocks of 2 x 2 pixels. Widths grow while the grid
halves; every block adds to what comes in, and vectors are scaled to unit root mean square before
they are used: no statistics of a batch are needed, and any picture whose sides divide by 32 can be
given.

Letters: B pictures, H, W pixels, D width, P parts.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from exp_jax.networks.patch_vae import depth_to_space, space_to_depth

PARTS = ('background', 'skin', 'hair', 'cloth', 'eyes', 'lids', 'lips', 'mouth')
STRIDE = 32  # sides of pictures divide by it
VARIANTS = {
  'tiny': dict(widths=(8, 8, 16, 16, 16), blocks=(0, 0, 0, 0, 1)),
  'small': dict(widths=(32, 64, 96, 160, 256), blocks=(0, 1, 1, 1, 2)),
}
_CHANNELS = 3 + 1 + 1 + len(PARTS)


@flax.struct.dataclass
class FaceMaps:
  """What is seen of each pixel.

  Attributes:
    normals: [..., H, W, 3] unit, camera's frame: x right, y down, z away from the viewer.
    concentration: [..., H, W] > 0, how sure the normals are: that of the angular density
      exp(-concentration * angle).
    depth: [..., H, W], in sides of the picture, up to a constant.
    logits: [..., H, W, P] of `PARTS`.
  """

  normals: jax.Array
  concentration: jax.Array
  depth: jax.Array
  logits: jax.Array


def _scaled(x: jax.Array, gain: jax.Array) -> jax.Array:
  square = jnp.mean(jnp.square(x.astype(jnp.float32)), -1, keepdims=True)
  return (x * jax.lax.rsqrt(square + 1e-4)).astype(x.dtype) * gain.astype(x.dtype)


class _Block(nn.Module):
  """x + conv(silu(conv(scaled x))): [B, h, w, D] -> same. The second convolution starts small."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    conv = lambda name, scale: nn.Conv(
      width,
      (3, 3),
      name=name,
      dtype=self.dtype,
      kernel_init=nn.initializers.variance_scaling(scale, 'fan_in', 'normal'),
    )
    y = _scaled(x, self.param('gain', nn.initializers.ones, (width,)))
    return x + conv('conv2', 0.02)(jax.nn.silu(conv('conv1', 2.0)(y)))


class FaceMapsNet(nn.Module):
  """[B, H, W, 3] pictures in 0..1 (sRGB) -> `FaceMaps`. H and W divide by 32."""

  widths: tuple[int, ...]
  blocks: tuple[int, ...]  # on each grid of the way down; on the way up one each
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array) -> FaceMaps:
    conv = lambda width, size, name, **more: nn.Conv(
      width, (size, size), name=name, dtype=self.dtype, **more
    )
    x = conv(self.widths[0], 3, 'stem')(space_to_depth((images - 0.5) * 3.0, 2).astype(self.dtype))
    skips = []
    for level, (width, count) in enumerate(zip(self.widths, self.blocks)):
      if level:
        x = conv(width, 2, f'down{level}', strides=(2, 2))(jax.nn.silu(x))
      for number in range(count):
        x = _Block(self.dtype, name=f'encode{level}_{number}')(x)
      skips.append(x)
    for level in range(len(self.widths) - 2, -1, -1):
      up = nn.Dense(4 * self.widths[level], name=f'up{level}', dtype=self.dtype)(jax.nn.silu(x))
      both = depth_to_space(up, 2) + nn.Dense(
        self.widths[level], name=f'skip{level}', dtype=self.dtype
      )(skips[level])
      x = _Block(self.dtype, name=f'decode{level}')(both)
    x = conv(4 * _CHANNELS, 3, 'paint')(
      jax.nn.silu(_scaled(x, self.param('gain', nn.initializers.ones, (self.widths[0],))))
    )
    found = depth_to_space(x.astype(jnp.float32), 2)
    raw = found[..., :3] - jnp.array([0.0, 0.0, 0.5])  # what is seen faces the viewer
    normals = raw * jax.lax.rsqrt(jnp.sum(jnp.square(raw), -1, keepdims=True) + 1e-6)
    return FaceMaps(normals, 1.0 + jax.nn.softplus(found[..., 3]), found[..., 4], found[..., 5:])


def face_maps_net(variant: str, **overrides) -> FaceMapsNet:
  """A `FaceMapsNet` of the table, any field overridden."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}, choose from {sorted(VARIANTS)}')
  return FaceMapsNet(**(VARIANTS[variant] | overrides))
