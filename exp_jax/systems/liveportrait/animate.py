"""LivePortrait, loaded: pictures and clips animated, pasted back into the source.

    with load('weights') as model:                                 # or random_weights='tiny' to try the calls
      frames = model.animate('me.jpg', 'clip.mp4').frames()        # uint8 [T, H, W, 3]

Every picture is read twice (who is where; what they do) and painted once. Letters: T frames, N
landmarks.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable

import numpy as np

from exp_jax import __version__
from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.files.digests import arrays_digest, file_digest, key_of
from exp_jax.media.squares import from_integer_centers
from exp_jax.observe.landmarks import ESTIMATOR, FaceEstimator
from exp_jax.performance.animation import Animation, Estimate, Stopwatch
from exp_jax.performance.inputs import Footage, first_picture, footage, frame_of
from exp_jax.performance.kept_frames import KeptFrames, content_key
from exp_jax.performance.options import record as options_record
from exp_jax.performance.results import driving_record, square_record
from exp_jax.progress import Watch
from exp_jax.systems.liveportrait import models
from exp_jax.systems.liveportrait.live import Editor, FirstFrameEstimator, LiveSession
from exp_jax.systems.liveportrait.live import Source as OneSource
from exp_jax.systems.liveportrait.models import Model, random_model
from exp_jax.systems.liveportrait.motion.driving import take
from exp_jax.systems.liveportrait.motion.kept_templates import kept_template
from exp_jax.systems.liveportrait.motion.templates import Template, load_template, save_template
from exp_jax.systems.liveportrait.networks.landmarks import DenseLandmarks, read_landmarks
from exp_jax.systems.liveportrait.options import Options
from exp_jax.systems.liveportrait.painting import Cast, Painter, cast, painted_from
from exp_jax.systems.liveportrait.reading import (
  first_frames,
  is_motion,
  looks,
  read_clip,
  read_source,
  shrunk,
  sound_of,
)

__all__ = ['LivePortrait', 'Options', 'load']
Source = str | os.PathLike | np.ndarray | Footage
# Seconds on two CPU cores at base size: a frame read, a frame painted; and what compiling adds
# once. Replaced by what is measured.
_TYPICAL = {'read': 0.35, 'paint': 2.6, 'compile': 60.0}


def load(
  weights: str | os.PathLike | None = None,
  *,
  landmarks: str | os.PathLike | None = None,
  dtype: str = 'float32',
  random_weights: str | None = None,
  seed: int = 0,
  drivers: str | os.PathLike | None = None,
) -> 'LivePortrait':
  """Loads the system.

  Args:
    weights: a folder by `python -m exp_jax.convert.liveportrait weights`, or an export of
      `configs/liveportrait.py`.
    landmarks: LivePortrait's landmark.onnx, for 203 landmarks in place of MediaPipe's.
    dtype: of the computation, float32 or bfloat16.
    random_weights: 'tiny' or 'base' in place of `weights`: the pictures mean nothing.
    seed: of the random weights.
    drivers: a folder for the motion of drivers: another process with the same clips and options
      goes on with it.

  Raises:
    UserError: both or neither of `weights` and `random_weights`, or weights that are missing or
      damaged.
  """
  if (weights is None) == (random_weights is None):
    raise UserError(
      '--engine liveportrait needs --export DIR, made by `python -m exp_jax.convert.liveportrait '
      'weights`, or '
      '--random_weights tiny to try the command'
    )
  if random_weights and dtype != 'float32':
    raise UserError('--random_weights are computed in float32')
  model = (
    random_model(random_weights, seed) if random_weights else models.load(weights, dtype=dtype)
  )
  dense = None if landmarks is None else DenseLandmarks(landmarks)
  digests = {} if weights is None else {'export_sha256': manifest.seal(weights)}
  if drivers is None:
    return LivePortrait(model, landmarks=dense, digests=digests)
  key = key_of(
    digests,
    random_weights,
    seed,
    dtype,
    landmarks and file_digest(landmarks),
    ESTIMATOR,
    __version__,
  )
  return LivePortrait(model, landmarks=dense, digests=digests, drivers=pathlib.Path(drivers) / key)


class LivePortrait:
  """The loaded system. All state is its own; close it, or use it in a `with`.

  Attributes:
    Options: the dataclass that `animate` takes.
    model: networks and parameters.
    loaded: what a record says of them.
  """

  Options = Options
  name = 'liveportrait'

  def __init__(
    self,
    model: Model,
    *,
    landmarks: DenseLandmarks | None = None,
    estimator: Callable | None = None,
    digests: dict | None = None,
    drivers: pathlib.Path | None = None,
  ):
    """Of networks that are loaded.

    Args:
      model: networks and parameters.
      landmarks: the network of 203 points, if it is wanted.
      estimator: finds faces, image -> (points [F, 478, 3], ...); None: MediaPipe, started where
        something must be found.
      digests: what a record says of the weights.
      drivers: a folder for the motion of drivers, of these networks and no others.
    """
    self.model, self._network, self._given, self.loaded = model, landmarks, estimator, digests or {}
    self._drivers = drivers
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
    driving: 'Source | Template',
    *,
    options: Options = Options(),
    rate: float = 25,
    source_points: np.ndarray | None = None,
    driving_points: np.ndarray | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    warn: Callable[[str], None] | None = None,
  ) -> Animation:
    """A picture or a clip with the driver's motion.

    Source and driver are read now, frames are painted as they are taken.

    Args:
      portrait: a picture, or a clip, which is edited frame by frame unless `options.source_frame`
        takes one picture of it.
      driving: a clip or picture as a path or arrays, a motion file (.npz), or its `Template`. With
        several faces all follow it.
      options: see `Options`.
      rate: frames a second of arrays.
      source_points: [N, 2] or [T, N, 2] landmarks of the source in pixels, in place of an
        estimator.
      driving_points: the same of the driver.
      progress: called with (stage, done, total or None); at least every second.
      cancel: asked at least every 0.1 s; when it answers true, `Cancelled` is raised and nothing
        half-made is left.
      warn: called with a sentence about input that is used although something is wrong with it;
        default: Python's warnings.

    Raises:
      UserError: bad input.
      Cancelled: by `cancel`.
    """
    if not isinstance(options, Options):
      raise UserError(
        f'options must be liveportrait.options.Options, got {type(options).__qualname__}'
      )
    watch = Watch(progress, cancel, *[] if warn is None else [warn])
    clock, chosen = Stopwatch(), options.pipeline
    source_points = _landmarks(source_points, options.source_landmarks)
    driving_points = _landmarks(driving_points, options.driving_landmarks)
    source = self._source_footage(portrait, rate, options)
    wanted = chosen.crop_source and source_points is None
    if driving_points is None and looks(chosen):
      drivers = driving, *options.face_driver.values()
      wanted |= any(not (isinstance(each, Template) or is_motion(each)) for each in drivers)
    with contextlib.ExitStack() as stack:
      estimator = self._given or (stack.enter_context(FaceEstimator()) if wanted else None)
      how = dict(limit=options.limit, network=self._network, watch=watch)
      found, watched = read_source(
        self.model, source, chosen, estimator, options.face, source_points, **how
      )
      read = lambda each, given=None: self._driver(each, given, rate, options, estimator, watch)
      main, kept = read(driving, driving_points)
      neutral = (
        take(read(options.neutral_image)[0].motion, slice(0, 1)) if options.neutral_image else None
      )
      others = {number: read(path)[0] for number, path in options.face_driver.items()}
    _check_face_drivers(others, len(found), source.name)
    ready = watch.run(
      lambda: cast(
        self.model,
        found,
        [others.get(number, main) for number in range(len(found))],
        chosen,
        source_times=None if source.still else watched.times,
        source_rate=source.rate,
        neutral=neutral,
      )
    )
    clock.took('read')
    return self._animation(source, ready, driving, main, kept, options, watch, clock)

  def estimate(
    self, driving: Source | int, *, options: Options = Options(), rate: float = 25
  ) -> Estimate:
    """What `animate` of a picture would cost; `driving` is the driver, or a number of frames.

    Nothing is computed.
    """
    frames = (
      driving
      if isinstance(driving, int)
      else len(load_template(driving))
      if is_motion(driving)
      else (footage(driving, rate=rate).count or 1)
    )
    frames = min(frames, options.limit or frames)
    cost, size = _TYPICAL | self._measured, 2 * self.model.nets.input_size
    scale = (size / 512) ** 2
    before = scale * cost['read'] * frames + cost['compile'] * (not self._measured)
    return Estimate(
      frames,
      round(before + scale * cost['paint'] * frames, 1),
      round(before + scale * cost['paint'], 1),
      int(0.04 * size * size * frames) + 20_000,
      int(1.5e9 + 4e9 * scale),
      bool(self._measured),
    )

  def warm_up(
    self,
    *,
    options: Options = Options(),
    progress: Callable | None = None,
    cancel: Callable | None = None,
  ) -> None:
    """Compiles what an animation of a picture needs, with a grey picture and without the landmark
    estimator."""
    image = np.full((256, 256, 3), 128, np.uint8)
    chosen = dataclasses.replace(
      options, no_crop=True, crop_driving='no', eye_retargeting=False, lip_retargeting=False
    )
    for _ in self.animate(
      image, np.stack([image] * 2), options=chosen, progress=progress, cancel=cancel
    ):
      break

  def editor(
    self,
    portrait: Source,
    *,
    options: Options = Options(),
    progress: Callable | None = None,
    cancel: Callable | None = None,
  ) -> Editor:
    """A picture that is edited by sliders, those of `--edit`; see `live.Editor`. Arguments and errors as of `animate`."""
    return Editor(self._still(portrait, options, Watch(progress, cancel)))

  def live(
    self,
    portrait: Source,
    *,
    options: Options = Options(),
    view: str = 'preview',
    progress: Callable | None = None,
    cancel: Callable | None = None,
  ) -> LiveSession:
    """A picture that follows a camera, frame by frame; see `live.LiveSession`.

    Args:
      portrait: a picture, or a clip of which `options.source_frame` takes one; 'best' is its first.
      options: as of `animate`; what needs the driver's landmarks in every frame (retargeting) is refused.
      view: 'preview': there is no other.
      progress: called with (stage, done, total or None).
      cancel: ends the work with `Cancelled` when it answers true.

    Raises:
      UserError: bad input, an option that a camera cannot serve, or another view.
    """
    if view != 'preview':
      raise UserError(
        f'liveportrait has no head whose normals could be drawn: the view must be preview, got {view!r}'
      )
    for name in ('eye_retargeting', 'lip_retargeting', 'neutral_image'):
      if getattr(options, name):
        raise UserError(
          f'--{name} cannot be had live: it needs more of the driver than its motion; leave it out'
        )
    return LiveSession(
      self._still(portrait, options, Watch(progress, cancel)), self._given or FirstFrameEstimator()
    )

  def _still(self, portrait: Source, options: Options, watch: Watch) -> OneSource:
    """The first chosen face of a picture, ready to be painted."""
    source, chosen = self._source_footage(portrait, 25, options), options.pipeline
    picture = first_picture(source)
    source = dataclasses.replace(source, frames=lambda: iter([(picture, 0.0)]), still=True, count=1)
    points = None if options.source_landmarks is None else read_landmarks(options.source_landmarks)
    with contextlib.ExitStack() as stack:
      wanted = chosen.crop_source and points is None
      estimator = self._given or (stack.enter_context(FaceEstimator()) if wanted else None)
      found, _ = read_source(
        self.model,
        source,
        chosen,
        estimator,
        options.face,
        points,
        network=self._network,
        watch=watch,
      )
    painter = Painter(self.model, chosen, crop_only=options.crop_only, warn=watch.warn)
    return OneSource(self.model, found[0], picture, chosen, painter)

  def _source_footage(self, portrait: Source, rate: float, options: Options) -> Footage:
    source = footage(portrait, rate=rate, name='the source', allow_partial=options.allow_partial)
    if not source.still and options.source_frame != 'best':
      picture = frame_of(source, int(options.source_frame))
      source = dataclasses.replace(
        source, frames=lambda: iter([(picture, 0.0)]), still=True, count=1
      )
    if largest := options.source_max_dim:
      opened = source.frames
      source = dataclasses.replace(
        source, frames=lambda: ((shrunk(frame, largest), time) for frame, time in opened())
      )
    return source

  def _driver(
    self, driving, points, rate: float, options: Options, estimator, watch: Watch
  ) -> tuple[Template, np.ndarray]:
    if isinstance(driving, Template) or is_motion(driving):
      template = first_frames(
        driving if isinstance(driving, Template) else load_template(driving), options.limit
      )
      return template, np.arange(len(template))
    clip, chosen = (
      footage(driving, rate=rate, name='the driver', allow_partial=options.allow_partial),
      options.pipeline,
    )
    read = lambda warn: read_clip(
      self.model,
      clip,
      chosen,
      estimator,
      options.driving_face,
      points,
      no_face=options.no_face,
      limit=options.limit,
      network=self._network,
      watch=dataclasses.replace(watch, warn=warn),
    )
    if self._drivers is None:
      return read(watch.warn)
    key = key_of(
      clip.digest,
      None if points is None else arrays_digest([points], about=str(np.shape(points))),
      looks(chosen),
      options.driving_crop,
      chosen.crop_driving,
      options.driving_face,
      options.no_face,
      options.limit,
      options.allow_partial,
    )
    return kept_template(self._drivers, key, read, watch.warn)

  def _animation(
    self,
    source: Footage,
    ready: Cast,
    driving,
    main: Template,
    kept: np.ndarray,
    options: Options,
    watch: Watch,
    clock: Stopwatch,
  ) -> Animation:
    moving, picture = not source.still, first_picture(source)
    painter = Painter(self.model, options.pipeline, crop_only=options.crop_only, warn=watch.warn)
    draw = lambda first: painted_from(painter, ready, picture, source if moving else None, first)
    left = None
    if self._drivers is not None and self.model.nets.generator.dtype == 'float32':
      faces_read = [(face.motion, face.matrix, face.seen) for face in ready.found]
      key = content_key(source.digest, faces_read, ready.keypoints, options_record(options))
      left = KeptFrames(self._drivers / 'frames', key, watch.warn)
    frames = draw(0) if left is None else left.over(len(ready.times), draw)
    motion = isinstance(driving, Template) or is_motion(driving)
    clip = None if motion else footage(driving, allow_partial=options.allow_partial)
    shown = None if clip is None or clip.still else clip.path
    record = (
      {'engine': self.name}
      | options_record(options)
      | {'faces': len(ready.found), 'variant': self.model.nets.variant}
    )
    if not moving:  # a clip that is edited has no one square, and no driver frame by frame
      cut = (
        from_integer_centers(ready.found[0].matrix[0], (2 * self.model.nets.input_size,) * 2)
        if options.crop_only
        else None
      )
      record['square'] = square_record(picture.shape[:2], cut)
      record['driving'] = driving_record(1, None if motion or clip.still else kept)
    record |= self.loaded | {'source_sha256': source.digest}
    if not isinstance(driving, Template):
      record['driving_sha256'] = file_digest(driving) if motion else clip.digest
    return Animation(
      frames,
      ready.times,
      ready.rate,
      picture,
      record,
      driving=None if moving else shown,
      kept=None if moving else kept,
      audio=sound_of(options, shown, kept, source.path if moving else None, watch),
      stage='paint',
      watch=watch,
      stopwatch=clock,
      provenance=options.provenance,
      write_motion=lambda path: save_template(path, main),
      kept_frames=left,
    )


def _landmarks(given: np.ndarray | None, path: pathlib.Path | None) -> np.ndarray | None:
  """Landmarks of a caller, else of a file, else None."""
  return read_landmarks(path) if given is None and path is not None else given


def _check_face_drivers(others: dict[int, Template], count: int, name: str) -> None:
  """UserError for a driver of a face that is not animated."""
  if wrong := [number for number in others if number >= count]:
    raise UserError(
      f'--face_driver names face {wrong[0]}, but {count} face(s) of {name} are animated; --face all '
      'takes all of them'
    )
