"""M, the motion extractor: canonical keypoints, head pose, expression, scale and translation of a
face, from one picture.

ConvNeXt V2: a block is x + fc2(GRN(gelu(fc1(LN(depthwise 7 x 7 (x)))))); stages are joined by LN
and a strided convolution.
Global response normalization: G_c = |x_c| over H and W, N = G / (mean_c G + 1e-6), y = gamma (x
N) + beta + x. An angle is the mean of 66 bins of 3 degrees under a softmax, less 97.5.

Letters: B batch, K keypoints. Source: Woo et al., ConvNeXt V2, 2023; LivePortrait section 3.2; face
vid2vid for the bins.
"""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.layers.mlp import gelu_erf
from exp_jax.layers.norms import LayerNorm
from exp_jax.systems.liveportrait.networks.convolutions import scaled
from exp_jax.systems.liveportrait.networks.keypoints import rotation_from_degrees

VARIANTS = {
  'base': dict(depths=(3, 3, 9, 3), widths=(96, 192, 384, 768)),
  'tiny': dict(depths=(1, 1, 2, 1), widths=(8, 12, 16, 24)),
}
KEYPOINTS = 21
_BINS = 66
HEADS = dict(kp=3 * KEYPOINTS, exp=3 * KEYPOINTS, scale=1, t=3, pitch=_BINS, yaw=_BINS, roll=_BINS)
# at the start of training: keypoints all over the picture, a scale about 1, hardly any expression
# or shift. (spread, mean)
_START = dict(kp=(0.3, 0.0), exp=(0.03, 0.0), scale=(0.1, 1.0), t=(0.03, 0.0))


@flax.struct.dataclass
class Motion:
  """How a face is held and what it does; leading axes [...] are frames or examples."""

  canonical: jax.Array  # [..., K, 3] crop-normalized: x right, y down, z into the picture
  rotation: jax.Array  # [..., 3, 3] applied to rows, from the right
  expression: jax.Array  # [..., K, 3] crop-normalized
  scale: jax.Array  # [...]
  translation: jax.Array  # [..., 3] crop-normalized; z is never used


def degrees(logits: jax.Array) -> jax.Array:
  """[..., 66] -> [...] degrees in [-97.5, 97.5]; equal logits are 0."""
  share = jax.nn.softmax(logits.astype(jnp.float32), -1)
  return 3.0 * (share * jnp.arange(_BINS)).sum(-1) - 97.5


@jax.custom_vjp
def depthwise_by_shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`depthwise` as n * n shifted products, a row of them at a time: small programs, fast on a CPU,
  whose grouped convolutions are not."""
  n, H, W = kernel.shape[0], x.shape[1], x.shape[2]
  padded = jnp.pad(x, ((0, 0), (n // 2, n // 2), (n // 2, n // 2), (0, 0)))

  def row(i, total):
    rows = jax.lax.dynamic_slice_in_dim(padded, i, H, 1)
    return total + sum(rows[:, :, j : j + W] * kernel[i, j, 0] for j in range(n))

  return jax.lax.fori_loop(0, n, row, jnp.zeros_like(x))


def _forward(x, kernel):
  return depthwise_by_shifts(x, kernel), (x, kernel)


def _backward(kept, cotangent):
  x, kernel = kept
  n, H, W = kernel.shape[0], x.shape[1], x.shape[2]
  padded = jnp.pad(x, ((0, 0), (n // 2, n // 2), (n // 2, n // 2), (0, 0)))

  def row(i):
    rows = jax.lax.dynamic_slice_in_dim(padded, i, H, 1)
    return jnp.stack([(rows[:, :, j : j + W] * cotangent).sum((0, 1, 2)) for j in range(n)])

  return depthwise_by_shifts(cotangent, kernel[::-1, ::-1]), jax.lax.map(row, jnp.arange(n))[
    :, :, None
  ]


depthwise_by_shifts.defvjp(_forward, _backward)


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """[B, H, W, C], [n, n, 1, C] -> [B, H, W, C], every channel by itself, zero padding; n odd."""
  x, kernel = jnp.asarray(x), jnp.asarray(kernel)
  n = kernel.shape[0]

  def grouped(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (1, 1),
      [(n // 2, n // 2)] * 2,
      feature_group_count=x.shape[-1],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  return jax.lax.platform_dependent(x, kernel, cpu=depthwise_by_shifts, default=grouped)


class ResponseNorm(nn.Module):
  """Global response normalization over a picture: [B, H, W, C] -> same."""

  @nn.compact
  def __call__(self, x):
    gamma = self.param('gamma', nn.initializers.zeros, (x.shape[-1],))
    beta = self.param('beta', nn.initializers.zeros, (x.shape[-1],))
    squared = jnp.square(x.astype(jnp.float32)).sum((1, 2), keepdims=True)
    some = squared > 0  # the root has no derivative at 0
    strength = jnp.where(some, jnp.sqrt(jnp.where(some, squared, 1.0)), 0.0)
    strength = strength / (strength.mean(-1, keepdims=True) + 1e-6)
    return (gamma * (x * strength) + beta + x).astype(x.dtype)


class Block(nn.Module):
  """[B, H, W, C] -> same."""

  dtype: str

  @nn.compact
  def __call__(self, x):
    C = x.shape[-1]
    kernel = self.param('depthwise', nn.initializers.truncated_normal(0.02), (7, 7, 1, C)).astype(
      self.dtype
    )
    bias = self.param('depthwise_bias', nn.initializers.zeros, (C,)).astype(self.dtype)
    y = LayerNorm(1e-6, name='norm')(depthwise(x, kernel) + bias).astype(self.dtype)
    y = gelu_erf(nn.Dense(4 * C, dtype=self.dtype, name='fc1')(y))
    return x + nn.Dense(C, dtype=self.dtype, name='fc2')(ResponseNorm(name='response')(y))


class MotionExtractor(nn.Module):
  """[B, H, W, 3] in [0, 1] -> dict of the heads' raw outputs, float32: see `HEADS`; `read_motion`
  makes a Motion of it."""

  depths: tuple[int, ...]
  widths: tuple[int, ...]
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
    x = images.astype(self.dtype)
    for i, (depth, width) in enumerate(zip(self.depths, self.widths)):
      if i:
        x = LayerNorm(1e-6, name=f'norm{i}')(x).astype(self.dtype)
      size = 2 if i else 4
      x = nn.Conv(
        width, (size, size), (size, size), padding='VALID', dtype=self.dtype, name=f'down{i}'
      )(x)
      if not i:
        x = LayerNorm(1e-6, name='norm0')(x).astype(self.dtype)
      for j in range(depth):
        x = Block(self.dtype, name=f'stage{i}_{j}')(x)
    x = LayerNorm(1e-6, name='norm')(x.astype(jnp.float32).mean((1, 2)))
    out = {}
    for name, size in HEADS.items():
      spread, mean = _START.get(name, (1.0, 0.0))
      out[name] = nn.Dense(
        size, kernel_init=scaled(spread**2), bias_init=nn.initializers.constant(mean), name=name
      )(x)
    return out


def angles(raw: dict[str, jax.Array]) -> jax.Array:
  """[..., 3] pitch, yaw and roll in degrees."""
  return jnp.stack([degrees(raw[name]) for name in ('pitch', 'yaw', 'roll')], -1)


def read_motion(raw: dict[str, jax.Array]) -> Motion:
  """The heads' outputs as a Motion."""
  points = lambda name: raw[name].reshape(*raw[name].shape[:-1], KEYPOINTS, 3)
  return Motion(
    points('kp'), rotation_from_degrees(angles(raw)), points('exp'), raw['scale'][..., 0], raw['t']
  )
