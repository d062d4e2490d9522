"""Draws what `retouch` learns from: previews of people as a user gets them, beside the truth.

  exp-jax retouch.records -o out/retouch/people --num 96 --seed 31

Each person is a synthetic actor whose picture goes through what `animate` does: landmarks by the
estimator, maps by the embedded network, a fit of the head, a driver's motion laid onto it, the
expression transfer, the textured preview. The truth is the actor
filmed while they move as the preview does: by the same turns, steps and changes of expression since
the picture (`moved_alike`, `in_step`).
What a tracker gets wrong of the driver is therefore in neither: nobody could undo it who sees the
preview alone.

Leaves <output>/person_00000.array_record and so on, a record for two frames that follow each other.
Run again, it goes on where it
was, and more people (--num) can be added later. Letters: T frames, S pixels, K landmarks.
"""

import argparse
import dataclasses
import io
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from PIL import Image, ImageDraw

from exp_jax.actors import Motion, Stage, load_stage, render_actor, sample_motion
from exp_jax.actors.actor import Actor, truth
from exp_jax.actors.render import Clip
from exp_jax.controls import maps
from exp_jax.controls.driving_options import ReenactOptions
from exp_jax.controls.map_records import claim_folder
from exp_jax.controls.mouth import INNER_LIPS
from exp_jax.controls.reenact import Motion as HeadMotion
from exp_jax.controls.reenact import reenact
from exp_jax.controls.same_picture import driven_motion
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.estimator.portraits import draw_light, draw_person
from exp_jax.estimator.spoil import background
from exp_jax.files import record_bytes
from exp_jax.files.array_records import write_packed
from exp_jax.geometry import project
from exp_jax.heads.model import HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_landmarks
from exp_jax.heads.trained_head import write_head
from exp_jax.media.squares import Crop
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.observe.maps.map_sources import open_map_estimators
from exp_jax.systems.expportrait.drawing import TransferredOffsets
from exp_jax.systems.expportrait.embedded import embedded
from exp_jax.systems.expportrait.portrait import (
  Portrait,
  crop_of_subject,
  known_frames,
  open_portrait,
)
from exp_jax.systems.expportrait.transfer.network import Transfer

_FILMED = 1.5  # pixels of a film's side over those of a record's
_CLIP = 48  # frames of a driver, of which pairs are taken
# corners, upper and lower lid by MediaPipe's numbers
_EYES = (33, 133, 159, 145), (362, 263, 386, 374)
_RELATIVE = ReenactOptions(rotation='relative', translation='relative')
_MOST_JAW = 0.42  # radians


def moved_alike(
  true: Subject, fitted: Subject, motion: HeadMotion, stage: Stage, *, crop: Crop, height: int
) -> HeadMotion:
  """The motion of the true head that matches one of the head that was fitted to its picture.

  Turns, steps on the screen, and changes of expression, jaw and gaze since the picture are equal.

  Args:
    true: one frame, as the picture was taken. fitted: one frame, as it was fitted.
    motion: of the fitted head, T frames.
    crop: where the fitted square lies in the picture, which is `height` pixels high.
  """
  head = stage.assets.head
  first = lambda own, moved: np.concatenate([np.asarray(own)[:1], moved])
  expression, pose = first(fitted.expression, motion.expression), first(fitted.pose, motion.pose)
  count = len(expression)
  whole = dataclasses.replace(
    fitted,
    expression=expression,
    pose=pose,
    translation=first(fitted.translation, motion.translation),
    times=np.arange(count, dtype=np.float32),
    image_size=(height, height),
    focal=np.asarray(fitted.focal) / crop.scale,
    dynamic_vertices=np.zeros(0, np.int32),
    dynamic_offsets=np.zeros((count, 0, 3), np.float32),
    source_crop=None,
  )
  moved = reenact(true, whole, head, _RELATIVE)
  most = np.inf if head.signed_expressions else 1.2
  least = -np.inf if head.signed_expressions else 0.0
  face = np.clip(
    true.expression[:1] + expression - expression[:1], least, np.maximum(most, true.expression[:1])
  )
  turned = np.array(moved.pose)
  for name in ('jaw', 'left_eye', 'right_eye'):
    joint = head.joint(name)
    turned[:, joint] = true.pose[:1, joint] + pose[:, joint] - pose[:1, joint]
  turned[:, head.joint('jaw'), 0] = np.clip(turned[:, head.joint('jaw'), 0], 0.0, _MOST_JAW)
  return HeadMotion(
    face[1:].astype(np.float32), turned[1:].astype(np.float32), np.asarray(moved.translation)[1:]
  )


def in_step(
  true: Subject, moved: HeadMotion, fitted: Subject, motion: HeadMotion, stage: Stage, *, crop: Crop
) -> HeadMotion:
  """`moved_alike` with the face as far on the screen from where it was in the picture as the
  preview's is.

  A fitted head is nearer or farther than the true one and turns about another point: its face would
  come to lie up to five pixels of 256 beside the true one's, by no fault that could be seen in the
  preview. Arguments as of `moved_alike`.
  """
  head = stage.assets.head
  seen = lambda subject, each: _landmarks(
    head, maps.subject_camera(subject), subject.shape, each.expression, each.pose, each.translation
  )
  way = lambda subject: (
    lambda each: np.asarray(seen(subject, each) - seen(subject, maps.own_motion(subject))).mean(1)
  )
  shift = way(true)(moved) - way(fitted)(motion) / crop.scale  # [T, 2] pixels of the picture
  step = shift / np.asarray(true.focal) * -moved.translation[:, 2:]
  return dataclasses.replace(
    moved,
    translation=(moved.translation + np.pad(step * [-1, 1], ((0, 0), (0, 1)))).astype(np.float32),
  )


@jax.jit
def _landmarks(head, camera, shape, expression, pose, translation):
  one = lambda each: project(head_landmarks(head, HeadParams(shape, *each)), camera)[0]
  return jax.lax.map(
    one, tuple(jnp.asarray(a, jnp.float32) for a in (expression, pose, translation))
  )


def film(actor: Actor, motion: HeadMotion, stage: Stage, size: int) -> Clip:
  """The actor with a motion whose translation is absolute."""
  seat = np.asarray(actor.seat)
  return render_actor(
    actor,
    Motion(
      motion.expression,
      motion.pose,
      motion.translation - seat,
      np.arange(len(motion.pose), dtype=np.float32) / 25,
      25.0,
    ),
    stage,
    size=size,
  )


class Camera:
  """What a camera makes of all frames of one person: background, light, colour, blur, noise, JPEG;
  drawn once from `rng`.

  Half of the people stand before the actors' own backgrounds; a fifth are filmed as they are.
  """

  def __init__(self, rng: np.random.Generator, size: int):
    blank = {
      'image': np.zeros((size, size, 3), np.float32),
      'matte': np.zeros((size, size), np.float32),
    }
    self._behind = np.clip(background(blank, rng), 0, 1) if rng.random() < 0.5 else None
    self._plain = rng.random() < 0.2
    self._gain = np.exp(rng.uniform(-0.4, 0.25)) * (1 + 0.06 * rng.normal(size=3))
    self._gamma, self._contrast, self._lift = (
      np.exp(rng.uniform(-0.25, 0.25)),
      rng.uniform(0.85, 1.15),
      rng.uniform(-0.03, 0.05),
    )
    self._colour = 0.0 if rng.random() < 0.06 else rng.uniform(0.6, 1.3)
    self._blur = rng.uniform(0.2, 0.7) if rng.random() < 0.25 else 0.0
    self._noise = 0.004 if rng.random() < 0.6 else rng.uniform(0, 0.02)
    self._quality = int(rng.integers(60, 96)) if rng.random() < 0.4 else None

  def __call__(self, image: np.ndarray, matte: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [S, S, 3] and [S, S] -> uint8 [S, S, 3]; `rng` of the frame's noise."""
    image = image.astype(np.float32) / 255
    if self._behind is not None:
      image = self._behind + (image - self._behind) * (matte[..., None] / np.float32(255))
    if not self._plain:
      image = np.clip(image * self._gain, 0, 1.5) ** self._gamma
      image = (image - 0.5) * self._contrast + 0.5 + self._lift
      grey = image.mean(-1, keepdims=True)
      image = grey + (image - grey) * self._colour
      if self._blur:
        image = scipy.ndimage.gaussian_filter(image, (self._blur, self._blur, 0))
      image = image + self._noise * rng.standard_normal(image.shape, np.float32)
    image = np.uint8(np.round(255 * np.clip(image, 0, 1)))
    if self._plain or self._quality is None:
      return image
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'JPEG', quality=self._quality)
    return np.asarray(Image.open(file))


def focus(points: np.ndarray, size: int) -> np.ndarray:
  """uint8 [S, S]: 255 about the mouth, 128 about the eyes, of MediaPipe landmarks [K, 2] in
  pixels."""
  image = Image.new('L', (size, size))
  draw = ImageDraw.Draw(image)
  for corners in _EYES:
    around = points[list(corners)]
    (x, y), reach = around.mean(0), 0.75 * np.ptp(around[:, 0])
    draw.ellipse((x - reach, y - 0.7 * reach, x + reach, y + 0.7 * reach), fill=128)
  lips = points[list(INNER_LIPS)]
  (x, y), wide, tall = lips.mean(0), 0.75 * np.ptp(lips[:, 0]), np.ptp(lips[:, 1])
  tall = 0.5 * tall + 0.35 * wide
  draw.ellipse((x - wide, y - tall, x + wide, y + tall), fill=255)
  return np.array(image)


class Pipeline:
  """All that a user's picture and clip pass through, loaded once."""

  def __init__(self, *, size: int, seed: int, head: str = 'makehuman'):
    self.stage, self.size, self.seed = load_stage(head), size, seed
    assets = self.stage.assets
    self.transfer = Transfer(embedded('transfer'), assets.head, assets.dense)
    self.networks, self.estimator = open_map_estimators(), FaceEstimator()

  def __enter__(self):
    self.estimator.__enter__()
    return self

  def __exit__(self, *_):
    self.estimator.__exit__()

  def cast(self, number: int) -> tuple[Actor, np.random.Generator]:
    """Person `number` and the generator of everything that happens to them."""
    rng = np.random.default_rng([self.seed, number])
    actor = draw_person(rng, self.stage)
    if rng.random() < 0.5:
      light, key = draw_light(rng)
      actor = actor.replace(
        light=jnp.asarray(light, jnp.float32), lamp=jnp.asarray(key, jnp.float32)
      )
    return actor, rng

  def open(self, picture: np.ndarray, name: str) -> Portrait:
    """The picture's portrait, as `animate` opens it."""
    assets = self.stage.assets
    return open_portrait(
      picture,
      name=name,
      head=assets.head,
      dense=assets.dense,
      size=self.size,
      estimator=self.estimator,
      map_estimators=self.networks,
    )

  def drawn(self, portrait: Portrait, motion: HeadMotion) -> tuple[np.ndarray, np.ndarray]:
    """Previews uint8 [T, S, S, 3] and what is known of them uint8 [T, S, S, `drawing.KNOWN`]."""
    head, dense = self.stage.assets.head, self.stage.assets.dense
    dynamic = TransferredOffsets(
      self.transfer, portrait.subject, motion, head.joint_turns(motion.pose, 'jaw')
    )
    return tuple(map(np.stack, zip(*known_frames(portrait, motion, dynamic, head, dense))))

  def person(self, number: int, pairs: int) -> list[dict[str, np.ndarray]]:
    """Records of a person; none if no head could be fitted to the picture.

    Returns:
      For each pair of frames: preview, truth uint8 [2, S, S, 3]; known uint8 [2, S, S,
        `drawing.KNOWN`]; matte and focus (see there)
      uint8 [2, S, S]; photo and photo_normals uint8 [S, S, 3] of the portrait; person int32 [1].
    """
    actor, rng = self.cast(number)
    head, filmed = self.stage.assets.head, round(_FILMED * self.size)
    camera = Camera(rng, filmed)
    own = sample_motion(rng, head, num_frames=1)
    shot = render_actor(actor, own, self.stage, size=filmed)
    picture = camera(shot.frames[0], shot.matte[0], rng)
    try:
      portrait = self.open(picture, f'person {number}')
    except UserError as error:
      print(f'person {number} is left out: {error}', file=sys.stderr)
      return []
    crop = crop_of_subject(portrait.subject, picture, 'the picture')
    driver = truth(actor, sample_motion(rng, head, num_frames=_CLIP), self.stage, size=filmed)
    chosen = np.linspace(1, _CLIP - 2, pairs).round().astype(int)[:, None] + [0, 1]
    motion = driven_motion(portrait.subject, driver, head)
    motion = HeadMotion(
      *(getattr(motion, f.name)[chosen.ravel()] for f in dataclasses.fields(HeadMotion))
    )
    previews, known = self.drawn(portrait, motion)
    _, rest = self.drawn(portrait, maps.own_motion(portrait.subject))
    moved = moved_alike(shot.truth, portrait.subject, motion, self.stage, crop=crop, height=filmed)
    clip = film(
      actor,
      in_step(shot.truth, moved, portrait.subject, motion, self.stage, crop=crop),
      self.stage,
      filmed,
    )
    truths = np.stack([crop.cut(camera(f, m, rng)) for f, m in zip(clip.frames, clip.matte)])
    mattes = np.stack([crop.cut(m) for m in clip.matte])
    focused = np.stack([focus(crop.to_crop(points), self.size) for points in clip.landmarks])
    two = lambda values, k: values[2 * k : 2 * k + 2]
    return [
      dict(
        preview=two(previews, k),
        known=two(known, k),
        truth=two(truths, k),
        matte=two(mattes, k),
        focus=two(focused, k),
        photo=portrait.photo,
        photo_normals=rest[0][..., :3],
        person=np.array([number], np.int32),
      )
      for k in range(pairs)
    ]


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='folder to fill')
  parser.add_argument('--num', type=int, default=96, help='people (default 96)')
  parser.add_argument('--first', type=int, default=0, help='number of the first person (default 0)')
  parser.add_argument(
    '--frames', type=int, default=16, help='of each person, an even number (default 16)'
  )
  parser.add_argument('--size', type=int, default=256, help='pixels, square (default 256)')
  parser.add_argument(
    '--seed', type=int, default=31, help='equal seeds draw equal people (default 31)'
  )
  options = parser.parse_args(argv)
  if options.num < 1 or options.first < 0 or options.seed < 0 or not 64 <= options.size <= 1024:
    raise UserError('--num must be at least 1, --first and --seed not negative, --size in 64..1024')
  if options.frames < 2 or options.frames % 2 or options.frames > _CLIP:
    raise UserError(f'--frames must be an even number in 2..{_CLIP}, got {options.frames}')
  claim_folder(
    options.output, {'size': options.size, 'frames': options.frames, 'seed': options.seed}
  )
  write_head(options.output, load_stage('makehuman').assets.head)
  path = lambda number: options.output / f'person_{number:05d}.array_record'
  missing = [n for n in range(options.first, options.first + options.num) if not path(n).exists()]
  if missing:
    with Pipeline(size=options.size, seed=options.seed) as pipeline:
      for done, number in enumerate(missing):
        start = time.time()
        records = pipeline.person(number, options.frames // 2)
        if records:
          write_packed(path(number), map(record_bytes.pack, records))
        print(
          f'person {number}: {len(records)} records, {time.time() - start:.0f} s; '
          f'{len(missing) - done - 1} to go',
          flush=True,
        )
  print(f'{options.num} people in {options.output}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
