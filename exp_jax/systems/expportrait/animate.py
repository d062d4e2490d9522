"""ExpPortrait, loaded: portraits and drivers to frames, by the textured preview or the video model.

    with load(generator='embedded') as model:                     # without a generator: the textured preview
      animation = model.animate('me.jpg', 'clip.mp4', options=Options(smoothing=0.1))
      animation.save('out.mp4')                                   # or: for frame in animation: ...

Letters: T frames.
"""

import os
import pathlib
from collections.abc import Callable

import numpy as np

from exp_jax.controls.reenact import Motion
from exp_jax.controls.turn_limit import Reach
from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.fitting.tracked_driver import Driver, track
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject, load_subject, save_subject
from exp_jax.heads.trained_head import check_trained_on
from exp_jax.observe.maps.map_sources import EMBEDDED
from exp_jax.performance.animation import Animation, Estimate, Stopwatch
from exp_jax.performance.inputs import Footage, first_picture, footage
from exp_jax.performance.kept_frames import KeptFrames
from exp_jax.progress import Background, Watch
from exp_jax.systems.expportrait.costs import cost_of
from exp_jax.systems.expportrait.drawing import TransferredOffsets, pasted
from exp_jax.systems.expportrait.driven import driven, reach_of_portrait
from exp_jax.systems.expportrait.embedded import embedded
from exp_jax.systems.expportrait.generators import check_options, generated_frames, open_generator
from exp_jax.systems.expportrait.kept_portraits import OpenedPortrait, kept_motions
from exp_jax.systems.expportrait.known_motion import KnownMotion
from exp_jax.systems.expportrait.live.editor import Editor
from exp_jax.systems.expportrait.live.frame_by_frame import FrameByFrame
from exp_jax.systems.expportrait.live.session import LiveSession
from exp_jax.systems.expportrait.opening import Opener, Source
from exp_jax.systems.expportrait.options import Options
from exp_jax.systems.expportrait.portrait import Portrait, open_portrait, preview_frames
from exp_jax.systems.expportrait.rest_face import synthetic_face
from exp_jax.systems.expportrait.result_record import record_of
from exp_jax.systems.expportrait.resumed import (
  can_begin_anywhere,
  frames_key,
  from_frame,
  motion_of,
)
from exp_jax.systems.expportrait.several import drawn_together, pasted_faces
from exp_jax.systems.expportrait.transfer.network import Transfer

__all__ = ['ExpPortrait', 'Options', 'load']


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
    self._opener = Opener(
      head=head, networks=networks, subjects=subjects, drivers=drivers, memory_bytes=memory_bytes
    )
    self.head = self._opener.head
    self._transfers: dict[int, Transfer] = {}
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
    self._digests = {
      f'{name}_sha256': manifest.seal(path)
      for name, path in self._paths.items()
      if path is not None
    }

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self) -> None:
    """Ends the landmark estimator and forgets what was fitted."""
    self._opener.close()

  @property
  def engine(self) -> str:
    """'dit' with a video model, else 'proxy'."""
    return 'proxy' if self.generator is None else 'dit'

  @property
  def loaded(self) -> dict:
    """What a record says of head and networks."""
    return {
      'transfer': self._transfer_name,
      'maps': [each.digest for each in self._opener.maps],
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
    return self._opener.portrait(
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
    return self._opener.motion(
      self._opener.driving(source, rate, options), options, Watch(progress, cancel)
    )

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
    check_options(options, self.generator)
    watch = Watch(progress, cancel, *[] if warn is None else [warn])
    clock = Stopwatch()
    picture = footage(portrait, name='the portrait', allow_partial=options.allow_partial)
    clip = self._opener.driving(driving, rate, options)
    if picture.still:
      first_picture(picture)  # complaints first, before a long clip is watched
      with Background(lambda quiet: self._opener.portraits(picture, options, quiet)) as opening:
        driver = opening.meanwhile(watch, lambda watch: self._opener.motion(clip, options, watch))
        clock.took('track')
        opened = opening.wait(watch, 'portrait')
    else:  # both read clips, of which the faces of all frames are looked for
      driver = self._opener.motion(clip, options, watch)
      clock.took('track')
      opened = self._opener.portraits(picture, options, watch)
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
      clip = self._opener.driving(driving, rate, options)
      count = (
        load_subject(clip.path).num_frames if isinstance(clip, KnownMotion) else clip.count or 1
      )
      frames = -(-count // options.driving_stride)
      frames = min(frames, options.limit or frames)
    trained = self.generator and self.generator.size
    return cost_of(
      frames,
      size=trained[0] if trained else options.size,
      engine='preview' if not self.generator else 'generated' if trained else 'repaired',
      measured=self._opener.measured,
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
    watch, (image, estimator) = Watch(progress, cancel), synthetic_face(self.head)
    clip = footage(np.repeat(image[None], frames, 0), name='the warm-up')
    driver = track(
      clip,
      head=self.head,
      dense=self._opener.dense,
      size=options.size,
      estimator=estimator,
      map_estimators=self._opener.maps,
      watch=watch,
    )
    portrait = watch.wait_for(
      lambda: open_portrait(
        image,
        name='warm_up',
        head=self.head,
        dense=self._opener.dense,
        size=options.size,
        estimator=estimator,
        map_estimators=self._opener.maps,
      ),
      'portrait',
    )
    drawn = self._drawn(portrait, self._driven(portrait, driver, options, watch.warn), options)
    next(watch.each_slowly(drawn, 'draw', 1))

  def draws(self, opened: OpenedPortrait, *, view: str = 'preview') -> FrameByFrame:
    """Draws an opened portrait one motion at a time, by the textured preview or as normals; see
    `live.frame_by_frame`."""
    subject = opened.portrait.subject
    return FrameByFrame(
      opened.portrait,
      head=self.head,
      dense=self._opener.mesh(subject.levels),
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
      dense=self._opener.dense,
      estimator=self._opener.estimator,
      map_estimators=self._opener.maps,
      reenactment=options.reenactment,
      reach=self._reach(opened.portrait.subject, options),
    )

  def _transfer_for(self, levels: int) -> Transfer | None:
    """The expression transfer on that mesh, or None where none is wanted."""
    if levels not in self._transfers and self._paths['transfer']:
      self._transfers[levels] = Transfer(
        self._paths['transfer'], self.head, self._opener.mesh(levels)
      )
    return self._transfers.get(levels)

  def _reach(self, subject: Subject, options: Options) -> Reach | None:
    invents = not can_begin_anywhere(self.generator)
    dense = self._opener.mesh(subject.levels)
    return reach_of_portrait(subject, self.head, dense, options, draws_hidden=invents)

  def _driven(self, portrait: Portrait, driver: Driver, options: Options, warn) -> Motion:
    reach = self._reach(portrait.subject, options)
    return driven(portrait.subject, driver.subject, self.head, options, reach=reach, warn=warn)

  def _drawn(self, portrait: Portrait, motion: Motion, options: Options, first: int = 0):
    jaw = self.head.joint_turns(motion.pose, 'jaw')
    dense, transfer = (
      self._opener.mesh(portrait.subject.levels),
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
    lay = lambda: [self._driven(each, driver, options, watch.warn) for each in portraits]
    if self._opener.drivers is not None:
      about = options.smoothing, options.reenactment, options.most_turn, self.loaded
      key, laid = frames_key(portraits, motion_of(driver), *about), lay
      lay = lambda: kept_motions(self._opener.drivers, key, laid)
    motions = watch.run(lay)
    motion, kept = motions[0], None
    draw = lambda first: self._drawn(portrait, motion, options, first)
    if options.several:
      draw = lambda first: drawn_together(
        [self._drawn(*each, options, first) for each in zip(portraits, motions)]
      )
    if self._opener.drivers is not None and can_begin_anywhere(self.generator):
      key = frames_key(portraits, motions, self.engine, self.loaded)
      kept = KeptFrames(self._opener.drivers / 'frames', key, watch.warn)
    frames = draw(0) if kept is None else kept.over(len(motion.pose), draw)
    if options.several:
      frames = pasted_faces(frames, portraits, image)
    elif options.paste_back:
      frames = pasted(frames, portrait, image)
    shown = clip.clip if isinstance(clip, KnownMotion) else clip
    shown = None if shown is None or shown.still else shown.path
    if shown is not None and not driver.whole:
      watch.warn('frames were left out, so the sound is left out too')
    record = record_of(
      every,
      motion,
      driver,
      options,
      head=self.head,
      generator=self.generator,
      from_file=isinstance(clip, KnownMotion) and clip.clip is None,
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
