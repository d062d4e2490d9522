"""dlib's face recognition network: an upright face [B, 150, 150, 3] in [0, 1] -> a descriptor [B,
128].

  x = (255 image - mean) / 256;   y = max pool(relu(conv(x)))
  block: y = relu(conv2(relu(conv1(x))) + x);   the first block of a stage but the first halves: its x is average pooled
  descriptor = mean over pixels of y, times a matrix

Nothing is padded where a convolution has a stride, so that the two summands of a halving block
differ: the smaller one is filled with zeros, in channels and below and on the right in pixels. The
affine layers that batch norms became are folded into the convolutions at conversion. Trained so
that descriptors of one person are nearer than 0.6; cosines are what `csim` takes.

Source: King, dlib's face_recognition_model_v1 (dlib_face_recognition_resnet_model_v1.dat, CC0),
2017; He et al., Deep residual learning, CVPR 2016.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

SIZE, FEATURES = 150, 128
STEM = (32, 7, 2)  # channels, kernel, stride
# (channels, blocks, whether the first block halves)
STAGES = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
VARIANTS = {'resnet_v1': STAGES, 'tiny': ((32, 1, False), (64, 2, True))}
MEAN = np.array([122.782, 117.001, 104.298], np.float32)  # of red, green, blue, in [0, 255]


def _sum(a: jax.Array, b: jax.Array) -> jax.Array:
  """[B, H, W, C] of two shapes -> the sum at the larger of each length, zeros where one has
  nothing."""
  shape = tuple(map(max, a.shape, b.shape))
  fill = lambda x: jnp.pad(x, [(0, most - length) for most, length in zip(shape, x.shape)])
  return fill(a) + fill(b)


class Block(nn.Module):
  """[B, H, W, C] -> [B, h, w, max(C, width)], h and w about half of H and W if it halves."""

  width: int
  halves: bool

  @nn.compact
  def __call__(self, x):
    stride, padding = (2, 0) if self.halves else (1, 1)
    y = nn.relu(nn.Conv(self.width, (3, 3), (stride,) * 2, padding, name='conv1')(x))
    y = nn.Conv(self.width, (3, 3), padding=1, name='conv2')(y)
    if self.halves:
      x = nn.avg_pool(x, (2, 2), (2, 2))
    return nn.relu(_sum(y, x))


class DlibFace(nn.Module):
  """Faces [B, 150, 150, 3] in [0, 1] -> descriptors [B, 128], not of unit length."""

  stages: tuple[tuple[int, int, bool], ...] = STAGES

  @nn.compact
  def __call__(self, faces):
    x = (255 * faces - MEAN) / 256
    width, kernel, stride = STEM
    x = nn.relu(nn.Conv(width, (kernel, kernel), (stride, stride), 0, name='conv')(x))
    x = nn.max_pool(x, (3, 3), (2, 2))
    for s, (width, count, halves) in enumerate(self.stages):
      for i in range(count):
        x = Block(width, halves and not i, name=f'stage{s}_{i}')(x)
    return nn.Dense(FEATURES, use_bias=False, name='fc')(x.mean((1, 2)))


def describe(params: dict, faces: jax.Array, *, variant: str = 'resnet_v1') -> jax.Array:
  """Upright faces [B, 150, 150, 3] RGB in [0, 1] -> descriptors [B, 128] of dlib's length (about
  1.4). Differentiable.

  Raises:
    ValueError: faces of another size.
  """
  if faces.shape[1:3] != (SIZE, SIZE):
    raise ValueError(f'faces must be {SIZE} x {SIZE}, got {faces.shape[1:3]}')
  return DlibFace(VARIANTS[variant]).apply({'params': params}, faces)
