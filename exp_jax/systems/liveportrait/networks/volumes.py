"""Sampling of feature volumes at normalized places, as the published weights were trained with it.

A place v in [-1, 1] along an axis of N cells lies at cell ((v + 1) N - 1) / 2: the outer *borders*
of the volume are at -1 and 1, and beyond them everything is zero. The identity grid has its first
and last point *on* -1 and 1 all the same, so that sampling at it is not the identity but shifts by
up to half a cell. Both belong to the weights.

Letters: B batch, D, H, W cells of a volume, C channels, K keypoints. Places are (x, y, z), x along
W.
Source: grid sampling of PyTorch 2 (trilinear, zeros, align_corners=False), which face vid2vid and
its heirs use.
"""

import jax
import jax.numpy as jnp


def identity_grid(shape: tuple[int, int, int]) -> jax.Array:
  """[D, H, W, 3] float32 places of the cells of a volume, from -1 to 1 end to end."""
  z, y, x = (jnp.linspace(-1.0, 1.0, n) for n in shape)
  return jnp.stack(
    [
      jnp.broadcast_to(x, shape),
      jnp.broadcast_to(y[:, None], shape),
      jnp.broadcast_to(z[:, None, None], shape),
    ],
    -1,
  )


def cell_of(places: jax.Array, cells: int) -> jax.Array:
  """Cell coordinates (cell i has its centre at i) of places along an axis."""
  return ((places + 1.0) * cells - 1.0) / 2.0


def axis_weights(places: jax.Array, cells: int) -> jax.Array:
  """[..., N] places along one axis -> [..., N, cells] linear weights; at most two in a row, less
  than 1 at the borders."""
  return jnp.maximum(
    0.0, 1.0 - jnp.abs(cell_of(places, cells)[..., None] - jnp.arange(cells, dtype=jnp.float32))
  )


def sample_shifted(volume: jax.Array, shifts: jax.Array) -> jax.Array:
  """The volume sampled at the identity grid moved as a whole, once for each of K shifts.

  Where a grid moves as a whole, the cell along an axis depends on the index along that axis alone,
  so the general gather of
  `sample_volume` is three small matrices in a row: A_z (x) A_y (x) A_x.

  Args:
    volume: [B, D, H, W, C].
    shifts: [B, K, 3] in normalized units.

  Returns:
    [B, D, H, W, K, C], the type of `volume`.
  """
  sizes = volume.shape[1:4]
  # [B, K, N, N] each
  x, y, z = (
    axis_weights(jnp.linspace(-1.0, 1.0, n) + shifts[..., i, None], n).astype(volume.dtype)
    for i, n in enumerate(sizes[::-1])
  )
  # the cheapest first: the volume is shared by all K
  out = jnp.einsum('bkde,behwc->bkdhwc', z, volume)
  out = jnp.einsum('bkhi,bkdiwc->bkdhwc', y, out)
  return jnp.einsum('bkwj,bkdhjc->bdhwkc', x, out)


def sample_volume(volume: jax.Array, places: jax.Array) -> jax.Array:
  """The volume at any places: trilinear, zero outside.

  Args:
    volume: [B, D, H, W, C].
    places: [B, ..., 3] normalized (x, y, z), float32.

  Returns:
    [B, ..., C], the type of `volume`.
  """
  D, H, W = volume.shape[1:4]
  padded = jnp.pad(volume, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))

  def one(padded, places):
    flat = padded.reshape(-1, padded.shape[-1])
    # a cell and its neighbour along x: half the gathers
    pairs = jnp.concatenate([flat, jnp.roll(flat, -1, 0)], -1)
    first, part = [], []
    for i, n in enumerate((W, H, D)):
      cell = jnp.clip(cell_of(places[..., i], n), -1.0, n)  # one cell beyond the border all is zero
      low = jnp.minimum(jnp.floor(jax.lax.stop_gradient(cell)), n - 1)
      first.append(low.astype(jnp.int32) + 1)
      part.append((cell - low)[..., None].astype(volume.dtype))
    (x, y, z), (u, v, w) = first, part
    out = 0.0
    for dz, share_z in ((0, 1 - w), (1, w)):
      for dy, share_y in ((0, 1 - v), (1, v)):
        both = pairs.at[((z + dz) * (H + 2) + y + dy) * (W + 2) + x].get(mode='promise_in_bounds')
        left, right = jnp.split(both, 2, -1)
        out = out + share_z * share_y * (left * (1 - u) + right * u)
    return out

  return jax.vmap(one)(padded, places)


def heatmaps(points: jax.Array, shape: tuple[int, int, int], *, variance: float) -> jax.Array:
  """Gaussians exp(-|g - p|^2 / (2 variance)) about K points, on the identity grid.

  A Gaussian is a product over the axes: three rows of exponentials instead of one for every cell.

  Args:
    points: [B, K, 3].
    shape: (D, H, W).

  Returns:
    [B, D, H, W, K] float32.
  """
  # [B, K, N] each
  x, y, z = (
    jnp.exp(-jnp.square(jnp.linspace(-1.0, 1.0, n) - points[..., i, None]) / (2 * variance))
    for i, n in enumerate(shape[::-1])
  )
  return jnp.einsum('bkd,bkh,bkw->bdhwk', z, y, x)


def volume_of(features: jax.Array, depth: int) -> jax.Array:
  """[B, H, W, C * D] -> [B, D, H, W, C]; channel c * D + d of the picture is channel c at
  depth d."""
  B, H, W, _ = features.shape
  return features.reshape(B, H, W, -1, depth).transpose(0, 4, 1, 2, 3)


def picture_of(volume: jax.Array) -> jax.Array:
  """The inverse of `volume_of`: [B, D, H, W, C] -> [B, H, W, C * D]."""
  B, D, H, W, C = volume.shape
  return volume.transpose(0, 2, 3, 4, 1).reshape(B, H, W, C * D)
