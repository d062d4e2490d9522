"""Residual networks with bottlenecks, as torchvision counts them (the 3 x 3 convolution strides);
gaze and 3DMM heads on them.

  ResNet    [B, H, W, 3] -> pooled features [B, 2048]
  L2cs      normalized faces of 448 px -> logits of 90 bins of yaw and pitch; `gaze_angles` decodes them
  Deep3d    faces of 224 px in [0, 1] -> 257 coefficients of the Basel face model

Batch norms are folded at conversion. Sources: He et al., 2016; Abdelrahman et al., L2CS-Net, 2022;
Deng et al., Accurate 3D face reconstruction with weakly-supervised learning, 2019 (its PyTorch
edition).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

VARIANTS = {'resnet50': (3, 4, 6, 3), 'tiny': (1, 1, 1, 1)}
_MEAN, _STD = (
  np.array([0.485, 0.456, 0.406], np.float32),
  np.array([0.229, 0.224, 0.225], np.float32),
)
# Of Deep3d's coefficients, in this order.
DEEP3D_PARTS = (
  ('identity', 80),
  ('expression', 64),
  ('texture', 80),
  ('angles', 3),
  ('light', 27),
  ('translation', 3),
)


class Bottleneck(nn.Module):
  """[B, H, W, C] -> [B, H / stride, W / stride, 4 width]."""

  width: int
  stride: int

  @nn.compact
  def __call__(self, x):
    y = nn.relu(nn.Conv(self.width, (1, 1), name='conv1')(x))
    y = nn.relu(nn.Conv(self.width, (3, 3), (self.stride,) * 2, 1, name='conv2')(y))
    y = nn.Conv(4 * self.width, (1, 1), name='conv3')(y)
    if x.shape != y.shape:
      x = nn.Conv(4 * self.width, (1, 1), (self.stride,) * 2, 'VALID', name='skip')(x)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """Images [B, H, W, 3], as the weights were trained on -> [B, 2048], the mean over the last
  stage's pixels."""

  layers: tuple[int, ...]

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(64, (7, 7), (2, 2), 3, name='conv')(x))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage, count in enumerate(self.layers):
      for i in range(count):
        x = Bottleneck(64 * 2**stage, 2 if stage and not i else 1, name=f'layer{stage + 1}_{i}')(x)
    return jnp.mean(x, (1, 2))


class L2cs(nn.Module):
  """Faces [B, 448, 448, 3], normalized -> logits of yaw and of pitch, [B, bins] each."""

  layers: tuple[int, ...]
  bins: int = 90

  @nn.compact
  def __call__(self, x):
    x = ResNet(self.layers, name='trunk')(x)
    return nn.Dense(self.bins, name='yaw')(x), nn.Dense(self.bins, name='pitch')(x)


class Deep3d(nn.Module):
  """Faces [B, 224, 224, 3] in [0, 1] -> coefficients [B, 257]."""

  layers: tuple[int, ...]

  @nn.compact
  def __call__(self, x):
    return nn.Dense(sum(size for _, size in DEEP3D_PARTS), name='head')(
      ResNet(self.layers, name='trunk')(x)
    )


def gaze_angles(yaw: jax.Array, pitch: jax.Array) -> jax.Array:
  """Logits [B, 90] of each -> radians [B, 2] (yaw, pitch): the expected bin, 4 degrees each
  from -180 (Gaze360's layout)."""
  decode = lambda logits: (
    jnp.sum(jax.nn.softmax(logits, -1) * jnp.arange(logits.shape[-1]), -1) * 4 - 180
  )
  return jnp.deg2rad(jnp.stack([decode(yaw), decode(pitch)], -1))


def l2cs_gaze(params: dict, faces: jax.Array, *, variant: str = 'resnet50') -> jax.Array:
  """Faces [B, 448, 448, 3] in [0, 1] -> gaze [B, 2]: yaw, pitch in radians."""
  return gaze_angles(*L2cs(VARIANTS[variant]).apply({'params': params}, (faces - _MEAN) / _STD))


def deep3d_coefficients(
  params: dict, faces: jax.Array, *, variant: str = 'resnet50'
) -> dict[str, jax.Array]:
  """Faces [B, 224, 224, 3] in [0, 1] -> {name: [B, n]} of `DEEP3D_PARTS`."""
  found = Deep3d(VARIANTS[variant]).apply({'params': params}, faces)
  ends = np.cumsum([size for _, size in DEEP3D_PARTS])[:-1]
  return dict(zip((name for name, _ in DEEP3D_PARTS), jnp.split(found, ends, -1)))
