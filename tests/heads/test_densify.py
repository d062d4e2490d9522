"""The dense mesh: a true mix of coarse vertices, without cracks, and its offsets move with the
skin."""

import collections

import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.heads.densify import (
  dense_vertices,
  densify,
  laplacian,
  lift,
  rest_vertices,
  rounding,
  smooth_operator,
)
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import neutral_params
from exp_jax.heads.skinning import head_vertices

HEAD = load_head('procedural')


def uses_of_edges(faces):
  sides = np.sort(np.asarray(faces)[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
  return collections.Counter(map(tuple, sides.tolist()))


@pytest.mark.parametrize(
  'levels, regions', [(0, ()), (1, ()), (2, ()), (1, ('face',)), (2, ('lips', 'lids'))]
)
def test_rows_sum_to_one_and_the_surface_has_no_cracks(levels, regions):
  dense = densify(HEAD, levels, regions)
  np.testing.assert_allclose(dense.barycentric.sum(1), 1, atol=1e-6)
  np.testing.assert_allclose(dense.weights.sum(1), 1, atol=1e-5)
  # a vertex inside a triangle is bound to the joints as its place in the triangle says
  coarse = np.asarray(HEAD.weights)
  mixed = [
    sum(b * coarse[v] for v, b in zip(*row))
    for row in zip(np.asarray(dense.coarse_ids), np.asarray(dense.barycentric))
  ]
  np.testing.assert_allclose(dense.weights, mixed, atol=1e-6)
  assert (dense.barycentric >= 0).all()
  rim = lambda faces: [e for e, n in uses_of_edges(faces).items() if n == 1]
  assert max(uses_of_edges(dense.faces).values()) == 2
  # only the open end of the coarse mesh may be open: its rim keeps its length, and nothing else
  # opens
  length = lambda v, edges: sum(np.linalg.norm(v[a] - v[b]) for a, b in edges)
  fine = np.asarray(lift(dense, HEAD.template))
  coarse_rim, fine_rim = rim(HEAD.faces), rim(dense.faces)
  assert coarse_rim
  assert length(fine, fine_rim) == pytest.approx(
    length(np.asarray(HEAD.template), coarse_rim), rel=1e-5
  )
  area = lambda v, f: np.linalg.norm(
    np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]]), axis=1
  )
  np.testing.assert_allclose(
    area(fine, np.asarray(dense.faces)).sum(),
    area(np.asarray(HEAD.template), np.asarray(HEAD.faces)).sum(),
    rtol=1e-5,
  )
  assert len(np.unique(dense.faces)) == len(dense.coarse_ids)


def test_uniform_refinement_quadruples_and_partial_refines_only_its_part():
  assert len(densify(HEAD, 2).faces) == 16 * len(HEAD.faces)
  part = densify(HEAD, 1, ('lips',))
  assert len(HEAD.faces) < len(part.faces) < 2 * len(HEAD.faces)
  np.testing.assert_array_equal(
    part.coarse_ids[: len(HEAD.template), 0], np.arange(len(HEAD.template))
  )


def test_without_offsets_the_dense_mesh_interpolates_the_posed_head_at_coarse_vertices():
  dense = densify(HEAD, 1)
  params = neutral_params(HEAD)
  params = params.replace(
    pose=params.pose.at[3].set(jnp.array([0.3, 0, 0])), shape=params.shape + 0.5
  )
  zero = jnp.zeros((len(dense.coarse_ids), 3))
  fine = dense_vertices(HEAD, dense, params, zero, zero)
  np.testing.assert_allclose(fine[: len(HEAD.template)], head_vertices(HEAD, params), atol=1e-6)


def test_offsets_add_at_rest_and_turn_with_the_head():
  dense = densify(HEAD, 1)
  zero = jnp.zeros((len(dense.coarse_ids), 3))
  offset = zero.at[:, 2].set(0.01)
  params = neutral_params(HEAD)
  plain = rest_vertices(HEAD, dense, params, zero, zero)
  np.testing.assert_allclose(
    rest_vertices(HEAD, dense, params, offset, -0.5 * offset) - plain, 0.5 * offset, atol=1e-7
  )
  turned = params.replace(pose=params.pose.at[0, 1].set(np.pi / 2))  # +z becomes +x
  moved = dense_vertices(HEAD, dense, turned, offset, zero) - dense_vertices(
    HEAD, dense, turned, zero, zero
  )
  np.testing.assert_allclose(moved, offset[:, [2, 0, 1]], atol=1e-6)


def test_laplacian_is_zero_on_constants_and_matches_a_loop():
  dense = densify(HEAD, 1)
  values = np.random.default_rng(0).normal(size=(len(dense.coarse_ids), 2)).astype(np.float32)
  found = laplacian(dense, jnp.asarray(values))
  around = collections.defaultdict(set)
  for a, b in uses_of_edges(dense.faces):
    around[a].add(b), around[b].add(a)
  expected = [np.mean([values[n] for n in around[i]], 0) - values[i] for i in range(len(values))]
  np.testing.assert_allclose(found, expected, atol=1e-5)
  np.testing.assert_allclose(laplacian(dense, jnp.ones_like(values)), 0, atol=1e-7)


def test_smooth_subdivision_keeps_planes_and_rounds_the_head():
  operator = smooth_operator(np.asarray(HEAD.faces), 1)
  np.testing.assert_allclose(operator.sum(1), 1, atol=1e-12)
  dense = densify(HEAD, 1)
  assert operator.shape == (len(dense.coarse_ids), len(HEAD.template))
  fine, flat = operator @ np.asarray(HEAD.template), np.asarray(lift(dense, HEAD.template))
  bend = lambda v: np.abs(np.asarray(laplacian(dense, jnp.asarray(v, jnp.float32)))).mean()
  assert bend(fine) < bend(flat)
  assert 0 < np.linalg.norm(fine - flat, axis=1).mean() < 0.003


@pytest.mark.parametrize('valence, share', [(3, 3 / 16), (4, 3 / 32)])
def test_smooth_subdivision_has_the_published_weights(valence, share):
  """A double pyramid over a regular polygon: its apices have that valence, all edges are inner."""
  ring = np.arange(valence)
  faces = np.concatenate(
    [
      np.stack([ring, np.roll(ring, -1), np.full(valence, valence)], 1),
      np.stack([np.roll(ring, -1), ring, np.full(valence, valence + 1)], 1),
    ]
  )
  rows = smooth_operator(faces, 1).toarray()
  apex = np.zeros(valence + 2)
  apex[ring], apex[valence] = share, 1 - valence * share
  np.testing.assert_allclose(rows[valence], apex, atol=1e-12)
  middle = np.zeros(valence + 2)  # of the edge between ring vertices 0 and 1
  middle[[0, 1]], middle[[valence, valence + 1]] = 3 / 8, 1 / 8
  assert (np.abs(rows - middle).max(1) < 1e-12).sum() == 1


def test_wrong_requests_are_refused():
  with pytest.raises(ValueError, match='levels'):
    densify(HEAD, 7)
  with pytest.raises(ValueError, match='antlers'):
    densify(HEAD, 1, ('antlers',))


@pytest.mark.long
def test_a_partly_refined_mesh_is_rounded_as_the_whole_one():
  """Vertices of both, found by their place: the same offset, by another row order; none on the
  coarse mesh."""
  whole, partly = densify(HEAD, 2), densify(HEAD, 2, ('face',))
  offset = lambda dense: rounding(HEAD, dense) @ np.asarray(HEAD.template, np.float64)
  place = [np.asarray(lift(dense, HEAD.template)) for dense in (whole, partly)]
  distance = np.linalg.norm(place[1][:, None] - place[0][None], axis=-1)
  assert distance.min(1).max() < 1e-7 and len(place[1]) < len(place[0])
  np.testing.assert_allclose(offset(partly), offset(whole)[distance.argmin(1)], atol=1e-7)
  assert np.abs(offset(whole)).max() > 1e-4
  assert not rounding(HEAD, densify(HEAD, 0)).nnz
