import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from exp_jax.geometry import Camera, clip_coordinates, perspective_camera, project, unproject

CAMERA = Camera(
  rotation=jnp.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]]),
  translation=jnp.array([0.1, 0.2, 2.0]),
  focal=jnp.array([300.0, 280.0]),
  center=jnp.array([31.0, 22.0]),
  image_size=(40, 70),
)
POINTS = jnp.asarray(np.random.default_rng(0).uniform(-0.3, 0.3, (5, 3)), jnp.float32)


def test_projection_matches_the_textbook():
  """K (R X + t) in float64."""
  intrinsics = np.array([[300, 0, 31], [0, 280, 22], [0, 0, 1.0]])
  homogeneous = (
    intrinsics
    @ (
      np.asarray(CAMERA.rotation, float) @ np.asarray(POINTS, float).T
      + np.asarray(CAMERA.translation, float)[:, None]
    )
  ).T
  pixels, depth = project(POINTS, CAMERA)
  np.testing.assert_allclose(pixels, homogeneous[:, :2] / homogeneous[:, 2:], rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(depth, homogeneous[:, 2], rtol=1e-6)


def test_clip_coordinates_land_on_the_projected_pixels():
  pixels, depth = project(POINTS, CAMERA)
  clip = clip_coordinates(POINTS, CAMERA, near=0.25)
  np.testing.assert_allclose(
    (clip[:, :2] / clip[:, 3:] + 1) * np.array([35.0, 20.0]), pixels, atol=1e-4
  )
  np.testing.assert_allclose(clip[:, 3], depth, rtol=1e-6)
  np.testing.assert_allclose(clip[:, 2], depth - 0.25, rtol=1e-6)


def test_a_point_on_the_axis_is_the_image_centre():
  camera = perspective_camera((40, 70), field_of_view=0.5, distance=2.0)
  pixels, depth = project(jnp.zeros((1, 3)), camera)
  np.testing.assert_allclose(pixels, [[35.0, 20.0]])
  edge, _ = project(jnp.array([[0.0, 2.0 * np.tan(0.25), 0.0]]), camera)
  np.testing.assert_allclose(edge, [[35.0, 40.0]], atol=1e-4)  # y down: the bottom border
  np.testing.assert_allclose(depth, [2.0])


def test_unprojection_is_the_inverse():
  np.testing.assert_allclose(unproject(*project(POINTS, CAMERA), CAMERA), POINTS, atol=1e-6)


def test_cameras_batch_and_vmap():
  cameras = jax.tree.map(lambda x: jnp.stack([x, x * 1.01, x * 0.99]), CAMERA)
  together = clip_coordinates(POINTS, cameras)
  mapped = jax.vmap(clip_coordinates, (None, 0))(POINTS, cameras)
  assert together.shape == (3, 5, 4)
  np.testing.assert_allclose(together, mapped, atol=1e-6)


def test_projection_derivative_matches_finite_differences():
  test_util.check_grads(
    lambda p: project(p, CAMERA)[0], (POINTS,), order=1, modes=('rev',), rtol=1e-2
  )


def test_points_at_the_camera_keep_gradients_finite():
  at_camera = -jnp.linalg.inv(CAMERA.rotation) @ CAMERA.translation
  for function in (
    lambda p: project(p, CAMERA)[0].sum(),
    lambda p: clip_coordinates(p, CAMERA).sum(),
  ):
    assert jnp.isfinite(jax.grad(function)(at_camera[None])).all()


def test_shapes_are_checked():
  with pytest.raises(ValueError, match=r'\(5, 2\)'):
    project(POINTS[:, :2], CAMERA)
  with pytest.raises(ValueError, match='field_of_view'):
    perspective_camera((4, 4), field_of_view=4.0)
