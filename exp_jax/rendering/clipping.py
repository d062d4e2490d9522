"""Triangles clipped by the near plane and by a band about the image, in homogeneous coordinates.

Within the band the integer arithmetic of `coverage` cannot overflow. K triangles, L corners of a
clipped polygon.

Source: Sutherland & Hodgman, Reentrant Polygon Clipping, CACM 1974.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Corners of a triangle clipped by five planes. A convex polygon gains one a plane, 8 in the end;
# one
# that rounding has bent gains at most half its corners: 3, 4, 6, 9, 13, 19.
CORNERS = 19
FAN = np.stack([[0, i + 1, i + 2] for i in range(CORNERS - 2)])  # the triangles of a polygon


def guard_planes(
  image_size: tuple[int, int], *, near: float, guard: int, sub_bits: int
) -> jax.Array:
  """[5, 4] coefficients of (x, y, w, 1) >= 0: the near plane and the four sides of the guard band.

  Args:
    image_size: (height, width) pixels.
    near: metres.
    guard: sub-pixels from the image centre to the sides of the band.
    sub_bits: a pixel has 2^sub_bits sub-pixels.
  """
  height, width = image_size
  across, down = (guard / (size * 2.0 ** (sub_bits - 1)) for size in (width, height))
  return jnp.array(
    [[0, 0, 1, -near], [1, 0, across, 0], [-1, 0, across, 0], [0, 1, down, 0], [0, -1, down, 0]],
    jnp.float32,
  )


def clip_polygons(triangles: jax.Array, planes: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Clips triangles to convex polygons.

  New corners depend on the two ends of an edge only, not on their order: neighbours agree on them.

  Args:
    triangles: [K, 3, 3 + A] (x, y, w) and A attributes that are linear in them.
    planes: [5, 4] of `guard_planes`.

  Returns:
    polygons [K, L, 3 + A] with L = CORNERS, and [K] how many of their corners are in use.
  """
  polygon = jnp.pad(triangles, ((0, 0), (0, CORNERS - 3), (0, 0)))
  slots = jnp.arange(CORNERS)

  def one_plane(carry, plane):
    polygon, count = carry
    used = slots < count[:, None]
    distance = polygon[..., :3] @ plane[:3] + plane[3]
    following = jnp.where(slots + 1 < count[:, None], slots + 1, 0)
    end = jnp.take_along_axis(polygon, following[..., None], 1)
    end_distance = jnp.take_along_axis(distance, following, 1)
    inside, end_inside = distance >= 0, end_distance >= 0
    swap = _after(polygon[..., :3], end[..., :3])
    first = jnp.where(swap[..., None], end, polygon)
    last = jnp.where(swap[..., None], polygon, end)
    first_distance = jnp.where(swap, end_distance, distance)
    last_distance = jnp.where(swap, distance, end_distance)
    span = first_distance - last_distance
    t = first_distance / jnp.where(span == 0, 1.0, span)
    crossing = first + t[..., None] * (last - first)
    emits = jnp.stack([used & inside, used & (inside != end_inside)], -1).reshape(-1, 2 * CORNERS)
    emitted = jnp.stack([polygon, crossing], 2).reshape(-1, 2 * CORNERS, polygon.shape[-1])
    target = jnp.where(emits, jnp.cumsum(emits, -1) - 1, CORNERS)
    place = lambda row, at: jnp.ones((CORNERS, polygon.shape[-1])).at[at].set(row, mode='drop')
    return (jax.vmap(place)(emitted, target), emits.sum(-1)), None

  (polygon, count), _ = lax.scan(one_plane, (polygon, jnp.full(polygon.shape[0], 3)), planes)
  return polygon, count


def _after(a, b):
  """Lexicographic a > b over the last axis of three."""
  greater, equal = a > b, a == b
  return greater[..., 0] | (equal[..., 0] & (greater[..., 1] | (equal[..., 1] & greater[..., 2])))
