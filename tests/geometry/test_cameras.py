import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from exp_jax.geometry import (
  HEAD_TO_CAMERA,
  Camera,
  clip_coordinates,
  depth_in_clip,
  orthographic_camera,
  perspective_camera,
  project,
  weak_perspective_camera,
)

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


def test_parallel_projection_matches_the_textbook():
  """An affine map of the world, in float64; w is one, z the depth, and the pixels are those of
  `project`."""
  camera = CAMERA.replace(model='orthographic')
  turned = np.asarray(POINTS, float) @ np.asarray(CAMERA.rotation, float).T + np.asarray(
    CAMERA.translation, float
  )
  pixels, depth = project(POINTS, camera)
  np.testing.assert_allclose(pixels, turned[:, :2] * [300, 280] + [31, 22], rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(depth, turned[:, 2], rtol=1e-6)
  clip = clip_coordinates(POINTS, camera)
  np.testing.assert_allclose((clip[:, :2] + 1) * np.array([35.0, 20.0]), pixels, atol=1e-4)
  np.testing.assert_array_equal(clip[:, 3], 1)
  np.testing.assert_array_equal(depth_in_clip(clip, camera)[:, 0], depth)
  np.testing.assert_array_equal(
    depth_in_clip(clip_coordinates(POINTS, CAMERA), CAMERA)[:, 0], depth
  )


def test_a_distant_camera_of_long_focal_length_is_nearly_orthographic():
  """Perspective from d metres with focal f against f / d pixels per metre: off by a share of extent
  / d."""
  parallel = orthographic_camera((40, 70), view_height=0.5, distance=3.0)
  far = perspective_camera((40, 70), field_of_view=2 * np.arctan(0.25 / 1000), distance=1000.0)
  seen, depth = project(POINTS, parallel)
  np.testing.assert_allclose(seen, project(POINTS, far)[0], atol=0.03)  # 0.3 m of 1000, 100 pixels
  np.testing.assert_allclose(depth, POINTS[:, 2] + 3.0, rtol=1e-6)
  top = project(jnp.array([[0.0, -0.25, 0.7]]), parallel)[0]
  np.testing.assert_allclose(top, [[35.0, 0.0]], atol=1e-5)


def test_weak_perspective_is_that_of_deca():
  """s (x + tx), s (y + ty) in -1..1 with y up, written out by hand: three frames of unlike cameras
  at once."""
  parameters = np.array([[8.0, 0.01, -0.02], [5.0, 0.0, 0.1], [11.0, -0.03, 0.04]], np.float32)
  camera = weak_perspective_camera(parameters, (40, 70))
  pixels, depth = project(POINTS, camera)
  for (scale, tx, ty), found, away in zip(parameters.astype(float), pixels, depth):
    x, y, z = np.asarray(POINTS, float).T
    normalised = np.stack([scale * (x + tx), -scale * (y + ty)], -1)  # y down
    np.testing.assert_allclose(found, (normalised + 1) * [35, 20], atol=1e-4)
    np.testing.assert_allclose(away, -z, rtol=1e-6)
  one = weak_perspective_camera(parameters[1], (40, 70))
  np.testing.assert_allclose(
    clip_coordinates(POINTS, camera)[1], clip_coordinates(POINTS, one), atol=1e-6
  )
  np.testing.assert_allclose(
    project(jnp.array([[0.0, -0.1, 0.0]]), one)[0], [[35.0, 20.0]], atol=1e-4
  )
  with pytest.raises(ValueError, match='scale, tx, ty'):
    weak_perspective_camera(parameters[:, :2], (40, 70))


def test_the_head_frame_turns_about_x_and_back():
  np.testing.assert_array_equal(HEAD_TO_CAMERA @ HEAD_TO_CAMERA, np.eye(3))
  np.testing.assert_array_equal(HEAD_TO_CAMERA @ [1.0, 2.0, 3.0], [1, -2, -3])


def test_cameras_batch_and_vmap():
  cameras = jax.tree.map(lambda x: jnp.stack([x, x * 1.01, x * 0.99]), CAMERA)
  together = clip_coordinates(POINTS, cameras)
  mapped = jax.vmap(clip_coordinates, (None, 0))(POINTS, cameras)
  assert together.shape == (3, 5, 4)
  np.testing.assert_allclose(together, mapped, atol=1e-6)


@pytest.mark.parametrize('model', ['perspective', 'orthographic'])
def test_projection_derivative_matches_finite_differences(model):
  camera = CAMERA.replace(model=model)
  test_util.check_grads(
    lambda p: project(p, camera)[0], (POINTS,), order=1, modes=('rev',), rtol=1e-2
  )


def test_weak_perspective_derivative_matches_finite_differences():
  test_util.check_grads(
    lambda c: project(POINTS, weak_perspective_camera(c, (40, 70)))[0],
    (jnp.array([2.0, 0.1, -0.2]),),
    order=1,
    modes=('rev',),
    rtol=1e-2,
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
  with pytest.raises(ValueError, match='view_height'):
    orthographic_camera((4, 4), view_height=0.0)
  with pytest.raises(ValueError, match='fisheye'):
    project(POINTS, CAMERA.replace(model='fisheye'))
