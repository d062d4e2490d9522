"""Features of AlexNet and VGG, the distance LPIPS on them, and the plain perceptual loss of
generators.

  normalize   (2 x - 1 - shift) / scale of images in [0, 1]: ImageNet's mean and deviation, and LPIPS' scaling layer
  Trunk       convolutions and ReLUs; some of the activations are tapped
  LPIPS       sum over taps of mean over pixels of  sum_c head_c (a_c / |a| - b_c / |b|)^2
  perceptual  sum over taps of w mean |a - b|

Images are [B, H, W, 3] RGB in [0, 1]. LPIPS is version 0.1; heads are non-negative weights, one per
channel.

Sources: Krizhevsky, One weird trick, 2014 (AlexNet as in torchvision); Simonyan & Zisserman, 2015
(VGG); Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, CVPR
2018; Johnson et al., 2016 (perceptual loss).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)


def _vgg(widths: Sequence[Sequence[int]], taps: str):
  """Stages of 3 x 3 convolutions, a 2 x 2 pool before each but the first; `taps` says which of a
  stage: first or last."""
  layers = []
  for s, stage in enumerate(widths):
    for i, width in enumerate(stage):
      tapped = i == (0 if taps == 'first' else len(stage) - 1)
      layers.append((width, 3, 1, 1, 2 if s and not i else 0, tapped))
  return tuple(layers)


# (channels, kernel, stride, padding, window of the max pool in front: 0 none, tapped)
TRUNKS = {
  'alex': (
    (64, 11, 4, 2, 0, True),
    (192, 5, 1, 2, 3, True),
    (384, 3, 1, 1, 3, True),
    (256, 3, 1, 1, 0, True),
    (256, 3, 1, 1, 0, True),
  ),
  'vgg16': _vgg(((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3), 'last'),
  'vgg19': _vgg(((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,)), 'first'),
  'tiny': ((4, 3, 2, 1, 0, True), (6, 3, 1, 1, 2, True)),
}
# Numbers of the convolutions in torchvision's `features`, for conversion.
TORCHVISION = {
  'alex': (0, 3, 6, 8, 10),
  'vgg16': (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
  'vgg19': (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28),
}


def normalize(images: jax.Array) -> jax.Array:
  """[..., 3] in [0, 1] -> what the trunks were trained on."""
  return (2 * images - 1 - _SHIFT) / _SCALE


class Trunk(nn.Module):
  """Normalized images [B, H, W, 3] -> the tapped activations, first the finest; H and W of 64 or
  more."""

  variant: str

  @nn.compact
  def __call__(self, x):
    taps = []
    for i, (width, kernel, stride, padding, pool, tapped) in enumerate(TRUNKS[self.variant]):
      if pool:
        x = nn.max_pool(x, (pool, pool), (2, 2))
      x = nn.relu(nn.Conv(width, (kernel, kernel), (stride, stride), padding, name=f'conv{i}')(x))
      taps += [x] if tapped else []
    return tuple(taps)


class Lpips(nn.Module):
  """Two batches of images [B, H, W, 3] in [0, 1] -> their distances [B]."""

  variant: str

  @nn.compact
  def __call__(self, a, b):
    trunk = Trunk(self.variant, name='trunk')
    both = trunk(normalize(jnp.concatenate([a, b])))
    total = 0.0
    for i, maps in enumerate(both):
      head = self.param(f'head{i}', nn.initializers.constant(1 / maps.shape[-1]), (maps.shape[-1],))
      first, second = jnp.split(_unit(maps), 2)
      total = total + jnp.einsum('bhwc,c->b', (first - second) ** 2, head) / (
        maps.shape[1] * maps.shape[2]
      )
    return total


def _unit(maps: jax.Array) -> jax.Array:
  """Channels of unit length; where all are zero they stay zero, and so does the gradient."""
  square = jnp.sum(maps**2, -1, keepdims=True)
  length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
  return maps / (length + 1e-10)


def features(params: dict, images: jax.Array, *, variant: str) -> tuple[jax.Array, ...]:
  """Tapped activations of images [B, H, W, 3] in [0, 1]; `params` of a `Trunk`."""
  return Trunk(variant).apply({'params': params}, normalize(images))


def lpips_distance(params: dict, a: jax.Array, b: jax.Array, *, variant: str) -> jax.Array:
  """[B] LPIPS of images [B, H, W, 3] in [0, 1]; `params` of an `Lpips`. Differentiable."""
  return Lpips(variant).apply({'params': params}, a, b)


def perceptual_loss(
  params: dict,
  a: jax.Array,
  b: jax.Array,
  *,
  variant: str = 'vgg19',
  weights: Sequence[float] | None = None,
) -> jax.Array:
  """[B] sum over taps of the mean absolute difference of features, each times its weight (1).

  Args:
    params: of a `Trunk`.
    a, b: [B, H, W, 3] in [0, 1]. What is the truth should be under `stop_gradient` by the caller.
    weights: one a tap.
  """
  first, second = features(params, a, variant=variant), features(params, b, variant=variant)
  weights = weights or (1.0,) * len(first)
  if len(weights) != len(first):
    raise ValueError(f'{variant} has {len(first)} taps, got {len(weights)} weights')
  return sum(w * jnp.mean(jnp.abs(x - y), (1, 2, 3)) for w, x, y in zip(weights, first, second))
