"""`Retouch`: one look at a textured preview, and what is wrong with it put right.

No sampling, no state: a frame is a frame.

    moved    = preview sampled at p + flow(p)
    result   = moved + residual

A U-Net sees the preview, what is known of its pixels (`controls.preview.drawing.KNOWN`), the portrait and its
normals, and gives a flow and a residual for every pixel. Both start at exactly zero, where the
result is the preview to the bit. They are found at the size that the
network was trained at, and carried out at any: the flow lengthened and the residual enlarged, on
the larger preview, whose own grain stays. First and last layers work on blocks of 2 x 2 pixels.

Letters: B frames, H, W pixels that the network sees, h, w of the picture, D width.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from exp_jax.controls.preview.drawing import KNOWN
from exp_jax.networks.patch_vae import depth_to_space, space_to_depth

STRIDE = 32  # sides of what the network sees divide by it
CHANNELS = 3 + KNOWN + 3 + 3
FARTHEST = 0.03  # sides that the flow may reach
VARIANTS = {
  'tiny': dict(widths=(8, 8, 16, 16), blocks=(0, 0, 0, 1)),
  'small': dict(widths=(24, 48, 80, 128, 192), blocks=(0, 1, 1, 1, 2)),
}


@flax.struct.dataclass
class Repair:
  """What is done to a preview.

  Attributes:
    flow: [..., H, W, 2] (x, y) from a pixel to where its colour is taken, in sides of the picture,
      within `FARTHEST`.
    residual: [..., H, W, 3] that is added, of colours in 0..1.
  """

  flow: jax.Array
  residual: jax.Array


class _Block(nn.Module):
  """x + conv(silu(conv(scaled x))): [B, h, w, D] -> same. The second convolution starts small."""

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    conv = lambda name, scale: nn.Conv(
      width,
      (3, 3),
      name=name,
      kernel_init=nn.initializers.variance_scaling(scale, 'fan_in', 'normal'),
    )
    y = (
      x
      * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-4)
      * self.param('gain', nn.initializers.ones, (width,))
    )
    return x + conv('conv2', 0.02)(jax.nn.silu(conv('conv1', 2.0)(y)))


class RetouchNet(nn.Module):
  """[B, H, W, `CHANNELS`] of `seen_by_network` -> `Repair`. H and W divide by `STRIDE`."""

  widths: tuple[int, ...]
  blocks: tuple[int, ...]  # on each grid of the way down; on the way up one each

  @nn.compact
  def __call__(self, seen: jax.Array) -> Repair:
    conv = lambda width, size, name, **more: nn.Conv(width, (size, size), name=name, **more)
    x = conv(self.widths[0], 3, 'stem')(space_to_depth(seen, 2))
    skips = []
    for level, (width, count) in enumerate(zip(self.widths, self.blocks)):
      if level:
        x = conv(width, 2, f'down{level}', strides=(2, 2))(jax.nn.silu(x))
      for number in range(count):
        x = _Block(name=f'encode{level}_{number}')(x)
      skips.append(x)
    for level in range(len(self.widths) - 2, -1, -1):
      up = nn.Dense(4 * self.widths[level], name=f'up{level}')(jax.nn.silu(x))
      x = depth_to_space(up, 2) + nn.Dense(self.widths[level], name=f'skip{level}')(skips[level])
      x = _Block(name=f'decode{level}')(x)
    found = depth_to_space(
      conv(4 * 5, 3, 'paint', kernel_init=nn.initializers.zeros)(jax.nn.silu(x)), 2
    )
    return Repair(FARTHEST * jnp.tanh(found[..., :2]), found[..., 2:])


def retouch_net(variant: str, **overrides) -> RetouchNet:
  """A `RetouchNet` of the table, any field overridden."""
  if variant not in VARIANTS:
    raise ValueError(f'unknown variant {variant!r}, choose from {sorted(VARIANTS)}')
  return RetouchNet(**(VARIANTS[variant] | overrides))


def seen_by_network(
  preview: jax.Array, known: jax.Array, photo: jax.Array, photo_normals: jax.Array
) -> jax.Array:
  """[..., H, W, 3], [..., H, W, `KNOWN`], [..., H, W, 3] twice, all in 0..1 -> [..., H, W,
  `CHANNELS`] about zero."""
  return 2.0 * jnp.concatenate([preview, known, photo, photo_normals], -1) - 1.0


def repaired(preview: jax.Array, repair: Repair) -> jax.Array:
  """The preview [..., h, w, 3] in 0..1, repaired; not clipped.

  A repair of another size is enlarged, linearly between the centres of its pixels; the sides' ratio
  must be the same.
  """
  height, width = preview.shape[-3:-1]
  flow, residual = (_enlarged(values, height, width) for values in (repair.flow, repair.residual))
  return sampled(preview, flow * height) + residual


def _enlarged(values: jax.Array, height: int, width: int) -> jax.Array:
  if values.shape[-3:-1] == (height, width):
    return values
  return jax.image.resize(
    values, (*values.shape[:-3], height, width, values.shape[-1]), 'linear', antialias=False
  )


def sampled(images: jax.Array, flow: jax.Array) -> jax.Array:
  """[..., h, w, C] at each pixel's own place plus flow [..., h, w, 2] pixels (x, y), linear; the
  border repeats.

  Where the flow is zero the pixel itself, to the bit.
  """
  height, width = images.shape[-3:-1]
  x = jnp.clip(jnp.arange(width) + flow[..., 0], 0, width - 1)
  y = jnp.clip(jnp.arange(height)[:, None] + flow[..., 1], 0, height - 1)
  whole = lambda place, most: jnp.clip(jnp.floor(jax.lax.stop_gradient(place)), 0, most).astype(
    jnp.int32
  )
  left, top = whole(x, width - 2), whole(y, height - 2)
  s, t = (x - left)[..., None], (y - top)[..., None]
  lead = images.shape[:-3]
  flat = images.reshape(-1, height * width, images.shape[-1])
  place = (top * width + left).reshape(-1, height * width, 1)
  at = lambda offset: jnp.take_along_axis(flat, place + offset, 1).reshape(*lead, height, width, -1)
  upper = at(0) * (1 - s) + at(1) * s
  lower = at(width) * (1 - s) + at(width + 1) * s
  return upper * (1 - t) + lower * t
