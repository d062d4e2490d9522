"""MagicPortrait, loaded: portraits and drivers to frames.

    with load('out/magicportrait_export') as model:
      animation = model.animate('me.jpg', 'clip.mp4', options=Options(steps=10))
      animation.save('out.mp4')                                   # or: for frame in animation: ...

Portrait and driver are fitted by landmarks and the networks' maps: what is drawn of them is the
linear head model. All frames are sampled together, so that the first one comes when nearly all is
done. Letters: T frames.
"""

import dataclasses
import os
import time
from collections.abc import Callable

import jax
import numpy as np

from exp_jax.controls.maps import own_motion
from exp_jax.controls.reenact import Motion
from exp_jax.controls.same_picture import driven_motion
from exp_jax.controls.smoothing import smoothed
from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.files.digests import file_digest
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
from exp_jax.systems.magicportrait.maps import MAPS, appearance_of, guidance_surface
from exp_jax.systems.magicportrait.options import SAMPLING, LoadOptions, Options
from exp_jax.systems.magicportrait.records import conventions_of
from exp_jax.systems.magicportrait.reenacted import Reenacted, maps_of, reenacted
from exp_jax.systems.magicportrait.sample import Generator, load_generator, stream
from exp_jax.systems.magicportrait.texture import HeadTexture, load_texture

__all__ = ['LoadOptions', 'MagicPortrait', 'Options', 'load']

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
  texture: str | os.PathLike | None = None,
  frame_by_frame: bool = False,
  drivers: str | os.PathLike | None = None,
) -> 'MagicPortrait':
  """Loads the system.

  Args:
    weights: an export of the second stage, or a folder of `exp_jax.convert.magicportrait`.
    head: the head model, the one that the export was trained on.
    networks: that see normals and depth of portrait and driver, as of
      `observe.maps.map_sources.open_map_estimators`.
    subjects: a folder of `exp_jax.fit`: a portrait or clip that was fitted there, found by its
      name, is not fitted again.
    vae: the autoencoder, if it is not where the export's config says.
    texture: FLAME_texture.npz, whose mean colours FLAME portraits without an albedo of their own.
    frame_by_frame: take an export of the first stage.
    drivers: a folder for drivers that were tracked: another process with the same clips and options
      goes on with them.

  Raises:
    UserError: something named is missing, damaged or of another kind, or the head is another.
  """
  if weights is None:
    raise UserError(
      '--engine magicportrait needs --export DIR: an export of configs/magicportrait.py, or the '
      'published weights '
      'converted by `python -m exp_jax.convert.magicportrait`'
    )
  model = load_head(head)
  check_trained_on(
    weights, model, what='the model of MagicPortrait', otherwise='train it on the maps of this one'
  )
  generator = load_generator(
    weights, vae=None if vae is None else str(vae), frame_by_frame=frame_by_frame
  )
  digests = {'export_sha256': manifest.seal(weights)} | (
    {} if texture is None else {'texture_sha256': file_digest(texture)}
  )
  return MagicPortrait(
    generator,
    model,
    digests,
    map_estimators=open_map_estimators(networks),
    subjects=subjects,
    drivers=drivers,
    texture=None if texture is None else load_texture(texture),
  )


class MagicPortrait:
  """The loaded system. All state is its own; close it, or use it in a `with`.

  Attributes:
    Options: the dataclass that `animate` takes.
    generator: networks, parameters, autoencoder.
    head: the head model.
    loaded: what a record says of them.
  """

  Options = Options
  name = 'magicportrait'
  engine = 'magicportrait'

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
    texture: HeadTexture | None = None,
  ):
    """See `FittedInputs` for estimator, map_estimators, subjects and drivers; texture: of portraits
    without an albedo.

    Raises:
      UserError: a texture of a model whose records were drawn grey, or the folder of subjects does
        not exist.
    """
    self.generator, self.head, self._texture = generator, head, texture
    self._conventions = conventions_of(generator.config.data)
    if texture is not None and (
      self._conventions.albedo == 'grey' or 'render' not in generator.networks.maps
    ):
      raise UserError(
        '--texture colours the render, and this model was trained without a coloured one: leave it '
        'out'
      )
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
    self._surface = guidance_surface(head)
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

    Both are fitted now, frames are sampled when the first one is taken.

    Args:
      portrait: a picture, or a clip of which one frame is taken, as a path or uint8 [H, W, 3] or
        [T, H, W, 3].
      driving: a clip or picture as a path or arrays, or a motion file (.npz).
      options: see `Options`.
      rate: frames a second of an array.
      progress: called with (stage, done, total or None).
      cancel: asked at least every 0.1 s; when it answers true, `Cancelled` is raised and nothing
        half-made is left.
      warn: called with a sentence about input that is used although something is wrong with it;
        default: Python's warnings.

    Raises:
      UserError: bad input, or sampling that this model cannot do.
      Cancelled: by `cancel`.
    """
    if not isinstance(options, Options):
      raise UserError(
        f'options must be magicportrait.options.Options, got {type(options).__qualname__}'
      )
    chosen = self.generator.sampling(**options.sampling)
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
        'maps': list(self.generator.networks.maps),
        'conventions': dataclasses.asdict(self._conventions),
        'sampling': dataclasses.asdict(chosen),
      }
    )
    return fitted_animation(
      self.drawn(scene, options, watch),
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
    if options.alignment == 'none':
      return self.as_moved(image, subject, own_motion(driving), driver=driving)
    return self.as_moved(
      image,
      subject,
      driven_motion(subject, driving, self.head, options.reenactment),
    )

  def as_moved(
    self, image: np.ndarray, subject: Subject, motion: Motion, driver: Subject | None = None
  ) -> Reenacted:
    """The same with the head's own parameters of every frame given; driver: as of `reenacted`."""
    return reenacted(
      image,
      subject,
      motion,
      self.head,
      size=self.generator.size,
      crop=self.generator.config.data.crop,
      driver=driver,
    )

  def drawn(self, scene: Reenacted, options: Options = Options(), watch: Watch = SILENT):
    """Yields [S, S, 3] float frames in 0..1; of their number only the memory of latents depends."""
    appearance = appearance_of(self.head, scene.subject, self._conventions, self._texture)
    shown = maps_of(
      scene,
      self.head,
      self._surface,
      self.generator.networks.maps,
      conventions=self._conventions,
      appearance=appearance,
      size=self.generator.size,
    )
    yield from stream(
      self.generator,
      scene.photo.astype(np.float32) / 255,
      shown,
      len(scene.motion.expression),
      jax.random.key(options.seed),
      self.generator.sampling(**options.sampling),
      tell=watch.tell,
    )

  def estimate(
    self, driving: Source | int, *, options: Options = Options(), rate: float = 25
  ) -> Estimate:
    """What `animate` would cost; `driving` is the driver, or a number of frames.

    Nothing is decoded or computed.
    """
    frames = number_of_frames(
      driving, stride=options.driving_stride, limit=options.limit, rate=rate
    )
    cost, size, side = (
      _TYPICAL | self._measured,
      self.generator.size,
      self.generator.size // self.generator.codec.strides[1],
    )
    seconds = cost['track'] * frames + cost['fit'] + cost['draw'] * frames
    seconds += 0 if 'compile' in self._measured else cost['compile']
    memory = 1.5e9 + 8 * sum(x.nbytes for x in jax.tree.leaves(self.generator.params))
    return Estimate(
      frames,
      round(seconds, 1),
      round(seconds, 1),
      int(0.04 * size * size * frames) + 20_000,
      int(memory + 16 * side * side * self.generator.codec.channels * frames),
      'compile' in self._measured,
    )

  def warm_up(
    self,
    *,
    options: Options = Options(),
    frames: int = 1,
    progress: Callable | None = None,
    cancel: Callable | None = None,
  ) -> None:
    """Compiles what frames need, with a grey picture and empty maps."""
    S, n, watch = self.generator.size, min(frames, self.generator.window), Watch(progress, cancel)
    began = time.perf_counter()

    def shown(start, stop):
      shape = lambda name: (stop - start, S, S) + ((3,) if MAPS[name] == 3 else ())
      return {name: np.zeros(shape(name), np.uint8) for name in self.generator.networks.maps}

    parts = stream(
      self.generator,
      np.full((S, S, 3), 0.5, np.float32),
      shown,
      n,
      jax.random.key(0),
      self.generator.sampling(**(options.sampling | {'steps': 1})),
    )
    next(watch.each_slowly(parts, 'warm up', 1))
    self._measured['compile'] = time.perf_counter() - began
