"""The written-out derivatives of the landmarks equal automatic ones, for heads with and without
pose correctives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.fitting.coarse.coarse_fit import FOCAL_PRIOR, make_camera
from exp_jax.fitting.coarse.elimination import eliminate
from exp_jax.fitting.coarse.landmark_jacobian import landmark_corners, landmark_points
from exp_jax.fitting.coarse.normal_jacobian import linearise_normals
from exp_jax.fitting.coarse.residuals import linearised
from exp_jax.fitting.coarse.unknowns import frame_arguments, pose_from_unknowns, pose_of, unpack
from exp_jax.fitting.landmark_head import landmark_head
from exp_jax.geometry import project
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import (
  canonical_vertices,
  head_landmarks,
  head_vertices,
  joint_transforms,
)

SIZE = (200, 300)


@pytest.fixture(scope='module', params=('without correctives', 'with correctives'))
def head(request):
  """The procedural head, 11 points on its face, expressions that move its joints."""
  head, rng = load_head('procedural'), np.random.default_rng(0)
  faces = rng.choice(len(head.faces), 11)
  shares = jnp.asarray(rng.dirichlet([1, 1, 1], 11), jnp.float32)
  basis = None
  if request.param == 'with correctives':
    basis = jnp.asarray(
      rng.normal(0, 0.01, (*head.template.shape, 9 * (len(head.parents) - 1))), jnp.float32
    )
  return head.replace(
    landmark_faces=jnp.asarray(faces),
    landmark_barycentric=shares,
    landmark_names=tuple(map(str, range(11))),
    pose_basis=basis,
    joint_expression=jnp.asarray(rng.normal(0, 0.01, head.joint_expression.shape), jnp.float32),
  )


def state(head, seed=1):
  rng = np.random.default_rng(seed)
  shared = np.append(rng.normal(0, 0.3, head.shape_basis.shape[-1]), 0.05)
  vector = np.concatenate(
    [
      rng.normal(0, 0.3, head.expression_basis.shape[-1]),
      rng.normal(0, 0.3, 13),
      [0.01, -0.03, -0.7],
    ]
  )
  return jnp.asarray(shared, jnp.float32), jnp.asarray(vector, jnp.float32)


def pixels(head, shared, vector):
  """[2, K] by way of the whole head."""
  unknowns = unpack(vector)
  params = HeadParams(
    shared[:-1], unknowns['expression'], pose_from_unknowns(head, unknowns), unknowns['translation']
  )
  camera = make_camera(FOCAL_PRIOR * SIZE[0] * jnp.exp(shared[-1]), SIZE)
  return project(head_landmarks(head, params), camera)[0].T


@pytest.mark.long
def test_points_and_derivatives_equal_automatic_ones(head):
  shared, vector = state(head)
  corners = landmark_corners(landmark_head(head))
  seen = jnp.full((2, 11), 7.0)
  found, by_shared, by_frame = jax.jit(functools.partial(linearised, camera_size=SIZE))(
    corners, shared, vector, seen
  )
  value = jax.jit(functools.partial(pixels, head))
  # pixels of some hundreds, summed in another order in float32
  np.testing.assert_allclose(found + 7, value(shared, vector), atol=1e-3)
  true = jax.jit(jax.jacfwd(value, argnums=(0, 1)))(shared, vector)
  for mine, other in zip((by_shared, by_frame), true):
    other = np.moveaxis(np.asarray(other), -1, 0)
    assert np.abs(other).max() > 10
    np.testing.assert_allclose(mine, other, atol=2e-6 * np.abs(other).max())


@pytest.mark.long
def test_normals_and_their_derivatives_equal_automatic_ones():
  """Of the triangles of the face, before the small change that blended rotations make to a normal's
  direction."""
  head = load_head('procedural')
  skin = np.flatnonzero(np.asarray(head.regions['face'])[np.asarray(head.faces)].min(1) > 0.5)
  chosen = skin[np.linspace(0, len(skin) - 1, min(300, len(skin))).round().astype(int)]
  triangles = landmark_corners(
    head.replace(
      landmark_faces=jnp.asarray(chosen), landmark_barycentric=jnp.full((len(chosen), 3), 1 / 3)
    )
  )
  shared, vector = state(head)

  def value(shared, vector):
    unknowns = unpack(vector)
    params = HeadParams(
      shared[:-1],
      unknowns['expression'],
      pose_from_unknowns(head, unknowns),
      unknowns['translation'],
    )
    rest = canonical_vertices(head, params)[head.faces[chosen]]  # [M, 3, 3]
    flat = jnp.cross(rest[:, 1] - rest[:, 0], rest[:, 2] - rest[:, 0])
    weights = head.weights[head.faces[chosen]].mean(1)
    turned = jnp.einsum('mj,jab,mb->ma', weights, joint_transforms(head, params)[:, :3, :3], flat)
    return (turned / jnp.linalg.norm(turned, axis=-1, keepdims=True)).T

  normals, by_shape, by_expression, by_motion = jax.jit(
    lambda s, v: linearise_normals(triangles, *frame_arguments(triangles, s, v))
  )(shared, vector)
  np.testing.assert_allclose(normals, value(shared, vector), atol=2e-6)
  by_shared, by_vector = jax.jit(jax.jacfwd(value, argnums=(0, 1)))(shared, vector)
  for mine, other in (
    (by_shape, by_shared[..., :-1]),
    (jnp.concatenate([by_expression, by_motion]), by_vector),
  ):
    other = np.moveaxis(np.asarray(other), -1, 0)
    # small triangles: a difference of neighbouring vertices over their distance costs digits
    np.testing.assert_allclose(mine, other, atol=1e-4 * np.abs(other).max())
  # and while the jaw and the eyes turn as they do in life, a triangle's normal is that of its posed
  # corners
  count = head.expression_basis.shape[-1]
  vector = jnp.concatenate([vector[:count], 0.3 * vector[count:]])
  normals = jax.jit(
    lambda s, v: linearise_normals(triangles, *frame_arguments(triangles, s, v))[0]
  )(shared, vector)
  posed = head_vertices(
    head, HeadParams(shared[:-1], vector[:count], pose_of(head, vector[count:])[0], jnp.zeros(3))
  )[head.faces[chosen]]
  true = np.cross(posed[:, 1] - posed[:, 0], posed[:, 2] - posed[:, 0])
  true /= np.linalg.norm(true, axis=-1, keepdims=True)
  assert np.degrees(np.arccos(np.clip((true * np.asarray(normals).T).sum(-1), -1, 1))).mean() < 1


@pytest.mark.long
def test_points_are_those_of_the_head(head):
  _, vector = state(head)
  rng = np.random.default_rng(2)
  params = HeadParams(
    jnp.asarray(rng.normal(0, 0.3, head.shape_basis.shape[-1]), jnp.float32),
    vector[: head.expression_basis.shape[-1]],
    jnp.asarray(rng.normal(0, 0.3, (len(head.parents), 3)), jnp.float32),
    jnp.array([0.1, 0.2, -0.5]),
  )
  np.testing.assert_allclose(
    landmark_points(landmark_corners(head), params).T, head_landmarks(head, params), atol=1e-6
  )


def test_elimination_solves_what_numpy_solves_at_very_unequal_scales():
  rng = np.random.default_rng(0)
  square = rng.normal(size=(2, 9, 30)) * np.logspace(-3, 3, 9)[:, None]
  matrix, right = square @ square.swapaxes(1, 2), rng.normal(size=(2, 9, 5))
  true = np.linalg.solve(matrix, right)
  found = eliminate(jnp.asarray(matrix, jnp.float32), jnp.asarray(right, jnp.float32))
  # float32, condition number of order ten once the scales are gone
  np.testing.assert_allclose(
    np.asarray(found) / np.abs(true).max(-1, keepdims=True),
    true / np.abs(true).max(-1, keepdims=True),
    atol=2e-5,
  )
