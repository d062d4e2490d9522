"""Registration against scipy, against search, and under reflections and weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util
from scipy.spatial.transform import Rotation

from exp_jax.geometry import nearest_rotation, rigid_motion, similarity

RNG = np.random.default_rng(0)
TURNS = Rotation.random(6, random_state=1).as_matrix().reshape(2, 3, 3, 3)
POINTS = RNG.normal(size=(2, 3, 7, 3))


def moved(points, rotation, scale, shift):
  return scale * np.einsum('...ij,...kj->...ki', rotation, points) + shift


def test_a_batch_of_similarities_is_recovered_whatever_has_no_weight():
  weights = RNG.uniform(0.1, 2.0, (2, 3, 7))
  weights[..., 2] = 0
  target = moved(POINTS, TURNS, 1.7, [1, 2, 3])
  target[..., 2, :] = 99
  scale, rotation, shift = similarity(POINTS, target, weights)
  assert isinstance(rotation, np.ndarray) and rotation.dtype == np.float64
  np.testing.assert_allclose(scale, np.full((2, 3), 1.7), atol=1e-12)
  np.testing.assert_allclose(rotation, TURNS, atol=1e-12)
  np.testing.assert_allclose(shift, np.broadcast_to([1, 2, 3], (2, 3, 3)), atol=1e-12)


def test_rotations_agree_with_scipy_under_noise_and_weights():
  weights = RNG.uniform(0.1, 2.0, 7)
  source, target = (
    POINTS[0, 0],
    moved(POINTS[0, 0], TURNS[0, 1], 1.0, 0) + RNG.normal(0, 0.3, (7, 3)),
  )
  rotation, shift = rigid_motion(source, target, weights)
  mean = lambda x: np.average(x, 0, weights)
  expected, _ = Rotation.align_vectors(target - mean(target), source - mean(source), weights)
  np.testing.assert_allclose(rotation, expected.as_matrix(), atol=1e-7)
  np.testing.assert_allclose(shift, mean(target) - expected.as_matrix() @ mean(source), atol=1e-7)
  np.testing.assert_allclose(similarity(source, target, weights)[1], rotation, atol=1e-12)


@pytest.mark.parametrize('dimensions', [2, 3])
@pytest.mark.parametrize('mirrored', [False, True])
def test_nothing_near_is_better_and_no_result_is_a_reflection(dimensions, mirrored):
  source = RNG.normal(size=(6, dimensions))
  target = 2.0 * source * [-1 if mirrored else 1, *[1] * (dimensions - 1)] + RNG.normal(
    0, 0.2, source.shape
  )
  weights = RNG.uniform(0.2, 1.0, 6)
  cost = lambda s, R, t: (weights[:, None] * (s * source @ R.T + t - target) ** 2).sum()
  scale, rotation, shift = similarity(source, target, weights)
  assert abs(np.linalg.det(rotation) - 1) < 1e-12
  best = cost(scale, rotation, shift)
  for _ in range(50):
    turn = np.eye(dimensions)
    a, b = RNG.permutation(dimensions)[:2]
    angle = RNG.normal(0, 0.03)
    turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    assert (
      cost(scale + RNG.normal(0, 0.03), turn @ rotation, shift + RNG.normal(0, 0.03, dimensions))
      >= best
    )


def test_numpy_and_jax_agree_and_vmap_equals_a_batch():
  target = moved(POINTS, TURNS, 0.6, [0.1, 0, 2]) + RNG.normal(0, 0.1, POINTS.shape)
  plain = similarity(POINTS, target)
  traced = jax.jit(similarity)(jnp.asarray(POINTS), jnp.asarray(target))
  mapped = jax.vmap(jax.vmap(similarity))(jnp.asarray(POINTS), jnp.asarray(target))
  for one, other, third in zip(plain, traced, mapped):
    assert isinstance(other, jax.Array)
    np.testing.assert_allclose(other, one, atol=3e-6)  # float32 against float64
    np.testing.assert_allclose(third, other, atol=1e-6)


def test_gradients_match_finite_differences():
  source, target = (
    jnp.asarray(x[0, 0], jnp.float32) for x in (POINTS, moved(POINTS, TURNS, 0.6, 0.5))
  )
  target = target + jnp.asarray(RNG.normal(0, 0.1, target.shape), jnp.float32)
  test_util.check_grads(
    lambda t: similarity(source, t), (target,), order=1, modes=('rev',), rtol=2e-2
  )


def test_points_at_one_place_have_no_scale():
  scale, rotation, shift = similarity(np.ones((4, 3)), np.full((4, 3), 5.0))
  np.testing.assert_allclose((scale, *(rotation @ np.ones(3) + shift)), (1, 5, 5, 5))


def test_the_nearest_rotation_of_a_scaled_one_is_itself_and_of_a_reflection_none():
  np.testing.assert_allclose(nearest_rotation(3 * TURNS), TURNS, atol=1e-12)
  np.testing.assert_allclose(nearest_rotation(jnp.asarray(TURNS)), TURNS, atol=2e-6)
  found = nearest_rotation(-TURNS + RNG.normal(0, 0.1, TURNS.shape))
  np.testing.assert_allclose(np.linalg.det(found), np.ones((2, 3)))
  noisy = TURNS[0, 0] + RNG.normal(0, 0.2, (3, 3))
  best = np.linalg.norm(nearest_rotation(noisy) - noisy)
  others = Rotation.from_rotvec(RNG.normal(0, 0.1, (200, 3))).as_matrix() @ nearest_rotation(noisy)
  assert (np.linalg.norm(others - noisy, axis=(1, 2)) >= best).all()


def test_shapes_must_agree():
  with pytest.raises(ValueError, match='must both be'):
    similarity(POINTS, POINTS[..., :2])
  with pytest.raises(ValueError, match='one for each of the 7'):
    rigid_motion(POINTS, POINTS, np.ones(6))
