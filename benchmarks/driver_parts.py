"""What a tracked driver gets wrong, part by part: links of the pipeline of `end_to_end.py` are
replaced by the truth, one at a time.

  python benchmarks/driver_parts.py -o out/driver_parts [--people 8] [--frames 4] [--seed 40]

  landmarks alone      the driver tracked without maps, carried over as it is; all rows below but `tracked` start from it
  tracked              as a user gets it
  exact place          the face as far from where it was in the picture as the truth's
  exact rotation       the head turned against the portrait as the true one is; the face stays where it was
  exact expression     expression, jaw and gaze changed since the picture as the true ones are
  exact motion         all three: what shape and texture alone lose
  relative             the driver's turns since its first frame

Of each, self- and cross-reenactment: PSNR in the matte of textured preview and repaired preview,
and where the face is against the
truth, root mean square over frames: degrees about x (nod), y and z, pixels along x and y, size in
%, openings of mouth and eyes in % of the eye distance, and the landmarks' distance in pixels
of 256. A result's landmarks are the picture's true ones, moved as the fitted head moves its own.
First of all frames, then of the first frame.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

import end_to_end
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from scipy.spatial.transform import Rotation

from exp_jax.controls import maps
from exp_jax.controls.driving_options import ReenactOptions
from exp_jax.controls.head_motion import HeadMotion, head_motion, place_of_bent, posed
from exp_jax.controls.lids import close_lids
from exp_jax.controls.reenact import Motion, reenact
from exp_jax.controls.same_picture import driven_motion
from exp_jax.errors import UserError, exits_cleanly
from exp_jax.files.atomic import write_text
from exp_jax.fitting.landmark_head import BROWS, LIDS, LIPS, OVAL, inter_ocular
from exp_jax.fitting.tracked_driver import first_frames, track
from exp_jax.geometry import project
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_landmarks
from exp_jax.metrics import psnr
from exp_jax.recipes.retouch_records import Pipeline, film
from exp_jax.systems.expportrait.embedded import embedded
from exp_jax.systems.expportrait.portrait import known_frames
from exp_jax.systems.expportrait.retouch.retoucher import carried_out, load_retoucher

NUMBERS = ('x', 'y', 'z', 'right', 'down', 'size', 'mouth', 'eyes', 'landmarks')
# landmarks that hardly move on the face
_STIFF = np.setdiff1d(np.arange(468), [*LIPS, *LIDS, *BROWS, *OVAL])
_FACE = ('jaw', 'left_eye', 'right_eye')


@jax.jit
def _landmarks(head, camera, shape, expression, pose, translation):
  def one(each):
    points = head_landmarks(head, HeadParams(shape, *each))
    return points, project(points, camera)[0]

  return jax.lax.map(one, (expression, pose, translation))


def landmarks(head: HeadModel, subject: Subject, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
  """[T, 478, 3] metres and [T, 478, 2] pixels of the subject's camera."""
  numbers = (
    jnp.asarray(a, jnp.float32)
    for a in (subject.shape, motion.expression, motion.pose, motion.translation)
  )
  return tuple(
    np.asarray(a, np.float64) for a in _landmarks(head, maps.subject_camera(subject), *numbers)
  )


def errors(points: np.ndarray, found: np.ndarray, true: np.ndarray, focal: float) -> np.ndarray:
  """`NUMBERS` of one frame; points [478, 3] of the true head, found and true [478, 2] pixels."""
  middle = points[_STIFF].mean(0)

  def placed(unknown):
    turned = (points[_STIFF] - middle) @ Rotation.from_rotvec(unknown[:3]).as_matrix().T
    return (
      focal * turned[:, :2] / (-middle[2] - turned[:, 2:]) * [1, -1] * np.exp(unknown[5])
      + unknown[3:5]
    )

  def solved(seen):
    start = np.r_[np.zeros(3), seen[_STIFF].mean(0), 0]
    return scipy.optimize.least_squares(
      lambda u: (placed(u) - seen[_STIFF]).ravel(), start, x_scale=[0.05] * 3 + [5, 5, 0.05]
    ).x

  one, other = solved(found), solved(true)
  turn = (Rotation.from_rotvec(one[:3]) * Rotation.from_rotvec(other[:3]).inv()).as_rotvec(
    degrees=True
  )
  gap = lambda p, a, b: np.linalg.norm(p[a] - p[b])
  opening = lambda p: (
    100 / inter_ocular(true) * np.array([gap(p, 13, 14), (gap(p, 159, 145) + gap(p, 386, 374)) / 2])
  )
  off = np.sqrt(((found - true)[:468] ** 2).sum(-1).mean())
  return np.r_[
    turn, one[3:5] - other[3:5], 100 * (one[5] - other[5]), opening(found) - opening(true), off
  ]


@dataclasses.dataclass(frozen=True)
class Moved:
  """A portrait's head in motion: rotation [T, 3, 3] in the camera, expression [T, E], pose [T, J,
  3] of jaw and eyes."""

  rotation: np.ndarray
  expression: np.ndarray
  pose: np.ndarray


def put(head: HeadModel, portrait: Subject, moved: Moved, way: np.ndarray) -> Motion:
  """The motion whose face lies `way` [T, 2] pixels from where it is in the portrait."""
  pose = np.repeat(np.asarray(portrait.pose, np.float64), len(moved.rotation), 0)
  for joint in map(head.joint, _FACE):
    pose[:, joint] = moved.pose[:, joint]
  person = dict(head=head, shape=portrait.shape, expression=moved.expression, own=pose[0].copy())
  place = place_of_bent(
    pose=pose,
    translation=np.asarray(portrait.translation, np.float64),
    rotation=moved.rotation,
    **person,
  )
  pose, translation = posed(pose=pose, wanted=HeadMotion(moved.rotation, place), **person)
  motion = Motion(*(a.astype(np.float32) for a in (moved.expression, pose, translation)))
  for _ in range(3):
    step = (
      (way - way_of(head, portrait, motion))
      / np.asarray(portrait.focal)
      * -motion.translation[:, 2:]
    )
    motion = dataclasses.replace(
      motion, translation=np.float32(motion.translation + np.pad(step * [1, -1], ((0, 0), (0, 1))))
    )
  return motion


def way_of(head: HeadModel, portrait: Subject, motion: Motion) -> np.ndarray:
  """[T, 2] pixels from where the face is in the portrait."""
  seen = lambda each: landmarks(head, portrait, each)[1][:, _STIFF].mean(1)
  return seen(motion) - seen(maps.own_motion(portrait))


def moving(subject: Subject, motion: Motion) -> Subject:
  """The person of `subject` in a motion, without offsets that move."""
  count = len(motion.pose)
  return dataclasses.replace(
    subject,
    expression=motion.expression,
    pose=motion.pose,
    translation=motion.translation,
    times=np.arange(count) / 25,
    dynamic_vertices=np.zeros(0, np.int32),
    dynamic_offsets=np.zeros((count, 0, 3), np.float32),
    source_crop=None,
  )


def variants(
  head: HeadModel,
  portrait: Subject,
  tracked: Subject,
  plain: Subject,
  true: Subject,
  motion: Motion,
  way: np.ndarray,
) -> dict[str, Motion]:
  """The rows at the top of this file.

  Args:
    portrait: the fit, one frame.
    tracked, plain: the driver, with maps and without.
    true: the actor's own head in the picture, one frame.
    motion: the truth, of the actor's own head.
    way: [T, 2] pixels of the portrait, of the true face.
  """
  carried = lambda how: close_lids(head, portrait, plain, reenact(portrait, plain, head, how))
  usual = carried(ReenactOptions())
  there = way_of(head, portrait, usual)
  turns, fitted = (
    head_motion(head, moving(true, motion)).rotation,
    head_motion(head, moving(portrait, usual)).rotation,
  )
  turns = turns @ head_motion(head, true).rotation[0].T @ head_motion(head, portrait).rotation[0]
  face = dict(expression=usual.expression, pose=usual.pose)
  exact = dict(
    expression=portrait.expression + motion.expression - true.expression,
    pose=portrait.pose + motion.pose - true.pose,
  )
  return {
    'landmarks alone': usual,
    'tracked': driven_motion(portrait, tracked, head),
    'exact place': put(head, portrait, Moved(fitted, **face), way),
    'exact rotation': put(head, portrait, Moved(turns, **face), there),
    'exact expression': put(head, portrait, Moved(fitted, **exact), there),
    'exact place and rotation': put(head, portrait, Moved(turns, **face), way),
    'exact motion': put(head, portrait, Moved(turns, **exact), way),
    'relative': carried(ReenactOptions(rotation='relative')),
  }


def decibels(
  pipeline: Pipeline, retoucher, person: end_to_end.Person, motion: Motion, truth: end_to_end.Case
) -> tuple[float, float]:
  """PSNR in the matte of preview and repaired preview over frames that moved."""
  head, dense = pipeline.stage.assets.head, pipeline.stage.assets.dense
  previews, known = pipeline.drawn(person.portrait, motion)
  own = person.portrait.subject
  _, rest = next(
    known_frames(person.portrait, maps.own_motion(own), maps.full_offsets(own), head, dense)
  )
  repaired = [
    carried_out(p, retoucher.repair(p, k, person.portrait.photo, rest[..., :3]))
    for p, k in zip(previews, known)
  ]
  mask, unit = truth.matte * truth.moving[:, None, None], lambda frames: np.float32(frames) / 255
  return tuple(
    float(psnr(unit(frames), unit(truth.truth), mask=mask).value)
    for frames in (previews, np.stack(repaired))
  )


def measured(
  pipeline: Pipeline,
  retoucher,
  person: end_to_end.Person,
  other: end_to_end.Person,
  plain: Subject,
  *,
  cross: bool,
) -> dict[str, dict]:
  """{row: {'psnr': (preview, repaired), 'errors': [T, 9]}} of one person driven by another; plain:
  the driver without maps."""
  head, own = pipeline.stage.assets.head, person.clip.truth
  motion = reenact(own, other.clip.truth, head) if cross else maps.own_motion(own)
  filmed = (
    film(person.actor, motion, pipeline.stage, len(person.clip.frames[0])) if cross else person.clip
  )
  case = end_to_end.case(pipeline, person, filmed, other.clip, {}, person.crop)
  points, pixels = landmarks(head, own, motion)
  pixels, focal = (
    person.crop.to_crop(pixels).astype(np.float64),
    float(own.focal[0]) * person.crop.scale,
  )
  first = first_frames(own, 1)
  start = person.crop.to_crop(landmarks(head, first, maps.own_motion(first))[1]).astype(np.float64)
  way = (pixels - start)[:, _STIFF].mean(1)
  portrait, rows = person.portrait.subject, {}
  rest = landmarks(head, portrait, maps.own_motion(portrait))[1]
  for name, each in variants(head, portrait, other.tracked, plain, first, motion, way).items():
    found = start + landmarks(head, portrait, each)[1] - rest
    rows[name] = {
      'psnr': decibels(pipeline, retoucher, person, each, case),
      'errors': np.stack([errors(*frame, focal) for frame in zip(points, found, pixels)]),
    }
  return rows


def summed_up(people: list[dict[str, dict]]) -> dict[str, dict]:
  """Means of PSNR, root mean squares of errors over all frames and over first frames."""
  table = {}
  for name in people[0]:
    every = [person[name]['errors'] for person in people]
    size = lambda rows: dict(zip(NUMBERS, np.sqrt(np.mean(np.square(rows), 0)).round(3).tolist()))
    table[name] = {
      'preview dB': float(np.nanmean([p[name]['psnr'][0] for p in people])),
      'repaired dB': float(np.nanmean([p[name]['psnr'][1] for p in people])),
      'all frames': size(np.concatenate(every)),
      'first frame': size([rows[0] for rows in every]),
    }
  return table


def shown(kind: str, table: dict[str, dict]) -> str:
  lines = []
  for name, row in table.items():
    lines.append(
      f'{kind:6s}{name:26s} preview {row["preview dB"]:.2f} repaired {row["repaired dB"]:.2f} dB'
    )
    for when in ('all frames', 'first frame'):
      lines.append(f'{"":32s} {when:12s}' + ''.join(f'{n} {v:.2f}  ' for n, v in row[when].items()))
  return '\n'.join(lines)


@exits_cleanly
def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True)
  parser.add_argument('--people', type=int, default=8)
  parser.add_argument('--frames', type=int, default=4)
  parser.add_argument('--seed', type=int, default=40, help='as of end_to_end.py')
  options = parser.parse_args()
  if options.people < 2 or options.frames < 4:
    raise UserError('--people must be at least 2 and --frames at least 4')
  options.output.mkdir(parents=True, exist_ok=True)
  retoucher = load_retoucher(embedded('retouch'))
  with Pipeline(size=retoucher.side, seed=options.seed) as pipeline:
    cast, plain, assets = [], [], pipeline.stage.assets
    for number in range(options.people):
      cast.append(end_to_end.meet(pipeline, number, options.frames))
      plain.append(
        track(
          cast[-1].clip.frames,
          head=assets.head,
          dense=assets.dense,
          size=pipeline.size,
          estimator=pipeline.estimator,
        ).subject
      )
      print(f'met person {number}', flush=True)
    table = {}
    for kind, step in (('self', 0), ('cross', 1)):
      rows = []
      for number, person in enumerate(cast):
        other = (number + step) % len(cast)
        rows.append(
          measured(pipeline, retoucher, person, cast[other], plain[other], cross=kind == 'cross')
        )
        print(kind, number, {n: round(r['psnr'][1], 2) for n, r in rows[-1].items()}, flush=True)
      table[kind] = summed_up(rows)
      print(shown(kind, table[kind]), flush=True)
  write_text(
    options.output / 'parts.json',
    json.dumps({'command': sys.argv, 'table': table}, indent=1) + '\n',
  )


if __name__ == '__main__':
  main()
