"""The motion of a driving clip of any length, frame by frame: pictures are looked at and forgotten.

Letters: T frames.
"""

import dataclasses
import fractions
import itertools
import os
import pathlib
from collections.abc import Callable

import numpy as np
import tqdm

from exp_jax.controls.head_motion import head_rotation, vectors_of
from exp_jax.errors import UserError
from exp_jax.fitting.coarse.fit import fit_coarse_long
from exp_jax.fitting.landmark_head import inter_ocular
from exp_jax.fitting.seen_clip import face_too_small
from exp_jax.fitting.subject_record import tracked
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject, check_head, load_subject
from exp_jax.media.footage import is_image, read_footage
from exp_jax.media.video import declared_frames, read_frames, video_rate
from exp_jax.observe.face_crop import crop_observation, head_crop
from exp_jax.observe.landmarks import ESTIMATOR, FaceEstimator, weights_digest
from exp_jax.observe.observation import make_observation
from exp_jax.observe.tracking import follow

NO_FACE = ('hold', 'cut', 'stop')
FACES = 'largest, a number (0 the largest), left, right (in the picture), or X,Y in pixels'


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


def track(path: pathlib.Path, *, head: HeadModel, dense: Dense, size: int, limit: int | None = None, stride: int = 1,
          estimator: FaceEstimator | None = None, face: str = 'largest', no_face: str = 'hold', allow_partial: bool = False,
          warn: Callable[[str], None] = tqdm.tqdm.write) -> Driver:
  """The motion of a clip: a subject file is read, a video is watched and fitted (landmarks alone).

  Args:
    size: pixels of the square that the camera of the result refers to.
    limit: only so many frames from the start, after the stride.
    stride: only every so many-th frame; the rate falls, times stay.
    face: one of `FACES`.
    no_face: frames without a face repeat the nearest seen one ('hold'), are left out ('cut'), or are refused ('stop').

  Raises:
    UserError: an unusable file, no face or one that is too small, or less than half of the frames show it.
  """
  if path.suffix.lower() == '.npz':
    subject = load_subject(path)
    check_head(subject, head)
    if stride > 1:
      subject = dataclasses.replace(frames_of(subject, slice(None, None, stride)), fps=subject.fps / stride)
    subject = subject if limit is None else first_frames(subject, limit)
    times = np.asarray(subject.times, np.float64) - float(subject.times[0])
    return Driver(subject, times, fractions.Fraction(subject.fps).limit_denominator(1001),
                  stride * np.arange(subject.num_frames), True)
  faces, times, shape = [], [], None
  still = is_image(path)
  rate = fractions.Fraction(25) if still else video_rate(path) / stride
  total = limit or (1 if still else -(-(declared_frames(path) or 0) // stride) or None)
  pictures = ((f, 0.0) for f in read_footage(path).frames) if still else read_frames(path, allow_partial=allow_partial)
  pictures = itertools.islice(pictures, 0, None, stride)
  own = None
  try:
    estimator = estimator or (own := FaceEstimator())
    for frame, time in tqdm.tqdm(pictures, desc='track', unit='frame', leave=False, total=total):
      faces.append(np.asarray(estimator(frame)[0], np.float32)[:, :, :2])
      times.append(time)
      shape = frame.shape[:2]
      if limit and len(times) == limit:
        break
  finally:
    if own is not None:
      own.__exit__()
  times = np.asarray(times, np.float64)
  first = next((f for f in faces if len(f)), np.zeros((0, 478, 2)))
  points, warnings = follow(faces, name=path.name, **choose_face(face, first, path.name))
  seen = np.isfinite(points).all((1, 2))
  if not seen.any():
    raise UserError(f'no face found in {path.name}; use a clip where one face is clearly visible')
  if seen.mean() < 0.5:
    raise UserError(f'a face was found in only {seen.sum()} of {len(seen)} frames of {path.name}; '
                    'cut the clip to where the face is visible')
  kept = np.arange(len(seen))
  if not seen.all():
    words = f'{(~seen).sum()} of {len(seen)} frames of {path.name} show no such face, the first at {times[~seen][0]:.2f} s'
    if no_face == 'stop':
      raise UserError(f'{words}; --no_face hold or cut goes on without them')
    warn(f'warning: {words}; ' + ('they are left out' if no_face == 'cut' else 'the nearest seen motion is held there'))
    if no_face == 'cut':
      kept, points, seen = kept[seen], points[seen], seen[seen]
  credit = {'points': {'estimator': ESTIMATOR, 'licence': 'Apache-2.0', 'digest': weights_digest()}}
  observation = make_observation(points, found=seen, name=path.name, image_size=shape, estimator=ESTIMATOR, warnings=warnings,
                                 provenance=credit)
  eyes = float(np.median(inter_ocular(observation.points[observation.found])))
  if complaint := face_too_small(path.name, eyes):
    raise UserError(complaint)
  for words in warnings:
    warn(f'warning: {words}')
  crop = head_crop(observation, size=size)
  cut = crop_observation(observation, crop)
  fit = fit_coarse_long(head, cut, progress=lambda chunks: tqdm.tqdm(chunks, desc='fit', unit='chunk', leave=False))
  subject = tracked(cut, fit, name=path.stem[:120], rate=float(rate), crop=crop, eyes=eyes, head=head, dense=dense)
  whole = len(kept) == len(times)
  times = times if whole else np.arange(len(kept)) / float(rate)
  return Driver(dataclasses.replace(subject, times=times.astype(np.float32)), times, rate, stride * kept, whole)


def first_frames(subject: Subject, count: int) -> Subject:
  """The first `count` frames of a subject, or all if it has fewer."""
  return frames_of(subject, slice(0, count))


def frames_of(subject: Subject, frames: slice | np.ndarray) -> Subject:
  """Those frames of a subject."""
  per_frame = ('expression', 'pose', 'translation', 'times', 'dynamic_offsets', 'source_crop')
  return dataclasses.replace(subject, **{name: value[frames] for name in per_frame
                                         if (value := getattr(subject, name)) is not None})


def best_frame(path: str | os.PathLike, *, head: HeadModel, dense: Dense, estimator: FaceEstimator, face: str = 'largest',
               candidates: int = 48, allow_partial: bool = False) -> tuple[int, np.ndarray]:
  """(number, picture [H, W, 3]) of the frame of a clip that makes the best portrait: facing the camera, at rest, eyes open.

  Among at most `candidates` frames spread over the clip the one with the least |turn of the head| (radians) +
  0.5 |expression|, both as fitted.

  Raises:
    UserError: as `track`.
  """
  path = pathlib.Path(path)
  total = sum(1 for _ in read_frames(path, allow_partial=allow_partial))
  chosen = np.unique(np.linspace(0, total - 1, candidates).round().astype(int))
  found, pictures = [], {}
  for number, (frame, _) in enumerate(read_frames(path, allow_partial=allow_partial)):
    if number in chosen:
      points = np.asarray(estimator(frame)[0], np.float32)[:, :, :2]
      found.append(points)
      pictures[number] = frame
  first = next((f for f in found if len(f)), np.zeros((0, 478, 2)))
  points, _ = follow(found, name=path.name, **choose_face(face, first, path.name))
  seen = np.isfinite(points).all((1, 2))
  if not seen.any():
    raise UserError(f'no face found in {path.name}; use a clip where one face is clearly visible')
  observation = make_observation(points[seen], name=path.name, image_size=frame.shape[:2], estimator=ESTIMATOR)
  fit = fit_coarse_long(head, crop_observation(observation, head_crop(observation, size=512)))
  turn = np.linalg.norm(vectors_of(head_rotation(head, np.asarray(fit.pose))), axis=-1)
  score = turn + 0.5 * np.linalg.norm(fit.expression, axis=-1)
  number = int(chosen[seen][int(np.argmin(score))])
  return number, pictures[number]
