"""What a subject or motion file may hold, so that a file that loads also runs: bounds of every
number, beyond shapes.

The bounds are wide: no camera, head or clip reaches them. What lies beyond is a damaged file or one
in other units, and would end in a picture without a head, in an error halfway, or in a demand for
terabytes. Letters as in `personalized`.
"""

import json

import numpy as np

from exp_jax.heads.densify import MOST_LEVELS

# of the picture that the camera refers to; the latter is the limit of pictures too
MOST_SIDE, MOST_PIXELS = 16384, 64_000_000
RATES = 0.01, 1000.0  # frames a second
_SHORTEST_STEP, _LATEST = 2e-4, 1e7  # seconds; between frames, and from the start of the clip
# focal length over the longer side: 178 degrees; 1000 m away at 224 pixels
_WIDEST, _LONGEST = 0.01, 1e5
_OFF_CENTER = 100.0  # of the optical centre, in longer sides
_MOST_ANGLE = 100.0  # radians
_MOST_COEFFICIENT = 1000.0  # of a basis, whose usual numbers are near one
_FARTHEST = 1e4  # metres between camera and head
_MOST_OFFSET = 1.0  # metres
_MOST_COLOUR, _MOST_LIGHT = 1.01, 1e3  # float16 rounds a colour up
_MOST_WORDS = 300  # characters of an identity
_CROP_SCALES, _MOST_SHEAR = (1e-4, 1e4), 100.0


def _outside(value: np.ndarray, low: float, high: float) -> bool:
  return value.size > 0 and not (low <= value.min() and value.max() <= high)


def _times(subject) -> str:
  times = subject.times.astype(np.float64)
  steps = np.diff(times)
  if _outside(times, -_LATEST, _LATEST):
    return f'times reach {np.abs(times).max():g} s, more than {_LATEST:g}'
  if (steps <= 0).any():
    late = int(np.argmax(steps <= 0)) + 1
    return f'times must increase: frame {late} is at {times[late]:g} s, the one before at {times[late - 1]:g} s'
  if (steps < _SHORTEST_STEP * 0.5).any():
    return f'two frames are {steps.min():g} s apart, less than a frame lasts at any rate that can be written'
  return ''


def _camera(subject) -> str:
  height, width = subject.image_size
  longer = max(height, width)
  if min(height, width) < 1 or longer > MOST_SIDE or height * width > MOST_PIXELS:
    return f'image_size is {width} x {height} pixels; at most {MOST_SIDE} a side and {MOST_PIXELS:,} in all are possible'
  if _outside(subject.focal, _WIDEST * longer, _LONGEST * longer):
    return (
      f'focal is {np.asarray(subject.focal).tolist()} pixels in a picture of {width} x {height}; '
      'it must be positive and in '
      'pixels of that picture'
    )
  if _outside(subject.center, -_OFF_CENTER * longer, _OFF_CENTER * longer):
    return f'center is {np.asarray(subject.center).tolist()}, far outside of a picture of {width} x {height} pixels'
  return ''


def _place(subject) -> str:
  depth = -subject.translation[:, 2]
  if (depth <= 0).any():
    frame = int(np.argmax(depth <= 0))
    return (
      f'the head is not in front of the camera in frame {frame} (translation '
      f'{subject.translation[frame].tolist()} m; the '
      'camera stands at +z, so z is negative)'
    )
  if _outside(subject.translation, -_FARTHEST, _FARTHEST):
    return f'translation reaches {np.abs(subject.translation).max():g} m; is it in metres?'
  return ''


def _crop(subject) -> str:
  if subject.source_crop is None:
    return ''
  crop = subject.source_crop.astype(np.float64)
  if not np.allclose(crop[:, 2], [0, 0, 1], atol=1e-5):
    return 'source_crop is not affine: the last row of each matrix must be 0, 0, 1'
  axes = np.linalg.svd(crop[:, :2, :2], compute_uv=False)
  if _outside(axes, *_CROP_SCALES) or (axes[:, 0] > _MOST_SHEAR * axes[:, 1]).any():
    return 'source_crop cannot be inverted, or scales beyond reason'
  if _outside(crop[:, :2, 2], -1e7, 1e7):
    return 'source_crop moves the picture by more than any picture is wide'
  return ''


def _report(subject) -> str:
  try:
    found = json.loads(subject.report)
  except (ValueError, RecursionError):
    return 'the report is not JSON'
  if not isinstance(found, dict):
    return f'the report must be a JSON object, it is a {type(found).__name__}'
  warnings = found.get('warnings', [])
  if not isinstance(warnings, list) or not all(isinstance(words, str) for words in warnings):
    return "the report's warnings must be a list of texts"
  error = found.get('landmark_error_share_of_eye_distance', 0.0)
  if isinstance(error, bool) or not isinstance(error, (int, float)):
    return "the report's landmark_error_share_of_eye_distance must be a number"
  return ''


def complaint(subject) -> str:
  """What is wrong with the numbers of a subject whose arrays are finite and fit together; '' if
  nothing is.

  Args:
    subject: a `personalized.Subject` with at least one frame.
  """
  for name in ('subject_id', 'head_name', 'head_digest'):
    if len(text := getattr(subject, name)) > _MOST_WORDS or '\0' in text:
      return (
        f'{name} has {len(text)} characters, at most {_MOST_WORDS} are possible, and no zero bytes'
      )
  if not 0 <= subject.levels <= MOST_LEVELS:
    return f'levels is {subject.levels}, it must be in 0..{MOST_LEVELS}'
  if not RATES[0] <= subject.fps <= RATES[1]:
    return (
      f'fps is {subject.fps:g}, a frame rate must be positive, from {RATES[0]:g} to {RATES[1]:g}'
    )
  for name, most in (
    ('shape', _MOST_COEFFICIENT),
    ('expression', _MOST_COEFFICIENT),
    ('pose', _MOST_ANGLE),
    ('static_offsets', _MOST_OFFSET),
    ('dynamic_offsets', _MOST_OFFSET),
    ('light', _MOST_LIGHT),
  ):
    values = getattr(subject, name)
    if values is not None and _outside(values, -most, most):
      return f'{name} reaches {np.abs(values).max():g}, too large for any head; at most {most:g} is possible'
  if subject.albedo is not None and _outside(subject.albedo, -0.01, _MOST_COLOUR):
    return f'albedo runs from {subject.albedo.min():g} to {subject.albedo.max():g}, linear RGB lies in 0..1'
  return (
    _times(subject) or _camera(subject) or _place(subject) or _crop(subject) or _report(subject)
  )
