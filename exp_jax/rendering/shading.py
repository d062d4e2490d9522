"""From fragments to pictures: normal, depth and mask maps, control maps, and simple lights.

Camera coordinates are OpenCV's (x right, y down, z forward). An *encoded* normal map turns them to
x right, y up, z towards the viewer and maps [-1, 1] to [0, 1], so that a frontal face is bluish
purple (0.5, 0.5, 1); its background is 0.
"""

import jax
import jax.numpy as jnp

from exp_jax.geometry.cameras import Camera, clip_coordinates, depth_in_clip
from exp_jax.rendering.antialias import antialias
from exp_jax.rendering.interpolate import barycentrics, interpolate_and_shade
from exp_jax.rendering.normals import vertex_normals
from exp_jax.rendering.rasterize import Fragments, rasterize
from exp_jax.rendering.topology import Topology


def camera_normals(vertices: jax.Array, faces: jax.Array, camera: Camera) -> jax.Array:
  """Unit vertex normals [V, 3] in camera coordinates, of world vertices [V, 3] (metres)."""
  return jnp.einsum('ij,vj->vi', camera.rotation, vertex_normals(vertices, faces))


def unit(vectors: jax.Array, *, axis: int = -1) -> jax.Array:
  """Vectors [..., 3] of length one; zero, with zero gradient, where they are (nearly) zero."""
  square = jnp.sum(vectors**2, axis, keepdims=True)
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
  attributes = jnp.concatenate([normals, depth_in_clip(clip, camera)], -1)
  image = interpolate_and_shade(_normal_depth_mask, attributes, clip, topology, fragments)
  if not (isinstance(background_depth, float | int) and background_depth == 0):
    empty = jnp.array([0, 0, 0, 1.0, 0]) * background_depth
    image = jnp.where(fragments.face_id[..., None] >= 0, image, empty)
  image = antialias(image, clip, topology, fragments)
  return {'normal': image[..., :3], 'depth': image[..., 3:4], 'mask': image[..., 4:]}


def _normal_depth_mask(values):
  """Interpolated normal and depth [4, K] -> unit normal, depth, 1 [5, K]."""
  return jnp.concatenate([unit(values[:3], axis=0), values[3:], jnp.ones_like(values[3:])])


def encode_normals(normal: jax.Array, mask: jax.Array) -> jax.Array:
  """Camera-space normal map [..., H, W, 3] and mask [..., H, W, 1] to colours in [0, 1], background
  0.
  """
  towards_viewer = normal * jnp.array([1.0, -1.0, -1.0], normal.dtype)
  return jnp.clip(towards_viewer * 0.5 + 0.5 * mask, 0.0, 1.0)


def shade_harmonics(normals: jax.Array, light: jax.Array) -> jax.Array:
  """Diffuse light by nine spherical harmonics.

  Args:
    normals: [..., 3] unit, in the frame of the light.
    light: [9, C] coefficients of the irradiance in the basis 1, y, z, x, xy, yz, 3z^2 - 1, xz, x^2
      - y^2 (with their usual constants).

  Returns:
    [..., C], not clipped; multiply by the albedo.

  Raises:
    ValueError: if light has not nine rows.

  Source: Ramamoorthi & Hanrahan, An Efficient Representation for Irradiance Environment Maps, 2001,
  eq. 3.
  """
  if light.shape[0] != 9:
    raise ValueError(f'light must be [9, C], got {light.shape}')
  x, y, z = jnp.moveaxis(normals, -1, 0)
  basis = [
    0.282095 * jnp.ones_like(x),
    0.488603 * y,
    0.488603 * z,
    0.488603 * x,
    1.092548 * x * y,
    1.092548 * y * z,
    0.315392 * (3 * z**2 - 1),
    1.092548 * x * z,
    0.546274 * (x**2 - y**2),
  ]
  return jnp.einsum('...k,kc->...c', jnp.stack(basis, -1), light)


def frontal_light(*, ambient: float = 0.45, diffuse: float = 0.75) -> jax.Array:
  """[9, 1] a soft light from the camera's upper left, for previews; normals in camera
  coordinates.
  """
  direction = jnp.array([-0.4, -0.5, -0.77])  # towards the light: left, up, to the camera
  linear = diffuse * direction[jnp.array([1, 2, 0])] / 0.488603
  return jnp.concatenate([jnp.array([ambient / 0.282095]), linear, jnp.zeros(5)])[:, None]


def sample_texture(texture: jax.Array, uv: jax.Array) -> jax.Array:
  """Bilinear lookup, clamped at the border; differentiable in both.

  Args:
    texture: [T, U, C], row 0 on top.
    uv: [..., 2], (0, 0) the top-left corner of the texture, (1, 1) the bottom-right one.

  Returns:
    [..., C].
  """
  height, width = texture.shape[:2]
  size = jnp.array([width, height])
  at = jnp.clip(uv * size - 0.5, 0.0, size - 1.0)
  low = jnp.clip(jnp.floor(at), 0, jnp.maximum(size - 2, 0)).astype(jnp.int32)
  part = at - low
  high = jnp.minimum(low + 1, size - 1)
  texel = lambda x, y: texture[y[..., 1], x[..., 0]]
  across, down = part[..., :1], part[..., 1:]
  top = texel(low, low) * (1 - across) + texel(high, low) * across
  bottom = texel(low, high) * (1 - across) + texel(high, high) * across
  return top * (1 - down) + bottom * down


def interpolate_corners(
  corner_attributes: jax.Array, clip: jax.Array, topology: Topology, fragments: Fragments
) -> jax.Array:
  """As `interpolate`, for attributes that differ between the faces of a vertex, such as UVs at
  seams.

  Args:
    corner_attributes: [F, 3, C].

  Returns:
    [H, W, C], 0 where empty.
  """
  weights = barycentrics(clip, topology, fragments)
  values = corner_attributes[jnp.maximum(fragments.face_id, 0)]
  return jnp.einsum('hwk,hwkc->hwc', weights, values)


def wireframe(
  clip: jax.Array, topology: Topology, fragments: Fragments, *, line_width: float = 1.0
) -> jax.Array:
  """[H, W, 1] in [0, 1]: how near each pixel is to a side of its visible face; 1 on the line.

  The distance to a side is the barycentric coordinate over its change per pixel, estimated from the
  face itself, so it is right for one face alone and for the finest mesh.
  """
  weights = barycentrics(clip, topology, fragments)
  height, width = fragments.face_id.shape
  corners = topology.faces[jnp.maximum(fragments.face_id, 0)]
  xy = clip[:, :2] / jnp.where(clip[:, 3:] > 0, clip[:, 3:], 1.0) * jnp.array([width, height]) / 2
  xy = xy[corners]  # [H, W, 3, 2] pixels
  ahead, behind = jnp.roll(xy, -1, -2), jnp.roll(xy, 1, -2)
  side = jnp.linalg.norm(behind - ahead, axis=-1)
  a, b = xy[..., 1, :] - xy[..., 0, :], xy[..., 2, :] - xy[..., 0, :]
  area = jnp.abs(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])
  distance = (weights * area[..., None] / jnp.maximum(side, 1e-6)).min(-1)
  line = jnp.clip(line_width / 2 + 0.5 - distance, 0.0, 1.0)
  return jnp.where(fragments.face_id >= 0, line, 0.0)[..., None]
