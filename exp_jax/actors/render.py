"""Pictures of actors: posed dense mesh, rasterized, shaded, over their background. One compile per
size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.actors.actor import Actor, relief, truth
from exp_jax.actors.lighting import sh_basis
from exp_jax.actors.motion import Motion
from exp_jax.actors.stage import Assets, Stage
from exp_jax.geometry import Camera, clip_coordinates, project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import dense_vertices
from exp_jax.heads.model import HeadParams
from exp_jax.heads.personalized import Subject, in_camera
from exp_jax.heads.skinning import fold_shape, head_landmarks
from exp_jax.rendering import antialias, interpolate, rasterize

CHUNK = 4  # frames rendered by one call
_IRIS, _PUPIL = 0.50, 0.19  # radians about the eye's axis


@dataclasses.dataclass(frozen=True)
class Clip:
  frames: np.ndarray  # [T, H, W, 3] uint8 sRGB
  matte: np.ndarray  # [T, H, W] uint8 coverage
  landmarks: np.ndarray  # [T, K, 2] pixels
  normals: np.ndarray | None  # [T, H, W, 3] float16 camera frame, zero in the background
  truth: Subject


def to_srgb(light: jax.Array) -> jax.Array:
  """Linear light to sRGB; a soft shoulder keeps highlights below 1."""
  light = jnp.maximum(light, 0.0)
  light = jnp.where(light > 0.75, 1 - 0.25 * jnp.exp(-(light - 0.75) / 0.25), light)
  curved = 1.055 * jnp.maximum(light, 1e-6) ** (1 / 2.4) - 0.055
  return jnp.where(light <= 0.0031308, 12.92 * light, curved)


def eye_albedo(direction: jax.Array, iris: jax.Array) -> jax.Array:
  """[..., 3] directions from the eye's centre (its axis is +z) -> [..., 3] linear colour."""
  angle = jnp.arctan2(jnp.sqrt(jnp.sum(direction[..., :2] ** 2, -1) + 1e-12), direction[..., 2])
  turn = jnp.arctan2(direction[..., 1], direction[..., 0])
  step = lambda low, high: jnp.clip((angle - low) / (high - low), 0, 1)
  streaks = 1 + 0.25 * jnp.sin(17 * turn) * jnp.sin(7 * turn + 9 * angle) + 0.5 * (_IRIS - angle)
  ring = 1 - 0.65 * step(_IRIS - 0.10, _IRIS - 0.01)
  white = jnp.array([0.72, 0.67, 0.65]) - jnp.array([0.05, 0.16, 0.15]) * step(0.7, 1.3)[..., None]
  inner = iris * (streaks * ring)[..., None]
  colour = inner + step(_IRIS - 0.02, _IRIS + 0.05)[..., None] * (white - inner)
  return colour * (0.02 + 0.98 * step(_PUPIL - 0.03, _PUPIL + 0.03))[..., None]


def _frame(assets: Assets, folded, actor: Actor, background, expression, pose, translation, size):
  """One frame: sRGB [H, W, 3], matte [H, W], normals [H, W, 3], landmarks [K, 2]."""
  params = HeadParams(jnp.zeros(0), expression, pose, translation + actor.seat)
  depth = relief(actor, expression)
  offsets = jnp.zeros_like(actor.static_offsets)
  offsets = offsets.at[assets.skin_ids].set(depth[:, None] * actor.normals)
  # little light reaches the bottom of a fold
  shade = jnp.ones(len(offsets)).at[assets.skin_ids].set(1 + jnp.clip(depth / 0.004, -0.4, 0.06))
  vertices = in_camera(dense_vertices(folded, assets.dense, params, actor.static_offsets, offsets))
  camera = Camera(
    rotation=jnp.eye(3),
    translation=jnp.zeros(3),
    focal=jnp.full(2, actor.focal * size),
    center=jnp.full(2, size / 2),
    image_size=(size, size),
  )
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, assets.topology, (size, size))
  normals = vertex_normals(vertices, assets.dense.faces)
  eye = jnp.any(assets.eye != 0, -1, keepdims=True).astype(jnp.float32)
  attributes = jnp.concatenate(
    [normals, actor.albedo * shade[:, None], assets.eye, eye, actor.gloss[:, None]], -1
  )
  maps = interpolate(attributes, clip, assets.topology, fragments)
  filled = (fragments.face_id >= 0)[..., None]
  normal = maps[..., :3] / jnp.maximum(jnp.linalg.norm(maps[..., :3], axis=-1, keepdims=True), 1e-6)
  in_eye = maps[..., 9:10] > 0.5
  albedo = jnp.where(in_eye, eye_albedo(maps[..., 6:9], actor.iris), maps[..., 3:6])
  irradiance = jnp.maximum(sh_basis(normal) @ actor.light, 0.03)
  # a highlight about the direction half way to the lamp, sharp and strong on the wet eye
  half = actor.lamp + jnp.array([0.0, 0, -1])
  along = jnp.clip(normal @ (half / jnp.linalg.norm(half)), 0, 1)
  rim = (1 + normal[..., 2]) ** 3
  shine = jnp.where(
    in_eye[..., 0],
    0.5 * along**160,
    maps[..., 10] * (0.30 * along**18 + 0.10 * jnp.clip(rim, 0, 1)),
  )
  power = jnp.maximum(actor.lamp @ jnp.ones(3) * 0 + sh_basis(actor.lamp) @ actor.light, 0.1)
  # lids shade the upper part of the eye
  lid = jnp.where(in_eye, 0.78, 1.0)
  colour = albedo * irradiance * lid + shine[..., None] * power
  picture = jnp.where(filled, colour, background)
  together = jnp.concatenate([to_srgb(picture), filled.astype(jnp.float32)], -1)
  together = antialias(together, clip, assets.topology, fragments)
  points = in_camera(head_landmarks(folded, params))
  return (
    together[..., :3],
    together[..., 3],
    jnp.where(filled, normal, 0.0),
    project(points, camera)[0],
  )


@functools.partial(jax.jit, static_argnames='size')
def _frames(assets, actor, expression, pose, translation, size):
  folded = fold_shape(assets.head, actor.shape)
  background = jax.image.resize(actor.background, (size, size, 3), 'linear', antialias=True)
  one = lambda *moving: _frame(assets, folded, actor, background, *moving, size)
  return jax.vmap(one)(expression, pose, translation)


def render_actor(
  actor: Actor,
  motion: Motion,
  stage: Stage,
  *,
  size: int = 256,
  subject_id: str = 'actor',
  normals: bool = False,
) -> Clip:
  """Renders `actor` moved by `motion`, which may be another actor's: turns absolute, steps
  relative.

  Args:
    actor: who. motion: how, T frames. stage: of the head model of both.
    size: of the square image, pixels. subject_id: goes into the truth.
    normals: also return the normal maps (12 times the memory of the frames).
  """
  frames = len(motion.times)
  padded = -(-frames // CHUNK) * CHUNK
  index = np.minimum(np.arange(padded), frames - 1)
  parts = []
  for begin in range(0, padded, CHUNK):
    pick = index[begin : begin + CHUNK]
    image, matte, normal, points = _frames(
      stage.assets,
      actor,
      motion.expression[pick],
      motion.pose[pick],
      motion.translation[pick],
      size,
    )
    parts.append((image, matte, normal if normals else None, points))
  join = lambda k: np.concatenate([np.asarray(part[k]) for part in parts])[:frames]
  rng = np.random.default_rng(int(1e6 * float(actor.focal)) % 2**31)
  grain = float(actor.grain) * rng.normal(size=(frames, size, size, 1)).astype(np.float32)
  to_bytes = lambda values: np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
  return Clip(
    frames=to_bytes(join(0) + grain),
    matte=to_bytes(join(1)),
    landmarks=join(3),
    normals=join(2).astype(np.float16) if normals else None,
    truth=truth(actor, motion, stage, size=size, subject_id=subject_id),
  )
