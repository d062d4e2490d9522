"""Files in, files out: a portrait and a driver to a video, by the textured preview or the video model."""

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
import sys
import time

import jax
import numpy as np
import tqdm

from exp_jax.controls import maps
from exp_jax.controls.channels import extra_channels, extra_maps
from exp_jax.controls.reenact import Motion, ReenactOptions
from exp_jax.controls.smoothing import DEFAULT_SECONDS, smoothed
from exp_jax.diffusion.samplers import SAMPLERS
from exp_jax.errors import UserError
from exp_jax.files.resources import package_file
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject, check_head, load_subject, save_subject
from exp_jax.media.footage import is_image
from exp_jax.media.images import read_image
from exp_jax.media.paste import Cut, feathered_box, open_patch, paste
from exp_jax.media.results import driving_record, settings_of, square_record, write_record, write_side_by_side
from exp_jax.media.video import read_frames, video_rate, write_timed_video
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.systems.expportrait.driver import Driver, best_frame, check_face, choose_face, track
from exp_jax.systems.expportrait.portrait import Portrait, driven_motion, open_portrait, preview_frames, scaled, tremble
from exp_jax.systems.expportrait.sample import load_generator, stream
from exp_jax.systems.expportrait.sampling import NAMES
from exp_jax.systems.expportrait.transfer import Transfer
from exp_jax.training import integrity

_PART = 32   # frames whose offsets are transferred at a time


class TransferredOffsets:
  """Dynamic offsets [T, N, 3] of a motion and its jaw [T, 3], made part by part when asked for, frame after frame."""

  def __init__(self, transfer: Transfer, subject: Subject, motion: Motion, jaw: np.ndarray):
    self._make = lambda start: transfer(subject, motion.expression[start:start + _PART], jaw[start:start + _PART])
    self._count, self._part = len(motion.expression), functools.lru_cache(maxsize=2)(self._make)

  def __len__(self):
    return self._count

  def __getitem__(self, frame: int) -> np.ndarray:
    return self._part(int(frame) // _PART * _PART)[int(frame) % _PART]


class DrawnFrames:
  """Frames or maps [T, H, W, channels] float32 in 0..1, drawn when a slice of them is asked for."""

  def __init__(self, count: int, size: int, draw, channels: int = 3):
    self._count, self._draw, self.shape = count, draw, (count, size, size, channels)

  def __len__(self):
    return self._count

  def __getitem__(self, part: slice) -> np.ndarray:
    start, stop, _ = part.indices(self._count)
    return self._draw(start, stop).astype(np.float32) / 255


def part_of(motion: Motion, dynamic, start: int, stop: int) -> tuple[Motion, np.ndarray | None]:
  """Frames start..stop of a motion and its offsets."""
  cut = Motion(*(getattr(motion, f.name)[start:stop] for f in dataclasses.fields(Motion)))
  return cut, None if dynamic is None else np.stack([dynamic[i] for i in range(start, stop)])


def dit_frames(generator, portrait: Portrait, motion: Motion, dynamic, head: HeadModel, dense: Dense, *, seed: int, **sampling):
  """Yields [H, W, 3] float frames in 0..1 by the video model, at the size it was trained at; a window is in memory at a time.

  sampling: fields of `Sampling` in place of the export's choice.
  """
  size, count = generator.size[0], len(motion.pose)
  portrait = scaled(portrait, size)
  subject = portrait.subject
  unit = lambda images: images.astype(np.float32) / 255

  extras = tuple(generator.config.condition.get('extras', ()))

  def controls(start, stop):
    part = part_of(motion, dynamic, start, stop)
    drawn = maps.control_maps(head, dense, subject, *part, size=size)
    return np.concatenate([drawn, extra_maps(head, dense, subject, *part, extras, size=size)], axis=-1) if extras else drawn

  def previews(start, stop):
    return np.stack(list(preview_frames(portrait, *part_of(motion, dynamic, start, stop), head, dense)))

  own = maps.control_maps(head, dense, subject, maps.own_motion(subject), maps.full_offsets(subject), size=size)
  driving = DrawnFrames(count, size, controls, 3 + extra_channels(extras))
  parts = stream(generator, unit(portrait.photo), unit(own[0]), driving, jax.random.key(seed),
                 previews=DrawnFrames(count, size, previews) if generator.model.preview else None, **sampling)
  for part in parts:
    yield from part


def add_arguments(parser) -> None:
  """Options of the engines 'proxy' and 'dit'."""
  group = parser.add_argument_group('engines proxy and dit')
  group.add_argument('--transfer', default='embedded', metavar='DIR',
                     help="exported expression transfer, 'embedded' (default) or 'none': no wrinkles move")
  group.add_argument('--subjects', type=pathlib.Path,
                     help='folder of `exp_jax.fit`: portrait and clip that are fitted there are not fitted again')
  group.add_argument('--rotation', choices=('absolute', 'relative'), default='absolute',
                     help="the driver's head rotation as it is, or its change since the first frame")
  group.add_argument('--translation', choices=('relative', 'none'), default='relative',
                     help="follow the driver's change of place since the first frame, or stay")
  group.add_argument('--expression_strength', type=float, default=1.0, help='0 still, 1 as driven (default), 1.5 more')
  group.add_argument('--drive_torso', action='store_true', help="turn the torso as the driver's too; the head moves the same")
  group.add_argument('--smoothing', type=float, default=DEFAULT_SECONDS, metavar='SECONDS',
                     help="take the detector's jitter out of the motion over about so many seconds, without delay; blinks and "
                          f'quick turns stay (default {DEFAULT_SECONDS}; 0 leaves the motion as tracked)')
  group.add_argument('--driving_stride', type=int, default=1, metavar='N',
                     help="follow every N-th frame of the driver, at its own time (default 1); evaluation samples drivers so")
  group.add_argument('--size', type=int, default=512, help='pixels of the fitted square (default 512)')
  group.add_argument('--save_motion', type=pathlib.Path, metavar='FILE.npz',
                     help="keep the driver's motion: -d FILE.npz uses it again without the clip")


  group = parser.add_argument_group('engine dit', 'Defaults fit the export: its config names them (`sample`). An export without that '
                                    'section, as the embedded one, has euler, 8 steps, guidance 1, overlap 2.')
  group.add_argument('--vae', type=pathlib.Path, help="autoencoder export, if not where the model's config says")
  group.add_argument('--sampler', choices=tuple(n for n in SAMPLERS if n != 'heun'), help='of the video model')
  group.add_argument('--steps', type=int, help="of the sampler's grid")
  group.add_argument('--guidance', type=float, help='on the pose, and on the text where the export has a negative prompt; 1: none')
  group.add_argument('--reference_guidance', type=float, help='on the portrait; 1: none')
  group.add_argument('--overlap', type=int, help='latent frames that neighbouring windows share')


def check_arguments(args) -> None:
  """UserError for values that cannot be, before anything is read."""
  check_face(args.face, 'the portrait')
  check_face(args.driving_face, 'the driver')
  for name, least in (('size', 64), ('steps', 1), ('overlap', 0), ('driving_stride', 1)):
    if (value := getattr(args, name)) is not None and value < least:
      raise UserError(f'--{name} must be at least {least}, got {value}')
  if not 0 <= args.expression_strength <= 3:
    raise UserError(f'--expression_strength must be in 0..3, got {args.expression_strength}')
  if not 0 <= args.smoothing <= 5:
    raise UserError(f'--smoothing must be in 0..5 seconds, got {args.smoothing}')
  for name in ('export', 'vae', *NAMES):
    if args.engine == 'proxy' and getattr(args, name) is not None:
      raise UserError(f'--{name} belongs to --engine dit; --engine proxy, which is the default, samples nothing')
  if args.save_motion is not None and args.save_motion.suffix != '.npz':
    raise UserError(f'--save_motion must end in .npz, got {str(args.save_motion)!r}')


def embedded(name: str) -> pathlib.Path:
  """The folder of a model that ships with the package: 'dit', 'vae' or 'transfer'; see exp_jax/embedded/README.md.

  Raises:
    UserError: it is not there.
  """
  return package_file('embedded', name)


def animate_files(args) -> int:
  """Runs `python -m exp_jax.animate` with its parsed arguments; returns the number of frames."""
  head, dense = _head()
  models = {'export': (args.export or embedded('dit')) if args.engine == 'dit' else None, 'vae': args.vae,
            'transfer': {'embedded': lambda: embedded('transfer'), 'none': lambda: None}.get(
              args.transfer, lambda: pathlib.Path(args.transfer))()}
  generator = load_generator(models['export'], vae_path=args.vae and str(args.vae)) if args.engine == 'dit' else None
  sampling = generator and generator.sampling(**{name: getattr(args, name) for name in NAMES})
  transfer = _transfer(models['transfer']) if models['transfer'] else None
  started, seconds = time.perf_counter(), {}

  def took(stage):
    nonlocal started
    seconds[stage] = round(time.perf_counter() - started, 2)
    started = time.perf_counter()

  if is_image(args.source):
    read_image(args.source)                      # complaints first, before a long clip is watched
  with contextlib.ExitStack() as stack:
    estimator = stack.enter_context(FaceEstimator())
    driver = _kept(_driver, args.driving, args.size, args.limit, args.driving_stride, args.driving_face, args.no_face,
                   args.allow_partial, args.subjects, estimator=estimator)
    took('track')
    if args.save_motion is not None:
      save_subject(args.save_motion, driver.subject)
    image, frame, portrait = _kept(_opened, args.source, args.size, args.source_frame, args.face, args.allow_partial,
                                   args.subjects, estimator=estimator)
  took('portrait')
  options = ReenactOptions(rotation=args.rotation, expression_strength=args.expression_strength,
                           drive_torso=args.drive_torso, translation=args.translation)
  driving = smoothed(driver.subject, head, args.smoothing)
  motion = driven_motion(portrait.subject, driving, head, options)
  dynamic = TransferredOffsets(transfer, portrait.subject, motion, head.joint_turns(motion.pose, 'jaw')) if transfer else None
  if generator is None:
    frames = preview_frames(portrait, motion, dynamic, head, dense)
  else:
    frames = dit_frames(generator, portrait, motion, dynamic, head, dense, seed=args.seed, **dataclasses.asdict(sampling))
  frames = tqdm.tqdm(frames, desc='draw', unit='frame', total=len(motion.pose), leave=False)
  if args.paste_back:
    frames = _pasted(frames, portrait, image)
  from_clip = args.driving.suffix != '.npz' and not is_image(args.driving)
  audio = args.driving if from_clip and driver.whole else None
  if from_clip and not driver.whole:
    tqdm.tqdm.write('warning: frames were left out, so the sound is left out too')
  count = write_timed_video(args.output, zip(frames, driver.times), driver.rate, audio_from=audio)
  took('draw')
  write_side_by_side(args.output, image if args.paste_back else portrait.photo, args.driving if from_clip else None, kept=driver.kept)
  rounded = lambda pixels: None if pixels is None else round(pixels, 3)
  record = {name: value for name, value in settings_of(args).items() if name not in NAMES} | {
    'frames': count, 'rate': str(driver.rate), 'source_frame': frame, 'seconds': seconds,
    'portrait_head': portrait.subject.detail,
    'tremble_pixels_at_512': {'driver': rounded(tremble(head, driver.subject, maps.own_motion(driver.subject))),
                              'result': rounded(tremble(head, portrait.subject, motion))},
    'portrait_fit': json.loads(portrait.subject.report), 'driving_fit': json.loads(driver.subject.report)}
  if sampling:
    record['sampling'] = dataclasses.asdict(sampling) | {'negative_prompt': generator.negative is not None}
  record |= _relations(args, portrait, image, driver, None if generator is None else generator.size)
  record['transfer'] = args.transfer if args.transfer in ('embedded', 'none') else 'own'
  record |= {f'{name}_sha256': integrity.seal(folder) for name, folder in models.items() if folder is not None}
  write_record(args.output, record, source=args.source, driving=args.driving)
  return count


@functools.cache
def _head() -> tuple[HeadModel, Dense]:
  head = load_head('makehuman')
  return head, densify(head, 1)


@functools.lru_cache(maxsize=2)
def _transfer(folder: pathlib.Path) -> Transfer:
  return Transfer(folder, *_head())


_MEMORY: dict = {}
_DOUBTFUL = 0.02   # six people, a statue, a cartoon, a monkey: up to 0.018; a cat and a llama: 0.021 and 0.024


def _kept(make, path: pathlib.Path, *settings, estimator):
  """make(path, *settings), remembered while folders are worked through: a clip is tracked once, a portrait fitted once."""
  stat = path.stat()
  key = make, path.absolute(), stat.st_size, stat.st_mtime_ns, settings
  if key not in _MEMORY:
    while len(_MEMORY) >= 32:
      _MEMORY.pop(next(iter(_MEMORY)))
    _MEMORY[key] = make(path, *settings, estimator=estimator)
  return _MEMORY[key]


def _driver(path, size, limit, stride, face, no_face, allow_partial, subjects, *, estimator) -> Driver:
  """The motion of -d; one that lies in --subjects keeps the exact times of its clip."""
  head, dense = _head()
  fitted = _fitted(subjects, path)
  driver = track(fitted or path, head=head, dense=dense, size=size, limit=limit, stride=stride, estimator=estimator, face=face,
                 no_face=no_face, allow_partial=allow_partial)
  if fitted is not None and path.suffix != '.npz':
    return _times_of(driver, path, limit, stride, allow_partial)
  return driver


def _opened(path, size, source_frame, face, allow_partial, subjects, *, estimator) -> tuple[np.ndarray, int, Portrait]:
  """The picture of -s, its number in a clip (0 of a picture), and its fit."""
  head, dense = _head()
  image, number = _source_image(path, source_frame, face, allow_partial, estimator)
  known = _fitted(subjects, path)
  known = known and load_subject(known)
  if known is not None:
    check_head(known, head, dense)
  faces = [points[:, :2] for points in estimator(image)[0]] if face in ('left', 'right') else []
  portrait = open_portrait(image, name=path.stem[:120], head=head, dense=dense, size=size, estimator=estimator,
                           subject=known, **choose_face(face, faces, path.name))
  if (words := doubt(path.name, portrait.subject.report)):
    tqdm.tqdm.write(f'warning: {words}', file=sys.stderr)
  return image, number, portrait


def doubt(name: str, report: str) -> str:
  """What to say of a portrait whose head does not meet its landmarks, from the report of its fit; '' if it does."""
  error = json.loads(report).get('landmark_error_share_of_eye_distance', 0.0)
  if error <= _DOUBTFUL:
    return ''
  return (f'{name}: the fitted head lies {100 * error:.1f} % of the eye distance beside the landmarks, with people about 1 %; if the '
          'result looks wrong, give a human face seen more from the front')


def _source_image(path, source_frame, face, allow_partial, estimator) -> tuple[np.ndarray, int]:
  if is_image(path):
    return read_image(path), 0
  if source_frame == 'best':
    head, dense = _head()
    number, image = best_frame(path, head=head, dense=dense, estimator=estimator, face=face, allow_partial=allow_partial)
    tqdm.tqdm.write(f'{path.name}: frame {number} is the portrait')
    return image, number
  number = int(source_frame)
  for i, (image, _) in enumerate(read_frames(path, allow_partial=True)):
    if i == number:
      return image, number
  raise UserError(f'{str(path)!r} has {i + 1} frames, there is no frame {number}; they count from 0')


def _times_of(driver: Driver, clip: pathlib.Path, limit: int | None, stride: int, allow_partial: bool) -> Driver:
  """A clip that was fitted before, with the exact times of its frames.

  Raises:
    UserError: the clip has another number of frames than its subject.
  """
  read = (time for _, time in read_frames(clip, allow_partial=allow_partial))
  times = np.array(list(itertools.islice(read, 0, None if limit is None else stride * limit, stride)))
  if len(times) != len(driver.times):
    raise UserError(f'{clip.name} has {len(times)} frames, its subject file {len(driver.times)}; fit it again')
  return dataclasses.replace(driver, times=times, rate=video_rate(clip) / stride)


def square_of(portrait: Portrait, image: np.ndarray) -> Cut:
  """Where the portrait's square lies in its picture; a subject file that does not tell is of the whole picture."""
  crops, size = portrait.subject.source_crop, tuple(portrait.subject.image_size)
  if crops is None:
    return Cut(np.eye(3)[:2], image.shape[:2]).resized(size)
  return Cut(np.asarray(crops[0][:2], np.float64), size)


def _relations(args, portrait: Portrait, image: np.ndarray, driver: Driver, size: tuple[int, int] | None) -> dict:
  """What the record says of how the result goes together with its source and its driver; size: of the result, None: as fitted."""
  cut, crops = square_of(portrait, image), driver.subject.source_crop
  driving = driving_record(args.driving_stride, None if args.driving.suffix == '.npz' else driver.kept)
  if crops is not None:
    driving['square'] = {'matrix': np.asarray(crops[0][:2], np.float64).tolist(), 'size': list(driver.subject.image_size)}
  return {'square': square_record(image.shape[:2], None if args.paste_back else cut.resized(size or cut.size)), 'driving': driving}


def _pasted(frames, portrait: Portrait, image: np.ndarray):
  """The whole source picture with each frame in the place of its crop, at the picture's own resolution."""
  cut, patch = square_of(portrait, image), None
  for frame in frames:
    if patch is None:
      patch = open_patch(cut, feathered_box(cut.size), image.shape[:2])
    yield paste(patch, image, np.asarray(frame), kernel='cubic')


def _fitted(folder: pathlib.Path | None, path: pathlib.Path) -> pathlib.Path | None:
  """The subject file of an input in a folder of `exp_jax.fit`, if there is one."""
  found = folder and folder / f'{path.stem}.npz'
  return found if found and found.is_file() else None
