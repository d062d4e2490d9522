"""What never changes of a moving mesh: its faces, and the edges that may become silhouettes."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class Topology:
  """Connectivity of a mesh of F faces and E edges over V vertices; a pytree."""

  faces: jax.Array  # [F, 3] int32
  edges: jax.Array  # [E, 2] int32, vertices a, b of each edge
  # [E, 2] int32, its one or two faces as face + 1, negative where the face runs from b to a; 0 =
  # none
  edge_faces: jax.Array

  @classmethod
  def from_faces(cls, faces: np.ndarray, *, positions: np.ndarray | None = None) -> 'Topology':
    """Builds the edge table on the host, once per mesh.

    Args:
      faces: [F, 3] integer vertex indices, any winding.
      positions: [V, 3] rest positions. Where given, vertices at exactly the same place count as
        one, so that a seam of texture coordinates is not taken for a boundary.

    Returns:
      A Topology. An edge of more than two faces becomes one boundary edge for each of them.

    Raises:
      ValueError: if faces are not [F, 3] integers >= 0.
    """
    faces = np.asarray(faces)
    if faces.ndim != 2 or faces.shape[1] != 3 or not np.issubdtype(faces.dtype, np.integer):
      raise ValueError(f'faces must be [F, 3] integers, got {faces.dtype} {faces.shape}')
    if faces.size and faces.min() < 0:
      raise ValueError(f'faces must not be negative, got {faces.min()}')
    welded = faces
    if positions is not None:
      _, first, same = np.unique(
        np.asarray(positions), axis=0, return_index=True, return_inverse=True
      )
      welded = first[same.reshape(-1)][faces]
    edges, edge_faces = _edges(welded)
    as_ids = lambda ids: jnp.asarray(ids, jnp.int32)
    return cls(faces=as_ids(faces), edges=as_ids(edges), edge_faces=as_ids(edge_faces))


def _edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Undirected edges [E, 2] and their faces [E, 2], numbered from 1, with the sign of the way they
  run."""
  halves = np.concatenate([faces[:, [1, 2]], faces[:, [2, 0]], faces[:, [0, 1]]])
  face = np.tile(np.arange(1, len(faces) + 1), 3) * np.where(halves[:, 0] <= halves[:, 1], 1, -1)
  proper = halves[:, 0] != halves[:, 1]
  halves, face = np.sort(halves[proper], axis=1), face[proper]
  order = np.lexsort((halves[:, 1], halves[:, 0]))
  halves, face = halves[order], face[order]
  edges, first, sharing = np.unique(halves, axis=0, return_index=True, return_counts=True)
  if not len(edges):
    return np.zeros((0, 2), int), np.zeros((0, 2), int)
  second = np.where(sharing == 2, face[np.minimum(first + 1, len(face) - 1)], 0)
  simple = np.stack([face[first], second], -1)
  crowded = np.repeat(sharing > 2, sharing)
  lone = np.stack([face[crowded], np.zeros(crowded.sum(), int)], -1)
  edges = np.concatenate([edges[sharing <= 2], halves[crowded]])
  return edges, np.concatenate([simple[sharing <= 2], lone])
