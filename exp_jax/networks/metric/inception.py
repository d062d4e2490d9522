"""The Inception network of the Frechet inception distance: [B, H, W, 3] images in [0, 1] -> [B,
2048] features.

TensorFlow's port of 2015, which is not torchvision's: average pools leave the border out of the
count, and the last block pools its last branch by maximum. Names are those of the published weight
file (Mixed_5b.branch5x5_1, ...); its batch norms are folded into the convolutions at conversion,
the classifier is left out.

Source: Szegedy et al., Rethinking the Inception architecture, 2016; Heusel et al., 2017 (FID); the
port of pytorch-fid.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

# A unit is (name, channels, (kernel height, width), stride). A branch is a row of units; a last
# tuple of units is a fork.
# A branch may start with a pool: 'average', 'max' (both of stride 1) or 'halve' (maximum of stride
# 2).


def _pool_branch(width, kind='average'):
  return kind, ('branch_pool', width, (1, 1), 1)


def _a(pool):
  return (
    (('branch1x1', 64, (1, 1), 1),),
    (('branch5x5_1', 48, (1, 1), 1), ('branch5x5_2', 64, (5, 5), 1)),
    (
      ('branch3x3dbl_1', 64, (1, 1), 1),
      ('branch3x3dbl_2', 96, (3, 3), 1),
      ('branch3x3dbl_3', 96, (3, 3), 1),
    ),
    _pool_branch(pool),
  )


def _c(width):
  row, column = (1, 7), (7, 1)
  return (
    (('branch1x1', 192, (1, 1), 1),),
    (
      ('branch7x7_1', width, (1, 1), 1),
      ('branch7x7_2', width, row, 1),
      ('branch7x7_3', 192, column, 1),
    ),
    (
      ('branch7x7dbl_1', width, (1, 1), 1),
      ('branch7x7dbl_2', width, column, 1),
      ('branch7x7dbl_3', width, row, 1),
      ('branch7x7dbl_4', width, column, 1),
      ('branch7x7dbl_5', 192, row, 1),
    ),
    _pool_branch(192),
  )


def _e(kind):
  fork = lambda name: ((f'{name}a', 384, (1, 3), 1), (f'{name}b', 384, (3, 1), 1))
  return (
    (('branch1x1', 320, (1, 1), 1),),
    (('branch3x3_1', 384, (1, 1), 1), fork('branch3x3_2')),
    (
      ('branch3x3dbl_1', 448, (1, 1), 1),
      ('branch3x3dbl_2', 384, (3, 3), 1),
      fork('branch3x3dbl_3'),
    ),
    _pool_branch(192, kind),
  )


STEM = (  # (name, channels, kernel, stride, padding), or 'halve'
  ('Conv2d_1a_3x3', 32, 3, 2, 'VALID'),
  ('Conv2d_2a_3x3', 32, 3, 1, 'VALID'),
  ('Conv2d_2b_3x3', 64, 3, 1, 'SAME'),
  'halve',
  ('Conv2d_3b_1x1', 80, 1, 1, 'VALID'),
  ('Conv2d_4a_3x3', 192, 3, 1, 'VALID'),
  'halve',
)
BLOCKS = (
  ('Mixed_5b', _a(32)),
  ('Mixed_5c', _a(64)),
  ('Mixed_5d', _a(64)),
  (
    'Mixed_6a',
    (
      (('branch3x3', 384, (3, 3), 2),),
      (
        ('branch3x3dbl_1', 64, (1, 1), 1),
        ('branch3x3dbl_2', 96, (3, 3), 1),
        ('branch3x3dbl_3', 96, (3, 3), 2),
      ),
      ('halve',),
    ),
  ),
  ('Mixed_6b', _c(128)),
  ('Mixed_6c', _c(160)),
  ('Mixed_6d', _c(160)),
  ('Mixed_6e', _c(192)),
  (
    'Mixed_7a',
    (
      (('branch3x3_1', 192, (1, 1), 1), ('branch3x3_2', 320, (3, 3), 2)),
      (
        ('branch7x7x3_1', 192, (1, 1), 1),
        ('branch7x7x3_2', 192, (1, 7), 1),
        ('branch7x7x3_3', 192, (7, 1), 1),
        ('branch7x7x3_4', 192, (3, 3), 2),
      ),
      ('halve',),
    ),
  ),
  ('Mixed_7b', _e('average')),
  ('Mixed_7c', _e('max')),
)


def _pooled(kind, x):
  if kind == 'average':
    return nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=False)
  return (
    nn.max_pool(x, (3, 3), (2, 2)) if kind == 'halve' else nn.max_pool(x, (3, 3), padding='SAME')
  )


class Mixed(nn.Module):
  """One block: branches side by side, their channels joined."""

  branches: tuple

  @nn.compact
  def __call__(self, x):
    unit = lambda name, width, kernel, stride: nn.Conv(
      width, kernel, (stride, stride), 'SAME' if stride == 1 else 'VALID', name=name
    )
    joined = []
    for branch in self.branches:
      y = x
      for step in branch:
        if isinstance(step, str):
          y = _pooled(step, y)
        elif isinstance(step[0], tuple):
          y = jnp.concatenate([nn.relu(unit(*each)(y)) for each in step], -1)
        else:
          y = nn.relu(unit(*step)(y))
      joined.append(y)
    return jnp.concatenate(joined, -1)


class Inception(nn.Module):
  """[B, H, W, 3] in [-1, 1], 75 pixels or more -> [B, 2048], the mean over the last block's
  pixels."""

  @nn.compact
  def __call__(self, x):
    for layer in STEM:
      if layer == 'halve':
        x = _pooled('halve', x)
      else:
        name, width, kernel, stride, padding = layer
        x = nn.relu(nn.Conv(width, (kernel, kernel), (stride, stride), padding, name=name)(x))
    for name, branches in BLOCKS:
      x = Mixed(branches, name=name)(x)
    return jnp.mean(x, (1, 2))


def inception_features(params: dict, images: jax.Array) -> jax.Array:
  """[B, H, W, 3] in [0, 1] -> [B, 2048]: resized to 299 x 299 (bilinear, no antialias, as
  pytorch-fid does), then the network."""
  x = jax.image.resize(images, (len(images), 299, 299, 3), 'bilinear', antialias=False)
  return Inception().apply({'params': params}, 2 * x - 1)
