"""ArcFace's improved residual networks: an aligned face [B, 112, 112, 3] in [0, 1] -> an embedding
[B, 512].

  y = prelu(conv(x));   block: y = conv2(prelu(conv1(scale x + bias))) + (x or conv(x)), the first of a stage halves;
  embedding = fc(flatten(y))

The batch norm in front of a block stays as scale and bias (the padding after it is zero, so it
cannot be folded); all other norms are folded at conversion, those about the last layer into it.
Cosines between embeddings are what means something: `embed` gives unit vectors.

Source: Deng et al., ArcFace, CVPR 2019, sec. 3.2; Duta et al., Improved residual networks, 2020.
Depths as in insightface.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

VARIANTS = {
  'iresnet18': (2, 2, 2, 2),
  'iresnet34': (3, 4, 6, 3),
  'iresnet50': (3, 4, 14, 3),
  'iresnet100': (3, 13, 30, 3),
  'tiny': (1, 1, 2, 1),
}
WIDTHS = (64, 128, 256, 512)
SIZE = 112


class Prelu(nn.Module):
  """max(x, 0) + slope min(x, 0), one slope a channel."""

  @nn.compact
  def __call__(self, x):
    slope = self.param('slope', nn.initializers.constant(0.25), (x.shape[-1],))
    return jnp.where(x > 0, x, slope * x)


class Affine(nn.Module):
  """scale x + bias, per channel."""

  @nn.compact
  def __call__(self, x):
    shape = (x.shape[-1],)
    return x * self.param('scale', nn.initializers.ones, shape) + self.param(
      'bias', nn.initializers.zeros, shape
    )


class Block(nn.Module):
  """[B, H, W, C] -> [B, H / stride, W / stride, width]."""

  width: int
  stride: int

  @nn.compact
  def __call__(self, x):
    y = nn.Conv(self.width, (3, 3), padding=1, name='conv1')(Affine(name='norm')(x))
    y = nn.Conv(self.width, (3, 3), (self.stride,) * 2, padding=1, name='conv2')(
      Prelu(name='prelu')(y)
    )
    if self.stride > 1:
      x = nn.Conv(self.width, (1, 1), (self.stride,) * 2, padding=0, name='skip')(x)
    return x + y


class ArcFace(nn.Module):
  """Faces [B, 112, 112, 3] in [-1, 1] -> embeddings [B, 512], not of unit length."""

  layers: tuple[int, ...]

  @nn.compact
  def __call__(self, x):
    x = Prelu(name='prelu')(nn.Conv(64, (3, 3), padding=1, name='conv')(x))
    for stage, (count, width) in enumerate(zip(self.layers, WIDTHS), start=1):
      for i in range(count):
        x = Block(width, 1 if i else 2, name=f'layer{stage}_{i}')(x)
    return nn.Dense(512, name='fc')(x.reshape(len(x), -1))


def embed(params: dict, faces: jax.Array, *, variant: str) -> jax.Array:
  """Aligned faces [B, 112, 112, 3] RGB in [0, 1] -> unit embeddings [B, 512]. Differentiable."""
  if faces.shape[1:3] != (SIZE, SIZE):
    raise ValueError(f'faces must be {SIZE} x {SIZE}, got {faces.shape[1:3]}')
  found = ArcFace(VARIANTS[variant]).apply({'params': params}, 2 * faces - 1)
  return found / jnp.sqrt(jnp.maximum(jnp.sum(found**2, -1, keepdims=True), 1e-12))


def identity_loss(params: dict, a: jax.Array, b: jax.Array, *, variant: str) -> jax.Array:
  """[B] 1 - cosine between the embeddings of aligned faces [B, 112, 112, 3] in [0, 1]."""
  return 1 - jnp.sum(embed(params, a, variant=variant) * embed(params, b, variant=variant), -1)
