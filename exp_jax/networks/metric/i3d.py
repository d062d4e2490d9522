"""I3D, the inflated Inception of Kinetics-400, whose logits the Frechet video distance compares.

  [B, T, 224, 224, 3] in [-1, 1] -> units and mixed blocks, 'SAME' as TensorFlow pads -> mean over 2
  x 7 x 7 windows -> logits at every time -> mean over time [B, 400]

Names are those of the published files (Conv3d_1a_7x7, Mixed_3b.b1a, ..., logits); batch norms are
folded at conversion.
Letters: B clips, T frames.
Source: Carreira & Zisserman, Quo vadis, action recognition?, CVPR 2017; Unterthiner et al.,
FVD, 2018.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

LEAST_FRAMES = 10
# A unit is (name, channels, kernel, stride); a pool ('pool', kernel, stride); a block (name, six
# widths).
LAYERS = (
  ('Conv3d_1a_7x7', 64, 7, 2),
  ('pool', (1, 3, 3), (1, 2, 2)),
  ('Conv3d_2b_1x1', 64, 1, 1),
  ('Conv3d_2c_3x3', 192, 3, 1),
  ('pool', (1, 3, 3), (1, 2, 2)),
  ('Mixed_3b', (64, 96, 128, 16, 32, 32)),
  ('Mixed_3c', (128, 128, 192, 32, 96, 64)),
  ('pool', (3, 3, 3), (2, 2, 2)),
  ('Mixed_4b', (192, 96, 208, 16, 48, 64)),
  ('Mixed_4c', (160, 112, 224, 24, 64, 64)),
  ('Mixed_4d', (128, 128, 256, 24, 64, 64)),
  ('Mixed_4e', (112, 144, 288, 32, 64, 64)),
  ('Mixed_4f', (256, 160, 320, 32, 128, 128)),
  ('pool', (2, 2, 2), (2, 2, 2)),
  ('Mixed_5b', (256, 160, 320, 32, 128, 128)),
  ('Mixed_5c', (384, 192, 384, 48, 128, 128)),
)
# name, width, kernel
PARTS = ('b0', 0, 1), ('b1a', 1, 1), ('b1b', 2, 3), ('b2a', 3, 1), ('b2b', 4, 3), ('b3b', 5, 1)


class Mixed3d(nn.Module):
  """One block: 1 | 1, 3 | 1, 3 | pool, 1."""

  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, x):
    unit = {name: nn.Conv(self.widths[k], (size,) * 3, name=name) for name, k, size in PARTS}
    run = lambda name, y: nn.relu(unit[name](y))
    pooled = nn.max_pool(x, (3, 3, 3), padding='SAME')
    return jnp.concatenate(
      [run('b0', x), run('b1b', run('b1a', x)), run('b2b', run('b2a', x)), run('b3b', pooled)], -1
    )


class I3d(nn.Module):
  """[B, T, H, W, 3] in [-1, 1] -> logits [B, 400].

  The last pool is 2 x 7 x 7, or what is there of a smaller input.
  """

  classes: int = 400

  @nn.compact
  def __call__(self, x):
    for layer in LAYERS:
      if layer[0] == 'pool':
        x = nn.max_pool(x, layer[1], layer[2], padding='SAME')
      elif isinstance(layer[1], tuple):
        x = Mixed3d(layer[1], name=layer[0])(x)
      else:
        name, width, kernel, stride = layer
        x = nn.relu(nn.Conv(width, (kernel,) * 3, (stride,) * 3, name=name)(x))
    window = tuple(min(size, most) for size, most in zip(x.shape[1:4], (2, 7, 7)))
    x = nn.avg_pool(x, window)
    return jnp.mean(nn.Conv(self.classes, (1, 1, 1), name='logits')(x), (1, 2, 3))


def prepare_clip(frames: jax.Array, size: int = 224) -> jax.Array:
  """[..., T, H, W, 3] in [0, 1] -> [..., T, size, size, 3] in [-1, 1].

  The shorter side to `size` (bilinear, no antialias), the middle of the longer one: as
  common_metrics_on_video_quality does.
  """
  height, width = frames.shape[-3:-1]
  scale = size / min(height, width)
  tall, wide = (
    (size, -int(-width * scale // 1)) if height < width else (-int(-height * scale // 1), size)
  )
  frames = jax.image.resize(
    frames, (*frames.shape[:-3], tall, wide, 3), 'bilinear', antialias=False
  )
  top, left = (tall - size) // 2, (wide - size) // 2
  return 2 * frames[..., top : top + size, left : left + size, :] - 1


def i3d_logits(params: dict, clips: jax.Array) -> jax.Array:
  """[B, T, H, W, 3] in [0, 1] -> [B, 400] logits.

  Raises:
    ValueError: fewer than ten frames, of which nothing is left before the last pool.
  """
  if clips.shape[1] < LEAST_FRAMES:
    raise ValueError(f'I3D needs at least {LEAST_FRAMES} frames, got {clips.shape[1]}')
  return I3d().apply({'params': params}, prepare_clip(clips))
