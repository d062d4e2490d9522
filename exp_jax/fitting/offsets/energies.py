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

from exp_jax.fitting.offsets.targets import Targets
from exp_jax.geometry import Camera, clip_coordinates, project
from exp_jax.heads.model import HeadModel
from exp_jax.rendering import Topology, antialias, interpolate, rasterize
from exp_jax.rendering.normals import vertex_normals
from exp_jax.rendering.shading import shade_harmonics

TERMS = ('landmarks', 'normals', 'depth', 'silhouette', 'photometric')
_TRIM = 0.34  # cosine of 70 degrees; normals that differ by more are an occluder's
_TRIM_FACE = 0.77  # 40 degrees; the coarse fit is better than that on the face


@flax.struct.dataclass
class Scene:
  """What all frames of a subject have in common, beside their maps.

  Attributes:
    head: whose landmarks are compared.
    camera: of the frames whose pixels the landmarks are in.
    topology: of the dense mesh.
    skin: [N, 2] 1 where the dense mesh is compared with normals, depth and colours (not in the
      mouth), and 1 on the face, where the coarse fit is trusted to be near.
  """

  head: HeadModel
  camera: Camera
  topology: Topology
  skin: jax.Array


@flax.struct.dataclass
class Seen:
  """What was seen in one frame.

  Attributes:
    points: [K, 2] landmarks, pixels of `Scene.camera`.
    weights: [K] trust in them.
    target: maps of this frame, as `take_frame` returns them.
  """

  points: jax.Array
  weights: jax.Array
  target: Targets


def frame_losses(
  vertices: jax.Array,
  marked: jax.Array,
  scene: Scene,
  seen: Seen,
  *,
  albedo: jax.Array,
  light: jax.Array,
  trimmed: jax.Array,
  shading: jax.Array,
) -> jax.Array:
  """[5] the data terms of one posed frame, in the order of TERMS; 0 where there is no evidence.

  Args:
    vertices: [N, 3] posed, head frame.
    marked: [V, 3] the coarse ones that landmarks hang on, without dynamic offsets, which would
      follow every jitter of the landmarks, and with a share of the static ones
      (`OffsetOptions.follow`).
    scene: of the subject.
    seen: of this frame.
    albedo: [N, 3] linear.
    light: [9, 3] in the camera frame.
    trimmed: [] 1 to leave out gross outliers, 0 at the start.
    shading: [] share of the photometric derivative that geometry feels; 0 until albedo and light
      have settled, small afterwards, since paint and shape look alike.
  """
  head, camera, target = scene.head, scene.camera, seen.target
  corners = marked[head.faces[head.landmark_faces]]
  pixels, _ = project(jnp.einsum('kcd,kc->kd', corners, head.landmark_barycentric), camera)
  half = camera.image_size[0] / 2
  squared = jnp.sum(((pixels - seen.points) / half) ** 2, -1)
  losses = {'landmarks': jnp.sum(seen.weights * squared) / jnp.maximum(seen.weights.sum(), 1e-6)}
  small = next((m.shape[:2] for m in (target.matte, target.inside) if m is not None), None)
  if small is not None:
    share = small[0] / camera.image_size[0]
    scaled = camera.replace(
      focal=camera.focal * share, center=camera.center * share, image_size=small
    )
    losses |= _map_losses(
      vertices,
      scene.replace(camera=scaled),
      target,
      albedo=albedo,
      light=light,
      trimmed=trimmed,
      shading=shading,
    )
  return jnp.stack([losses.get(term, jnp.zeros(())) for term in TERMS])


def _map_losses(vertices, scene, target, *, albedo, light, trimmed, shading):
  camera, topology = scene.camera, scene.topology
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, topology, camera.image_size)
  columns = [vertex_normals(vertices, topology.faces), clip[:, 3:], scene.skin]
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
