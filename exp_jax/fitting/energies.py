"""What a fit is compared with, and by how much it misses: the data terms of one frame.

  landmarks   squared distance of projected and seen points, in half image heights       eq. 5
  normals     L1 between rendered and estimated unit normals inside the head            eq. 6a
  depth       L1 after the best scale and shift, since estimated depth is relative      eq. 6b
  silhouette  L1 between coverage and matte above the chin                              extension
  photometric L1 between albedo times harmonic light and the picture, linear RGB        extension

Normals and depth are not believed where they differ grossly (robust trimming), on eyes and mouth,
near the outline, or outside the matte. Letters: T frames, N dense vertices, K landmarks, h, w maps.
Source: ExpPortrait sec. 3.1.2.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from exp_jax.geometry import Camera, clip_coordinates, project
from exp_jax.heads.model import HeadModel
from exp_jax.rendering import Topology, antialias, interpolate, rasterize
from exp_jax.rendering.normals import vertex_normals
from exp_jax.rendering.shading import shade_harmonics

TERMS = ('landmarks', 'normals', 'depth', 'silhouette', 'photometric')
_TRIM = 0.34  # cosine of 70 degrees; normals that differ by more are an occluder's
_TRIM_FACE = 0.77  # 40 degrees; the coarse fit is better than that on the face
_ERODE = 2  # pixels of the maps that are left out inside the matte's edge
_CHIN = 152  # MediaPipe's landmark of the chin


@flax.struct.dataclass
class Targets:
  """Maps of T frames, stored in the fewest bytes that lose nothing; `take_frame` gives numbers to compute with.

  What was not estimated is None and its term is not compiled. As `take_frame` returns it, all is float32.
  """

  matte: jax.Array | None  # [T, h, w] uint8; in 0..1 when taken
  matte_weights: jax.Array | None  # [T, h, w] uint8; in 0..1 when taken
  normals: jax.Array | None  # [T, h, w, 3] int8; unit, x right, y up, z to the viewer when taken
  depth: jax.Array | None  # [T, h, w] float16, spread 1; known up to scale (of either sign) and shift
  image: jax.Array | None  # [T, h, w, 3] uint8 sRGB; linear in 0..1 when taken
  inside: jax.Array | None  # [T, h, w] uint8; 0..1 how far normals, depth and colours are believed, when taken


def make_targets(
  points: np.ndarray,
  size: int,
  *,
  matte: np.ndarray | None = None,
  normals: np.ndarray | None = None,
  depth: np.ndarray | None = None,
  frames: np.ndarray | None = None,
  weights: np.ndarray | None = None,
  shown: np.ndarray | None = None,
) -> Targets:
  """Scales what was observed to maps of size x size.

  Args:
    points: [T, 478, 2] landmarks in pixels of the square H x H frames.
    size: pixels of the maps.
    matte: [T, H, H] uint8 or None. Below the chin it speaks of clothes, not of the head, and is not
      compared with the outline.
    normals: [T, H', H', 3], depth: [T, H', H'], frames: [T, H, H, 3] uint8 sRGB; each may be None.
    weights: [T, H', H'] how far normals, depth and frames are believed; NaN ones never are.
    shown: [H, H] 1 where the frames show the source, 0 beyond its border, of which nothing is believed; None: all 1.

  Raises:
    ValueError: maps of another number of frames.
  """
  count = len(points)
  given = {'matte': matte, 'normals': normals, 'depth': depth, 'frames': frames, 'weights': weights}
  for name, value in given.items():
    if value is not None and len(value) != count:
      raise ValueError(f'{name} has {len(value)} frames, the landmarks have {count}')
  scaled = {k: None if v is None else _scale(v, size) for k, v in given.items()}
  cover = None if matte is None else scaled['matte'] / 255
  part = 1.0 if shown is None else _scale(shown[None], size)[0] > 0.99
  inside = None
  if any(given[k] is not None for k in ('normals', 'depth', 'frames')):
    inside = np.ones((count, size, size), np.float32) * part
    if cover is not None:
      solid = scipy.ndimage.minimum_filter(cover, (1, 2 * _ERODE + 1, 2 * _ERODE + 1))
      inside = inside * (solid > 0.9)
    if weights is not None:
      inside = inside * np.clip(np.nan_to_num(scaled['weights']), 0, 1)
    for name in ('normals', 'depth'):
      if scaled[name] is not None:
        finite = np.isfinite(scaled[name])
        inside = inside * (finite.all(-1) if name == 'normals' else finite)
        scaled[name] = np.nan_to_num(scaled[name])
  if normals is not None:
    length = np.linalg.norm(scaled['normals'], axis=-1, keepdims=True)
    inside = inside * (length[..., 0] > 0.3)
    scaled['normals'] = scaled['normals'] / np.maximum(length, 1e-6)
  matte_weights = None
  if cover is not None:
    chin = points[:, _CHIN, 1][:, None, None] * size / matte.shape[1]
    above = np.clip((chin - np.arange(size)[:, None]) / 6, 0, 1)
    matte_weights = np.broadcast_to(above * part, cover.shape)
  depth = scaled['depth']
  if depth is not None:
    known = depth[inside > 0] if (inside > 0).any() else depth
    depth = np.clip((depth - known.mean()) / max(float(known.std()), 1e-9), -100, 100)
  bytes_ = lambda share: None if share is None else jnp.asarray(np.round(255 * share), jnp.uint8)
  return Targets(
    matte=bytes_(cover),
    matte_weights=bytes_(matte_weights),
    normals=None if normals is None else jnp.asarray(np.round(127 * scaled['normals']), jnp.int8),
    depth=None if depth is None else jnp.asarray(depth, jnp.float16),
    image=None if frames is None else jnp.asarray(np.round(scaled['frames']), jnp.uint8),
    inside=bytes_(inside),
  )


def _scale(maps: np.ndarray, size: int) -> np.ndarray:
  """[T, H, H, ...] -> [T, size, size, ...] float32; whole factors average, others take the nearest."""
  height, width = maps.shape[1:3]
  if height % size == 0 and height == width:
    factor = height // size
    split = maps.reshape(len(maps), size, factor, size, factor, *maps.shape[3:])
    return split.astype(np.float32).mean((2, 4))
  step = np.arange(size) + 0.5
  rows, columns = (step * height / size).astype(int), (step * width / size).astype(int)
  return maps[:, rows][:, :, columns].astype(np.float32)


def take_frame(targets: Targets, frame) -> Targets:
  """The maps of one frame (or of several: an index array), float32."""
  taken = jax.tree.map(lambda a: a[frame].astype(jnp.float32), targets)
  share = lambda a: None if a is None else a / 255
  normals, image = taken.normals, share(taken.image)
  if normals is not None:
    length = jnp.sqrt(jnp.maximum(jnp.sum(normals**2, -1, keepdims=True), 1.0))
    normals = normals / length
  if image is not None:
    image = jnp.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
  return taken.replace(matte=share(taken.matte), matte_weights=share(taken.matte_weights), inside=share(taken.inside),
                       normals=normals, image=image)


def frame_losses(
  vertices: jax.Array,
  marked: jax.Array,
  albedo: jax.Array,
  light: jax.Array,
  head: HeadModel,
  camera: Camera,
  topology: Topology,
  points: jax.Array,
  weights: jax.Array,
  skin: jax.Array,
  target: Targets,
  trimmed: jax.Array,
  shading: jax.Array,
) -> jax.Array:
  """[5] the data terms of one posed frame, in the order of TERMS; 0 where there is no evidence.

  Args:
    vertices: [N, 3] posed, head frame. marked: [V, 3] the coarse ones that landmarks hang on, without dynamic
      offsets, which would follow every jitter of the landmarks, and with a share of the static ones (`OffsetOptions.follow`).
    albedo: [N, 3] linear. light: [9, 3] in the camera frame.
    camera: of the frames whose pixels `points` [K, 2] are in; weights [K] trust in them.
    skin: [N, 2] 1 where the dense mesh is compared with normals, depth and colours (not in the
      mouth), and 1 on the face, where the coarse fit is trusted to be near.
    target: of this frame. trimmed: [] 1 to leave out gross outliers, 0 at the start.
    shading: [] share of the photometric derivative that geometry feels; 0 until albedo and light
      have settled, small afterwards, since paint and shape look alike.
  """
  corners = marked[head.faces[head.landmark_faces]]
  pixels, _ = project(jnp.einsum('kcd,kc->kd', corners, head.landmark_barycentric), camera)
  half = camera.image_size[0] / 2
  squared = jnp.sum(((pixels - points) / half) ** 2, -1)
  losses = {'landmarks': jnp.sum(weights * squared) / jnp.maximum(weights.sum(), 1e-6)}
  small = next((m.shape[:2] for m in (target.matte, target.inside) if m is not None), None)
  if small is not None:
    share = small[0] / camera.image_size[0]
    scaled = camera.replace(focal=camera.focal * share, center=camera.center * share, image_size=small)
    losses |= _map_losses(vertices, albedo, light, scaled, topology, skin, target, trimmed, shading)
  return jnp.stack([losses.get(term, jnp.zeros(())) for term in TERMS])


def _map_losses(vertices, albedo, light, camera, topology, skin, target, trimmed, shading):
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, topology, camera.image_size)
  columns = [vertex_normals(vertices, topology.faces), clip[:, 3:], skin]
  if target.image is not None:
    columns.append(albedo)
  # Where a pixel hits its triangle is held fixed: on triangles of a pixel's size that derivative
  # slides and folds the mesh. Landmarks and the outline settle what lies where in the picture.
  fixed = jax.lax.stop_gradient(clip)
  maps = interpolate(jnp.concatenate(columns, -1), fixed, topology, fragments)
  length = jnp.sqrt(jnp.maximum(jnp.sum(maps[..., :3] ** 2, -1, keepdims=True), 1e-12))
  normals, depth = maps[..., :3] / length, maps[..., 3]
  covered = (fragments.face_id >= 0).astype(jnp.float32)
  losses = {}
  if target.inside is not None:
    whole = inside = target.inside * covered * jax.lax.stop_gradient(maps[..., 4])
    if target.normals is not None:
      alike = jnp.sum(jax.lax.stop_gradient(normals) * target.normals, -1)
      face = jax.lax.stop_gradient(maps[..., 5]) > 0.5
      inside = inside * jnp.where(face, alike > _TRIM_FACE, (alike > _TRIM) | (trimmed == 0))
    total = jnp.maximum(inside.sum(), 1.0)
  if target.normals is not None:
    losses['normals'] = jnp.sum(inside * jnp.abs(normals - target.normals).sum(-1)) / total
  if target.depth is not None:
    scale, shift, spread = _align(jax.lax.stop_gradient(depth), target.depth, inside, total)
    residual = jnp.minimum(jnp.abs(scale * depth + shift - target.depth) / spread, 0.5)
    # hair over an ear: no normal agrees, yet its depth tells where the surface is
    losses['depth'] = jnp.sum(whole * residual) / jnp.maximum(whole.sum(), 1.0)
  if target.image is not None:
    still = jax.lax.stop_gradient(normals)
    normals = still + shading * (normals - still)
    shade = jnp.maximum(shade_harmonics(normals * jnp.array([1.0, -1, -1]), light), 0.0)
    difference = jnp.abs(maps[..., 6:9] * shade - target.image).sum(-1)
    losses['photometric'] = jnp.sum(inside * difference) / total
  if target.matte is not None:
    coverage = antialias(covered[..., None], clip, topology, fragments)[..., 0]
    missed = target.matte_weights * jnp.abs(coverage - target.matte)
    losses['silhouette'] = jnp.sum(missed) / jnp.maximum(target.matte_weights.sum(), 1.0)
  return losses


def _align(depth, target, inside, total):
  """Least-squares scale and shift of `depth` to `target`, and the target's spread."""
  mean = jnp.sum(inside * depth) / total
  goal = jnp.sum(inside * target) / total
  variance = jnp.sum(inside * (depth - mean) ** 2) / total
  scale = jnp.sum(inside * (depth - mean) * (target - goal)) / total / jnp.maximum(variance, 1e-12)
  spread = jnp.sqrt(jnp.sum(inside * (target - goal) ** 2) / total)
  return scale, goal - scale * mean, jnp.maximum(spread, 1e-6)
