"""Pictures and clips animated: `--engine liveportrait`, and the same as a function of arrays.

    model = load('weights')                                       # or random_model() to try the road
    frames = animate(model, portrait, driving_frames)             # uint8 [T, H, W, 3], pasted back into the portrait

Pictures are looked at twice (who is where; what they do) and painted once. Letters: T frames, N landmarks.
"""

import contextlib
import fractions
import pathlib
from collections.abc import Callable

import numpy as np
import tqdm

from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.media.footage import is_image, stream_footage
from exp_jax.media.images import resize
from exp_jax.media.paste import from_integer_centers
from exp_jax.media.video import has_sound, video_rate, write_timed_video
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.performance.results import driving_record, settings_of, square_record, write_record, write_side_by_side
from exp_jax.systems.liveportrait import faces
from exp_jax.systems.liveportrait.arguments import add_arguments, check_arguments, options_of
from exp_jax.systems.liveportrait.models import Model, load, random_model
from exp_jax.systems.liveportrait.motion.driving import take
from exp_jax.systems.liveportrait.motion.templates import Template, load_template, save_template
from exp_jax.systems.liveportrait.networks.landmarks import DenseLandmarks, read_landmarks
from exp_jax.systems.liveportrait.performer import Painter, cast, read_face
from exp_jax.systems.liveportrait.pipeline import Options

__all__ = ['Options', 'add_arguments', 'animate', 'animate_files', 'check_arguments', 'load', 'random_model']


def animate(model: Model, reference: np.ndarray, driving, *, options: Options = Options(), rng=None,
            rate=25, face: str = 'largest', driving_face: str = 'largest', estimator=None, source_points=None,
            driving_points=None, crop_only: bool = False) -> np.ndarray:
  """A picture or a clip with the driver's motion; see `Options`.

  Args:
    reference: uint8 [H, W, 3], or [T, H, W, 3] of a clip, which is edited frame by frame.
    driving: uint8 [T, h, w, 3], or [h, w, 3] of a picture, or a `Template`.
    rng: not used: nothing is drawn.
    rate: frames a second of both clips.
    face, driving_face: whose; see `faces.CHOICES`. With several faces all follow the same driver.
    estimator: finds faces; None starts MediaPipe's sidecar where something must be found.
    source_points, driving_points: [N, 2] or [T, N, 2] landmarks of one's own, in place of an estimator.
    crop_only: the painted square instead of the whole picture.

  Returns:
    uint8 [T, H, W, 3].
  """
  del rng
  moving = reference.ndim == 4
  source = _arrays(reference, rate)
  with contextlib.ExitStack() as stack_:
    need = ((options.crop_source and source_points is None)
            or (not isinstance(driving, Template) and driving_points is None and _looks(options)))
    if estimator is None and need:
      estimator = stack_.enter_context(FaceEstimator())
    found, watched = _source(model, source, options, estimator, face, source_points, rate, moving, 'the source')
    if isinstance(driving, Template):
      template = driving
    else:
      template, _ = _driver(model, _arrays(driving, rate), options, estimator, driving_face, driving_points, rate, 'the driver',
                            no_face='hold')
  ready = cast(model, found, [template] * len(found), options, source_times=watched.times if moving else None, source_rate=rate)
  painter = Painter(model, options, crop_only=crop_only)
  frames = (painter.moving(iter(reference), ready.found, ready.keypoints) if moving else
            painter.still(reference, ready.found, ready.keypoints))
  return np.stack(list(frames))


def _looks(options: Options) -> bool:
  """Whether a driver's landmarks are worth finding: for the crop, or for openness."""
  return options.crop_driving != 'no' or options.eye_retargeting or options.lip_retargeting


def _arrays(frames: np.ndarray, rate) -> faces.Frames:
  frames = frames[None] if frames.ndim == 3 else frames
  return lambda: ((frame, i / float(rate)) for i, frame in enumerate(frames))


def _source(model, frames, options, estimator, choice, given, rate, moving, name, limit=None, network=None):
  """([Face], Watched) of a source; `given` landmarks [N, 2] or [T, N, 2] stand for one face."""
  watched = faces.watch(frames, None if given is not None or not options.crop_source else estimator, rate=rate, name=name,
                        limit=limit if moving else 1)
  count = len(watched.times)
  if not options.crop_source:
    chosen = [None]
  elif given is not None:
    given = np.asarray(given, np.float64)
    given = given.reshape(-1, *given.shape[-2:])
    if len(given) < count:
      raise UserError(f'{len(given)} sets of landmarks for {count} frames of {name}')
    chosen = [given[:count]]
  else:
    chosen = faces.tracks(watched, choice, name)
    if network is not None:
      chosen = [faces.denser(points, frames, network) for points in chosen]
  return [read_face(model, frames, points, watched.size, count, options, moving=moving) for points in chosen], watched


def _driver(model, frames, options, estimator, choice, given, rate, name, *, no_face, limit=None, network=None,
            warn: Callable = tqdm.tqdm.write):
  """(Template, kept frames) of a driver's frames."""
  watched = faces.watch(frames, estimator if given is None and _looks(options) else None, rate=rate, name=name, limit=limit)
  points = None
  if given is not None:
    points = np.asarray(given, np.float64).reshape(-1, *np.shape(given)[-2:])[:len(watched.times)]
  elif estimator is not None and _looks(options):
    points = faces.tracks(watched, choice, name)[0]
    points = faces.denser(points, frames, network) if network is not None else points
  return faces.read_driver(model, frames, watched, points, crop=options.crop_driving, scale=options.driving_scale,
                           vx=options.driving_vx, vy=options.driving_vy, no_face=no_face, name=name, warn=warn)


def open_footage(path: pathlib.Path, *, allow_partial: bool = False, largest: int = 0
                 ) -> tuple[faces.Frames, fractions.Fraction, bool]:
  """(frames, rate, whether it is a clip). `largest`: shrunk so that no side is longer, and cut to even sides; 0: as it is."""

  def frames():
    pictures = stream_footage(path, allow_partial=allow_partial)
    return ((_shrunk(frame, largest), time) for frame, time in pictures) if largest else pictures

  return (frames, fractions.Fraction(25), False) if is_image(path) else (frames, video_rate(path), True)


def _shrunk(frame: np.ndarray, largest: int) -> np.ndarray:
  H, W = frame.shape[:2]
  if max(H, W) > largest:
    share = largest / max(H, W)
    frame = resize(frame, (int(H * share), int(W * share)))
  return frame[:frame.shape[0] // 2 * 2, :frame.shape[1] // 2 * 2]


def read_motion_file(path: pathlib.Path, limit: int | None) -> Template:
  """The first `limit` frames of a template."""
  found = load_template(path)
  if limit is None or limit >= len(found):
    return found
  first = lambda x: None if x is None else x[:limit]
  return Template(take(found.motion, slice(0, limit)), found.rate, first(found.eyes), first(found.lip), first(found.times),
                  first(found.found))


def animate_files(args) -> int:
  """Runs `python -m exp_jax.animate --engine liveportrait` with its parsed arguments; returns the number of frames."""
  options = options_of(args)
  model = random_model(args.random_weights, args.seed) if args.random_weights else load(args.export, dtype=args.dtype)
  network = DenseLandmarks(args.landmarks) if args.landmarks else None
  given = lambda path: None if path is None else read_landmarks(path)
  common = dict(network=network, limit=args.limit)
  source, rate, moving = open_footage(args.source, allow_partial=args.allow_partial, largest=args.source_max_dim)
  if moving and args.source_frame != 'best':
    number = int(args.source_frame)
    picture = next((frame for i, (frame, _) in enumerate(source()) if i == number), None)
    if picture is None:
      raise UserError(f'{str(args.source)!r} has no frame {number}; they count from 0')
    source, moving = (lambda: iter([(picture, 0.0)])), False
  with contextlib.ExitStack() as stack:
    wanted = options.crop_source and args.source_landmarks is None
    wanted |= any(p.suffix != '.npz' for p in (args.driving, *args.face_driver.values())) and _looks(options)
    estimator = stack.enter_context(FaceEstimator()) if wanted else None
    found, watched = _source(model, source, options, estimator, args.face, given(args.source_landmarks), rate, moving,
                             args.source.name, **common)

    def driver(path, landmarks=None):
      if path.suffix.lower() == '.npz':
        template = read_motion_file(path, args.limit)
        return template, np.arange(len(template))
      frames, its_rate, _ = open_footage(path, allow_partial=args.allow_partial)
      return _driver(model, frames, options, estimator, args.driving_face, landmarks, its_rate, path.name, no_face=args.no_face,
                     **common)

    main, kept = driver(args.driving, given(args.driving_landmarks))
    neutral = take(driver(args.neutral_image)[0].motion, slice(0, 1)) if args.neutral_image else None
    others = {number: driver(path)[0] for number, path in args.face_driver.items()}
  if wrong := [number for number in others if number >= len(found)]:
    raise UserError(f'--face_driver names face {wrong[0]}, but {len(found)} face(s) of {args.source.name} are animated; '
                    '--face all takes all of them')
  if getattr(args, 'save_motion', None) is not None:
    save_template(args.save_motion, main)
  drivers = [others.get(number, main) for number in range(len(found))]
  ready = cast(model, found, drivers, options, source_times=watched.times if moving else None, source_rate=rate, neutral=neutral)
  painter = Painter(model, options, crop_only=args.crop_only)
  picture = next(iter(source()))[0]
  frames = (painter.moving((frame for frame, _ in source()), ready.found, ready.keypoints) if moving else
            painter.still(picture, ready.found, ready.keypoints))
  frames = tqdm.tqdm(frames, desc='paint', unit='frame', total=len(ready.times), leave=False)
  clip = args.driving.suffix.lower() != '.npz' and not is_image(args.driving)
  count = write_timed_video(args.output, zip(frames, ready.times), ready.rate, audio_from=_sound(args, clip, kept, main, moving))
  write_side_by_side(args.output, picture, args.driving if clip and not moving else None, kept=kept if not moving else None)
  record = settings_of(args) | {'frames': count, 'rate': str(ready.rate), 'faces': len(found), 'variant': model.nets.variant}
  if not moving:                                        # a clip that is edited has no one square, and no driver frame by frame
    cut = from_integer_centers(found[0].matrix[0], (2 * model.nets.input_size,) * 2) if args.crop_only else None
    record['square'] = square_record(picture.shape[:2], cut)
    record['driving'] = driving_record(1, kept if clip else None)
  if args.export is not None:
    record['export_sha256'] = manifest.seal(args.export)
  write_record(args.output, record, source=args.source, driving=args.driving)
  return count


def _sound(args, clip: bool, kept: np.ndarray, main: Template, moving: bool) -> pathlib.Path | None:
  """Whose sound: the asked one's if it has any, else the other's; none where the driver's frames were left out."""
  if args.audio == 'none':
    return None
  whole = clip and (args.no_face == 'hold' or len(kept) == kept[-1] + 1)
  if clip and not whole:
    tqdm.tqdm.write('warning: frames of the driver were left out, so its sound is left out too')
  ways = {'driving': args.driving if whole else None, 'source': args.source if moving else None}
  order = [args.audio, *(name for name in ways if name != args.audio)]
  return next((ways[name] for name in order if ways[name] is not None and has_sound(ways[name])), None)
