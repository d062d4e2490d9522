"""ExpPortrait, loaded: portraits and drivers to frames, by the textured preview or the video model.

    with load(generator='embedded') as model:                     # without a generator: the textured preview
      animation = model.animate('me.jpg', 'clip.mp4', options=Options(smoothing=0.1))
      animation.save('out.mp4')                                   # or: for frame in animation: ...

Letters: T frames.
"""

import dataclasses
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable

import numpy as np

from exp_jax import __version__
from exp_jax.controls import maps
from exp_jax.controls.reenact import Motion
from exp_jax.controls.same_picture import driven_motion
from exp_jax.controls.smoothing import smoothed
from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.files.digests import file_digest, key_of
from exp_jax.files.names import existing
from exp_jax.files.resources import package_file
from exp_jax.fitting.kept_drivers import kept_driver
from exp_jax.fitting.tracked_driver import Driver, best_frame, track
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel, head_digest
from exp_jax.heads.personalized import Subject, check_head, load_subject, save_subject
from exp_jax.heads.trained_head import check_trained_on
from exp_jax.observe.landmarks import ESTIMATOR, FaceEstimator
from exp_jax.observe.maps.map_sources import EMBEDDED, open_map_estimators
from exp_jax.observe.people import choose_faces
from exp_jax.performance.animation import Animation, Estimate, Stopwatch
from exp_jax.performance.inputs import Footage, first_picture, footage, frame_of
from exp_jax.performance.kept_frames import KeptFrames
from exp_jax.performance.memory import Memory
from exp_jax.performance.options import FACES
from exp_jax.performance.options import record as options_record
from exp_jax.performance.results import driving_record, square_record
from exp_jax.progress import Background, Watch
from exp_jax.systems.expportrait.drawing import TransferredOffsets, pasted, square_of
from exp_jax.systems.expportrait.generators import generated_frames, open_generator, sampling_record
from exp_jax.systems.expportrait.kept_portraits import (
  OpenedPortrait,
  kept_motions,
  kept_portrait,
)
from exp_jax.systems.expportrait.known_motion import KnownMotion, times_of
from exp_jax.systems.expportrait.live.editor import Editor
from exp_jax.systems.expportrait.live.frame_by_frame import FrameByFrame
from exp_jax.systems.expportrait.live.session import LiveSession
from exp_jax.systems.expportrait.options import SAMPLING, LoadOptions, Options
from exp_jax.systems.expportrait.portrait import (
  Portrait,
  open_portrait,
  preview_frames,
  tremble,
)
from exp_jax.systems.expportrait.rest_face import resting_landmarks
from exp_jax.systems.expportrait.resumed import (
  can_begin_anywhere,
  frames_key,
  from_frame,
  motion_of,
)
from exp_jax.systems.expportrait.several import drawn_together, open_faces, pasted_faces
from exp_jax.systems.expportrait.transfer.network import Transfer

__all__ = ['ExpPortrait', 'LoadOptions', 'Options', 'OpenedPortrait', 'doubt', 'embedded', 'load']

Source = str | os.PathLike | np.ndarray | Footage
_DOUBTFUL = (
  0.02  # six people, a statue, a cartoon, a monkey: up to 0.018; a cat and a llama: 0.021 and 0.024
)
# Seconds on two CPU cores at 512 pixels: of a driver's frame, a driver's fit, a portrait, a frame
# by the preview, by the video model; what a repair adds to a preview's frame; and what compiling
# adds once. `ExpPortrait` replaces them by what it measures.
_TYPICAL = {
  'track': 0.07,
  'fit': 3.0,
  'portrait': 16.0,
  'draw': 0.18,
  'generate': 1.0,
  'retouch': 0.4,
  'compile': 110.0,
}


def embedded(name: str) -> pathlib.Path:
  """The folder of a model that ships with the package: 'dit', 'vae', 'retouch' or 'transfer'; see
  exp_jax/embedded/README.md.

  Raises:
    UserError: it is not there.
  """
  return package_file('embedded', name)


def load(
  *,
  generator: str | os.PathLike | None = None,
  vae: str | os.PathLike | None = None,
  transfer: str | os.PathLike = 'embedded',
  head: str | os.PathLike = 'makehuman',
  networks: str = EMBEDDED,
  subjects: str | os.PathLike | None = None,
  drivers: str | os.PathLike | None = None,
  memory_bytes: int = 2 << 30,
) -> 'ExpPortrait':
  """Loads the system.

  Args:
    generator: an exported video model, 'embedded' for the small one that ships with the package, or
      None: frames are drawn by the textured preview, and no network draws.
    vae: an exported autoencoder, if it is not where the generator's config says.
    transfer: an exported expression transfer, 'embedded', or 'none': no wrinkles move.
    head: the head model.
    networks: that see normals and depth of portrait and driver, as of
      `observe.maps.map_sources.open_map_estimators`.
    subjects: a folder of `exp_jax.fit`: a portrait or clip that was fitted there, found by its
      name, is not fitted again.
    drivers: a folder for drivers that were tracked: another process with the same clips and options
      goes on with them.
    memory_bytes: how much of what was fitted is remembered, by content.

  Raises:
    UserError: something named is missing, damaged or of another kind.
  """
  if vae is not None and generator is None:
    raise UserError('an autoencoder belongs to a video model, and none is loaded')
  if subjects is not None and not pathlib.Path(subjects).is_dir():
    raise UserError(f'the folder of subjects {str(subjects)!r} does not exist')
  return ExpPortrait(
    generator=generator,
    vae=vae,
    transfer=transfer,
    head=head,
    networks=networks,
    subjects=subjects,
    drivers=drivers,
    memory_bytes=memory_bytes,
  )


class _SharedEstimator:
  """A landmark estimator that starts when it is first asked, answers one thread at a time, and
  starts anew after a failure."""

  def __init__(self):
    self._lock, self._own = threading.Lock(), None

  def __call__(self, image: np.ndarray):
    with self._lock:
      self._own = self._own or FaceEstimator()
      try:
        return self._own(image)
      except UserError:
        self._end()
        raise

  def close(self) -> None:
    with self._lock:
      self._end()

  def _end(self) -> None:
    if self._own is not None:
      own, self._own = self._own, None
      own.__exit__()


class ExpPortrait:
  """The loaded system: head, networks, landmark estimator, and what was fitted so far.

  Close it, or use it in a `with`.

  It may be used from several threads. All state is its own: two of them share nothing but compiled
  programs.

  Attributes:
    Options: the dataclass that `animate` takes.
    head: the head model.
    generator: the video model, or None.
  """

  Options = Options
  name = 'expportrait'

  def __init__(self, *, generator, vae, transfer, head, networks, subjects, drivers, memory_bytes):
    self.head: HeadModel = load_head(head)
    self._meshes: dict[int, Dense] = {}
    self._transfers: dict[int, Transfer] = {}
    self._dense = self._mesh(1)
    self._paths = {
      'export': embedded('dit') if generator == 'embedded' else generator,
      'vae': vae,
      'transfer': {'embedded': lambda: embedded('transfer'), 'none': lambda: None}.get(
        str(transfer), lambda: pathlib.Path(transfer)
      )(),
    }
    self._transfer_name = str(transfer) if str(transfer) in ('embedded', 'none') else 'own'
    self.generator = (
      None if generator is None else open_generator(self._paths['export'], vae=vae and str(vae))
    )
    if generator is not None:
      check_trained_on(
        self._paths['export'],
        self.head,
        what='the video model',
        otherwise='leave it out (--engine proxy)',
      )
    self._transfer_for(1)
    self._maps = open_map_estimators(networks)
    self._digests = {
      f'{name}_sha256': manifest.seal(path)
      for name, path in self._paths.items()
      if path is not None
    }
    self._subjects, self._drivers = (
      None if folder is None else pathlib.Path(folder) for folder in (subjects, drivers)
    )
    self._estimator, self._memory = _SharedEstimator(), Memory(memory_bytes)
    self._measured: dict[str, float] = {}

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self) -> None:
    """Ends the landmark estimator and forgets what was fitted."""
    self._estimator.close()
    self._memory.clear()

  @property
  def engine(self) -> str:
    """'dit' with a video model, else 'proxy'."""
    return 'proxy' if self.generator is None else 'dit'

  @property
  def loaded(self) -> dict:
    """What a record says of head and networks."""
    return {
      'transfer': self._transfer_name,
      'maps': [each.digest for each in self._maps],
      'head': {'name': self.head.name, 'digest': head_digest(self.head)},
    } | self._digests

  def portrait(
    self,
    source: Source,
    *,
    options: Options = Options(),
    progress: Callable | None = None,
    cancel: Callable | None = None,
  ) -> OpenedPortrait:
    """The portrait, fitted; remembered by its content.

    Args:
      source: a picture or clip, as a path or uint8 [H, W, 3] or [T, H, W, 3].
      options: `size`, `source_frame`, `face` and `allow_partial` matter.
      progress: called with (stage, done, total or None).
      cancel: ends the work with `Cancelled` when it answers true.

    Raises:
      UserError: no face, a face that is too small, a bad file.
      Cancelled: by `cancel`.
    """
    return self._portrait(
      footage(source, name='the portrait', allow_partial=options.allow_partial),
      options,
      Watch(progress, cancel),
    )

  def motion(
    self,
    source: Source | Subject,
    *,
    options: Options = Options(),
    rate: float = 25,
    progress: Callable | None = None,
    cancel: Callable | None = None,
  ) -> Driver:
    """The motion of a driver; remembered by its content.

    Args:
      source: a clip or picture as a path or arrays, or a motion file (.npz).
      options: `size`, `limit`, `driving_stride`, `driving_face`, `no_face` and `allow_partial`
        matter.
      rate: frames a second of an array.
      progress: called with (stage, done, total or None).
      cancel: ends the work with `Cancelled` when it answers true.

    Raises:
      UserError: an unusable file, no face, or less than half of the frames show it.
      Cancelled: by `cancel`.
    """
    return self._motion(self._driving(source, rate, options), options, Watch(progress, cancel))

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

    Portrait and driver are fitted now, frames are drawn as they are taken.

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
      UserError: bad input, or an option of a video model where none is loaded.
      Cancelled: by `cancel`.
    """
    self._check(options)
    watch = Watch(progress, cancel, *[] if warn is None else [warn])
    clock = Stopwatch()
    picture = footage(portrait, name='the portrait', allow_partial=options.allow_partial)
    clip = self._driving(driving, rate, options)
    if picture.still:
      first_picture(picture)  # complaints first, before a long clip is watched
      with Background(lambda quiet: self._portraits(picture, options, quiet)) as opening:
        driver = opening.meanwhile(watch, lambda watch: self._motion(clip, options, watch))
        clock.took('track')
        opened = opening.wait(watch, 'portrait')
    else:  # both read clips, of which the faces of all frames are looked for
      driver = self._motion(clip, options, watch)
      clock.took('track')
      opened = self._portraits(picture, options, watch)
    clock.took('portrait')
    return self._animation(opened, picture, driver, clip, options, watch, clock)

  def estimate(
    self, driving: Source | int, *, options: Options = Options(), rate: float = 25
  ) -> Estimate:
    """What `animate` would cost; `driving` is the driver, or a number of frames.

    Nothing is decoded or computed.
    """
    if isinstance(driving, int):
      frames = driving
    else:
      clip = self._driving(driving, rate, options)
      count = (
        load_subject(clip.path).num_frames if isinstance(clip, KnownMotion) else clip.count or 1
      )
      frames = -(-count // options.driving_stride)
      frames = min(frames, options.limit or frames)
    cost = _TYPICAL | self._measured
    size = self.generator.size[0] if self.generator and self.generator.size else options.size
    draw = cost['draw'] * (size / 512) ** 2
    if self.generator:
      draw = cost['generate'] * (size / 128) ** 2 if self.generator.size else draw + cost['retouch']
    before = (
      cost['portrait']
      + cost['fit']
      + cost['track'] * frames
      + cost['compile'] * ('compile' not in self._measured)
    )
    return Estimate(
      frames,
      round(before + draw * frames, 1),
      round(before + draw, 1),
      int(0.04 * size * size * frames) + 20_000,
      int(2.0e9 + 3 * 4 * size * size * 64),
      'draw' in self._measured or 'generate' in self._measured,
    )

  def warm_up(
    self,
    *,
    options: Options = Options(),
    frames: int = 60,
    progress: Callable | None = None,
    cancel: Callable | None = None,
  ) -> None:
    """Compiles what an animation of that many frames needs, with a synthetic face and without the
    landmark estimator."""
    watch, points = Watch(progress, cancel), resting_landmarks(self.head, 256)
    image = np.full((256, 256, 3), 128, np.uint8)
    image[96:160, 96:160] = 200
    estimator = lambda _: (points[None], np.ones(1, np.float32), np.full((256, 256), 255, np.uint8))
    clip = footage(np.repeat(image[None], frames, 0), name='the warm-up')
    driver = track(
      clip,
      head=self.head,
      dense=self._dense,
      size=options.size,
      estimator=estimator,
      map_estimators=self._maps,
      watch=watch,
    )
    portrait = watch.wait_for(
      lambda: open_portrait(
        image,
        name='warm_up',
        head=self.head,
        dense=self._dense,
        size=options.size,
        estimator=estimator,
        map_estimators=self._maps,
      ),
      'portrait',
    )
    drawn = self._drawn(portrait, self._driven(portrait, driver, options), options)
    next(watch.each_slowly(drawn, 'draw', 1))

  def draws(self, opened: OpenedPortrait, *, view: str = 'preview') -> FrameByFrame:
    """Draws an opened portrait one motion at a time, by the textured preview or as normals; see
    `live.frame_by_frame`."""
    subject = opened.portrait.subject
    return FrameByFrame(
      opened.portrait,
      head=self.head,
      dense=self._mesh(subject.levels),
      transfer=self._transfer_for(subject.levels),
      view=view,
    )

  def editor(
    self,
    portrait: Source,
    *,
    options: Options = Options(),
    progress: Callable | None = None,
    cancel: Callable | None = None,
  ) -> Editor:
    """A portrait that is edited by sliders; see `live.editor`. Arguments and errors as of
    `portrait`."""
    opened = self.portrait(portrait, options=options, progress=progress, cancel=cancel)
    return Editor(opened.portrait, self.draws(opened), self.head)

  def live(
    self,
    portrait: Source,
    *,
    options: Options = Options(),
    view: str = 'preview',
    progress: Callable | None = None,
    cancel: Callable | None = None,
  ) -> LiveSession:
    """A portrait that follows a camera, frame by frame.

    Args:
      portrait: as of `portrait`.
      options: `size`, `source_frame`, `face` and how motion is laid onto the head matter.
      view: 'preview', or 'normals', which are drawn faster.
      progress: called with (stage, done, total or None).
      cancel: ends the work with `Cancelled` when it answers true.

    Raises:
      UserError: as of `portrait`.
      Cancelled: by `cancel`.
    """
    opened = self.portrait(portrait, options=options, progress=progress, cancel=cancel)
    return LiveSession(
      self.draws(opened, view=view),
      opened.portrait.subject,
      head=self.head,
      dense=self._dense,
      estimator=self._estimator,
      map_estimators=self._maps,
      reenactment=options.reenactment,
    )

  def _mesh(self, levels: int) -> Dense:
    """The head's mesh of so many subdivisions, made once; a subject file rules which."""
    if levels not in self._meshes:
      self._meshes[levels] = densify(self.head, levels)
    return self._meshes[levels]

  def _transfer_for(self, levels: int) -> Transfer | None:
    """The expression transfer on that mesh, or None where none is wanted."""
    if levels not in self._transfers and self._paths['transfer']:
      self._transfers[levels] = Transfer(self._paths['transfer'], self.head, self._mesh(levels))
    return self._transfers.get(levels)

  def _check(self, options: Options) -> None:
    if not isinstance(options, Options):
      raise UserError(
        f'options must be expportrait.options.Options, got {type(options).__qualname__}'
      )
    if self.generator is None and options.sampling:
      raise UserError(
        f'--{next(iter(options.sampling))} belongs to --engine dit, a video model; the textured '
        'preview '
        'samples nothing'
      )
    if self.generator is not None:
      if options.several:
        raise UserError(
          f'--face {options.face} is drawn by the textured preview (--engine proxy); a video model '
          'draws one face'
        )
      self.generator.sampling(**options.sampling)

  def _driving(self, source, rate, options) -> 'Footage | KnownMotion':
    """The driver: a clip, or the motion of one, from a file or the folder of subjects."""
    if isinstance(source, (str, os.PathLike)) and pathlib.Path(source).suffix.lower() == '.npz':
      if not pathlib.Path(source).is_file():
        raise UserError(f'{str(source)!r} does not exist')
      return KnownMotion(pathlib.Path(source), None)
    clip = footage(source, rate=rate, name='the driver', allow_partial=options.allow_partial)
    fitted = self._fitted(clip)
    return clip if fitted is None else KnownMotion(fitted, clip)

  def _fitted(self, picture: Footage) -> pathlib.Path | None:
    """The subject file of an input in the folder of subjects, if there is one."""
    found = (
      self._subjects and picture.path and existing(self._subjects / f'{picture.path.stem}.npz')
    )
    return found if found and found.is_file() else None

  def _motion(self, clip: 'Footage | KnownMotion', options: Options, watch: Watch) -> Driver:
    what = dict(
      head=self.head,
      dense=self._dense,
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
      *(each.digest for each in self._maps),
    )
    make = lambda: track(
      clip, estimator=self._estimator, map_estimators=self._maps, watch=watch, **what
    )
    if self._drivers is not None:
      tracked, named = make, key_of(*key, head_digest(self.head), ESTIMATOR, __version__)
      make = lambda: kept_driver(self._drivers, named, tracked, watch.warn)
    return self._timed('track', clip.count, lambda: self._memory.get(key, make))

  def _portrait(self, picture: Footage, options: Options, watch: Watch) -> OpenedPortrait:
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
    about = *(each.digest for each in self._maps), head_digest(self.head), ESTIMATOR, __version__

    def make():
      folder = self._drivers
      opened = fit() if folder is None else kept_portrait(folder, key_of(*key, *about), fit)
      if words := doubt(picture.name, opened.portrait.subject.report):
        watch.warn(words)
      return opened

    return self._timed('portrait', 1, lambda: self._memory.get(key, make))

  def _portraits(self, picture: Footage, options: Options, watch: Watch) -> list[OpenedPortrait]:
    """The chosen faces of a picture, each with its fit."""
    if not options.several:
      return [self._portrait(picture, options, watch)]
    if self._fitted(picture):
      raise UserError(
        f'the folder of subjects has one head for {picture.name}, and several faces are to be '
        'driven: leave --subjects out, or choose one face'
      )
    return open_faces(
      lambda **one: self._portrait(picture, dataclasses.replace(options, **one), watch),
      options.face,
      find=lambda image: self._estimator(image)[0][..., :2],
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
        dense=self._dense,
        estimator=self._estimator,
        face=options.face,
        watch=watch,
      )
    else:
      number = int(options.source_frame)
      image = frame_of(picture, number)
    known = fitted and load_subject(fitted)
    if known is not None:
      check_head(known, self.head, self._mesh(known.levels))
    faces = (
      self._estimator(image)[0][..., :2]
      if options.face in ('left', 'right')
      else np.zeros((0, 478, 2))
    )
    dense = self._dense if known is None else self._mesh(known.levels)
    portrait = watch.wait_for(
      lambda: open_portrait(
        image,
        name=picture.stem,
        head=self.head,
        dense=dense,
        size=options.size,
        estimator=self._estimator,
        subject=known,
        map_estimators=self._maps,
        **choose_faces(options.face, faces, name=picture.name, words=FACES)[0],
      ),
      'portrait',
    )
    return OpenedPortrait(image, number, portrait)

  def _driven(self, portrait: Portrait, driver: Driver, options: Options) -> Motion:
    return driven_motion(
      portrait.subject,
      smoothed(driver.subject, self.head, options.smoothing),
      self.head,
      options.reenactment,
    )

  def _drawn(self, portrait: Portrait, motion: Motion, options: Options, first: int = 0):
    jaw = self.head.joint_turns(motion.pose, 'jaw')
    dense, transfer = (
      self._mesh(portrait.subject.levels),
      self._transfer_for(portrait.subject.levels),
    )
    dynamic = TransferredOffsets(transfer, portrait.subject, motion, jaw) if transfer else None
    motion, dynamic = from_frame(motion, dynamic, first)
    if self.generator is None:
      return preview_frames(portrait, motion, dynamic, self.head, dense)
    return generated_frames(
      self.generator,
      portrait,
      motion,
      dynamic,
      self.head,
      dense,
      seed=options.seed,
      sampling=options.sampling,
    )

  def _animation(
    self,
    every: list[OpenedPortrait],
    picture: Footage,
    driver: Driver,
    clip,
    options: Options,
    watch: Watch,
    clock: Stopwatch,
  ) -> Animation:
    opened, portraits = every[0], [each.portrait for each in every]
    portrait, image = opened.portrait, opened.image
    lay = lambda: [self._driven(each, driver, options) for each in portraits]
    if self._drivers is not None:
      about = options.smoothing, options.reenactment, self.loaded
      key, laid = frames_key(portraits, motion_of(driver), *about), lay
      lay = lambda: kept_motions(self._drivers, key, laid)
    motions = watch.run(lay)
    motion, kept = motions[0], None
    draw = lambda first: self._drawn(portrait, motion, options, first)
    if options.several:
      draw = lambda first: drawn_together(
        [self._drawn(*each, options, first) for each in zip(portraits, motions)]
      )
    if self._drivers is not None and can_begin_anywhere(self.generator):
      key = frames_key(portraits, motions, self.engine, self.loaded)
      kept = KeptFrames(self._drivers / 'frames', key, watch.warn)
    frames = draw(0) if kept is None else kept.over(len(motion.pose), draw)
    if options.several:
      frames = pasted_faces(frames, portraits, image)
    elif options.paste_back:
      frames = pasted(frames, portrait, image)
    shown = clip.clip if isinstance(clip, KnownMotion) else clip
    shown = None if shown is None or shown.still else shown.path
    if shown is not None and not driver.whole:
      watch.warn('frames were left out, so the sound is left out too')
    rounded = lambda pixels: None if pixels is None else round(pixels, 3)
    record = (
      {'engine': self.engine}
      | {k: v for k, v in options_record(options).items() if k not in SAMPLING}
      | {
        'source_frame': opened.frame,
        'portrait_head': portrait.subject.detail,
        'tremble_pixels_at_512': {
          'driver': rounded(tremble(self.head, driver.subject, maps.own_motion(driver.subject))),
          'result': rounded(tremble(self.head, portrait.subject, motion)),
        },
        'portrait_fit': json.loads(portrait.subject.report),
        'driving_fit': json.loads(driver.subject.report),
      }
    )
    if options.several:
      record['other_portrait_fits'] = [json.loads(each.subject.report) for each in portraits[1:]]
    if self.generator:
      record |= {'generator': self.generator.config.task} | sampling_record(
        self.generator, options.sampling
      )
    record |= self._relations(
      portrait, image, driver, isinstance(clip, KnownMotion) and clip.clip is None, options
    )
    record |= self.loaded | {'source_sha256': picture.digest, 'driving_sha256': clip.digest}
    return Animation(
      frames,
      driver.times,
      driver.rate,
      image if options.whole_picture else portrait.photo,
      record,
      driving=shown,
      kept=driver.kept,
      audio=shown if driver.whole else None,
      watch=watch,
      stopwatch=clock,
      provenance=options.provenance,
      write_motion=lambda path: save_subject(path, driver.subject),
      kept_frames=kept,
    )

  def _relations(
    self, portrait: Portrait, image: np.ndarray, driver: Driver, from_file: bool, options: Options
  ) -> dict:
    """What the record says of how the result goes together with its source and its driver."""
    cut, crops = square_of(portrait, image), driver.subject.source_crop
    driving = driving_record(options.driving_stride, None if from_file else driver.kept)
    if crops is not None:
      driving['square'] = {
        'matrix': np.asarray(crops[0][:2], np.float64).tolist(),
        'size': list(driver.subject.image_size),
      }
    size = (self.generator and self.generator.size) or cut.size
    return {
      'square': square_record(
        image.shape[:2], None if options.whole_picture else cut.resized(size)
      ),
      'driving': driving,
    }

  def _timed(self, stage: str, units: int | None, work: Callable):
    """`work()`, its seconds a unit noted for `estimate` if it was not remembered."""
    known, started = len(self._memory), time.perf_counter()
    result = work()
    if len(self._memory) > known and 'compile' in self._measured:
      self._measured[stage] = (time.perf_counter() - started) / max(units or 1, 1)
    self._measured.setdefault('compile', 0.0)
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
