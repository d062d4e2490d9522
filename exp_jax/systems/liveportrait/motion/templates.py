"""Motion templates: what a driver did, without the driver's pictures.

Read and written as .npz; no pickle.

Arrays of T frames: rotation [T, 3, 3], expression [T, 21, 3], scale [T], translation [T, 3],
canonical [T, 21, 3] (zeros where
unknown: driving does not need the driver's own), times [T] seconds; optional eyes [T, 2] and lip
[T] (openness ratios of the driver), found [T]; rate as two integers. Old pickles become such files
by `python -m exp_jax.convert.liveportrait template`.
"""

import dataclasses
import fractions
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files import npz
from exp_jax.systems.liveportrait.networks.motion import KEYPOINTS, Motion

FORMAT = 'exp_jax liveportrait motion 1'
RATES = 0.01, 1000.0  # frames a second
_SHORTEST_STEP, _LATEST = 1e-4, 1e7  # seconds
# of the sizes of the numbers; usual ones are near one
_BOUNDS = dict(
  canonical=(0.0, 100.0),
  expression=(0.0, 100.0),
  scale=(1e-6, 1e4),
  translation=(0.0, 1e4),
  eyes=(0.0, 1e4),
  lip=(0.0, 1e4),
)
_SHAPES = dict(
  canonical=(KEYPOINTS, 3), rotation=(3, 3), expression=(KEYPOINTS, 3), scale=(), translation=(3,)
)


@dataclasses.dataclass(frozen=True)
class Template:
  """motion: T frames, numpy float32. rate: frames a second, exact. eyes [T, 2], lip [T]: ratios, or
  None.

  times [T]: seconds from the first frame; None: i / rate. found [T] bool: frames with a face; None:
  all.
  """

  motion: Motion
  rate: fractions.Fraction
  eyes: np.ndarray | None = None
  lip: np.ndarray | None = None
  times: np.ndarray | None = None
  found: np.ndarray | None = None

  def __len__(self):
    return len(self.motion.scale)

  @property
  def seconds(self) -> np.ndarray:
    """[T] times in seconds."""
    return np.arange(len(self)) / float(self.rate) if self.times is None else self.times


def save_template(path, template: Template) -> None:
  """Writes an .npz, whole or not at all."""
  arrays = {name: np.asarray(getattr(template.motion, name), np.float32) for name in _SHAPES}
  arrays |= {
    name: np.asarray(value)
    for name in ('eyes', 'lip', 'times', 'found')
    if (value := getattr(template, name)) is not None
  }
  arrays['rate'] = np.array([template.rate.numerator, template.rate.denominator], np.int64)
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  npz.write_npz(path, arrays | {'format': np.frombuffer(FORMAT.encode(), np.uint8)})


def load_template(path) -> Template:
  """Reads what `save_template` wrote.

  Raises:
    UserError: no such file, another kind of file, or arrays of wrong shapes or with impossible
      values.
  """
  if str(path).endswith('.pkl'):
    raise UserError(
      f'{path} is a pickle: make an .npz of it by `python -m exp_jax.convert.liveportrait template '
      f'{path} -o '
      f'{str(path)[:-4]}.npz`'
    )
  arrays = npz.read_npz(path)
  mark = arrays.get('format', np.zeros(0, np.uint8))
  if mark.dtype != np.uint8 or mark.tobytes() != FORMAT.encode():
    raise UserError(
      f'{path} is no motion template of LivePortrait; make one with --save_template or from a .pkl'
    )
  count = max(arrays.get('scale', np.zeros(0)).shape, default=0)
  shapes = _SHAPES | {
    name: shape
    for name, shape in dict(eyes=(2,), lip=(), times=(), found=()).items()
    if name in arrays
  }
  for name, shape in shapes.items():
    value = arrays.get(name, np.zeros(0))
    if (
      value.dtype.kind not in 'fiub'
      or value.shape != (count, *shape)
      or not np.isfinite(value).all()
    ):
      raise UserError(
        f'{path}: {name} is missing, not [{count}, {", ".join(map(str, shape))}], or not finite'
      )
  rate = arrays.get('rate', np.zeros(2, np.int64))
  if not count or rate.shape != (2,) or rate.dtype.kind not in 'iu' or min(rate) < 1:
    raise UserError(f'{path} has no frames or no frame rate')
  motion = Motion(**{name: arrays[name].astype(np.float32) for name in _SHAPES})
  optional = {name: arrays[name] for name in ('eyes', 'lip', 'times', 'found') if name in arrays}
  found = Template(motion, fractions.Fraction(int(rate[0]), int(rate[1])), **optional)
  if words := complaint(found):
    raise UserError(f'{path}: {words}')
  return found


def complaint(template: Template) -> str:
  """What is wrong with the numbers of a template whose arrays are finite and fit together, '' if
  nothing is.

  The bounds are wide, no face reaches them; what lies beyond would end in a picture without a face
  or in an error halfway.
  """
  if not RATES[0] <= template.rate <= RATES[1]:
    return f'the frame rate {float(template.rate):g} is not possible, it must lie in {RATES[0]:g} to {RATES[1]:g}'
  times = template.seconds
  if not np.abs(times).max() <= _LATEST or (np.diff(times) < _SHORTEST_STEP).any():
    return (
      f'times must increase, by at least {_SHORTEST_STEP:g} s a frame, and end before {_LATEST:g} s'
    )
  if template.found is not None and not np.any(template.found):
    return 'no frame of it shows a face'
  for name, (low, high) in _BOUNDS.items():
    value = (
      getattr(template, name, None)
      if name in ('eyes', 'lip')
      else np.asarray(getattr(template.motion, name))
    )
    if value is not None and (np.abs(value).max() > high or np.abs(value).min() < low):
      return f'{name} reaches {np.abs(value).max():g}; sizes from {low:g} to {high:g} are possible'
  stretch = np.linalg.svd(np.asarray(template.motion.rotation, np.float64), compute_uv=False)[
    ..., 0
  ]
  if not (0.01 <= stretch).all() or not (stretch <= 100).all():  # smoothed ones are a little off
    return f'rotation holds matrices that are no rotations (they stretch by {stretch.min():.3g} to {stretch.max():.3g})'
  return ''
