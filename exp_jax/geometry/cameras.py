"""Pinhole cameras. Right-handed world, the camera looks along +z, x right, image y down (OpenCV).

Pixels: the top-left pixel covers [0, 1) x [0, 1), so its centre is (0.5, 0.5); row 0 is the top
row. Clip coordinates: x/w in [-1, 1] runs from the left to the right border, y/w in [-1, 1] from
the TOP to the bottom border (y keeps pointing down), w is the depth in metres and z = w - near, so
that z >= 0 is in front of the near plane and z/w = 1 - near/w lies in [0, 1). There is no far
plane.

Source: Hartley & Zisserman, Multiple View Geometry, 2nd ed., ch. 6.
"""

import flax.struct
import jax
import jax.numpy as jnp

_MIN_DEPTH = 1e-4  # metres; nearer points are clamped so that gradients stay finite
NEAR = 1e-2  # metres; no part of a head comes nearer to a camera


@flax.struct.dataclass
class Camera:
  """World-to-camera pose and intrinsics; a pytree, so it can be vmapped."""

  rotation: jax.Array  # [..., 3, 3]  world to camera
  translation: jax.Array  # [..., 3]     metres
  focal: jax.Array  # [..., 2]     pixels
  center: jax.Array  # [..., 2]     pixels
  image_size: tuple[int, int] = flax.struct.field(pytree_node=False)  # (height, width)


def perspective_camera(
  image_size: tuple[int, int],
  *,
  field_of_view: float,
  distance: float = 0.0,
) -> Camera:
  """A camera on the world's -z axis that looks along +z at the origin.

  Args:
    image_size: (height, width) pixels.
    field_of_view: vertical, radians, in (0, pi).
    distance: metres from the camera to the world's origin.

  Returns:
    An unbatched Camera with square pixels and a centred principal point.

  Raises:
    ValueError: if field_of_view is outside (0, pi).
  """
  if not 0 < field_of_view < jnp.pi:
    raise ValueError(f'field_of_view must lie in (0, pi) radians, got {field_of_view}')
  height, width = image_size
  focal = height / 2 / jnp.tan(field_of_view / 2)
  return Camera(
    rotation=jnp.eye(3),
    translation=jnp.array([0.0, 0.0, distance]),
    focal=jnp.array([focal, focal], jnp.float32),
    center=jnp.array([width / 2, height / 2]),
    image_size=(height, width),
  )


def to_camera(points: jax.Array, camera: Camera) -> jax.Array:
  """World points [..., N, 3] to camera coordinates [..., N, 3], metres.

  Raises:
    ValueError: if the last axis of `points` is not 3.
  """
  if points.shape[-1] != 3:
    raise ValueError(f'points must end in 3 coordinates, got {points.shape}')
  rotated = jnp.einsum('...ij,...nj->...ni', camera.rotation, points)
  return rotated + camera.translation[..., None, :]


def project(points: jax.Array, camera: Camera) -> tuple[jax.Array, jax.Array]:
  """Projects world points to the image.

  Args:
    points: [..., N, 3] world positions, metres.
    camera: leading axes must broadcast against those of `points`.

  Returns:
    pixels: [..., N, 2] (x, y); the top-left pixel has its centre at (0.5, 0.5).
    depth: [..., N] distance along the optical axis, metres.

  Raises:
    ValueError: if the last axis of `points` is not 3.
  """
  in_camera = to_camera(points, camera)
  depth = in_camera[..., 2]
  pixels = in_camera[..., :2] / jnp.maximum(depth, _MIN_DEPTH)[..., None]
  return pixels * camera.focal[..., None, :] + camera.center[..., None, :], depth


def unproject(pixels: jax.Array, depth: jax.Array, camera: Camera) -> jax.Array:
  """The inverse of `project`: pixels [..., N, 2] and depth [..., N] (metres) to world [..., N,
  3].
  """
  rays = (pixels - camera.center[..., None, :]) / camera.focal[..., None, :]
  in_camera = jnp.concatenate([rays * depth[..., None], depth[..., None]], -1)
  in_camera = in_camera - camera.translation[..., None, :]
  return jnp.einsum('...ji,...nj->...ni', camera.rotation, in_camera)


def clip_coordinates(vertices: jax.Array, camera: Camera, *, near: float = NEAR) -> jax.Array:
  """Homogeneous coordinates for the rasterizer; see the top of this file for their convention.

  Polynomial in the vertices: finite, with finite gradients, also behind the camera.

  Args:
    vertices: [..., V, 3] world positions, metres.
    camera: leading axes must broadcast against those of `vertices`.
    near: metres; z = w - near.

  Returns:
    [..., V, 4] (x, y, z, w); pixels are ((x/w + 1) * width / 2, (y/w + 1) * height / 2).

  Raises:
    ValueError: if the last axis of `vertices` is not 3.
  """
  in_camera = to_camera(vertices, camera)
  depth = in_camera[..., 2:]
  half = jnp.array(camera.image_size[::-1], in_camera.dtype) / 2  # [2] (x, y)
  scale = (camera.focal / half)[..., None, :]
  shift = (camera.center / half - 1)[..., None, :]
  xy = in_camera[..., :2] * scale + depth * shift
  return jnp.concatenate([xy, depth - near, depth], axis=-1)
