import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.transform as oracle
from jax.test_util import check_grads

from exp_jax.geometry import (
  axis_angle_from_rotation,
  compose,
  look_at,
  rotation_from_axis_angle,
)

VECTORS = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)


@pytest.mark.parametrize('size', [0.0, 1e-7, 5e-3, 9e-3, 1.1e-2, 0.5, 1.8])
def test_exponential_and_logarithm_match_scipy(size):
  vectors = VECTORS / np.linalg.norm(VECTORS, axis=-1, keepdims=True) * size
  rotation = rotation_from_axis_angle(vectors)
  expected = oracle.Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(2, 5, 3, 3)
  np.testing.assert_allclose(rotation, expected, atol=1e-6)
  np.testing.assert_allclose(axis_angle_from_rotation(rotation), vectors, atol=2e-6)


@pytest.mark.parametrize('angle', [2.8, 3.1, 3.1415])
def test_logarithm_near_half_turns(angle):
  vectors = VECTORS / np.linalg.norm(VECTORS, axis=-1, keepdims=True) * angle
  again = rotation_from_axis_angle(axis_angle_from_rotation(rotation_from_axis_angle(vectors)))
  np.testing.assert_allclose(again, rotation_from_axis_angle(vectors), atol=2e-6)


@pytest.mark.long
@pytest.mark.parametrize('at', [np.zeros(3), np.array([1e-9, 0, 0]), np.array([0.3, -0.2, 1.0])])
def test_derivatives_are_finite_and_right(at):
  at = jnp.asarray(at, jnp.float32)
  check_grads(rotation_from_axis_angle, (at,), order=1, modes=('rev',), rtol=1e-2, atol=1e-2)
  there_and_back = jax.jacobian(lambda v: axis_angle_from_rotation(rotation_from_axis_angle(v)))(at)
  np.testing.assert_allclose(there_and_back, np.eye(3), atol=1e-4)  # float32 through a square root


def test_composition_applies_the_first_first():
  first, second = VECTORS
  found = rotation_from_axis_angle(compose(first, second))
  one, two = (oracle.Rotation.from_rotvec(v) for v in (first, second))
  np.testing.assert_allclose(found, (two * one).as_matrix(), atol=2e-6)


def test_look_at_puts_the_target_on_the_axis_and_up_upwards():
  eye, target, up = (
    jnp.array([0.3, 1.0, -2.0]),
    jnp.array([0.1, -0.2, 0.5]),
    jnp.array([0.0, 1.0, 0.0]),
  )
  rotation, translation = look_at(eye, target, up)
  np.testing.assert_allclose(rotation @ eye + translation, np.zeros(3), atol=1e-6)
  distance = float(jnp.linalg.norm(target - eye))
  np.testing.assert_allclose(rotation @ target + translation, [0, 0, distance], atol=1e-6)
  assert (rotation @ up)[1] < 0  # image y points down
  np.testing.assert_allclose(jnp.linalg.det(rotation), 1.0, atol=1e-6)
