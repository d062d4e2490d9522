"""A first guess from geometry: the reference's code, moved to where the driving normals say it is.

Every latent cell of a driving map looks for cells of the reference map that show the same place of
the head, by a softmax over squared distances of

  f = [40 x, n, d]      x the place on the head's template, n unit normals, d a learned descriptor

and takes the mean of their codes. x and d come from a small convolutional network of the normal map alone; x is
taught by the mesh (`place_loss`), which knows which point of the head each pixel shows, as dense-pose estimators
are. Cells off the head keep the reference's background; where the head stood before it is filled from around.

An extension of the paper for small models (`condition.guide`); large ones learn this by attention.

Letters: B batch, N frames, H, W pixels, s pixels per latent, h, w = H / s, W / s, C channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.layers.norms import layer_norm

_PLACE, _NORMAL, _DESCRIPTOR = 40.0, 1.0, 4.0     # a cell of 4 pixels at 128 is about 0.02 of a place


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


def _mean_over_cells(x: jax.Array, cell: int) -> jax.Array:
  """[..., H, W, C] -> [..., h, w, C]."""
  folded = fold(x, cell)
  return folded.reshape(*folded.shape[:-1], cell * cell, x.shape[-1]).mean(-2)


def share_and_normals(normals: jax.Array, cell: int) -> tuple[jax.Array, jax.Array]:
  """[..., H, W, 3] encoded normals -> covered share of each cell [..., h, w, 1], mean normals [..., h, w, 3]."""
  covered = (normals.sum(-1, keepdims=True) > 0.1).astype(jnp.float32)
  share = _mean_over_cells(covered, cell)
  return share, _mean_over_cells((normals * 2.0 - 1.0) * covered, cell) / jnp.maximum(share, 0.1)


def place_loss(guess: jax.Array, places: jax.Array, cell: int) -> jax.Array:
  """Mean absolute error of guessed places [..., h, w, 3] on the head; places [..., H, W, 3] in [0, 1], 0 off it."""
  covered = (places.max(-1, keepdims=True) > 0).astype(jnp.float32)
  share = _mean_over_cells(covered, cell)
  truth = _mean_over_cells(places, cell) / jnp.maximum(share, 0.1)
  on_head = (share > 0.9).astype(jnp.float32)
  return jnp.sum(on_head * jnp.abs(guess - truth)) / jnp.maximum(3 * jnp.sum(on_head), 1.0)


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

  def setup(self):
    self.describe = nn.Dense(self.descriptor, kernel_init=nn.initializers.normal(0.02))
    self.locate = nn.Dense(3, bias_init=nn.initializers.constant(0.5))

  def places(self, features):
    """[..., h, w, D] features -> [..., h, w, 3] places on the template, 0..1."""
    return self.locate(features)

  def __call__(self, values, reference_normals, normals, reference_features, features):
    """values [B, h, w, C], reference_normals [B, H, W, 3], normals [B, N, H, W, 3], features of both
    [B, (N,) h, w, D] -> [B, N, h, w, C]."""
    key_share, key_normals = share_and_normals(reference_normals, self.cell)
    share, query_normals = share_and_normals(normals, self.cell)
    matched = lambda n, f: jnp.concatenate(
      [_PLACE * self.places(f), _NORMAL * n, _DESCRIPTOR * self.describe(f)], -1)
    keys, queries = matched(key_normals, reference_features), matched(query_normals, features)
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
