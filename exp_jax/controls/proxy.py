"""The textured preview: a portrait's own pixels on its fitted head, re-posed, over its inpainted background.

No network is involved, so it can be looked at before any training. Three layers, far to near:

  background   the portrait with the person taken out and the hole filled smoothly; it never moves
  cut-out      a fine grid over the person's matte at the fitted depth: hair, clothes, everything the head model
               does not have. It follows the joints of the nearest skin, and the skin's own deformation near it
  head         the fitted dense mesh: the photograph where the portrait showed the surface, mirrored and diffused
               colour where it did not, painted eyeballs, teeth and mouth cavity where lips and lids uncover them

The two moving layers agree wherever the portrait showed skin, so no seam is visible between them.
Letters: H, W image, N dense vertices, J joints, G grid points.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from exp_jax.controls.mouth import mouth_light
from exp_jax.controls.texture import INSIDE, HeadTexture, make_texture
from exp_jax.geometry import Camera, clip_coordinates
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import Dense
from exp_jax.media.fill import push_pull
from exp_jax.rendering import Topology, antialias, barycentrics, interpolate, rasterize
from exp_jax.rendering.shading import camera_normals, unit

_STEP = 4 / 512          # between grid points; this and the next two are shares of the picture's height
_REACH = 24 / 512        # over which the skin's own deformation fades out of the cut-out
_MARGIN = 8 / 512        # that the cut-out reaches beyond the picture
_FACES_AT_ONCE = 16384
_PINNED = 0.24           # share of the picture's height over which the cut-out comes to rest at the border
_BIAS = 0.016            # metres by which the cut-out must be nearer than the head to hide it
_FARTHEST = 0.25         # of the picture's height that a pixel may have come from, for `KNOWN`
# What `draw_known_frame` knows of a pixel, 0..1: the head's normal now and in the portrait, n / 2 + 1/2 (x right, y down, z away; 0
# off the head); head shown with the portrait's own pixels, and with filled-in colour; eyeball; inside of the mouth; cut-out; and the
# way to the portrait's pixel that is shown, x and y, 1/2 for none, 0 and 1 for a quarter of the picture's height.
KNOWN = 13
_rasterize, _interpolate = jax.jit(rasterize, static_argnums=2), jax.jit(interpolate)      # one program for all portraits


@flax.struct.dataclass
class Proxy:
  """Everything about one portrait that does not change from frame to frame."""
  photo: jax.Array             # [H, W, 3] in 0..1
  matte: jax.Array             # [H, W] in 0..1
  background: jax.Array        # [H, W, 3]
  texture: HeadTexture
  topology: Topology           # of the dense head
  camera: Camera
  weights: jax.Array           # [N, J] skinning of the dense head
  reference_vertices: jax.Array     # [N, 3] posed in the portrait
  reference_transforms: jax.Array   # [J, 4, 4]
  grid_topology: Topology
  grid_points: jax.Array       # [G, 3] metres, in the portrait's pose
  grid_pixels: jax.Array       # [G, 2]
  grid_weights: jax.Array      # [G, J]
  grid_loose: jax.Array        # [G, 1] 1 where no drawn skin lies under the grid point: hair, clothes, hands
  grid_faces: jax.Array        # [G, 3] dense vertices of the skin under each grid point
  grid_barycentric: jax.Array  # [G, 3]
  grid_seen: np.ndarray        # [rows, columns] 1 where skin lies under the grid point
  grid_fade: np.ndarray        # [rows, columns] 1 on skin, falling to 0 away from it
  grid_free: jax.Array         # [G, 1] 0 at the picture's border, where a moving body would show what was cut off


def inpaint_background(photo: np.ndarray, matte: np.ndarray) -> np.ndarray:
  """[H, W, 3] and [H, W] in 0..1 -> the picture without the person, filled from what surrounds them."""
  person = scipy.ndimage.binary_dilation(matte > 0.08, iterations=max(2, photo.shape[0] // 64))
  if person.all():
    return np.broadcast_to(photo.reshape(-1, 3).mean(0), photo.shape).astype(np.float32)
  filled = push_pull(photo, ~person)
  # The hole is filled with the surroundings' own fine grain, so that it does not look like fog.
  detail = photo - scipy.ndimage.gaussian_filter(photo, (3, 3, 0))
  grain = np.std(detail[~person]) * np.random.default_rng(0).normal(size=photo.shape[:2])
  grain = np.clip(scipy.ndimage.gaussian_filter(grain, 0.7)[..., None] * 1.5, -0.02, 0.02)
  return np.clip(np.where(person[..., None], filled + grain, photo), 0, 1).astype(np.float32)


def make_proxy(photo: np.ndarray, matte: np.ndarray, mouth: np.ndarray, *, dense: Dense, template: np.ndarray, vertices: jax.Array,
               transforms: jax.Array, camera: Camera, eye_centers: np.ndarray) -> Proxy:
  """Prepares a portrait.

  Args:
    photo: [H, W, 3] uint8 crop that the head was fitted in; H and W are camera.image_size.
    matte: [H, W] uint8 person matte.
    mouth: [H, W] bool, the opening between the lips (`portrait.mouth_opening`).
    dense: the dense head.
    template: [N, 3] its rest vertices, for mirroring and for the eyes' painted irises.
    vertices: [N, 3] posed as in the portrait, static and dynamic offsets included.
    transforms: [J, 4, 4] rest-relative joint transforms of that pose.
    camera: the fitted camera.
    eye_centers: [2, 3] left and right eye joint in rest coordinates.
  """
  photo, matte = photo.astype(np.float32) / 255, matte.astype(np.float32) / 255
  topology = Topology.from_faces(np.asarray(dense.faces))
  clip = clip_coordinates(vertices, camera)
  fragments = _rasterize(clip, topology, camera.image_size)
  texture = make_texture(photo, matte, mouth, dense=dense, template=template, vertices=vertices, camera=camera,
                         topology=topology, fragments=fragments, eye_centers=eye_centers)
  return Proxy(
    photo=jnp.asarray(photo), matte=jnp.asarray(matte), background=jnp.asarray(inpaint_background(photo, matte)),
    texture=texture, topology=topology, camera=camera, weights=dense.weights, reference_vertices=vertices,
    reference_transforms=transforms,
    **_make_grid(matte, dense, vertices, np.asarray(texture.opacity()), camera, clip, topology, fragments))


def _make_grid(matte, dense, vertices, opacity, camera, clip, topology, fragments) -> dict:
  """The cut-out: a grid over the matte, with depth and joints of the skin below or beside it."""
  height, width = matte.shape
  step, margin = max(1, round(_STEP * height)), max(2, round(_MARGIN * height))
  rows, columns = (np.arange(-margin, extent + margin + 1, step) for extent in (height, width))
  at = np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))
  face_id = np.asarray(fragments.face_id)
  inside = (face_id >= 0) & (matte > 0.5)
  seen = inside[at]
  depth_weights = jnp.concatenate([-vertices[:, 2:], dense.weights, opacity[:, None]], -1)
  maps = np.asarray(_interpolate(depth_weights, clip, topology, fragments))
  loose = ~seen | (maps[at][..., -1] < 0.5)
  maps = maps[..., :-1]
  # Near the model's silhouette depth falls away steeply; hair continues at the depth a little further inside.
  core = scipy.ndimage.binary_erosion(inside, iterations=max(1, round(1.5 * _STEP * height)))[at]
  core = core if core.any() else seen
  depth = push_pull(np.maximum(maps[at][..., :1], 1e-3), core)[..., 0]
  depth = np.where(seen, maps[at][..., 0], depth)
  depth = np.where(core, depth, scipy.ndimage.gaussian_filter(depth, 2))
  weights = push_pull(maps[at][..., 1:], seen)
  weights = np.where(seen[..., None], weights, scipy.ndimage.gaussian_filter(weights, (3, 3, 0)))
  weights /= weights.sum(-1, keepdims=True)
  pixels = np.stack(np.meshgrid(columns, rows), -1).astype(np.float32)
  offset = (pixels - np.asarray(camera.center)) / np.asarray(camera.focal) * depth[..., None]
  points = np.stack([offset[..., 0], -offset[..., 1], -depth], -1)
  kept = scipy.ndimage.binary_dilation(matte > 0.02, iterations=step + max(1, step // 2))[at]
  index = np.arange(kept.size).reshape(kept.shape)
  corner = [index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]]
  cell = (kept[:-1, :-1] & kept[:-1, 1:] & kept[1:, 1:] & kept[1:, :-1]).ravel()
  quads = np.stack([c.ravel() for c in corner], -1)[cell]
  faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
  # Filled up with faces of no area, so that portraits share a compiled program. Nothing asks for its edges.
  faces = np.pad(faces, ((0, -len(faces) % _FACES_AT_ONCE), (0, 0)))
  no_edges = jnp.zeros((0, 2), jnp.int32)
  under = np.asarray(dense.faces)[np.maximum(face_id[at], 0)].reshape(-1, 3)
  bary = np.asarray(jax.jit(barycentrics)(clip, topology, fragments))[at].reshape(-1, 3)
  away = scipy.ndimage.distance_transform_edt(~seen) * step
  flat = lambda values: jnp.asarray(values.reshape(len(under), -1), jnp.float32)
  return dict(
    grid_topology=Topology(jnp.asarray(faces, jnp.int32), no_edges, no_edges),
    grid_points=flat(points), grid_pixels=flat(pixels), grid_weights=flat(weights),
    grid_free=flat(_free(pixels, width, height)), grid_loose=flat(loose), grid_faces=jnp.asarray(under),
    grid_barycentric=jnp.asarray(bary), grid_seen=seen.astype(np.float32),
    grid_fade=np.exp(-(away / (_REACH * height)) ** 2).astype(np.float32))


def _free(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
  """[..., 2] pixels -> [...] 0 at the left, right and lower border, 1 well inside."""
  away = np.minimum(np.minimum(pixels[..., 0], width - pixels[..., 0]), height - pixels[..., 1])
  t = np.clip(away / (_PINNED * height), 0, 1)
  return t * t * (3 - 2 * t)


def _sample(image: jax.Array, pixels: jax.Array) -> jax.Array:
  """Bilinear look-up of [H, W, C] at [..., 2] pixel positions (x, y), mirrored at the border."""
  height, width = image.shape[:2]
  mirrored = lambda x, size: jnp.clip(size - jnp.abs(size - jnp.abs(x)) - 0.5, 0, size - 1)
  x, y = mirrored(pixels[..., 0], width), mirrored(pixels[..., 1], height)
  left, top = jnp.minimum(jnp.floor(x), width - 2).astype(int), jnp.minimum(jnp.floor(y), height - 2).astype(int)
  s, t = (x - left)[..., None], (y - top)[..., None]
  upper = image[top, left] * (1 - s) + image[top, left + 1] * s
  lower = image[top + 1, left] * (1 - s) + image[top + 1, left + 1] * s
  return upper * (1 - t) + lower * t


@jax.jit
def _carry(proxy: Proxy, vertices: jax.Array, transforms: jax.Array):
  """Cut-out points moved by the joints alone [G, 3], and what the skin did beyond that [G, 3]."""
  change = jnp.einsum('jab,jbc->jac', transforms, jnp.linalg.inv(proxy.reference_transforms))[:, :3]

  def by_joints(points, weights):
    blended = jnp.einsum('nj,jab->nab', weights, change)
    return jnp.einsum('nab,nb->na', blended[..., :3], points) + blended[..., 3]

  own = vertices - by_joints(proxy.reference_vertices, proxy.weights)
  on_grid = jnp.einsum('gcd,gc->gd', own[proxy.grid_faces], proxy.grid_barycentric)
  return by_joints(proxy.grid_points, proxy.grid_weights), on_grid


def _layers(proxy: Proxy, grid: jax.Array, vertices: jax.Array, columns: jax.Array):
  """One frame's layers: the picture [H, W, 3], and what `KNOWN` is made of.

  columns [N, K]: the brightness factor of the dynamic offsets, and whatever else shall be interpolated over the head.
  """
  size = proxy.camera.image_size
  clip = clip_coordinates(grid, proxy.camera)
  fragments = rasterize(clip, proxy.grid_topology, size)
  attributes = jnp.concatenate([proxy.grid_pixels, proxy.grid_loose], -1)
  carried = interpolate(attributes, clip, proxy.grid_topology, fragments)
  pixels, loose = carried[..., :2], carried[..., 2] > 0.99
  covered = fragments.face_id >= 0
  alpha = jnp.where(covered, _sample(proxy.matte[..., None], pixels)[..., 0], 0)[..., None]
  image = proxy.background * (1 - alpha) + _sample(proxy.photo, pixels) * alpha

  head_clip = clip_coordinates(vertices, proxy.camera)
  head = rasterize(head_clip, proxy.topology, size)
  maps = interpolate(jnp.concatenate([proxy.texture.attributes, columns], -1), head_clip, proxy.topology, head)
  colour, opacity = proxy.texture.shade(maps[..., :INSIDE + 2], _sample, proxy.photo)
  depth = 1 / jnp.maximum(head.inv_w, 1e-6)
  cut_out_depth = 1 / jnp.maximum(fragments.inv_w, 1e-6)
  hidden = covered & loose & (alpha[..., 0] > 0.5) & (cut_out_depth < depth - _BIAS) & (maps[..., INSIDE] < 0.5)
  shown = jnp.where((head.face_id >= 0) & ~hidden, opacity, 0)[..., None]
  # Premultiplied, so that outlines of what is transparent leave no trace.
  layer = antialias(jnp.concatenate([colour * shown, shown], -1), head_clip, proxy.topology, head)
  return jnp.clip(image * (1 - layer[..., 3:]) + layer[..., :3], 0, 1), (head.face_id >= 0)[..., None], maps, shown, alpha, pixels


@jax.jit
def _draw(proxy: Proxy, grid: jax.Array, vertices: jax.Array, wrinkles: jax.Array) -> jax.Array:
  """Composites one frame, [H, W, 3]. wrinkles [N]: brightness factor of the dynamic offsets."""
  return _layers(proxy, grid, vertices, wrinkles[:, None])[0]


@jax.jit
def _draw_known(proxy: Proxy, grid: jax.Array, vertices: jax.Array, wrinkles: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The same frame, and what is known of its pixels [H, W, `KNOWN`] in 0..1."""
  both = [camera_normals(each, proxy.topology.faces, proxy.camera) for each in (vertices, proxy.reference_vertices)]
  image, there, maps, shown, alpha, pixels = _layers(proxy, grid, vertices, jnp.concatenate([wrinkles[:, None], *both], -1))
  height, width = proxy.camera.image_size
  here = jnp.stack(jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5), -1)
  source = jnp.where(shown > 0.5, maps[..., :2], jnp.where(alpha > 0.5, pixels, here))
  moved = jnp.clip(0.5 + (source - here) / (2 * _FARTHEST * height), 0, 1)
  normals = (jnp.where(there, 0.5 + 0.5 * unit(maps[..., k:k + 3]), 0.0) for k in (INSIDE + 2, INSIDE + 5))
  seen, eyeball, inside = maps[..., 2:3], maps[..., 7:8], maps[..., INSIDE:INSIDE + 1]
  return image, jnp.concatenate([*normals, shown * seen, shown * (1 - seen), shown * eyeball, shown * inside,
                                 alpha * (1 - shown), moved], -1)


@jax.jit
def _in_the_mouth(mouth, vertices, faces, lips, wrinkles):
  return wrinkles.at[mouth].set(mouth_light(vertices[mouth], vertex_normals(vertices, faces)[mouth], lips))


def draw_frame(proxy: Proxy, vertices: jax.Array, transforms: jax.Array, wrinkles: jax.Array, lips: jax.Array | None = None
               ) -> np.ndarray:
  """One re-posed frame, uint8 [H, W, 3].

  Args:
    vertices: [N, 3] posed dense head, offsets included.
    transforms: [J, 4, 4] joint transforms of that pose.
    wrinkles: [N] brightness factors, 1 for none.
    lips: [K, 3] the loop of the inner lips (`mouth.INNER_LIPS`), through which light comes in; None: the mouth is lit as the face.
  """
  return _bytes(_draw(proxy, *_posed(proxy, vertices, transforms, wrinkles, lips)))


def draw_known_frame(proxy: Proxy, vertices: jax.Array, transforms: jax.Array, wrinkles: jax.Array, lips: jax.Array | None = None
                     ) -> tuple[np.ndarray, np.ndarray]:
  """`draw_frame`, and what is known of each of its pixels: uint8 [H, W, `KNOWN`], see there."""
  return tuple(map(_bytes, _draw_known(proxy, *_posed(proxy, vertices, transforms, wrinkles, lips))))


def _bytes(values: jax.Array) -> np.ndarray:
  return np.asarray(jnp.rint(values * 255).astype(jnp.uint8))


def _posed(proxy: Proxy, vertices: jax.Array, transforms: jax.Array, wrinkles: jax.Array, lips: jax.Array | None) -> tuple:
  """(grid points [G, 3], vertices, wrinkles [N]) of a frame."""
  if lips is not None:
    wrinkles = _in_the_mouth(proxy.texture.mouth, vertices, proxy.topology.faces, lips, wrinkles)
  carried, own = _carry(proxy, vertices, transforms)
  own = np.asarray(own).reshape(*proxy.grid_seen.shape, 3)
  spread = push_pull(own, proxy.grid_seen) * proxy.grid_fade[..., None]
  moved = proxy.grid_points + proxy.grid_free * (carried + spread.reshape(-1, 3) - proxy.grid_points)
  return moved, vertices, wrinkles


def wrinkle_shading(with_offsets: jax.Array, without: jax.Array, light=(0.25, 0.5, 0.83)) -> jax.Array:
  """[N] brightness change of dynamic offsets: Lambert of unit normals [N, 3] with and without them."""
  light = jnp.asarray(light) / np.linalg.norm(light)
  lit = lambda normal: 0.5 + 0.5 * jnp.clip(normal @ light, 0, 1)
  return jnp.clip(lit(with_offsets) / lit(without), 0.6, 1.5)
