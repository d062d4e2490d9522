"""Perspective, orthographic and weak-perspective cameras.

Right-handed world, the camera looks along +z, x right, image y down (OpenCV).

  perspective:    pixel = focal * (x, y) / z + center        focal in pixels
  orthographic:   pixel = focal * (x, y) + center            focal in pixels per metre

Weak perspective is an orthographic camera whose scale stands for focal length over mean depth.

Pixels: the top-left pixel covers [0, 1) x [0, 1), so its centre is (0.5, 0.5); row 0 is the top
row. Clip coordinates: x/w in [-1, 1] runs from the left to the right border, y/w in [-1, 1] from
the TOP to the bottom border (y keeps pointing down). There is no far plane.

  perspective:    w is the depth in metres and z = w - near, so that z >= 0 is in front of the near
                  plane and z/w = 1 - near/w lies in [0, 1).
  orthographic:   w = 1 and z is the depth in metres, of either sign: there is no near plane, and
                  nothing lies behind the camera. The rasterizer compares z where all w are equal.

Source: Hartley & Zisserman, Multiple View Geometry, 2nd ed., ch. 6.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

_MIN_DEPTH = 1e-4  # metres; nearer points are clamped so that gradients stay finite
NEAR = 1e-2  # metres; no part of a head comes nearer to a camera
MODELS = ('perspective', 'orthographic')

#: The frame of a head (x to its left, y up, z out of the face) turned into that of a camera in front
#: of it (x right, y down, z forward), and back: the matrix is its own inverse. Float32, exact.
HEAD_TO_CAMERA = np.diag([1.0, -1.0, -1.0]).astype(np.float32)


@flax.struct.dataclass
class Camera:
  """World-to-camera pose and intrinsics; a pytree, so it can be vmapped."""

  rotation: jax.Array  # [..., 3, 3]  world to camera
  translation: jax.Array  # [..., 3]     metres
  focal: jax.Array  # [..., 2]     pixels; pixels per metre of an orthographic camera
  center: jax.Array  # [..., 2]     pixels
  image_size: tuple[int, int] = flax.struct.field(pytree_node=False)  # (height, width)
  model: str = flax.struct.field(pytree_node=False, default='perspective')  # one of MODELS


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


def orthographic_camera(
  image_size: tuple[int, int],
  *,
  view_height: float,
  distance: float = 0.0,
) -> Camera:
  """A parallel projection along the world's +z axis, centred on that axis.

  Args:
    image_size: (height, width) pixels.
    view_height: metres of the world from the top to the bottom border, positive.
    distance: metres from the camera to the world's origin; it shifts the depth alone.

  Returns:
    An unbatched Camera with square pixels.

  Raises:
    ValueError: if view_height is not positive.
  """
  if not view_height > 0:
    raise ValueError(f'view_height must be positive metres, got {view_height}')
  height, width = image_size
  return Camera(
    rotation=jnp.eye(3),
    translation=jnp.array([0.0, 0.0, distance]),
    focal=jnp.full(2, height / view_height, jnp.float32),
    center=jnp.array([width / 2, height / 2]),
    image_size=(height, width),
    model='orthographic',
  )


def weak_perspective_camera(parameters: jax.Array, image_size: tuple[int, int]) -> Camera:
  """The camera of DECA, EMOCA and SMIRK: (scale, tx, ty) -> an orthographic camera in pixels.

  A head's vertex (x, y, z), y up and z out of the face, is seen at

    (scale * (x + tx), scale * (y + ty))

  in image coordinates that run from -1 to 1, x to the right and y UP, whatever the sides of the
  image. It is nearer the larger z is; depth = -z, in metres (those projects scale it as well, which
  changes no order).

  Args:
    parameters: [..., 3] (scale, tx, ty): scale in half images per metre, tx and ty in metres.
    image_size: (height, width) pixels.

  Returns:
    A Camera [...] whose world is the frame of the head.

  Raises:
    ValueError: if the last axis of `parameters` is not 3.

  Source: Feng et al., Learning an Animatable Detailed 3D Face Model from In-The-Wild Images (DECA),
  2021, section 3, and its published code (`batch_orth_proj`, followed by a change of the sign of y
  and z); the same in Retsinas et al., SMIRK, 2024.
  """
  parameters = jnp.asarray(parameters)
  if parameters.shape[-1:] != (3,):
    raise ValueError(f'parameters must end in (scale, tx, ty), got {parameters.shape}')
  parameters = parameters.astype(jnp.promote_types(parameters.dtype, jnp.float32))
  height, width = image_size
  half = jnp.array([width, height]) / 2
  scale, shift = parameters[..., :1], parameters[..., 1:]
  to_head_camera = jnp.asarray(HEAD_TO_CAMERA, parameters.dtype)
  shift = jnp.concatenate([shift, jnp.zeros_like(scale)], -1)
  lead = parameters.shape[:-1]
  return Camera(
    rotation=jnp.broadcast_to(to_head_camera, (*lead, 3, 3)),
    translation=shift @ to_head_camera,
    focal=scale * half,
    center=jnp.broadcast_to(half, (*lead, 2)),
    image_size=(height, width),
    model='orthographic',
  )


def _is_perspective(camera: Camera) -> bool:
  if camera.model not in MODELS:
    raise ValueError(f'camera.model must be one of {MODELS}, got {camera.model!r}')
  return camera.model == 'perspective'


def to_camera(points: jax.Array, camera: Camera) -> jax.Array:
  """World points [..., N, 3] to camera coordinates [..., N, 3], metres.

  Raises:
    ValueError: if the last axis of `points` is not 3.
  """
  if points.shape[-1] != 3:
    raise ValueError(f'points must end in 3 coordinates, got {points.shape}')
  rotated = jnp.einsum('...ij,...nj->...ni', camera.rotation, points)
  return rotated + camera.translation[..., None, :]


@functools.partial(jax.jit, inline=True)  # one program where it is called by itself
def project(points: jax.Array, camera: Camera) -> tuple[jax.Array, jax.Array]:
  """Projects world points to the image.

  Args:
    points: [..., N, 3] world positions, metres.
    camera: leading axes must broadcast against those of `points`.

  Returns:
    pixels: [..., N, 2] (x, y); the top-left pixel has its centre at (0.5, 0.5).
    depth: [..., N] distance along the optical axis, metres.

  Raises:
    ValueError: if the last axis of `points` is not 3, or for an unknown camera model.
  """
  in_camera = to_camera(points, camera)
  depth, pixels = in_camera[..., 2], in_camera[..., :2]
  if _is_perspective(camera):
    pixels = pixels / jnp.maximum(depth, _MIN_DEPTH)[..., None]
  return pixels * camera.focal[..., None, :] + camera.center[..., None, :], depth


def clip_coordinates(vertices: jax.Array, camera: Camera, *, near: float = NEAR) -> jax.Array:
  """Homogeneous coordinates for the rasterizer; see the top of this file for their convention.

  Polynomial in the vertices: finite, with finite gradients, also behind the camera.

  Args:
    vertices: [..., V, 3] world positions, metres.
    camera: leading axes must broadcast against those of `vertices`.
    near: metres; z = w - near. An orthographic camera has no near plane.

  Returns:
    [..., V, 4] (x, y, z, w); pixels are ((x/w + 1) * width / 2, (y/w + 1) * height / 2).

  Raises:
    ValueError: if the last axis of `vertices` is not 3, or for an unknown camera model.
  """
  in_camera = to_camera(vertices, camera)
  depth = in_camera[..., 2:]
  half = jnp.array(camera.image_size[::-1], in_camera.dtype) / 2  # [2] (x, y)
  scale = (camera.focal / half)[..., None, :]
  shift = (camera.center / half - 1)[..., None, :]
  if not _is_perspective(camera):
    xy = in_camera[..., :2] * scale + shift
    return jnp.concatenate([xy, depth, jnp.ones_like(depth)], axis=-1)
  xy = in_camera[..., :2] * scale + depth * shift
  return jnp.concatenate([xy, depth - near, depth], axis=-1)


def depth_in_clip(clip: jax.Array, camera: Camera) -> jax.Array:
  """[..., V, 1] metres along the optical axis, from what `clip_coordinates` made of the
  vertices."""
  return clip[..., 3:] if _is_perspective(camera) else clip[..., 2:3]
