"""Portraits and drivers with their heads: fitted without offsets, taken from a folder of fits,
or tracked once and kept.

What systems share that draw from maps of a head. Letters: T frames, H, W pixels.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from exp_jax import __version__
from exp_jax.errors import UserError
from exp_jax.files.digests import key_of
from exp_jax.files.names import existing
from exp_jax.fitting.kept_drivers import kept_driver
from exp_jax.fitting.tracked_driver import Driver, best_frame, frames_of, track
from exp_jax.heads.densify import densify
from exp_jax.heads.model import HeadModel, head_digest
from exp_jax.heads.personalized import Subject, check_head, load_subject, save_subject
from exp_jax.media.squares import Crop, Cut
from exp_jax.observe.landmarks import ESTIMATOR, FaceEstimator
from exp_jax.observe.maps.onnx_networks import MapEstimator
from exp_jax.performance.animation import Animation, Stopwatch
from exp_jax.performance.inputs import Footage, first_picture, footage, frame_of
from exp_jax.performance.results import driving_record, square_record
from exp_jax.progress import SILENT, Watch

Source = str | os.PathLike | np.ndarray | Footage
_FIT_SIZE = 512  # pixels of the square that portrait and driver are fitted in
# on which a tracked driver depends
_OF_TRACKING = 'size', 'limit', 'stride', 'face', 'no_face', 'allow_partial'


def is_motion(source) -> bool:
  """Whether a source is the file of a motion, by its name."""
  return isinstance(source, (str, os.PathLike)) and pathlib.Path(source).suffix.lower() == '.npz'


class FittedInputs:
  """Fits portraits and drivers to one head model.

  All state is its own; nothing runs between two calls.
  """

  def __init__(
    self,
    name: str,
    head: HeadModel,
    *,
    estimator: Callable | None = None,
    subjects: str | os.PathLike | None = None,
    drivers: str | os.PathLike | None = None,
    map_estimators: tuple[MapEstimator, ...] = (),
  ):
    """Checks the folders.

    Args:
      name: of the system, to which kept drivers belong.
      head: the head model.
      estimator: finds faces, image -> (points [F, 478, 3], ...); None: MediaPipe, started where
        something must be found.
      subjects: a folder of `exp_jax.fit`: what was fitted there, found by its name, is not fitted
        again.
      drivers: a folder for drivers that were tracked: another process with the same clips and
        options goes on with them.
      map_estimators: networks for normals and depth, which see the portrait and a few frames of the
        driver; empty: both are fitted by landmarks alone.

    Raises:
      UserError: the folder of subjects does not exist.
    """
    if subjects is not None and not pathlib.Path(subjects).is_dir():
      raise UserError(f'the folder of subjects {str(subjects)!r} does not exist')
    self.name, self.head, self._given, self._dense = name, head, estimator, densify(head, 0)
    self._maps = map_estimators
    self._subjects, self._drivers = (
      None if folder is None else pathlib.Path(folder) for folder in (subjects, drivers)
    )

  def portrait(
    self, picture: Footage, *, face: str, source_frame: str | int, watch: Watch = SILENT
  ) -> tuple[np.ndarray, Subject, int]:
    """(the whole picture uint8 [H, W, 3], the head fitted to it, its number in a clip).

    Args:
      face: one of `FACES`.
      source_frame: 'best', or a number, where the picture is a clip.
    """
    number, image, known = 0, None, self._known(picture)
    if picture.still:
      image = first_picture(picture)
    elif source_frame != 'best':
      number = int(source_frame)
      image = frame_of(picture, number)
    if known is not None and image is not None:
      subject = load_subject(known)
      check_head(subject, self.head)
      if number >= subject.num_frames:
        raise UserError(
          f'{known.name} is fitted to {subject.num_frames} frames, frame {number} of '
          f'{picture.name} was asked for'
        )
      return image, frames_of(subject, slice(number, number + 1)), number
    with self._estimator() as estimator:
      if image is None:
        number, image = best_frame(
          picture, head=self.head, dense=self._dense, estimator=estimator, face=face, watch=watch
        )
      still = dataclasses.replace(picture, frames=lambda: iter([(image, 0.0)]), still=True, count=1)
      found = track(
        still,
        head=self.head,
        dense=self._dense,
        size=_FIT_SIZE,
        estimator=estimator,
        face=face,
        map_estimators=self._maps,
        watch=watch,
      )
    return image, found.subject, number

  def motion(self, source: Source, *, options, rate: float = 25, watch: Watch = SILENT) -> Driver:
    """The motion of a driver, from a clip or from a motion file.

    Args:
      options: has `limit`, `driving_stride`, `driving_face`, `no_face` and `allow_partial`.
      rate: frames a second of an array.
    """
    what = dict(
      head=self.head,
      dense=self._dense,
      size=_FIT_SIZE,
      limit=options.limit,
      stride=options.driving_stride,
      face=options.driving_face,
      no_face=options.no_face,
      allow_partial=options.allow_partial,
      watch=watch,
    )
    if is_motion(source):
      if not pathlib.Path(source).is_file():
        raise UserError(f'{str(source)!r} does not exist')
      return track(source, **what)
    clip = footage(source, rate=rate, name='the driver', allow_partial=options.allow_partial)
    if (known := self._known(clip)) is not None:
      return track(known, **what)

    def look():
      with self._estimator() as estimator:
        return track(clip, estimator=estimator, map_estimators=self._maps, **what)

    if self._drivers is None:
      return look()
    key = key_of(
      self.name,
      clip.digest,
      *(what[name] for name in _OF_TRACKING),
      head_digest(self.head),
      ESTIMATOR,
      *(network.digest for network in self._maps),
      __version__,
    )
    return kept_driver(self._drivers, key, look, watch.warn)

  def _known(self, picture: Footage) -> pathlib.Path | None:
    """The subject file of an input in the folder of subjects, if there is one."""
    found = (
      self._subjects and picture.path and existing(self._subjects / f'{picture.path.stem}.npz')
    )
    return found if found and found.is_file() else None

  def _estimator(self):
    return contextlib.nullcontext(self._given) if self._given is not None else FaceEstimator()


def number_of_frames(
  driving: Source | int, *, stride: int, limit: int | None, rate: float = 25
) -> int:
  """Frames that an animation by this driver has; nothing is decoded.

  Args:
    driving: the driver, or how many frames it has.
  """
  if isinstance(driving, int):
    frames = driving
  else:
    frames = (
      load_subject(driving).num_frames
      if is_motion(driving)
      else footage(driving, rate=rate).count or 1
    )
    frames = -(-frames // stride)
  return min(frames, limit or frames)


def fitted_animation(
  frames: Iterator[np.ndarray],
  *,
  picture: Footage,
  image: np.ndarray,
  photo: np.ndarray,
  square: Crop,
  portrait: Subject,
  driver: Driver,
  driving: Source,
  options,
  record: dict,
  watch: Watch,
  stopwatch: Stopwatch,
) -> Animation:
  """Frames that were drawn for a portrait and a driver, with their record, sound and times.

  Args:
    frames: yields [S, S, 3].
    picture: the portrait's source. image: uint8 [H, W, 3] the whole picture that was used of it.
    photo: uint8 [S, S, 3] the portrait in its square. square: where that lies in the picture.
    portrait: its fit. driver: whose motion was used. driving: where it came from.
    options: has `driving_stride` and `allow_partial`.
    record: what the system says of its own.
  """
  from_file = is_motion(driving)
  clip = (
    None if from_file else footage(driving, name='the driver', allow_partial=options.allow_partial)
  )
  shown = None if clip is None or clip.still else clip.path
  if shown is not None and not driver.whole:
    watch.warn('frames were left out, so the sound is left out too')
  matrix = np.array(
    [[square.scale, 0, -square.left * square.scale], [0, square.scale, -square.top * square.scale]]
  )
  record = record | {
    'portrait_fit': json.loads(portrait.report),
    'driving_fit': json.loads(driver.subject.report),
    'square': square_record(image.shape[:2], Cut(matrix, (square.size, square.size))),
    'driving': driving_record(options.driving_stride, None if from_file else driver.kept),
    'source_sha256': picture.digest,
  }
  record |= {'driving_sha256': clip.digest} if clip is not None else {}
  return Animation(
    frames,
    driver.times,
    driver.rate,
    photo,
    record,
    driving=shown,
    kept=driver.kept,
    audio=shown if driver.whole else None,
    watch=watch,
    stopwatch=stopwatch,
    provenance=options.provenance,
    write_motion=lambda path: save_subject(path, driver.subject),
  )
