"""Preview pictures of a mesh from a turning camera: normals, depth, mask, shading, wireframe."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.geometry import Camera, clip_coordinates, look_at
from exp_jax.rendering.antialias import antialias
from exp_jax.rendering.interpolate import interpolate
from exp_jax.rendering.rasterize import rasterize
from exp_jax.rendering.shading import (
  camera_normals,
  encode_normals,
  frontal_light,
  mask_map,
  shade_harmonics,
  unit,
  wireframe,
)
from exp_jax.rendering.topology import Topology

VIEWS = ('shaded', 'normals', 'depth', 'wireframe', 'mask')
_CLAY = (0.83, 0.75, 0.69)
_FIELD_OF_VIEW = np.radians(20.0)  # as of a portrait lens


def orbit_camera(yaw: jax.Array, vertices: jax.Array, image_size: tuple[int, int]) -> Camera:
  """A camera that circles a mesh and sees the whole of it, close by, from every side.

  Args:
    yaw: [] radians about the world's y; 0 looks along -z, at the face of a head.
    vertices: [V, 3] metres.
    image_size: (height, width) pixels.
  """
  height, width = image_size
  low, high = vertices.min(0), vertices.max(0)
  center = (low + high) / 2
  around = jnp.linalg.norm((vertices - center)[:, ::2], axis=-1).max()  # radius of the turn
  half = _FIELD_OF_VIEW / 2  # of the shorter side
  across, up = (jnp.tan(half) * side / min(height, width) for side in (width, height))
  # The nearest point of the cylinder about the turn must fit both ways.
  distance = jnp.maximum(around / across, (high - low)[1] / 2 / up) + around
  focal = min(height, width) / 2 / jnp.tan(half)
  eye = center + 1.03 * distance * jnp.stack([jnp.sin(yaw), jnp.zeros_like(yaw), jnp.cos(yaw)])
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

  Depth is white at the nearest and dark grey at the farthest vertex; shading lights the inside of
  an open mesh as its outside.
  """
  camera = orbit_camera(jnp.asarray(yaw, jnp.float32), vertices, image_size)
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, topology, image_size)
  normals = camera_normals(vertices, topology.faces, camera)
  surface = interpolate(jnp.concatenate([normals, clip[:, 3:]], -1), clip, topology, fragments)
  normal, depth, mask = unit(surface[..., :3]), surface[..., 3:], mask_map(fragments)
  towards_viewer = jnp.where(_seen_from_behind(clip, topology, fragments), -normal, normal)
  shade = jnp.maximum(shade_harmonics(towards_viewer, frontal_light()), 0.0)
  lit = jnp.where(mask > 0, jnp.clip(jnp.array(_CLAY) * shade, 0.0, 1.0), 1.0)
  image = antialias(jnp.concatenate([lit, normal, mask], -1), clip, topology, fragments)
  shaded, normal, soft = image[..., :3], image[..., 3:6], image[..., 6:]
  lines = wireframe(clip, topology, fragments)
  nearest, farthest = clip[:, 3].min(), clip[:, 3].max()
  closeness = jnp.clip(1 - 0.85 * (depth - nearest) / (farthest - nearest), 0.0, 1.0)
  closeness = closeness * soft
  grey = lambda x: jnp.repeat(x, 3, -1)
  return {
    'shaded': shaded,
    'normals': encode_normals(normal, soft),
    'depth': grey(closeness),
    'wireframe': shaded * (1 - 0.8 * lines),
    'mask': grey(soft),
  }


def _seen_from_behind(clip, topology, fragments):
  """[H, W, 1] bool: whether the visible face turns its back."""
  xy = (clip[:, :2] / clip[:, 3:])[topology.faces[jnp.maximum(fragments.face_id, 0)]]
  a, b = xy[..., 1, :] - xy[..., 0, :], xy[..., 2, :] - xy[..., 0, :]
  return (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0] > 0)[..., None]
