"""The motion of a driving clip of any length, frame by frame: pictures are looked at and forgotten.

Letters: T frames.
"""

import contextlib
import dataclasses
import fractions
import itertools
import os
import pathlib

import numpy as np

from exp_jax.controls.head_motion import head_rotation, vectors_of
from exp_jax.errors import UserError
from exp_jax.fitting.coarse.fit import fit_coarse_long
from exp_jax.fitting.landmark_head import inter_ocular
from exp_jax.fitting.seen_clip import face_too_small
from exp_jax.fitting.subject_record import tracked
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject, check_head, load_subject
from exp_jax.observe.face_crop import crop_observation, head_crop
from exp_jax.observe.landmarks import ESTIMATOR, FaceEstimator, weights_digest
from exp_jax.observe.observation import make_observation
from exp_jax.observe.tracking import follow
from exp_jax.performance.inputs import Footage, footage
from exp_jax.performance.options import FACES
from exp_jax.progress import SILENT, Watch


@dataclasses.dataclass(frozen=True)
class Driver:
  """subject: the motion; times [T] seconds of its frames; rate: frames per second; kept [T]: their numbers in the clip."""
  subject: Subject
  times: np.ndarray
  rate: fractions.Fraction
  kept: np.ndarray
  whole: bool              # nothing was left out: its sound fits


def choose_face(choice: str, faces: list[np.ndarray], name: str) -> dict:
  """`face` or `near` of `follow` for one of `FACES`; `faces` are the [N, K, 2] found in the first frame that has any.

  Raises:
    UserError: anything else.
  """
  if choice == 'largest':
    return {}
  if choice in ('left', 'right'):
    if not len(faces):
      return {}
    centers = np.asarray([f.mean(0) for f in faces])
    return {'near': tuple(centers[(np.argmin if choice == 'left' else np.argmax)(centers[:, 0])])}
  if choice.isdecimal():
    return {'face': int(choice)}
  parts = choice.split(',')
  try:
    x, y = (float(p) for p in parts)
  except ValueError:
    raise UserError(f'the face of {name} must be {FACES}; got {choice!r}') from None
  return {'near': (x, y)}


def check_face(choice: str, what: str) -> None:
  """UserError for a choice that cannot be one, before anything is read."""
  choose_face(choice, [np.zeros((1, 2))], what)


def track(source: str | os.PathLike | np.ndarray | Footage, *, head: HeadModel, dense: Dense, size: int, limit: int | None = None,
          stride: int = 1, estimator: FaceEstimator | None = None, face: str = 'largest', no_face: str = 'hold',
          allow_partial: bool = False, watch: Watch = SILENT) -> Driver:
  """The motion of a clip: a subject file is read, a video is watched and fitted (landmarks alone).

  Args:
    source: a subject file (.npz), or what `footage` takes.
    size: pixels of the square that the camera of the result refers to.
    limit: only so many frames from the start, after the stride.
    stride: only every N-th frame; the rate falls, times stay.
    estimator: finds faces; None: a process of its own.
    face: one of `FACES`.
    no_face: frames without a face repeat the nearest seen one ('hold'), are left out ('cut'), or are refused ('stop').
    allow_partial: use what can be read of a damaged clip.
    watch: is told of frames and of the fit.

  Raises:
    UserError: an unusable file, no face or one that is too small, or less than half of the frames show it.
  """
  if isinstance(source, (str, os.PathLike)) and pathlib.Path(source).suffix.lower() == '.npz':
    return _motion_of(load_subject(source), head, limit, stride)
  clip = footage(source, name='the driver', allow_partial=allow_partial)
  with contextlib.ExitStack() as stack:
    estimator = estimator or stack.enter_context(FaceEstimator())
    faces, times, shape = _faces_of(clip, estimator, limit, stride, watch)
  first = next((f for f in faces if len(f)), np.zeros((0, 478, 2)))
  points, warnings = follow(faces, name=clip.name, **choose_face(face, first, clip.name))
  seen = np.isfinite(points).all((1, 2))
  if not seen.any():
    raise UserError(f'no face found in {clip.name}; use a clip where one face is clearly visible')
  if seen.mean() < 0.5:
    raise UserError(f'a face was found in only {seen.sum()} of {len(seen)} frames of {clip.name}; '
                    'cut the clip to where the face is visible')
  kept = np.arange(len(seen))
  if not seen.all():
    words = f'{(~seen).sum()} of {len(seen)} frames of {clip.name} show no such face, the first at {times[~seen][0]:.2f} s'
    if no_face == 'stop':
      raise UserError(f'{words}; --no_face hold or cut goes on without them')
    watch.warn(f'{words}; ' + ('they are left out' if no_face == 'cut' else 'the nearest seen motion is held there'))
    if no_face == 'cut':
      kept, points, seen = kept[seen], points[seen], seen[seen]
  subject = _fitted(clip, points, seen, shape, warnings, head=head, dense=dense, size=size, rate=float(clip.rate / stride),
                    watch=watch)
  whole = len(kept) == len(times)
  times = times if whole else np.arange(len(kept)) / float(clip.rate / stride)
  return Driver(dataclasses.replace(subject, times=times.astype(np.float32)), times, clip.rate / stride, stride * kept, whole)


def _motion_of(subject: Subject, head: HeadModel, limit: int | None, stride: int) -> Driver:
  """The motion that a subject file holds."""
  check_head(subject, head)
  if stride > 1:
    subject = dataclasses.replace(frames_of(subject, slice(None, None, stride)), fps=subject.fps / stride)
  subject = subject if limit is None else first_frames(subject, limit)
  times = np.asarray(subject.times, np.float64) - float(subject.times[0])
  rate = fractions.Fraction(subject.fps).limit_denominator(1001)
  return Driver(subject, times, rate, stride * np.arange(subject.num_frames), True)


def _faces_of(clip: Footage, estimator, limit: int | None, stride: int, watch: Watch):
  """(list of [F, 478, 2] faces, times [T], (height, width)) of the frames that are looked at."""
  faces, times, shape = [], [], None
  total = limit or (clip.count and -(-clip.count // stride))
  pictures = itertools.islice(clip.frames(), 0, None if limit is None else stride * limit, stride)
  for frame, time in watch.each(pictures, 'track', total):
    faces.append(np.asarray(estimator(frame)[0], np.float32)[:, :, :2])
    times.append(time)
    shape = frame.shape[:2]
  return faces, np.asarray(times, np.float64), shape


def _fitted(clip: Footage, points, seen, shape, warnings, *, head, dense, size, rate, watch: Watch) -> Subject:
  """The head fitted to landmarks [T, 478, 2] of a clip."""
  credit = {'points': {'estimator': ESTIMATOR, 'licence': 'Apache-2.0', 'digest': weights_digest()}}
  observation = make_observation(points, found=seen, name=clip.name, image_size=shape, estimator=ESTIMATOR, warnings=warnings,
                                 provenance=credit)
  eyes = float(np.median(inter_ocular(observation.points[observation.found])))
  if complaint := face_too_small(clip.name, eyes):
    raise UserError(complaint)
  for words in warnings:
    watch.warn(words)
  crop = head_crop(observation, size=size)
  cut = crop_observation(observation, crop)
  fit = watch.wait_for(lambda: fit_coarse_long(head, cut), 'fit the driver')
  return tracked(cut, fit, name=clip.stem, rate=rate, crop=crop, eyes=eyes, head=head, dense=dense)


def first_frames(subject: Subject, count: int) -> Subject:
  """The first `count` frames of a subject, or all if it has fewer."""
  return frames_of(subject, slice(0, count))


def frames_of(subject: Subject, frames: slice | np.ndarray) -> Subject:
  """Those frames of a subject."""
  per_frame = ('expression', 'pose', 'translation', 'times', 'dynamic_offsets', 'source_crop')
  return dataclasses.replace(subject, **{name: value[frames] for name in per_frame
                                         if (value := getattr(subject, name)) is not None})


def best_frame(source: str | os.PathLike | np.ndarray | Footage, *, head: HeadModel, dense: Dense, estimator: FaceEstimator,
               face: str = 'largest', candidates: int = 48, allow_partial: bool = False, watch: Watch = SILENT
               ) -> tuple[int, np.ndarray]:
  """(number, picture [H, W, 3]) of the frame of a clip that makes the best portrait: facing the camera, at rest, eyes open.

  Among at most `candidates` frames spread over the clip the one with the least |turn of the head| (radians) +
  0.5 |expression|, both as fitted.

  Raises:
    UserError: as `track`.
  """
  clip = footage(source, name='the portrait', allow_partial=allow_partial)
  total = sum(1 for _ in clip.frames())
  chosen = np.unique(np.linspace(0, total - 1, candidates).round().astype(int))
  found, pictures = [], {}
  for number, (frame, _) in enumerate(watch.each(clip.frames(), 'choose a frame', total)):
    if number in chosen:
      points = np.asarray(estimator(frame)[0], np.float32)[:, :, :2]
      found.append(points)
      pictures[number] = frame
  first = next((f for f in found if len(f)), np.zeros((0, 478, 2)))
  points, _ = follow(found, name=clip.name, **choose_face(face, first, clip.name))
  seen = np.isfinite(points).all((1, 2))
  if not seen.any():
    raise UserError(f'no face found in {clip.name}; use a clip where one face is clearly visible')
  observation = make_observation(points[seen], name=clip.name, image_size=frame.shape[:2], estimator=ESTIMATOR)
  cut = crop_observation(observation, head_crop(observation, size=512))
  fit = watch.wait_for(lambda: fit_coarse_long(head, cut), 'fit the frames')
  turn = np.linalg.norm(vectors_of(head_rotation(head, np.asarray(fit.pose))), axis=-1)
  score = turn + 0.5 * np.linalg.norm(fit.expression, axis=-1)
  number = int(chosen[seen][int(np.argmin(score))])
  return number, pictures[number]
