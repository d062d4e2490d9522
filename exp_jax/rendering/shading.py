"""From fragments to pictures: normal, depth and mask maps, control maps, and simple lights.

Camera coordinates are OpenCV's (x right, y down, z forward). An *encoded* normal map turns them to x right,
y up, z towards the viewer and maps [-1, 1] to [0, 1], so that a frontal face is bluish purple
(0.5, 0.5, 1); its background is 0.
"""

import jax
import jax.numpy as jnp

from exp_jax.geometry.cameras import Camera, clip_coordinates
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.rendering.antialias import antialias
from exp_jax.rendering.interpolate import interpolate
from exp_jax.rendering.rasterize import Fragments, rasterize
from exp_jax.rendering.topology import Topology


def camera_normals(vertices: jax.Array, faces: jax.Array, camera: Camera) -> jax.Array:
  """Unit vertex normals [V, 3] in camera coordinates, of world vertices [V, 3] (metres)."""
  return jnp.einsum('ij,vj->vi', camera.rotation, vertex_normals(vertices, faces))


def unit(vectors: jax.Array) -> jax.Array:
  """Vectors [..., 3] of length one; zero, with zero gradient, where they are (nearly) zero."""
  square = jnp.sum(vectors**2, -1, keepdims=True)
  usable = square > 1e-20
  return jnp.where(usable, vectors / jnp.sqrt(jnp.where(usable, square, 1.0)), 0.0)


def mask_map(fragments: Fragments) -> jax.Array:
  """[H, W, 1] float, 1 where a surface is seen. Gradients come with `antialias`."""
  return (fragments.face_id >= 0).astype(jnp.float32)[..., None]


def surface_maps(
  vertices: jax.Array, camera: Camera, topology: Topology, *, background_depth: float = 0.0
) -> dict[str, jax.Array]:
  """Antialiased normal, depth and mask maps; differentiable in `vertices` and `camera`.

  Args:
    vertices: [V, 3] world positions, metres.
    camera: unbatched.
    topology: the faces.
    background_depth: metres, the depth of empty pixels.

  Returns:
    'normal': [H, W, 3] in camera coordinates, unit length inside, 0 in the background.
    'depth': [H, W, 1] metres.
    'mask': [H, W, 1] coverage in [0, 1].
  """
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, topology, camera.image_size)
  normals = camera_normals(vertices, topology.faces, camera)
  attributes = jnp.concatenate([normals, clip[:, 3:]], -1)
  surface = interpolate(attributes, clip, topology, fragments)
  mask = mask_map(fragments)
  depth = jnp.where(mask > 0, surface[..., 3:], background_depth)
  image = jnp.concatenate([unit(surface[..., :3]), depth, mask], -1)
  image = antialias(image, clip, topology, fragments)
  return {'normal': image[..., :3], 'depth': image[..., 3:4], 'mask': image[..., 4:]}


def encode_normals(normal: jax.Array, mask: jax.Array) -> jax.Array:
  """Camera-space normal map [..., H, W, 3] and mask [..., H, W, 1] to colours in [0, 1], background 0."""
  towards_viewer = normal * jnp.array([1.0, -1.0, -1.0], normal.dtype)
  return jnp.clip(towards_viewer * 0.5 + 0.5 * mask, 0.0, 1.0)


def decode_normals(encoded: jax.Array, mask: jax.Array) -> jax.Array:
  """The inverse of `encode_normals` for the same mask."""
  return (encoded - 0.5 * mask) * 2 * jnp.array([1.0, -1.0, -1.0], encoded.dtype)


def normal_control_map(vertices: jax.Array, camera: Camera, topology: Topology) -> jax.Array:
  """The encoded, antialiased normal map [H, W, 3] in [0, 1] that conditions the generators."""
  maps = surface_maps(vertices, camera, topology)
  return encode_normals(maps['normal'], maps['mask'])
