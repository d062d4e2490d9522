"""Triangle meshes: normals, edges, the uniform Laplacian, and local 1 -> 4 subdivision.

V vertices, F faces, E edges. Functions on jax arrays are differentiable; those that build static
tables run on the host in numpy, once per mesh.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

_TINY = 1e-30  # metres^4; squared lengths of cross products below it count as zero area


@functools.partial(jax.jit, inline=True)  # one program where it is called by itself
def vertex_normals(vertices: jax.Array, faces: jax.Array) -> jax.Array:
  """Area-weighted unit normals.

  Faces with a corner that is not finite count for nothing, so a broken vertex spoils none of its
  neighbours and no gradient.

  Args:
    vertices: [..., V, 3].
    faces: [F, 3], counter-clockwise seen from outside in a right-handed frame.

  Returns:
    [..., V, 3], zero where no face of positive area meets.
  """
  weighted = _cross_of_faces(vertices, faces)
  sums = jnp.zeros_like(vertices)
  for corner in range(3):
    sums = sums.at[..., faces[:, corner], :].add(weighted)
  return _unit_or_zero(sums)


def _cross_of_faces(vertices, faces):
  """Twice the area times the normal, [..., F, 3]; zero for corners that are not finite."""
  finite = jnp.isfinite(vertices).all(-1, keepdims=True)
  vertices = jnp.where(finite, vertices, 0.0)
  a, b, c = (vertices[..., faces[:, k], :] for k in range(3))
  usable = finite[..., faces, 0].all(-1)[..., None]
  return jnp.where(usable, jnp.cross(b - a, c - a), 0.0)


def _unit_or_zero(vectors):
  square = jnp.sum(vectors**2, -1, keepdims=True)
  usable = square > _TINY
  return jnp.where(usable, vectors / jnp.sqrt(jnp.where(usable, square, 1.0)), 0.0)


def unique_edges(faces: np.ndarray) -> np.ndarray:
  """Undirected edges [E, 2] of faces [F, 3], smaller vertex first, in lexicographic order. Host."""
  faces = np.asarray(faces)
  halves = np.concatenate([faces[:, [1, 2]], faces[:, [2, 0]], faces[:, [0, 1]]])
  halves = np.sort(halves[halves[:, 0] != halves[:, 1]], axis=1)
  return np.unique(halves, axis=0)


@flax.struct.dataclass
class Subdivision:
  """A finer mesh whose vertices are fixed barycentric mixes of the coarse ones.

  Of its Ns vertices the first V are the coarse ones. Every row mixes at most three of them.
  """

  faces: jax.Array  # [Fs, 3] int32
  sources: jax.Array  # [Ns, 3] int32, coarse vertices
  weights: jax.Array  # [Ns, 3] float32 >= 0, rows sum to 1


def subdivide(
  faces: np.ndarray, num_vertices: int, chosen: np.ndarray | None = None
) -> Subdivision:
  """Splits chosen faces 1 -> 4 at their edge midpoints; neighbours close up without cracks. Host.

  A face that is not chosen but shares k split edges is cut into k + 1 triangles through the same
  midpoints, so no vertex lies on the inside of an edge. The order is that of PyTorch3D's
  SubdivideMeshes: with midpoints m0 of (v1, v2), m1 of (v2, v0), m2 of (v0, v1), new vertices are
  numbered by their sorted edge, and the blocks (v0, m2, m1), (v1, m0, m2), (v2, m1, m0), (m0, m1,
  m2) are stacked, each over all split faces; faces that were not chosen follow.

  Args:
    faces: [F, 3].
    num_vertices: V.
    chosen: [F] bool; None splits all faces.

  Returns:
    A Subdivision. Compose several with `compose_subdivisions`.

  Raises:
    ValueError: if chosen is not one bool per face.
  """
  faces = np.asarray(faces)
  chosen = np.ones(len(faces), bool) if chosen is None else np.asarray(chosen)
  if chosen.shape != (len(faces),) or chosen.dtype != bool:
    raise ValueError(f'chosen must be [{len(faces)}] bool, got {chosen.dtype} {chosen.shape}')
  # [F, 3, 2], side k opposite corner k
  sides = np.sort(faces[:, [[1, 2], [2, 0], [0, 1]]], axis=-1)
  split = np.unique(sides[chosen].reshape(-1, 2), axis=0)
  code = lambda pairs: pairs[..., 0].astype(np.int64) * num_vertices + pairs[..., 1]
  rank = np.searchsorted(code(split), code(sides))
  known = code(split)[np.minimum(rank, len(split) - 1)] == code(sides) if len(split) else rank < 0
  middle = np.where(known, num_vertices + rank, -1)  # [F, 3], -1 = side not split
  v0, v1, v2 = faces[chosen].T
  m0, m1, m2 = middle[chosen].T
  blocks = [(v0, m2, m1), (v1, m0, m2), (v2, m1, m0), (m0, m1, m2)]
  blocks = [np.stack(block, -1) for block in blocks]
  blocks += _closing(faces[~chosen], middle[~chosen])
  whole = np.arange(num_vertices)
  sources = np.concatenate([np.stack([whole] * 3, -1), split[:, [0, 1, 1]].reshape(-1, 3)])
  weights = np.zeros((len(sources), 3), np.float32)
  weights[:num_vertices, 0] = 1
  weights[num_vertices:, :2] = 0.5
  return Subdivision(
    faces=jnp.asarray(np.concatenate(blocks), jnp.int32),
    sources=jnp.asarray(sources, jnp.int32),
    weights=jnp.asarray(weights),
  )


def _closing(faces: np.ndarray, middle: np.ndarray) -> list[np.ndarray]:
  """Triangles of faces [F, 3] some of whose sides have midpoints [F, 3] (-1 = none), winding
  kept.
  """
  counts = (middle >= 0).sum(1)
  pieces = [faces[counts == 0]]
  # Turn each face so that its only split side, or its only whole side, is opposite corner 0.
  for count, odd in ((1, True), (2, False)):
    some, mids = faces[counts == count], middle[counts == count]
    turn = (np.argmax((mids >= 0) == odd, axis=1)[:, None] + np.arange(3)) % 3
    v0, v1, v2 = np.take_along_axis(some, turn, 1).T
    m0, m1, m2 = np.take_along_axis(mids, turn, 1).T
    if count == 1:
      pieces += [np.stack(piece, -1) for piece in ((v0, v1, m0), (v0, m0, v2))]
    else:
      pieces += [np.stack(piece, -1) for piece in ((v0, m2, m1), (m2, v1, m1), (v1, v2, m1))]
  some, mids = faces[counts == 3], middle[counts == 3]
  v0, v1, v2 = some.T
  m0, m1, m2 = mids.T
  corners = ((v0, m2, m1), (v1, m0, m2), (v2, m1, m0), (m0, m1, m2))
  return pieces + [np.stack(piece, -1) for piece in corners]
