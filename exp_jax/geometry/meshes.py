"""Triangle meshes: normals, edges, the uniform Laplacian, and local 1 -> 4 subdivision.

V vertices, F faces, E edges. Functions on jax arrays are differentiable; those that build static tables run
on the host in numpy, once per mesh.
"""

import jax
import jax.numpy as jnp


def _cross_of_faces(vertices: jax.Array, faces: jax.Array) -> jax.Array:
  a, b, c = (vertices[..., faces[:, k], :] for k in range(3))
  return jnp.cross(b - a, c - a)


def _unit_or_zero(vectors: jax.Array) -> jax.Array:
  square = jnp.sum(vectors**2, -1, keepdims=True)
  usable = square > 1e-30
  return jnp.where(usable, vectors / jnp.sqrt(jnp.where(usable, square, 1.0)), 0.0)


def vertex_normals(vertices: jax.Array, faces: jax.Array) -> jax.Array:
  """Area-weighted unit normals.

  Faces with a corner that is not finite count for nothing, so a broken vertex spoils none of its neighbours
  and no gradient.

  Args:
    vertices: [..., V, 3].
    faces: [F, 3], counter-clockwise seen from outside in a right-handed frame.

  Returns:
    [..., V, 3], zero where no face of positive area meets.
  """
  finite = jnp.isfinite(vertices).all(-1, keepdims=True)
  usable = finite[..., faces, 0].all(-1)[..., None]  # [..., F, 1]
  weighted = _cross_of_faces(jnp.where(finite, vertices, 0.0), faces)
  weighted = jnp.where(usable, weighted, 0.0)
  sums = jnp.zeros_like(vertices)
  for corner in range(3):
    sums = sums.at[..., faces[:, corner], :].add(weighted)
  return _unit_or_zero(sums)
