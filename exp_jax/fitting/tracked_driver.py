"""The motion of a driving clip of any length, frame by frame: pictures are looked at and forgotten.

Where networks for maps are given, a few frames spread over the clip are read again and seen by
them: a portrait is fitted to maps, and a driver that is not is turned against it by four degrees,
in the very same picture. With shape and focal length known from them, landmarks alone tell the
rest.

Letters: T frames.
"""

import contextlib
import dataclasses
import fractions
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from exp_jax.controls.head_motion import head_rotation, vectors_of
from exp_jax.errors import UserError
from exp_jax.fitting.coarse.fit import chosen_frames, fit_coarse_long, key_frames
from exp_jax.fitting.landmark_head import inter_ocular
from exp_jax.fitting.seen_clip import face_too_small
from exp_jax.fitting.subject_record import tracked
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject, check_head, load_subject
from exp_jax.observe.face_crop import Crop, crop_observation, head_crop
from exp_jax.observe.landmarks import ESTIMATOR, FaceEstimator, weights_digest
from exp_jax.observe.maps.map_sources import observe_maps
from exp_jax.observe.maps.onnx_networks import MapEstimator
from exp_jax.observe.observation import Observation, make_observation
from exp_jax.observe.people import check_seen, follow_chosen, frames_to_keep, seen, watch_faces
from exp_jax.performance.inputs import Footage, footage
from exp_jax.performance.options import FACES
from exp_jax.progress import SILENT, Watch

_MAPPED = 4  # frames that networks see


@dataclasses.dataclass(frozen=True)
class Driver:
  """subject: the motion; times [T] seconds of its frames; rate: frames per second; kept [T]: their
  numbers in the clip."""

  subject: Subject
  times: np.ndarray
  rate: fractions.Fraction
  kept: np.ndarray
  whole: bool  # nothing was left out: its sound fits


def track(
  source: str | os.PathLike | np.ndarray | Footage,
  *,
  head: HeadModel,
  dense: Dense,
  size: int,
  limit: int | None = None,
  stride: int = 1,
  estimator: FaceEstimator | None = None,
  face: str = 'largest',
  no_face: str = 'hold',
  allow_partial: bool = False,
  map_estimators: tuple[MapEstimator, ...] = (),
  watch: Watch = SILENT,
) -> Driver:
  """The motion of a clip: a subject file is read, a video is watched and fitted to its landmarks.

  Args:
    source: a subject file (.npz), or what `footage` takes.
    size: pixels of the square that the camera of the result refers to.
    limit: only so many frames from the start, after the stride.
    stride: only every N-th frame; the rate falls, times stay.
    estimator: finds faces; None: a process of its own.
    face: one of `FACES`.
    no_face: frames without a face repeat the nearest seen one ('hold'), are left out ('cut'), or
      are refused ('stop').
    allow_partial: use what can be read of a damaged clip.
    map_estimators: networks for normals and depth, which see the key frames; give those that the
      portrait was fitted by.
    watch: is told of frames and of the fit.

  Raises:
    UserError: an unusable file, no face or one that is too small, or less than half of the frames
      show it.
  """
  if isinstance(source, (str, os.PathLike)) and pathlib.Path(source).suffix.lower() == '.npz':
    return _motion_of(load_subject(source), head, limit, stride)
  clip = footage(source, name='the driver', allow_partial=allow_partial)
  with contextlib.ExitStack() as stack:
    estimator = estimator or stack.enter_context(FaceEstimator())
    read = lambda: itertools.islice(
      clip.frames(), 0, None if limit is None else stride * limit, stride
    )
    count = limit or (clip.count and -(-clip.count // stride))
    watched = watch_faces(read(), estimator, stage='track', total=count, watch=watch)
  (points,), warnings = follow_chosen(watched.faces, face, name=clip.name, words=FACES)
  found, rate = seen(points), clip.rate / stride
  check_seen(found, clip.name, least=0.5)
  kept, times = frames_to_keep(
    found, watched.times, rate=float(rate), no_face=no_face, name=clip.name, watch=watch
  )
  pictures = lambda keys: pictures_of(read(), kept[keys])
  observation = make_observation(
    points[kept],
    found=found[kept],
    name=clip.name,
    image_size=watched.size,
    estimator=ESTIMATOR,
    warnings=warnings,
    provenance=_credit(),
  )
  subject = fit_driver(
    observation,
    name=clip.stem,
    title=clip.name,
    rate=float(rate),
    head=head,
    dense=dense,
    size=size,
    pictures=pictures,
    map_estimators=map_estimators,
    watch=watch,
  )
  subject = dataclasses.replace(subject, times=times.astype(np.float32))
  return Driver(subject, times, rate, stride * kept, len(kept) == len(found))


def _credit() -> dict:
  return {'points': {'estimator': ESTIMATOR, 'licence': 'Apache-2.0', 'digest': weights_digest()}}


def _motion_of(subject: Subject, head: HeadModel, limit: int | None, stride: int) -> Driver:
  """The motion that a subject file holds."""
  check_head(subject, head)
  if stride > 1:
    subject = dataclasses.replace(
      frames_of(subject, slice(None, None, stride)), fps=subject.fps / stride
    )
  subject = subject if limit is None else first_frames(subject, limit)
  times = np.asarray(subject.times, np.float64) - float(subject.times[0])
  rate = fractions.Fraction(subject.fps).limit_denominator(1001)
  return Driver(subject, times, rate, stride * np.arange(subject.num_frames), True)


def pictures_of(
  frames: Iterable[tuple[np.ndarray, float]], numbers: np.ndarray
) -> list[np.ndarray]:
  """Those of (picture, seconds) pairs, in ascending order; nothing is read beyond the last."""
  first = itertools.islice(frames, int(numbers.max()) + 1)
  wanted = set(numbers.tolist())
  return [picture for number, (picture, _) in enumerate(first) if number in wanted]


def fit_driver(
  observation: Observation,
  *,
  name: str,
  title: str = '',
  rate: float,
  head: HeadModel,
  dense: Dense,
  size: int,
  pictures: Callable[[np.ndarray], list[np.ndarray]],
  map_estimators: tuple[MapEstimator, ...] = (),
  watch: Watch = SILENT,
) -> Subject:
  """The motion of a clip whose landmarks are known, without offsets.

  Args:
    observation: T frames, in pixels of the source's pictures.
    name: of the subject.
    title: what messages call the clip; empty: its name.
    rate: frames per second.
    head, dense: the head model.
    size: pixels of the square that the camera of the result refers to.
    pictures: ascending numbers of frames [K] -> these K pictures, uint8 [H, W, 3]; asked only if
      there are networks.
    map_estimators: networks for normals and depth, which see a few frames; empty: landmarks alone.
    watch: is told of warnings and of the fit.

  Raises:
    UserError: the face is too small, or as `fit_coarse_long`.
  """
  title = title or name
  eyes = float(np.median(inter_ocular(observation.points[observation.found])))
  if complaint := face_too_small(title, eyes):
    raise UserError(complaint)
  for words in observation.warnings:
    watch.warn(words)
  crop = head_crop(observation, size=size)
  cut = crop_observation(observation, crop)
  keys = None
  if map_estimators:
    numbers = key_frames(cut.found, _MAPPED)
    keys = watch.wait_for(
      lambda: _with_maps(cut, crop, numbers, pictures, map_estimators, title), 'map the driver'
    )
    cut = dataclasses.replace(cut, provenance=keys.provenance)
  fit = watch.wait_for(lambda: fit_coarse_long(head, cut, keys=keys), 'fit the driver')
  return tracked(cut, fit, name=name, rate=rate, crop=crop, eyes=eyes, head=head, dense=dense)


def _with_maps(
  seen: Observation,
  crop: Crop,
  keys: np.ndarray,
  pictures,
  estimators: tuple[MapEstimator, ...],
  name: str,
) -> Observation:
  """The key frames [K] of a clip seen in `crop`, with their maps."""
  squares = np.stack([crop.cut(picture) for picture in pictures(keys)])
  return observe_maps(squares, chosen_frames(seen, keys), list(estimators), name=name)


def first_frames(subject: Subject, count: int) -> Subject:
  """The first `count` frames of a subject, or all if it has fewer."""
  return frames_of(subject, slice(0, count))


def frames_of(subject: Subject, frames: slice | np.ndarray) -> Subject:
  """Those frames of a subject."""
  per_frame = ('expression', 'pose', 'translation', 'times', 'dynamic_offsets', 'source_crop')
  return dataclasses.replace(
    subject,
    **{name: value[frames] for name in per_frame if (value := getattr(subject, name)) is not None},
  )


def best_frame(
  source: str | os.PathLike | np.ndarray | Footage,
  *,
  head: HeadModel,
  dense: Dense,
  estimator: FaceEstimator,
  face: str = 'largest',
  candidates: int = 48,
  allow_partial: bool = False,
  watch: Watch = SILENT,
) -> tuple[int, np.ndarray]:
  """(number, picture [H, W, 3]) of the frame of a clip that makes the best portrait: facing the
  camera, at rest, eyes open.

  Among at most `candidates` frames spread over the clip the one with the least |turn of the head|
  (radians) + 0.5 |expression|, both as fitted.

  Raises:
    UserError: as `track`.
  """
  clip = footage(source, name='the portrait', allow_partial=allow_partial)
  total = sum(1 for _ in clip.frames())
  chosen = np.unique(np.linspace(0, total - 1, candidates).round().astype(int))
  pictures = {
    number: picture
    for number, picture in enumerate(watch.each(clip.frames(), 'read frames', total))
    if number in chosen
  }
  watched = watch_faces(
    pictures.values(), estimator, stage='choose a frame', total=len(chosen), watch=watch
  )
  (points,), _ = follow_chosen(watched.faces, face, name=clip.name, words=FACES)
  there = seen(points)
  check_seen(there, clip.name)
  observation = make_observation(
    points[there], name=clip.name, image_size=watched.size, estimator=ESTIMATOR
  )
  cut = crop_observation(observation, head_crop(observation, size=512))
  fit = watch.wait_for(lambda: fit_coarse_long(head, cut), 'fit the frames')
  turn = np.linalg.norm(vectors_of(head_rotation(head, np.asarray(fit.pose))), axis=-1)
  score = turn + 0.5 * np.linalg.norm(fit.expression, axis=-1)
  number = int(chosen[there][int(np.argmin(score))])
  return number, pictures[number][0]
