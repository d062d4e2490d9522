"""Pictures of actors: posed dense mesh, rasterized, shaded, over their background. One compile per
size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.actors.actor import Actor, relief, truth
from exp_jax.actors.lighting import sh_basis
from exp_jax.actors.materials import FIELDS, Surface, surface
from exp_jax.actors.motion import Motion
from exp_jax.actors.occlusion import shadow, turned_light
from exp_jax.actors.stage import Assets, Stage
from exp_jax.controls.mouth import GUMS, loop_of, mouth_light, paint_teeth, tooth_light
from exp_jax.geometry import HEAD_TO_CAMERA, Camera, clip_coordinates, project
from exp_jax.heads.densify import dense_vertices
from exp_jax.heads.model import HeadParams
from exp_jax.heads.personalized import Subject, in_camera
from exp_jax.heads.skinning import fold_shape, head_landmarks, joint_transforms
from exp_jax.rendering import antialias, interpolate, rasterize
from exp_jax.rendering.normals import vertex_normals

CHUNK = 4  # frames rendered by one call
MAPS = ('normals', 'depth', 'uv')
PARTS = ('background', 'skin', 'hair', 'cloth', 'eyes', 'lids', 'lips', 'mouth')
_IRIS, _PUPIL = 0.50, 0.19  # radians about the eye's axis
_GAMMA = 2.2  # from what is seen, in which mouths are painted and lit, to linear light


@dataclasses.dataclass(frozen=True)
class Clip:
  """A rendered clip with everything that is known of it."""

  frames: np.ndarray  # [T, H, W, 3] uint8 sRGB
  matte: np.ndarray  # [T, H, W] uint8 coverage
  landmarks: np.ndarray  # [T, K, 2] pixels
  gaze: np.ndarray  # [T, 2, 3] unit directions of the left and right eye's axis, camera frame
  # per pixel, float16, zero in the background: normals [T, H, W, 3] camera frame, depth [T, H, W]
  # metres, uv [T, H, W, 2] (heads with texture coordinates only); empty unless asked for
  maps: dict[str, np.ndarray]
  truth: Subject


def to_srgb(light: jax.Array) -> jax.Array:
  """Linear light to sRGB; a soft shoulder keeps highlights below 1."""
  light = jnp.maximum(light, 0.0)
  light = jnp.where(light > 0.75, 1 - 0.25 * jnp.exp(-(light - 0.75) / 0.25), light)
  curved = 1.055 * jnp.maximum(light, 1e-6) ** (1 / 2.4) - 0.055
  return jnp.where(light <= 0.0031308, 12.92 * light, curved)


def _unit(vectors: jax.Array) -> jax.Array:
  return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


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


def actor_camera(actor: Actor, size: int) -> Camera:
  """The camera that films an actor in a picture of `size` x `size` pixels."""
  return Camera(
    rotation=jnp.eye(3),
    translation=jnp.zeros(3),
    focal=jnp.full(2, actor.focal * size),
    center=jnp.full(2, size / 2),
    image_size=(size, size),
  )


def part_masks(stage: Stage) -> jax.Array:
  """[N, 3] float32 masks of lids, lips and the inner mouth (teeth and tongue with it), for
  `draw_frame`."""
  inside = sum(stage.regions[name] for name in ('inner_mouth', 'teeth', 'tongue'))
  lips = stage.regions['lips'] / max(stage.regions['lips'].max(), 1e-6)
  return jnp.asarray(np.stack([stage.regions['lids'], lips, np.clip(inside, 0, 1)], 1), jnp.float32)


def _shaded(actor: Actor, paint: Surface, albedo, normal, bumpy, in_eye, left, turn) -> jax.Array:
  """[H, W, 3] linear light that comes from each pixel: diffuse, highlights on skin and eyes, the
  two lobes of hair."""
  irradiance = jnp.maximum(sh_basis(bumpy) @ actor.light, 0.02) * left
  # a highlight about the direction half way to the lamp, sharp and strong on the wet eye
  half = _unit(actor.lamp + jnp.array([0.0, 0, -1]))
  along = jnp.clip(bumpy @ half, 0, 1)
  rim = jnp.clip(1 + normal[..., 2], 0, 1) ** 3
  shine = jnp.where(
    in_eye[..., 0],
    0.5 * jnp.clip(normal @ half, 0, 1) ** 160,
    paint.gloss * (0.30 * along**18 + 0.10 * rim),
  )
  # strands shine where they are square to that direction, in two lobes (Kajiya & Kay 1989)
  strand = _unit(paint.strand @ turn.T)
  strand = _unit(strand - jnp.sum(strand * normal, -1, keepdims=True) * normal)
  strand = _unit(strand + 0.30 * paint.streak[..., None] * normal)
  lobe = lambda tilt, sharpness: (
    jnp.clip(1 - (_unit(strand + tilt * normal) @ half) ** 2, 0, 1) ** sharpness
  )
  facing = jnp.clip(bumpy @ half + 0.2, 0, 1)
  tint = facing * (0.03 * lobe(-0.08, 60) + 0.25 * paint.albedo.mean(-1) * lobe(0.12, 8))
  power = jnp.maximum(sh_basis(actor.lamp) @ actor.light, 0.1)
  colour = albedo * irradiance
  colour = colour + (shine * left[..., 0])[..., None] * power
  return colour + (paint.hair * tint * left[..., 0])[..., None] * power


def draw_frame(
  assets: Assets,
  folded,
  actor: Actor,
  camera: Camera,
  background,
  *,
  expression,
  pose,
  translation,
  masks: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """One frame, as a dictionary of what `Clip` holds: image [H, W, 3] sRGB in 0..1, matte,
  landmarks, gaze, normals, depth, uv.

  Args:
    assets: of the stage.
    folded: the head with the actor's shape folded in.
    actor: who, under which light.
    camera: `actor_camera`, or another one.
    background: [H, W, 3] linear.
    expression: [E].
    pose: [J, 3] axis-angle.
    translation: [3] metres relative to the actor's seat.
    masks: [N, 3] of `part_masks`; with them the result has `parts` [H, W] int32, an index of
      `PARTS` for each pixel.
  """
  params = HeadParams(jnp.zeros(0), expression, pose, translation + actor.seat)
  folds = relief(actor, expression)
  offsets = jnp.zeros_like(actor.static_offsets)
  offsets = offsets.at[assets.skin_ids].set(folds[:, None] * actor.normals)
  # little light reaches the bottom of a fold
  shade = jnp.ones(len(offsets)).at[assets.skin_ids].set(1 + jnp.clip(folds / 0.004, -0.4, 0.06))
  vertices = in_camera(dense_vertices(folded, assets.dense, params, actor.static_offsets, offsets))
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, assets.topology, camera.image_size)
  normals = vertex_normals(vertices, assets.dense.faces)
  # how the head has turned since the template: materials and shadows live there
  turns = HEAD_TO_CAMERA @ joint_transforms(folded, params)[:, :3, :3]
  turn = turns[assets.head.joint('head')]
  light = turned_light(actor.light, turn)
  left = shade * shadow(assets.transfer, assets.normals, light)
  # A crown is lit as its outer face lies: normals of its vertices turn over at the biting edge.
  outer = normals.at[assets.crowns].set(vertex_normals(vertices, assets.labial)[assets.crowns])
  left = left * _through_lips(assets, vertices, normals, outer)
  eye = jnp.any(assets.eye != 0, -1, keepdims=True).astype(jnp.float32)
  look = actor.look
  columns = [normals, outer, assets.eye, eye, left[:, None], look.gloss[:, None], look.skin]
  attributes = jnp.concatenate([*columns, look.fields, assets.place, assets.tooth], -1)
  maps = interpolate(attributes, clip, assets.topology, fragments)
  filled = (fragments.face_id >= 0)[..., None]
  normal, outer, eyes, in_eye, left, gloss, skin, fields, place, tooth = jnp.split(
    maps, np.cumsum([3, 3, 3, 1, 1, 1, 3, len(FIELDS), 3]), -1
  )
  painted = paint_teeth(tooth, skin, jnp.array(GUMS) ** _GAMMA)
  skin = jnp.where(jnp.abs(tooth[..., 2:]) > 0.5, painted, skin)
  in_eye = in_eye > 0.5
  pixel = -actor.seat[2] / camera.focal[0]
  paint = surface(look, skin, gloss[..., 0], fields, place, assets.crown, pixel=pixel)
  normal, outer = _unit(normal), _unit(outer)
  bumpy = _unit(outer + jnp.where(in_eye, 0.0, paint.bump @ turn.T))
  albedo = jnp.where(in_eye, eye_albedo(eyes, look.iris), paint.albedo)
  colour = _shaded(actor, paint, albedo, outer, bumpy, in_eye, left, turn)
  picture = jnp.where(filled, colour, background)
  together = jnp.concatenate([to_srgb(picture), filled.astype(jnp.float32)], -1)
  together = antialias(together, clip, assets.topology, fragments)
  result = {
    'image': together[..., :3],
    'matte': together[..., 3],
    'landmarks': project(in_camera(head_landmarks(folded, params)), camera)[0],
    'gaze': jnp.stack([turns[assets.head.joint(eye)][:, 2] for eye in ('left_eye', 'right_eye')]),
    'normals': jnp.where(filled, normal, 0.0),
    'depth': 1 / jnp.where(filled[..., 0], fragments.inv_w, jnp.inf),
  }
  if masks is not None:
    seen = interpolate(masks, clip, assets.topology, fragments)
    result['parts'] = _parts(seen, paint, in_eye[..., 0], filled[..., 0])
  if assets.dense.uv is not None:
    result['uv'] = interpolate(assets.dense.uv, clip, assets.topology, fragments)
  return result


def _through_lips(assets: Assets, vertices, normals, outer) -> jax.Array | float:
  """[N] share of the light that reaches the inside of the mouth, linear; 1 elsewhere."""
  if assets.lips is None:
    return 1.0
  inside, crowns, lips = assets.cavity, assets.crowns, loop_of(vertices, assets.lips)
  through = jnp.ones(len(vertices))
  through = through.at[inside].set(mouth_light(vertices[inside], normals[inside], lips))
  through = through.at[crowns].set(tooth_light(vertices[crowns], outer[crowns], lips))
  return through**_GAMMA


def _parts(masks: jax.Array, paint: Surface, in_eye: jax.Array, filled: jax.Array) -> jax.Array:
  """[H, W] int32 indices of `PARTS`; masks [H, W, 3] of `part_masks` as seen."""
  lids, lips, mouth = jnp.moveaxis(masks, -1, 0)
  above = {
    'mouth': mouth > 0.5,
    'lips': lips > 0.4,
    'lids': lids > 0.5,
    'cloth': paint.cloth > 0.5,
    'hair': paint.hair > 0.5,
    'eyes': in_eye,
    'background': ~filled,
  }
  parts = jnp.ones_like(filled, jnp.int32)  # skin, unless one of these lies above it
  for part, here in above.items():
    parts = jnp.where(here, PARTS.index(part), parts)
  return parts


@functools.partial(jax.jit, static_argnames=('size', 'maps'))
def _frames(assets, actor, expression, pose, translation, size, maps):
  folded = fold_shape(assets.head, actor.shape)
  background = jax.image.resize(actor.background, (size, size, 3), 'linear', antialias=True)
  camera = actor_camera(actor, size)
  one = lambda e, p, t: draw_frame(
    assets, folded, actor, camera, background, expression=e, pose=p, translation=t
  )
  found = jax.vmap(one)(expression, pose, translation)
  return {k: v for k, v in found.items() if maps or k not in MAPS}


def render_actor(
  actor: Actor,
  motion: Motion,
  stage: Stage,
  *,
  size: int = 256,
  subject_id: str = 'actor',
  maps: bool = False,
) -> Clip:
  """Renders `actor` moved by `motion`, which may be another actor's: turns absolute, steps
  relative.

  Args:
    actor: who. motion: how, T frames. stage: of the head model of both.
    size: of the square image, pixels. subject_id: goes into the truth.
    maps: also return normals, depth and uv (four times the memory of the frames).
  """
  frames = len(motion.times)
  padded = -(-frames // CHUNK) * CHUNK
  index = np.minimum(np.arange(padded), frames - 1)
  parts = []
  for begin in range(0, padded, CHUNK):
    pick = index[begin : begin + CHUNK]
    found = _frames(
      stage.assets,
      actor,
      motion.expression[pick],
      motion.pose[pick],
      motion.translation[pick],
      size,
      maps,
    )
    parts.append({k: np.asarray(v, np.float16 if k in MAPS else None) for k, v in found.items()})
  whole = {k: np.concatenate([part[k] for part in parts])[:frames] for k in parts[0]}
  rng = np.random.default_rng(int(1e6 * float(actor.focal)) % 2**31)
  grain = float(actor.grain) * rng.normal(size=(frames, size, size, 1)).astype(np.float32)
  to_bytes = lambda values: np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
  return Clip(
    frames=to_bytes(whole['image'] + grain),
    matte=to_bytes(whole['matte']),
    landmarks=whole['landmarks'],
    gaze=whole['gaze'],
    maps={k: whole[k] for k in MAPS if k in whole},
    truth=truth(actor, motion, stage, size=size, subject_id=subject_id),
  )
