"""Pictures to learn face maps from: synthetic people as unlike each other as photographs are, with
the truth of every pixel.

Each person is drawn with stronger features and finer relief than an actor of a film has, and each
picture with its own expression, turn of the head, camera and light. What happens to a picture
afterwards (shadows, glasses, blur, noise, compression) is done while
training, see `spoil.py`. Letters: H, W pixels; N dense vertices; K landmarks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.actors.actor import Actor, sample_actor
from exp_jax.actors.lighting import lamp, sample_background, sample_light
from exp_jax.actors.motion import GESTURES, gesture
from exp_jax.actors.noise import value_noise
from exp_jax.actors.render import draw_frame, part_masks
from exp_jax.actors.stage import Assets, Stage, load_stage
from exp_jax.files import record_bytes
from exp_jax.geometry import Camera, project
from exp_jax.heads.model import HeadParams
from exp_jax.heads.personalized import in_camera
from exp_jax.heads.skinning import fold_shape, head_landmarks

SIZE = 256  # pixels of a picture
_SKIN = 468  # of the landmarks; the others are irises
_NARROWEST, _WIDEST = 1.2, 2.6  # sides of the square, in face heights
_TILT = 0.12  # of a face height that the square's centre lies above the face's when it is 2.1 wide


def draw_person(rng: np.random.Generator, stage: Stage) -> Actor:
  """An actor with older skin and more relief than most: bags, dimples, folds and scars that no
  wrinkle bank has."""
  fixed = {'age': float(rng.uniform(0, 1))} if rng.random() < 0.5 else {}
  if rng.random() < 0.3:
    fixed['weight'] = float(rng.uniform(-0.9, 1.0))
  actor = sample_actor(rng, stage, **fixed)
  ids = np.asarray(stage.assets.skin_ids)
  place, relief = stage.place[ids], np.zeros(len(ids))
  for size in (0.005, 0.010, 0.020, 0.045):
    if rng.random() < 0.6:
      relief += size * rng.uniform(0.0, 0.05) * value_noise(place, rng, size=size)
  calm = 1 - 0.8 * np.clip(stage.regions['lids'] + stage.regions['lips'], 0, 1)[ids]
  offsets = np.array(actor.static_offsets)
  offsets[ids] += (relief * calm)[:, None] * np.asarray(actor.normals)
  deeper = float(rng.uniform(0.6, 1.8))
  return actor.replace(
    static_offsets=jnp.asarray(offsets, jnp.float32), wrinkles=actor.wrinkles * deeper
  )


def draw_expression(rng: np.random.Generator, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
  """Facial actions [E] and pose [J, 3]: gestures, single actions, blinks, and turns up to the
  profile."""
  head = stage.assets.head
  names, kinds = head.expression_names, list(GESTURES)
  actions, jaw = gesture(head, GESTURES[kinds[rng.integers(len(kinds))]])
  actions, jaw = actions * rng.uniform(0, 1.1), jaw * rng.uniform(0, 1.2)
  if rng.random() < 0.4:
    other, opening = gesture(head, GESTURES[kinds[rng.integers(len(kinds))]])
    share = rng.uniform(0, 0.9)
    actions, jaw = np.maximum(actions, share * other), max(jaw, share * opening)
  if rng.random() < 0.4:
    few = rng.choice(len(names), rng.integers(2, 6), replace=False)
    actions[few] = np.maximum(actions[few], rng.uniform(0, 1, len(few)))
  blink = 0.0 if rng.random() < 0.6 else rng.uniform(0, 1)
  for side in ('Left', 'Right'):
    if (key := f'eyeBlink{side}') in names:
      actions[names.index(key)] = max(
        actions[names.index(key)], blink if rng.random() < 0.9 else rng.uniform(0, 1)
      )
  jaw = max(jaw, rng.uniform(0, 0.36)) if rng.random() < 0.3 else jaw
  pose = np.zeros((len(head.parents), 3))
  yaw = rng.uniform(-1.45, 1.45) if rng.random() < 0.35 else rng.normal(0, 0.42)
  turn = np.array(
    [np.clip(rng.normal(0, 0.24), -0.7, 0.7), np.clip(yaw, -1.45, 1.45), rng.normal(0, 0.12)]
  )
  bent = np.clip(turn, [-0.4, -0.6, -0.3], [0.4, 0.6, 0.3]) * rng.uniform(0, 1)
  pose[0] = turn - bent
  pose[head.joint('neck')], pose[head.joint('head')] = 0.4 * bent, 0.6 * bent
  pose[head.joint('jaw'), :2] = np.clip(jaw, 0, 0.38), rng.normal(0, 0.02) * (jaw > 0.03)
  gaze = np.clip(rng.normal(0, [0.12, 0.25]), [-0.3, -0.5], [0.3, 0.5])
  for side in ('left_eye', 'right_eye'):
    pose[head.joint(side), :2] = gaze
  return actions.astype(np.float32), pose.astype(np.float32)


def draw_light(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Light [9, 3] and the direction [3] to its key lamp; more than half of them from anywhere,
  coloured, with dark shadows."""
  if rng.random() < 0.4:
    return sample_light(rng)
  light, key = np.zeros((9, 3)), None
  for _ in range(rng.integers(1, 4)):
    way = rng.normal(0, 1, 3) * [1, 0.8, 1]
    way[2] = -abs(way[2]) if rng.random() < 0.75 else way[2]
    way /= max(np.linalg.norm(way), 1e-3)
    key = way if key is None else key
    light = light + lamp(way, rng.uniform(0.2, 1.1) * np.clip(1 + rng.normal(0, 0.18, 3), 0.3, 1.8))
  ambient = np.zeros((9, 3))
  ambient[0] = rng.uniform(0.05, 0.5) * np.clip(1 + rng.normal(0, 0.15, 3), 0.4, 1.6) / 0.282095
  return (light + ambient).astype(np.float32), key.astype(np.float32)


@functools.partial(jax.jit, static_argnames='size')
def _picture(assets: Assets, masks, actor: Actor, expression, pose, place, *, size: int):
  """One picture; `place` [4]: the square's side in face heights, its shift [2] in sides, the
  distance relative to the actor's."""
  folded = fold_shape(assets.head, actor.shape)
  actor = actor.replace(seat=actor.seat * jnp.array([1.0, 1.0, place[3]]))
  params = HeadParams(jnp.zeros(0), expression, pose, actor.seat)
  unit = Camera(
    rotation=jnp.eye(3),
    translation=jnp.zeros(3),
    focal=jnp.ones(2),
    center=jnp.zeros(2),
    image_size=(size, size),
  )
  points = project(in_camera(head_landmarks(folded, params)), unit)[0][:_SKIN]
  low, high = points.min(0), points.max(0)
  face = (high - low).max()
  side = place[0] * face
  middle = (low + high) / 2 + side * place[1:3] - jnp.array([0.0, _TILT * place[0] / 2.1 * face])
  focal = size / side
  camera = unit.replace(focal=jnp.full(2, focal), center=size / 2 - focal * middle)
  background = jax.image.resize(actor.background, (size, size, 3), 'linear', antialias=True)
  found = draw_frame(
    assets,
    folded,
    actor,
    camera,
    background,
    expression=expression,
    pose=pose,
    translation=jnp.zeros(3),
    masks=masks,
  )
  there = found['depth'] > 0
  nearest = jnp.min(jnp.where(there, found['depth'], jnp.inf))
  depth = (found['depth'] - nearest) * focal / (size * -actor.seat[2])  # in sides of the square
  bytes_of = lambda values: jnp.round(255 * jnp.clip(values, 0, 1)).astype(jnp.uint8)
  return {
    'image': bytes_of(found['image']),
    'matte': bytes_of(found['matte']),
    'normals': bytes_of(jnp.where(there[..., None], 0.5 + 0.5 * found['normals'], 0.5)),
    'depth': jnp.where(there, depth, 0.0).astype(jnp.float16),
    'parts': found['parts'].astype(jnp.uint8),
    'landmarks': found['landmarks'],
  }


def draw_pictures(
  seed: tuple[int, int], count: int, *, head: str = 'makehuman', size: int = SIZE
) -> list[dict[str, np.ndarray]]:
  """Pictures of one person.

  Args:
    seed: of the set and the person's number in it; equal seeds give equal pictures.
    count: of pictures.
    head: model, a name or a file.
    size: pixels of the square pictures.

  Returns:
    For each picture: image uint8 [H, W, 3]; matte uint8 [H, W]; normals uint8 [H, W, 3], 255
      (n + 1) / 2 in the camera's frame (x
    right, y down, z away); depth float16 [H, W], behind the nearest point, in sides of the picture;
    parts uint8 [H, W], see `exp_jax.actors.render.PARTS`; landmarks float32 [K, 2] pixels.
  """
  stage, rng = load_stage(head), np.random.default_rng(seed)
  masks, actor = part_masks(stage), draw_person(rng, stage)
  pictures = []
  for _ in range(count):
    light, key = draw_light(rng)
    actor = actor.replace(
      light=jnp.asarray(light, jnp.float32),
      lamp=jnp.asarray(key, jnp.float32),
      background=jnp.asarray(sample_background(rng), jnp.float32),
    )
    wide = np.exp(rng.uniform(np.log(_NARROWEST), np.log(_WIDEST)))
    shift = np.clip(rng.normal(0, 0.06, 2), -0.15, 0.15)
    place = np.array([wide, *shift, np.exp(rng.uniform(np.log(0.65), np.log(2.2)))], np.float32)
    found = _picture(stage.assets, masks, actor, *draw_expression(rng, stage), place, size=size)
    pictures.append({name: np.asarray(value) for name, value in found.items()})
  return pictures


def pack_picture(picture: dict[str, np.ndarray]) -> bytes:
  """A picture of `draw_pictures` as the bytes of a record."""
  return record_bytes.pack(picture)
