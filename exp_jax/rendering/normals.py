"""Vertex normals of dense meshes, some faces at a time, with their own transpose.

The same numbers as `geometry.meshes.vertex_normals`. With plain autodiff the backward pass keeps
nine numbers of each face and pads gathers to sums of whole arrays; here each pass reads the corners
of a few thousand faces, does what is to be done in the cache, and adds the result to the vertices.
"""

import jax
import jax.numpy as jnp

from exp_jax.rendering.streams import over_frames, visit_range

_TINY = 1e-30  # metres^4; below this squared length a sum of normals has no direction
_BROKEN = 1e15  # metres


def vertex_normals(vertices: jax.Array, faces: jax.Array) -> jax.Array:
  """Area-weighted unit normals; differentiable (reverse mode). Unbatched; vmap it.

  Faces with a corner that is not finite count for nothing, so a broken vertex spoils none of its
  neighbours and no gradient.

  Args:
    vertices: [V, 3].
    faces: [F, 3], counter-clockwise seen from outside in a right-handed frame.

  Returns:
    [V, 3], zero where no face of positive area meets.
  """
  if not faces.shape[0]:
    return jnp.zeros_like(vertices)
  finite = jnp.isfinite(vertices).all(-1, keepdims=True)
  # A corner far outside any number of metres marks its faces without a second look-up.
  sums = _sums(jnp.where(finite, vertices, _BROKEN), faces)
  square = jnp.sum(sums**2, -1, keepdims=True)
  usable = square > _TINY
  return jnp.where(usable, sums / jnp.sqrt(jnp.where(usable, square, 1.0)), 0.0)


@jax.custom_vjp
def _sums(vertices, faces):
  """[V, 3]: the sum of twice the area vectors of the faces about each vertex."""
  return _sums_lifted(vertices, faces)


def _forward(vertices, faces):
  return _sums_lifted(vertices, faces), (vertices, faces)


def _backward(residuals, cotangent):
  return _sums_transposed_lifted(*residuals, cotangent), None


_sums.defvjp(_forward, _backward)


def _visit_faces(vertices, faces, visit):
  """Sums what faces add to their corners.

  Args:
    vertices: [B, V, 3]. faces: [B or 1, F, 3].
    visit: (corners [K, 3], of which some are out of range, b - a, c - a, each three of [K]) -> what
      to add to the corners a, b, c, each three of [K].

  Returns:
    [B, V, 3].
  """
  frames, size = vertices.shape[:2]
  per_frame, own_faces = faces.shape[1], faces.shape[0] > 1
  faces, planes = faces.reshape(-1, 3), vertices.reshape(-1, 3).T

  def some(sums, index, valid):
    frame = index // per_frame
    corners = faces[index if own_faces else index - frame * per_frame] + (size * frame)[:, None]
    # Number by number: XLA would compute everything anew for each entry of a row.
    a, b, c = ([plane[corners[:, k]] for plane in planes] for k in range(3))
    valid &= jnp.maximum(jnp.maximum(a[0], b[0]), c[0]) < _BROKEN
    corners = jnp.where(valid[:, None], corners, frames * size)
    minus = lambda u, v: [x - y for x, y in zip(u, v)]
    for k, changes in enumerate(visit(corners, minus(b, a), minus(c, a))):
      sums = [s.at[corners[:, k]].add(change, mode='drop') for s, change in zip(sums, changes)]
    return sums

  sums = visit_range(frames * per_frame, [jnp.zeros(frames * size, vertices.dtype)] * 3, some)
  return jnp.stack(sums, -1).reshape(vertices.shape)


def _cross(u, v):
  return [u[(k + 1) % 3] * v[(k + 2) % 3] - u[(k + 2) % 3] * v[(k + 1) % 3] for k in range(3)]


def _sums_frames(vertices, faces):
  """vertices [B, V, 3], faces [B or 1, F, 3] -> [B, V, 3]."""
  return _visit_faces(vertices, faces, lambda corners, *sides: [_cross(*sides)] * 3)


def _sums_transposed(vertices, faces, cotangent):
  """The cotangent of the vertices."""
  planes = cotangent.reshape(-1, 3).T

  def visit(corners, ab, ac):
    of_corner = lambda plane, k: plane.at[corners[:, k]].get(mode='fill', fill_value=0)
    d_normal = [sum(of_corner(plane, k) for k in range(3)) for plane in planes]
    d_b, d_c = _cross(ac, d_normal), _cross(d_normal, ab)
    return [-x - y for x, y in zip(d_b, d_c)], d_b, d_c

  return _visit_faces(vertices, faces, visit)


_sums_lifted = over_frames(_sums_frames, shared=(1,))
_sums_transposed_lifted = over_frames(_sums_transposed, shared=(1,))
