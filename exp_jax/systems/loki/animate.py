"""Loki, loaded: portraits and drivers to frames.

    with load('out/loki_export') as model:
      animation = model.animate('me.jpg', 'clip.mp4', options=Options(steps=25))
      animation.save('out.mp4')                                   # or: for frame in animation: ...

Portrait and driver are fitted by landmarks and the networks' maps: what is drawn of them is the
linear head model, no offsets. Letters: T frames.
"""

import dataclasses
import os
import time
from collections.abc import Callable

import jax
import numpy as np

from exp_jax.controls.driver_map import driver_surface
from exp_jax.controls.reenact import Motion
from exp_jax.controls.same_picture import driven_motion
from exp_jax.controls.smoothing import smoothed
from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.fitting.fitted_inputs import FittedInputs, Source, fitted_animation, number_of_frames
from exp_jax.fitting.tracked_driver import Driver
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel, head_digest
from exp_jax.heads.personalized import Subject
from exp_jax.heads.trained_head import check_trained_on
from exp_jax.observe.maps.map_sources import EMBEDDED, open_map_estimators
from exp_jax.performance.animation import Animation, Estimate, Stopwatch
from exp_jax.performance.inputs import Footage, first_picture, footage
from exp_jax.performance.options import record as options_record
from exp_jax.progress import SILENT, Watch
from exp_jax.systems.loki.model import MAPS
from exp_jax.systems.loki.options import SAMPLING, LoadOptions, Options
from exp_jax.systems.loki.reenacted import Reenacted, maps_of, reenacted
from exp_jax.systems.loki.sample import Generator, load_generator, stream

__all__ = ['LoadOptions', 'Loki', 'Options', 'load']

# Seconds on two CPU cores of the tiny model: a driver's frame, two fits, a frame; and what
# compiling adds once.
_TYPICAL = {'track': 0.07, 'fit': 6.0, 'draw': 0.6, 'compile': 120.0}


def load(
  weights: str | os.PathLike | None = None,
  *,
  head: str | os.PathLike = 'makehuman',
  networks: str = EMBEDDED,
  subjects: str | os.PathLike | None = None,
  vae: str | os.PathLike | None = None,
  drivers: str | os.PathLike | None = None,
) -> 'Loki':
  """Loads the system.

  Args:
    weights: an export of task 'loki'.
    head: the head model, the one that the export was trained on.
    networks: that see normals and depth of portrait and driver, as of
      `observe.maps.map_sources.open_map_estimators`.
    subjects: a folder of `exp_jax.fit`: a portrait or clip that was fitted there, found by its
      name, is not fitted again.
    vae: the autoencoder, if it is not where the export's config says.
    drivers: a folder for drivers that were tracked: another process with the same clips and options
      goes on with them.

  Raises:
    UserError: something named is missing, damaged or of another kind, or the head is another.
  """
  if weights is None:
    raise UserError(
      '--engine loki needs --export DIR, an export of configs/loki.py by `python -m '
      'exp_jax.export`; no weights of '
      'Loki are published'
    )
  model = load_head(head)
  check_trained_on(
    weights, model, what='the model of Loki', otherwise='train it on the maps of this one'
  )
  return Loki(
    load_generator(weights, vae=None if vae is None else str(vae)),
    model,
    {'export_sha256': manifest.seal(weights)},
    map_estimators=open_map_estimators(networks),
    subjects=subjects,
    drivers=drivers,
  )


class Loki:
  """The loaded system. All state is its own; close it, or use it in a `with`.

  Attributes:
    Options: the dataclass that `animate` takes.
    generator: networks, parameters, autoencoder.
    head: the head model.
    loaded: what a record says of them.
  """

  Options = Options
  name = 'loki'
  engine = 'loki'

  def __init__(
    self,
    generator: Generator,
    head: HeadModel,
    digests: dict | None = None,
    *,
    estimator: Callable | None = None,
    map_estimators: tuple = (),
    subjects: str | os.PathLike | None = None,
    drivers: str | os.PathLike | None = None,
  ):
    """See `FittedInputs` for estimator, map_estimators, subjects and drivers."""
    self.generator, self.head = generator, head
    self._inputs = FittedInputs(
      self.name,
      head,
      estimator=estimator,
      subjects=subjects,
      drivers=drivers,
      map_estimators=map_estimators,
    )
    self.loaded = {
      'maps': [each.digest for each in map_estimators],
      'head': {'name': head.name, 'digest': head_digest(head)},
    } | (digests or {})
    self._surface = driver_surface(head)
    self._measured: dict[str, float] = {}

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self) -> None:
    """Nothing runs between two calls."""

  def animate(
    self,
    portrait: Source,
    driving: Source,
    *,
    options: Options = Options(),
    rate: float = 25,
    progress: Callable[[str, int, int | None], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    warn: Callable[[str], None] | None = None,
  ) -> Animation:
    """The portrait with the driver's motion.

    Both are fitted now, frames are drawn as they are taken.

    Args:
      portrait: a picture, or a clip of which one frame is taken, as a path or uint8 [H, W, 3] or
        [T, H, W, 3].
      driving: a clip or picture as a path or arrays, or a motion file (.npz).
      options: see `Options`.
      rate: frames a second of an array.
      progress: called with (stage, done, total or None); at least every second.
      cancel: asked at least every 0.1 s; when it answers true, `Cancelled` is raised and nothing
        half-made is left.
      warn: called with a sentence about input that is used although something is wrong with it;
        default: Python's warnings.

    Raises:
      UserError: bad input, or sampling that this model cannot do.
      Cancelled: by `cancel`.
    """
    if not isinstance(options, Options):
      raise UserError(f'options must be loki.options.Options, got {type(options).__qualname__}')
    self.generator.sampling(**options.sampling)
    watch, clock = Watch(progress, cancel, *[] if warn is None else [warn]), Stopwatch()
    picture = footage(portrait, name='the portrait', allow_partial=options.allow_partial)
    if picture.still:
      first_picture(picture)  # complaints first, before a long clip is watched
    driver = self.motion(driving, options=options, rate=rate, watch=watch)
    clock.took('track')
    image, subject, number = self.portrait(picture, options=options, watch=watch)
    clock.took('portrait')
    scene = watch.run(lambda: self.scene(image, subject, driver.subject, options))
    record = (
      {'engine': self.engine}
      | {k: v for k, v in options_record(options).items() if k not in SAMPLING}
      | self.loaded
      | {
        'source_frame': number,
        'crop': self.generator.config.data.crop,
        'map': self.generator.networks.kind,
        'sampling': dataclasses.asdict(self.generator.sampling(**options.sampling)),
      }
    )
    return fitted_animation(
      self.drawn(scene, options),
      picture=picture,
      image=image,
      photo=scene.photo,
      square=scene.cut,
      portrait=subject,
      driver=driver,
      driving=driving,
      options=options,
      record=record,
      watch=watch,
      stopwatch=clock,
    )

  def portrait(
    self, picture: Footage, *, options: Options, watch: Watch = SILENT
  ) -> tuple[np.ndarray, Subject, int]:
    """(the whole picture, the head fitted to it, its number in a clip)."""
    return self._inputs.portrait(
      picture, face=options.face, source_frame=options.source_frame, watch=watch
    )

  def motion(
    self, source: Source, *, options: Options, rate: float = 25, watch: Watch = SILENT
  ) -> Driver:
    """The motion of a driver, from a clip or from a motion file."""
    return self._inputs.motion(source, options=options, rate=rate, watch=watch)

  def scene(
    self, image: np.ndarray, subject: Subject, driving: Subject, options: Options = Options()
  ) -> Reenacted:
    """Picture and motion of a portrait, `image` uint8 [H, W, 3], whose head is fitted, under a
    driver's motion."""
    driving = smoothed(driving, self.head, options.smoothing)
    motion = driven_motion(subject, driving, self.head, options.reenactment)
    return self.as_moved(image, subject, motion)

  def as_moved(self, image: np.ndarray, subject: Subject, motion: Motion) -> Reenacted:
    """The same with the head's own parameters of every frame given."""
    return reenacted(
      image,
      subject,
      motion,
      self.head,
      size=self.generator.size,
      crop=self.generator.config.data.crop,
    )

  def drawn(self, scene: Reenacted, options: Options = Options()):
    """Yields [S, S, 3] float frames in 0..1; memory does not depend on their number."""
    chosen, kind = self.generator.sampling(**options.sampling), self.generator.networks.kind
    shown = maps_of(scene, self.head, self._surface, kind, self.generator.size)
    parts = stream(
      self.generator,
      scene.photo.astype(np.float32) / 255,
      shown,
      len(scene.motion.expression),
      jax.random.key(options.seed),
      chosen,
    )
    for part in parts:
      yield from part

  def estimate(
    self, driving: Source | int, *, options: Options = Options(), rate: float = 25
  ) -> Estimate:
    """What `animate` would cost; `driving` is the driver, or a number of frames.

    Nothing is decoded or computed.
    """
    frames = number_of_frames(
      driving, stride=options.driving_stride, limit=options.limit, rate=rate
    )
    cost, size = _TYPICAL | self._measured, self.generator.size
    before = cost['track'] * frames + cost['fit'] + cost['compile'] * ('draw' not in self._measured)
    return Estimate(
      frames,
      round(before + cost['draw'] * frames, 1),
      round(before + cost['draw'] * self.generator.window, 1),
      int(0.04 * size * size * frames) + 20_000,
      int(1.5e9 + 8 * sum(x.nbytes for x in jax.tree.leaves(self.generator.params))),
      'draw' in self._measured,
    )

  def warm_up(
    self,
    *,
    options: Options = Options(),
    frames: int = 1,
    progress: Callable | None = None,
    cancel: Callable | None = None,
  ) -> None:
    """Compiles what frames need, with a grey picture and an empty map."""
    S, n = self.generator.size, min(frames, self.generator.window)
    kind = self.generator.networks.kind
    shape = (n, self.generator.config.data.vector) if kind == 'vector' else (n, S, S, MAPS[kind])
    began = time.perf_counter()
    parts = stream(
      self.generator,
      np.full((S, S, 3), 0.5, np.float32),
      lambda start, stop: np.zeros(shape, np.float32),
      n,
      jax.random.key(0),
      self.generator.sampling(**(options.sampling | {'steps': 1})),
    )
    next(Watch(progress, cancel).each_slowly(parts, 'warm up', 1))
    self._measured['compile'] = time.perf_counter() - began
