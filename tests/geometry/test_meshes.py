import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from exp_jax.geometry import (
  subdivide,
  unique_edges,
  vertex_normals,
)

OCTAHEDRON = np.array(
  [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]], np.float32
)
FACES = np.array(
  [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
)


def test_normals_point_outward_and_weigh_areas():
  np.testing.assert_allclose(vertex_normals(OCTAHEDRON, FACES), OCTAHEDRON, atol=1e-6)
  bent = np.array([[0, 0, 0], [1, 0, 0], [0, 3, 0], [0, 0, 1]], np.float32)
  found = vertex_normals(bent, np.array([[0, 1, 2], [0, 3, 1]]))[0]
  np.testing.assert_allclose(found, np.array([0, 1, 3]) / np.sqrt(10), atol=1e-6)


def test_normals_batch():
  stack = np.stack([OCTAHEDRON, OCTAHEDRON * [1, 2, 3]])
  for vertices, found in zip(stack, vertex_normals(stack, FACES)):
    np.testing.assert_allclose(found, vertex_normals(vertices, FACES), atol=1e-6)


def test_broken_vertices_and_faces_without_area_are_harmless():
  vertices = np.concatenate([OCTAHEDRON, [[np.nan, 0, 0], [np.inf, 1, 0], [3, 3, 3]]]).astype(
    np.float32
  )
  faces = np.concatenate([FACES, [[0, 2, 6], [7, 1, 3], [4, 4, 5], [8, 8, 8]]])
  found = vertex_normals(vertices, faces)
  np.testing.assert_allclose(found[:6], OCTAHEDRON, atol=1e-6)
  np.testing.assert_array_equal(found[6:], np.zeros((3, 3)))


def test_broken_vertices_keep_gradients_finite():
  vertices = np.concatenate([OCTAHEDRON, [[np.nan, 0, 0], [3, 3, 3]]]).astype(np.float32)
  faces = np.concatenate([FACES, [[0, 2, 6], [4, 4, 5], [7, 7, 7]]])
  gradient = jax.grad(lambda v: (vertex_normals(v, faces) + vertex_normals(v, faces) ** 2).sum())
  assert jnp.isfinite(gradient(jnp.asarray(vertices))).all()


def test_derivatives_of_normals():
  check_grads(
    lambda v: vertex_normals(v, FACES),
    (jnp.asarray(OCTAHEDRON),),
    order=1,
    modes=('rev',),
    rtol=1e-2,
    atol=1e-2,
  )


def test_edges_are_unique_and_sorted():
  edges = unique_edges(FACES)
  assert edges.shape == (12, 2) and (edges[:, 0] < edges[:, 1]).all()
  assert len(edges) - len(FACES) + 2 == 6  # V - E + F = 2


def test_full_subdivision_has_the_pytorch3d_order():
  """One triangle and its neighbour, written out from the rule."""
  fine = subdivide(np.array([[0, 1, 2], [1, 3, 2]]), 4)
  # Edges in order: 01, 02, 12, 13, 23 -> vertices 4..8.
  expected = [
    [0, 4, 5],
    [1, 7, 6],
    [1, 6, 4],
    [3, 8, 7],
    [2, 5, 6],
    [2, 6, 8],
    [6, 5, 4],
    [8, 6, 7],
  ]
  np.testing.assert_array_equal(fine.faces, expected)
  np.testing.assert_array_equal(fine.sources[4:, :2], [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]])


@pytest.mark.parametrize(
  'chosen', [[0], [0, 1], [0, 2], [0, 1, 2], [1, 4, 5], [0, 1, 2, 3, 4, 5, 6], []]
)
def test_partial_subdivision_has_no_cracks_and_keeps_the_surface(chosen):
  picked = np.isin(np.arange(8), chosen)
  fine = subdivide(FACES, 6, picked)
  vertices = np.einsum('nk,nkc->nc', fine.weights, OCTAHEDRON[np.asarray(fine.sources)])
  halves = collections.Counter()
  for a, b, c in np.asarray(fine.faces):
    halves.update([(a, b), (b, c), (c, a)])
  assert set(halves.values()) == {1}
  assert all((b, a) in halves for a, b in halves)  # closed, and the winding agrees everywhere
  a, b, c = (vertices[np.asarray(fine.faces)[:, k]] for k in range(3))
  areas = np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2
  np.testing.assert_allclose(areas.sum(), 8 * np.sqrt(3) / 2, rtol=1e-6)
  assert (areas > 0.1).all()
  np.testing.assert_allclose(fine.weights.sum(1), np.ones(len(fine.weights)))
  assert len(vertices) == len(np.unique(np.asarray(vertices), axis=0))
  assert len(fine.faces) >= 8 + 3 * len(chosen)


def test_chosen_is_checked():
  with pytest.raises(ValueError, match='chosen'):
    subdivide(FACES, 6, np.array([0, 1]))
