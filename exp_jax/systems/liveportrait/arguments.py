"""Options of `--engine liveportrait` on the command line."""

import argparse
import pathlib

from exp_jax.errors import UserError
from exp_jax.systems.liveportrait.models import INPUT
from exp_jax.systems.liveportrait.motion.driving import REGIONS, DrivingOptions
from exp_jax.systems.liveportrait.motion.editing import RANGES, expression_offset
from exp_jax.systems.liveportrait.pipeline import Options

WEIGHTS = ('pose', 'eyes', 'left_eye', 'right_eye', 'lips', 'other')
_FILTERS = ('rotation', 'expression', 'scale', 'translation')


class _Pairs(argparse.Action):
  """NAME=VALUE ... into a dict; `type` makes the value."""

  def __init__(self, *args, type=float, names=None, **kwargs):
    self._make, self._names = type, names
    super().__init__(*args, nargs='+', default={}, **kwargs)

  def __call__(self, parser, namespace, values, option=None):
    found = dict(getattr(namespace, self.dest))
    for text in values:
      name, equals, value = text.partition('=')
      if not equals or (self._names and name not in self._names) or (not self._names and not name.isdecimal()):
        raise UserError(f'{option} takes NAME=VALUE with NAME of {", ".join(self._names or ("0", "1", "..."))}; got {text!r}')
      try:
        found[name if self._names else int(name)] = self._make(value)
      except ValueError:
        raise UserError(f'{option} {text}: {value!r} is no number') from None
    setattr(namespace, self.dest, found)


def add_arguments(parser) -> None:
  """Adds a group of options; needs --source, --driving, --export, --face and the others of `exp_jax.animate`."""
  add = parser.add_argument_group(
    'engine liveportrait', '--export is a folder of weights (exp_jax.convert.liveportrait). A clip as source is edited as a clip, '
    'unless --source_frame N takes one picture of it; --face all, or numbers as 0+2, animates several people. The whole picture is '
    'written always, unless --crop_only. Defaults are the published ones.').add_argument
  add('--region', choices=REGIONS, default='all', help='which parts are driven (default all)')
  add('--absolute', action='store_true', help="the driver's motion as it is, not its change since the reference frame")
  add('--driving_option', choices=('expression-friendly', 'pose-friendly'),
      help='of absolute motion (default as published: pose-friendly for people, expression-friendly for animals)')
  add('--multiplier', type=float, default=1.0, help='of all motion (default 1)')
  add('--part_weights', action=_Pairs, names=WEIGHTS, metavar='PART=0..1',
      help=f'how far parts are driven: {", ".join(WEIGHTS)}; left and right as the viewer sees them')
  add('--scale_mode', choices=('relative', 'damped', 'fixed'), default='relative', help='how the head grows with the driver')
  add('--filters', action=_Pairs, names=_FILTERS, metavar='PART=VARIANCE',
      help=f"smooth the driver's {', '.join(_FILTERS)}, each by its own variance; 1e-6 takes out jitter (default none)")
  add('--reference_frame', default='first', help="driver's frame that corresponds to the source: first, best, or a number")
  add('--neutral_image', type=pathlib.Path, help='a neutral picture of the driver, in place of a reference frame')
  add('--stitching', action=argparse.BooleanOptionalAction, default=None, help='close the seam (default, but not for animals)')
  add('--eye_retargeting', action='store_true', help="the eyes open as far as the driver's")
  add('--lip_retargeting', action='store_true', help="the lips open as far as the driver's")
  add('--retarget_target', choices=('paper', 'raw_left'), default='paper',
      help="openness as the paper has it, or the driver's own left eye as published")
  add('--retarget_base', choices=('source', 'driven'), default='source',
      help="retargeting moves the still source (paper) or is added to the driver's motion")
  add('--normalize_lip', action='store_true', help='lips that are open in the source are closed first')
  add('--steady_eyes', action='store_true', help='of a clip as source: its eyes stay as open as in its first frame')
  add('--edit', action=_Pairs, names=tuple(RANGES), metavar='SLIDER=VALUE',
      help='; '.join(f'{name} {low}..{high}' for name, (low, high) in RANGES.items()))
  add('--silent', action='store_true', help='lips stay shut, eyes move')
  add('--video_smoothing', type=float, default=3e-7, help='variance for clips as sources (default 3e-7, 0 none)')
  add('--video_edit', choices=('code', 'paper'), default='code', help='clips as sources: as published, or Eq. 8 of the paper')
  add('--project_rotations', action='store_true', help='smoothed rotations are made rotations again')
  add('--by_index', action='store_true', help='match two clips frame by frame, not by time')
  add('--face_driver', action=_Pairs, type=pathlib.Path, metavar='FACE=FILE', help='a driver of its own for a face: 1=other.mp4')
  add('--no_crop', action='store_true', help='the source is a portrait already: the whole picture is the crop')
  add('--crop_driving', choices=('auto', 'yes', 'no'), default='auto', help='auto: what is not square')
  add('--no_rotate', action='store_true', help='crop the source upright')
  add('--source_crop', type=float, nargs=3, default=(2.3, 0.0, -0.125), metavar=('SCALE', 'X', 'Y'))
  add('--driving_crop', type=float, nargs=3, default=(2.2, 0.0, -0.1), metavar=('SCALE', 'X', 'Y'))
  add('--source_max_dim', type=int, default=0, help='shrink larger sources first; 1280 as published (default 0: never)')
  add('--feather', type=float, default=1.0, help='softness of the seam (default 1 as published)')
  add('--crop_only', action='store_true', help='write the painted square alone')
  add('--landmarks', type=pathlib.Path, help="LivePortrait's landmark.onnx, for 203 landmarks in place of MediaPipe's")
  add('--source_landmarks', type=pathlib.Path, help='npz with `points` of the source: 203, 106, 101, 68, 5, 9 (animals) or 478')
  add('--driving_landmarks', type=pathlib.Path, help='likewise of the driver')
  add('--audio', choices=('driving', 'source', 'none'), default='driving', help='whose sound, if it has any (default driving)')
  add('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of the computation')
  add('--random_weights', choices=tuple(INPUT), help='no weights: random ones, to try the road')


def check_arguments(args) -> None:
  """UserError for values that cannot be, before anything is read."""
  if (args.export is None) == (args.random_weights is None):
    raise UserError('--engine liveportrait needs --export DIR, made by `python -m exp_jax.convert.liveportrait weights`, or '
                    '--random_weights tiny to try the road')
  for name, low, high in (('multiplier', 0, 5), ('video_smoothing', 0, 1), ('feather', 0, 8), ('source_max_dim', 0, 65536)):
    if not low <= getattr(args, name) <= high:
      raise UserError(f'--{name} must be in {low}..{high}, got {getattr(args, name)}')
  for name, value in args.part_weights.items():
    if not 0 <= value <= 1:
      raise UserError(f'--part_weights {name} must be in 0..1, got {value}')
  for name, value in args.filters.items():
    if not 0 <= value <= 1:
      raise UserError(f'--filters {name} must be in 0..1, got {value}')
  for name in ('source_crop', 'driving_crop'):
    if not getattr(args, name)[0] > 0:
      raise UserError(f'--{name} needs a positive scale, got {getattr(args, name)[0]}')
  try:
    expression_offset(args.edit)
  except ValueError as error:
    raise UserError(f'--edit: {error}') from None
  if args.reference_frame not in ('first', 'best') and not args.reference_frame.isdecimal():
    raise UserError(f"--reference_frame must be 'first', 'best' or a number, got {args.reference_frame!r}")
  if args.random_weights and args.dtype != 'float32':
    raise UserError('--random_weights are computed in float32')
  for path in (args.neutral_image, args.source_landmarks, args.driving_landmarks, *args.face_driver.values()):
    if path is not None and not path.is_file():
      raise UserError(f'{str(path)!r} does not exist')
  if getattr(args, 'save_motion', None) is not None and args.save_motion.suffix != '.npz':
    raise UserError(f'--save_motion must end in .npz, got {str(args.save_motion)!r}')


def options_of(args) -> Options:
  """The options of parsed arguments."""
  driving = DrivingOptions(
    relative=not args.absolute, region=args.region, option=args.driving_option, multiplier=args.multiplier,
    smooth=args.video_smoothing, video_edit=args.video_edit, project=args.project_rotations, scale_mode=args.scale_mode,
    filters=tuple(args.filters.get(name, 0.0) for name in _FILTERS), **args.part_weights)
  (scale, vx, vy), (d_scale, d_vx, d_vy) = args.source_crop, args.driving_crop
  return Options(
    driving, stitching=args.stitching, eye_retargeting=args.eye_retargeting, lip_retargeting=args.lip_retargeting,
    target=args.retarget_target, retarget_base=args.retarget_base, normalize_lip=args.normalize_lip,
    steady_eyes=args.steady_eyes, reference=args.reference_frame, edits=tuple(sorted(args.edit.items())), silent=args.silent,
    feather=args.feather, crop_source=not args.no_crop, crop_driving=args.crop_driving, rotate=not args.no_rotate,
    source_scale=scale, source_vx=vx, source_vy=vy, driving_scale=d_scale, driving_vx=d_vx, driving_vy=d_vy,
    by_index=args.by_index)
