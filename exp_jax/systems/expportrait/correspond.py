"""A first guess from geometry: the reference's code, moved to where the driving normals say it is.

Every latent cell of a driving map looks for cells of the reference map that show the same place of
the head, by a softmax over squared distances of

  f = [8 n, 30 (p - top of the head), d]      n unit normals, p in image widths, d a learned
  descriptor

and takes the mean of their codes. Without d this matches equal normals, which are lit alike; d, a
small convolutional network of the normal map, learns what is a brow and what is a lip. Cells off
the head keep the reference's background; where the head stood before it is filled from around.

An extension of the paper for small models (`condition.guide`); large ones learn this by attention.

Letters: B batch, N frames, H, W pixels, s pixels per latent, h, w = H / s, W / s, C channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.layers.norms import layer_norm

_SHARPNESS, _CLOSENESS = 8.0, 30.0     # best of a small grid on synthetic actors, without d


def fold(x: jax.Array, patch: int) -> jax.Array:
  """[..., H, W, C] -> [..., H/patch, W/patch, patch*patch*C]."""
  *lead, H, W, C = x.shape
  x = x.reshape(*lead, H // patch, patch, W // patch, patch, C)
  return jnp.swapaxes(x, -4, -3).reshape(*lead, H // patch, W // patch, -1)


def unfold(x: jax.Array, patch: int) -> jax.Array:
  """The inverse of `fold`."""
  *lead, h, w, _ = x.shape
  x = jnp.swapaxes(x.reshape(*lead, h, w, patch, patch, -1), -4, -3)
  return x.reshape(*lead, h * patch, w * patch, -1)


def share_and_features(normals: jax.Array, cell: int) -> tuple[jax.Array, jax.Array]:
  """[..., H, W, 3] encoded normals -> ([..., h, w, 1] covered share of a cell, [..., h, w, 5]
  features)."""
  covered = (normals.sum(-1, keepdims=True) > 0.1).astype(jnp.float32)
  mean = lambda x: fold(x, cell).reshape(*x.shape[:-3], x.shape[-3] // cell, x.shape[-2] // cell,
                                         cell * cell, x.shape[-1]).mean(-2)
  share = mean(covered)
  n = mean((normals * 2.0 - 1.0) * covered) / jnp.maximum(share, 0.1)
  h, w = share.shape[-3:-1]
  y, x = jnp.meshgrid((jnp.arange(h) + 0.5) / h, (jnp.arange(w) + 0.5) / w, indexing='ij')
  rows = share[..., 0].max(-1) > 0.5                                       # [..., h]
  top = jnp.where(rows.any(-1), jnp.argmax(rows, -1) / h, 0.0)[..., None, None]
  head = share[..., 0] * jnp.exp(-jnp.square((y - top - 0.25) / 0.12))     # crown to chin
  centre = (x * head).sum((-1, -2)) / jnp.maximum(head.sum((-1, -2)), 1e-3)
  place = jnp.stack([x - centre[..., None, None], y - top], -1)
  return share, jnp.concatenate([_SHARPNESS * n, _CLOSENESS * place], -1)


def _blur(size, reach):
  """[size, size] Gaussian weights between cells of one axis."""
  return jnp.exp(-0.5 * jnp.square((jnp.arange(size)[:, None] - jnp.arange(size)) / reach))


def fill(values: jax.Array, known: jax.Array) -> jax.Array:
  """Spreads values into unknown cells, from near where it can, else from far.

  [..., h, w, C] and [..., h, w, 1] in [0, 1] -> [..., h, w, C]; where `known` is one nothing
  changes.
  """
  filled, weight = values * known, known
  for reach in (1.0, 3.0, 9.0):                                            # in cells
    rows, columns = _blur(values.shape[-3], reach), _blur(values.shape[-2], reach)
    near = jnp.einsum('ij,...jkc,lk->...ilc', rows, known, columns)
    sums = jnp.einsum('ij,...jkc,lk->...ilc', rows, values * known, columns)
    fresh = (1.0 - weight) * jnp.clip(near, 0.0, 1.0)
    filled = filled + fresh * sums / jnp.maximum(near, 1e-6)
    weight = weight + fresh
  return filled / jnp.maximum(weight, 1e-6)


class ResidualBlock(nn.Module):
  """x + conv(silu(conv(LN(x)))): [..., h, w, D] -> same; starts as the identity."""

  @nn.compact
  def __call__(self, x):
    y = layer_norm(x).reshape(-1, *x.shape[-3:])
    y = jax.nn.silu(nn.Conv(x.shape[-1], (3, 3), name='conv1')(y))
    y = nn.Conv(x.shape[-1], (3, 3), kernel_init=nn.initializers.zeros, name='conv2')(y)
    return x + y.reshape(x.shape)


class NormalFeatures(nn.Module):
  """What a normal map shows, at latent resolution: [..., H, W, 3] in [0, 1] -> [..., h, w, width].

  A trunk at half that resolution sees a hundred pixels around; one linear layer keeps the detail.
  """
  cell: int
  width: int = 64
  trunk: int = 96
  blocks: int = 3

  @nn.compact
  def __call__(self, normals):
    x = nn.Dense(self.trunk, name='fold')(fold(normals * 2.0 - 1.0, 2 * self.cell))
    for i in range(self.blocks):
      x = ResidualBlock(name=f'block{i}')(x)
    far = unfold(nn.Dense(4 * self.width, name='unfold')(x), 2)
    near = nn.Dense(self.width, name='detail')(fold(normals * 2.0 - 1.0, self.cell))
    return jax.nn.silu(far + near)


class Guide(nn.Module):
  """Moves codes from the reference to the driving frames; see the head of this file."""
  cell: int
  descriptor: int = 16

  @nn.compact
  def __call__(self, values, reference_normals, normals, reference_features, features):
    """values [B, h, w, C], reference_normals [B, H, W, 3], normals [B, N, H, W, 3], features of
    both [B, (N,) h, w, D] -> [B, N, h, w, C]."""
    describe = nn.Dense(self.descriptor, kernel_init=nn.initializers.normal(0.02), name='describe')
    key_share, keys = share_and_features(reference_normals, self.cell)
    share, queries = share_and_features(normals, self.cell)
    keys = jnp.concatenate([keys, _SHARPNESS * describe(reference_features)], -1)
    queries = jnp.concatenate([queries, _SHARPNESS * describe(features)], -1)
    B, N, h, w, _ = queries.shape
    keys, queries = keys.reshape(B, h * w, -1), queries.reshape(B, N, h * w, -1)
    off_head = 1e9 * (key_share.reshape(B, h * w, 1) <= 0.5)
    # -|q - k|^2 up to a constant per query, as one product: the last column meets a one
    keys = jnp.concatenate([2.0 * keys, -jnp.square(keys).sum(-1, keepdims=True) - off_head], -1)
    queries = jnp.concatenate([queries, jnp.ones_like(queries[..., :1])], -1)
    scores = jnp.einsum('bnqd,bkd->bnqk', queries, keys)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    codes = values.reshape(B, h * w, -1)
    codes = jnp.concatenate([codes, jnp.ones_like(codes[..., :1])], -1)  # the ones sum the weights
    moved = jnp.einsum('bnqk,bkc->bnqc', weights, codes)
    moved = moved[..., :-1] / moved[..., -1:]
    behind = fill(values, 1.0 - key_share)
    return share * moved.reshape(B, N, h, w, -1) + (1.0 - share) * behind[:, None]


class Refiner(nn.Module):
  """Convolutions over the transformer's output at latent resolution, where its tokens are coarse.

  [B, N, h, w, any] -> [B, N, h, w, out]; zero at the start.
  """
  out: int
  width: int = 64
  blocks: int = 2

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(self.width, name='in')(x)
    for i in range(self.blocks):
      x = ResidualBlock(name=f'block{i}')(x)
    return nn.Dense(self.out, kernel_init=nn.initializers.zeros, name='out')(x)
