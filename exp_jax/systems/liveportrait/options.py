"""What can be chosen of an animation by LivePortrait: flags, widgets, checks and records follow
from this one declaration."""

import dataclasses
import pathlib

from exp_jax.errors import UserError
from exp_jax.performance.options import SEVERAL_FACES, SharedOptions, option
from exp_jax.systems.liveportrait.pipeline_options import (
  INPUT,
  RANGES,
  REGIONS,
  DrivingOptions,
  PipelineOptions,
  check_sliders,
)

WEIGHTS = ('pose', 'eyes', 'left_eye', 'right_eye', 'lips', 'other')
_FILTERS = ('rotation', 'expression', 'scale', 'translation')


@dataclasses.dataclass(frozen=True)
class LoadOptions:
  """What is chosen when the system is loaded."""

  landmarks: pathlib.Path | None = option(
    None, "LivePortrait's landmark.onnx, for 203 landmarks in place of MediaPipe's", metavar='FILE'
  )
  dtype: str = option(
    'float32', 'number format of the computation', choices=('float32', 'bfloat16')
  )
  random_weights: str | None = option(
    None, 'no weights: random ones, to try the command', choices=tuple(INPUT)
  )


@dataclasses.dataclass(frozen=True)
class Options(SharedOptions):
  """Options of `animate`; the defaults are the published ones."""

  face: str = option('largest', f'whose portrait: {SEVERAL_FACES}')

  region: str = option('all', 'which parts are driven', choices=REGIONS)
  absolute: bool = option(
    False, "the driver's motion as it is, not its change since the reference frame"
  )
  driving_option: str | None = option(
    None,
    'weights for absolute motion; as published, pose-friendly for people and expression-friendly '
    'for animals',
    choices=('expression-friendly', 'pose-friendly'),
  )
  multiplier: float = option(1.0, 'factor on all motion', low=0, high=5)
  part_weights: dict[str, float] = option(
    {},
    f'how far parts are driven: {", ".join(WEIGHTS)}; left and right as the viewer sees them',
    low=0,
    high=1,
    names=WEIGHTS,
    metavar='PART=0..1',
  )
  scale_mode: str = option(
    'relative', 'how the head grows with the driver', choices=('relative', 'damped', 'fixed')
  )
  filters: dict[str, float] = option(
    {},
    f"smooth the driver's {', '.join(_FILTERS)}, each by its own variance; 1e-6 takes out jitter",
    low=0,
    high=1,
    names=_FILTERS,
    metavar='PART=VARIANCE',
  )
  reference_frame: str = option(
    'first', "driver's frame that corresponds to the source: first, best, or a number"
  )
  neutral_image: pathlib.Path | None = option(
    None, 'a neutral picture of the driver, in place of a reference frame'
  )
  stitching: bool | None = option(
    None, 'close the seam; as published, for people but not for animals'
  )
  eye_retargeting: bool = option(False, "the eyes open as far as the driver's")
  lip_retargeting: bool = option(False, "the lips open as far as the driver's")
  retarget_target: str = option(
    'paper',
    "openness as the paper has it, or the driver's own left eye as published",
    choices=('paper', 'raw_left'),
  )
  retarget_base: str = option(
    'source',
    "retargeting moves the still source (paper) or is added to the driver's motion",
    choices=('source', 'driven'),
  )
  normalize_lip: bool = option(False, 'lips that are open in the source are closed first')
  steady_eyes: bool = option(
    False, 'with a clip as source: its eyes stay as open as in its first frame'
  )
  edit: dict[str, float] = option(
    {},
    '; '.join(f'{name} {low}..{high}' for name, (low, high) in RANGES.items()),
    names=tuple(RANGES),
    metavar='SLIDER=VALUE',
  )
  silent: bool = option(False, 'lips stay shut, eyes move')
  video_smoothing: float = option(3e-7, 'variance for clips as sources; 0 none', low=0, high=1)
  video_edit: str = option(
    'code', 'clips as sources: as published, or Eq. 8 of the paper', choices=('code', 'paper')
  )
  project_rotations: bool = option(False, 'smoothed rotations are made rotations again')
  by_index: bool = option(False, 'match two clips frame by frame, not by time')
  face_driver: dict[int, pathlib.Path] = option(
    {}, 'a driver of its own for a face: 1=other.mp4', metavar='FACE=FILE'
  )
  no_crop: bool = option(False, 'the source is a portrait already: the whole picture is the crop')
  crop_driving: str = option('auto', 'auto: what is not square', choices=('auto', 'yes', 'no'))
  no_rotate: bool = option(False, 'crop the source upright')
  source_crop: tuple[float, float, float] = option(
    (2.3, 0.0, -0.125), 'square of the source: size, in faces, and place', metavar='SCALE X Y'
  )
  driving_crop: tuple[float, float, float] = option(
    (2.2, 0.0, -0.1), 'the same of the driver', metavar='SCALE X Y'
  )
  source_max_dim: int = option(
    0, 'shrink larger sources first, 1280 as published; 0 never', low=0, high=65536, unit='pixels'
  )
  feather: float = option(1.0, 'softness of the seam', low=0, high=8)
  crop_only: bool = option(False, 'write the painted square alone')
  source_landmarks: pathlib.Path | None = option(
    None,
    'npz with `points` of the source: 203, 106, 101, 68, 5, 9 (animals) or 478',
    metavar='FILE',
  )
  driving_landmarks: pathlib.Path | None = option(None, 'the same of the driver', metavar='FILE')
  audio: str = option(
    'driving', 'whose sound, if it has any', choices=('driving', 'source', 'none')
  )

  def __post_init__(self):
    super().__post_init__()
    for name in ('source_crop', 'driving_crop'):
      if not getattr(self, name)[0] > 0:
        raise UserError(f'--{name} needs a positive scale, got {getattr(self, name)[0]}')
    try:
      check_sliders(self.edit)
    except ValueError as error:
      raise UserError(f'--edit: {error}') from None
    if self.reference_frame not in ('first', 'best') and not self.reference_frame.isdecimal():
      raise UserError(
        f"--reference_frame must be 'first', 'best' or a number, got {self.reference_frame!r}"
      )
    for path in (
      self.neutral_image,
      self.source_landmarks,
      self.driving_landmarks,
      *self.face_driver.values(),
    ):
      if path is not None and not path.is_file():
        raise UserError(f'{str(path)!r} does not exist')

  @property
  def pipeline(self) -> PipelineOptions:
    """The same as the computation has them."""
    driving = DrivingOptions(
      relative=not self.absolute,
      region=self.region,
      option=self.driving_option,
      multiplier=self.multiplier,
      smooth=self.video_smoothing,
      video_edit=self.video_edit,
      project=self.project_rotations,
      scale_mode=self.scale_mode,
      filters=tuple(self.filters.get(name, 0.0) for name in _FILTERS),
      **self.part_weights,
    )
    (scale, vx, vy), (d_scale, d_vx, d_vy) = self.source_crop, self.driving_crop
    return PipelineOptions(
      driving,
      stitching=self.stitching,
      eye_retargeting=self.eye_retargeting,
      lip_retargeting=self.lip_retargeting,
      target=self.retarget_target,
      retarget_base=self.retarget_base,
      normalize_lip=self.normalize_lip,
      steady_eyes=self.steady_eyes,
      reference=self.reference_frame,
      edits=tuple(sorted(self.edit.items())),
      silent=self.silent,
      feather=self.feather,
      crop_source=not self.no_crop,
      crop_driving=self.crop_driving,
      rotate=not self.no_rotate,
      source_scale=scale,
      source_vx=vx,
      source_vy=vy,
      driving_scale=d_scale,
      driving_vx=d_vx,
      driving_vy=d_vy,
      by_index=self.by_index,
    )
