"""Portraits and drivers that users bring are opened: read, watched, fitted, and remembered.

Letters: T frames.
"""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable

import numpy as np

from exp_jax import __version__
from exp_jax.errors import UserError
from exp_jax.files.digests import file_digest, key_of
from exp_jax.files.names import existing
from exp_jax.fitting.kept_drivers import kept_driver
from exp_jax.fitting.tracked_driver import Driver, best_frame, track
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel, head_digest
from exp_jax.heads.personalized import check_head, load_subject
from exp_jax.observe.landmarks import ESTIMATOR
from exp_jax.observe.maps.map_sources import open_map_estimators
from exp_jax.observe.people import choose_faces
from exp_jax.observe.shared_estimator import SharedEstimator
from exp_jax.performance.inputs import Footage, first_picture, footage, frame_of
from exp_jax.performance.memory import Memory
from exp_jax.performance.options import FACES
from exp_jax.progress import Watch
from exp_jax.systems.expportrait.kept_portraits import OpenedPortrait, kept_portrait
from exp_jax.systems.expportrait.known_motion import KnownMotion, times_of
from exp_jax.systems.expportrait.options import Options
from exp_jax.systems.expportrait.portrait import open_portrait
from exp_jax.systems.expportrait.several import open_faces

Source = str | os.PathLike | np.ndarray | Footage
_DOUBTFUL = (
  0.02  # six people, a statue, a cartoon, a monkey: up to 0.018; a cat and a llama: 0.021 and 0.024
)


class Opener:
  """Opens portraits and drivers on one head, and remembers them by content.

  Attributes:
    head: the head model.
    dense: its mesh of one subdivision.
    maps: the networks that see normals and depth.
    estimator: of landmarks.
    subjects: the folder of `exp_jax.fit`, or None.
    drivers: the folder of what another process goes on with, or None.
    memory: of what was fitted.
    measured: seconds a unit of each stage, once anything was compiled.
  """

  def __init__(self, *, head, networks, subjects, drivers, memory_bytes: int):
    self.head: HeadModel = load_head(head)
    self._meshes: dict[int, Dense] = {}
    self.dense = self.mesh(1)
    self.maps = open_map_estimators(networks)
    self.subjects, self.drivers = (
      None if folder is None else pathlib.Path(folder) for folder in (subjects, drivers)
    )
    self.estimator, self.memory = SharedEstimator(), Memory(memory_bytes)
    self.measured: dict[str, float] = {}

  def close(self) -> None:
    """Ends the landmark estimator and forgets what was fitted."""
    self.estimator.close()
    self.memory.clear()

  def mesh(self, levels: int) -> Dense:
    """The head's mesh of so many subdivisions, made once; a subject file rules which."""
    if levels not in self._meshes:
      self._meshes[levels] = densify(self.head, levels)
    return self._meshes[levels]

  def driving(self, source, rate, options) -> 'Footage | KnownMotion':
    """The driver: a clip, or the motion of one, from a file or the folder of subjects."""
    if isinstance(source, (str, os.PathLike)) and pathlib.Path(source).suffix.lower() == '.npz':
      if not pathlib.Path(source).is_file():
        raise UserError(f'{str(source)!r} does not exist')
      return KnownMotion(pathlib.Path(source), None)
    clip = footage(source, rate=rate, name='the driver', allow_partial=options.allow_partial)
    fitted = self._fitted(clip)
    return clip if fitted is None else KnownMotion(fitted, clip)

  def motion(self, clip: 'Footage | KnownMotion', options: Options, watch: Watch) -> Driver:
    what = dict(
      head=self.head,
      dense=self.dense,
      size=options.size,
      limit=options.limit,
      stride=options.driving_stride,
      face=options.driving_face,
      no_face=options.no_face,
      allow_partial=options.allow_partial,
    )
    if isinstance(clip, KnownMotion):
      driver = track(clip.path, **what)
      return (
        driver
        if clip.clip is None
        else times_of(driver, clip.clip, options.limit, options.driving_stride)
      )
    key = (
      'motion',
      clip.digest,
      *(what[name] for name in ('size', 'limit', 'stride', 'face', 'no_face', 'allow_partial')),
      *(each.digest for each in self.maps),
    )
    make = lambda: track(
      clip, estimator=self.estimator, map_estimators=self.maps, watch=watch, **what
    )
    if self.drivers is not None:
      tracked, named = make, key_of(*key, head_digest(self.head), ESTIMATOR, __version__)
      make = lambda: kept_driver(self.drivers, named, tracked, watch.warn)
    return self.timed('track', clip.count, lambda: self.memory.get(key, make))

  def portrait(self, picture: Footage, options: Options, watch: Watch) -> OpenedPortrait:
    fitted = self._fitted(picture)
    key = (
      'portrait',
      picture.digest,
      fitted and file_digest(fitted),
      options.size,
      options.source_frame,
      options.face,
      options.allow_partial,
    )
    fit = lambda: self._opened(picture, fitted, options, watch)
    about = *(each.digest for each in self.maps), head_digest(self.head), ESTIMATOR, __version__

    def make():
      folder = self.drivers
      opened = fit() if folder is None else kept_portrait(folder, key_of(*key, *about), fit)
      if words := doubt(picture.name, opened.portrait.subject.report):
        watch.warn(words)
      return opened

    return self.timed('portrait', 1, lambda: self.memory.get(key, make))

  def portraits(self, picture: Footage, options: Options, watch: Watch) -> list[OpenedPortrait]:
    """The chosen faces of a picture, each with its fit."""
    if not options.several:
      return [self.portrait(picture, options, watch)]
    if self._fitted(picture):
      raise UserError(
        f'the folder of subjects has one head for {picture.name}, and several faces are to be '
        'driven: leave --subjects out, or choose one face'
      )
    return open_faces(
      lambda **one: self.portrait(picture, dataclasses.replace(options, **one), watch),
      options.face,
      find=lambda image: self.estimator(image)[0][..., :2],
      name=picture.name,
      warn=watch.warn,
    )

  def _opened(
    self, picture: Footage, fitted: pathlib.Path | None, options: Options, watch: Watch
  ) -> OpenedPortrait:
    number = 0
    if picture.still:
      image = first_picture(picture)
    elif options.source_frame == 'best':
      number, image = best_frame(
        picture,
        head=self.head,
        dense=self.dense,
        estimator=self.estimator,
        face=options.face,
        watch=watch,
      )
    else:
      number = int(options.source_frame)
      image = frame_of(picture, number)
    known = fitted and load_subject(fitted)
    if known is not None:
      check_head(known, self.head, self.mesh(known.levels))
    faces = (
      self.estimator(image)[0][..., :2]
      if options.face in ('left', 'right')
      else np.zeros((0, 478, 2))
    )
    dense = self.dense if known is None else self.mesh(known.levels)
    portrait = watch.wait_for(
      lambda: open_portrait(
        image,
        name=picture.stem,
        head=self.head,
        dense=dense,
        size=options.size,
        estimator=self.estimator,
        subject=known,
        map_estimators=self.maps,
        **choose_faces(options.face, faces, name=picture.name, words=FACES)[0],
      ),
      'portrait',
    )
    return OpenedPortrait(image, number, portrait)

  def _fitted(self, picture: Footage) -> pathlib.Path | None:
    """The subject file of an input in the folder of subjects, if there is one."""
    found = self.subjects and picture.path and existing(self.subjects / f'{picture.path.stem}.npz')
    return found if found and found.is_file() else None

  def timed(self, stage: str, units: int | None, work: Callable):
    """`work()`, its seconds a unit noted for `estimate` if it was not remembered."""
    known, started = len(self.memory), time.perf_counter()
    result = work()
    if len(self.memory) > known and 'compile' in self.measured:
      self.measured[stage] = (time.perf_counter() - started) / max(units or 1, 1)
    self.measured.setdefault('compile', 0.0)
    return result


def doubt(name: str, report: str) -> str:
  """What to say of a portrait whose head does not meet its landmarks, from the report of its fit;
  '' if it does."""
  error = json.loads(report).get('landmark_error_share_of_eye_distance', 0.0)
  if error <= _DOUBTFUL:
    return ''
  return (
    f'{name}: the fitted head lies {100 * error:.1f} % of the eye distance beside the landmarks, '
    'with people about 1 %; if the '
    'result looks wrong, give a human face seen more from the front'
  )
