"""Preview pictures of a mesh from a turning camera: normals, depth, mask, shading, wireframe."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.geometry import Camera, clip_coordinates, look_at
from exp_jax.rendering.interpolate import interpolate
from exp_jax.rendering.rasterize import rasterize
from exp_jax.rendering.shading import (
  encode_normals,
  frontal_light,
  shaded_image,
  surface_maps,
  wireframe,
)
from exp_jax.rendering.topology import Topology

VIEWS = ('shaded', 'normals', 'depth', 'wireframe', 'mask')
_CLAY = (0.83, 0.75, 0.69)
_FIELD_OF_VIEW = np.radians(20.0)  # as of a portrait lens


def orbit_camera(
  yaw: jax.Array, center: jax.Array, radius: jax.Array, image_size: tuple[int, int]
) -> Camera:
  """A camera that circles a mesh and sees the whole of its bounding sphere.

  Args:
    yaw: [] radians about the world's y; 0 looks along -z, at the face of a head.
    center: [3] of the bounding sphere, metres.
    radius: [] metres.
    image_size: (height, width) pixels.
  """
  height, width = image_size
  distance = 1.05 * radius / jnp.sin(_FIELD_OF_VIEW / 2)
  focal = min(height, width) / 2 / jnp.tan(_FIELD_OF_VIEW / 2)
  eye = center + distance * jnp.stack([jnp.sin(yaw), jnp.zeros_like(yaw), jnp.cos(yaw)])
  rotation, translation = look_at(eye, center, jnp.array([0.0, 1.0, 0.0]))
  return Camera(
    rotation=rotation,
    translation=translation,
    focal=jnp.stack([focal, focal]),
    center=jnp.array([width / 2, height / 2]),
    image_size=image_size,
  )


@functools.partial(jax.jit, static_argnames='image_size')
def views(
  vertices: jax.Array, topology: Topology, yaw: jax.Array, image_size: tuple[int, int]
) -> dict[str, jax.Array]:
  """The pictures named in VIEWS, each [H, W, 3] in [0, 1], of world vertices [V, 3] (metres).

  Depth is white at the nearest and dark grey at the farthest point of the bounding sphere.
  """
  low, high = vertices.min(0), vertices.max(0)
  center, radius = (low + high) / 2, jnp.linalg.norm(high - low) / 2
  camera = orbit_camera(jnp.asarray(yaw, jnp.float32), center, radius, image_size)
  maps = surface_maps(vertices, camera, topology)
  clay = jnp.broadcast_to(jnp.array(_CLAY), vertices.shape)
  shaded = shaded_image(vertices, clay, camera, topology, frontal_light(), jnp.ones(3))
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, topology, image_size)
  lines = wireframe(clip, topology, fragments)
  nearest = jnp.linalg.norm(camera.translation) - radius
  depth = interpolate(clip[:, 3:], clip, topology, fragments, background=jnp.inf)
  closeness = jnp.clip(1 - 0.85 * (depth - nearest) / (2 * radius), 0.0, 1.0)
  grey = lambda x: jnp.repeat(x, 3, -1)
  return {
    'shaded': shaded,
    'normals': encode_normals(maps['normal'], maps['mask']),
    'depth': grey(closeness * (fragments.face_id[..., None] >= 0)),
    'wireframe': shaded * (1 - 0.8 * lines),
    'mask': grey(maps['mask']),
  }
