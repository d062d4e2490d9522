"""What the computation can be asked for, declared apart from it, so that a command's help does not
load it.

Source: LivePortrait (arXiv 2407.03168) and its published pipeline.
"""

import dataclasses

INPUT = {'base': 256, 'tiny': 64}  # pixels that the networks read; they paint twice as many
REGIONS = ('all', 'exp', 'pose', 'lip', 'eyes')
RANGES = dict(
  gaze_x=(-30, 30),
  gaze_y=(-63, 63),
  smile=(-0.3, 1.3),
  wink=(0, 39),
  eyebrow=(-30, 30),
  pout=(-0.09, 0.09),
  purse=(-20, 15),
  grin=(0, 15),
  lip=(-90, 120),
  move_x=(-0.19, 0.19),
  move_y=(-0.19, 0.19),
  move_z=(0.9, 1.2),
  pitch=(-15, 15),
  yaw=(-25, 25),
  roll=(-15, 15),
  eyes_open=(0, 0.8),
  lip_open=(0, 0.8),
)


def check_sliders(values: dict[str, float]) -> None:
  """ValueError for an unknown slider, or a value out of its range."""
  for name, value in values.items():
    if name not in RANGES:
      raise ValueError(f'unknown slider {name!r}, choose from {", ".join(RANGES)}')
    low, high = RANGES[name]
    if not low <= value <= high:
      raise ValueError(f'{name} must be in {low}..{high}, got {value}')


@dataclasses.dataclass(frozen=True)
class DrivingOptions:
  """How a driver moves a source. The defaults are the published ones.

  region: which parts are driven. relative: to the driver's reference frame, else absolute.
  option: 'expression-friendly' or 'pose-friendly'; see `expression_friendly`. None: as published,
    where absolute motion of people is pose-friendly, and animals are driven expression-friendly; in
    relative mode it changes nothing.
  multiplier: of all motion, after stitching. smooth: observation variance for clips as sources; 0:
  none.
  video_edit: 'code' (smoothed, the source's own scale and translation) or 'paper' (Eq. 8).
  project: smoothed rotations are made rotations again. scale_mode: 'relative', 'damped' (its root)
  or 'fixed'.
  pose, eyes, lips, other: weights in 0..1 of the driven parts; left_eye and right_eye (of the
  viewer) multiply `eyes`.
  filters: observation variances for (rotation, expression, scale, translation) of the driver
  itself; 0: none.
  """

  relative: bool = True
  region: str = 'all'
  option: str | None = None
  multiplier: float = 1.0
  smooth: float = 3e-7
  video_edit: str = 'code'
  project: bool = False
  scale_mode: str = 'relative'
  pose: float = 1.0
  eyes: float = 1.0
  left_eye: float = 1.0
  right_eye: float = 1.0
  lips: float = 1.0
  other: float = 1.0
  filters: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class PipelineOptions:
  """All choices of an animation; the defaults are the published ones.

  stitching: None: yes, but not for animals. eye_retargeting, lip_retargeting: openness follows the
  driver's.
  target: 'paper' (source ratio times the driver's change, mean of both eyes) or 'raw_left' (the
  driver's left eye as it is).
  retarget_base: 'source' (paper: nothing else of the driver is left, with relative motion) or
  'driven'.
  normalize_lip: lips that are open in the source are closed first. steady_eyes: of a clip as
  source, the eyes keep open.
  reference: 'first', 'best', or a frame's number: the driver's frame that corresponds to the
  source.
  edits: (slider, value) pairs. silent: the source's lips stay shut. feather: softness of the seam,
  1 as published.
  crop_driving: 'auto' (what is not square), 'yes', 'no'. rotate: the source crop is upright in the
  face.
  by_index: clips are matched frame by frame, as published, not by time.
  """

  driving: DrivingOptions = DrivingOptions()
  stitching: bool | None = None
  eye_retargeting: bool = False
  lip_retargeting: bool = False
  target: str = 'paper'
  retarget_base: str = 'source'
  normalize_lip: bool = False
  steady_eyes: bool = False
  reference: str = 'first'
  edits: tuple[tuple[str, float], ...] = ()
  silent: bool = False
  feather: float = 1.0
  crop_source: bool = True
  crop_driving: str = 'auto'
  rotate: bool = True
  source_scale: float = 2.3
  source_vx: float = 0.0
  source_vy: float = -0.125
  driving_scale: float = 2.2
  driving_vx: float = 0.0
  driving_vy: float = -0.1
  by_index: bool = False
