"""Motion templates: what a driver did, without the driver's pictures. Read and written as .npz; no pickle.

Arrays of T frames: rotation [T, 3, 3], expression [T, 21, 3], scale [T], translation [T, 3], canonical [T, 21, 3] (zeros where
unknown: driving does not need the driver's own), times [T] seconds; optional eyes [T, 2] and lip [T] (openness ratios of the
driver), found [T]; rate as two integers. Old pickles become such files by `python -m exp_jax.convert.liveportrait template`.
"""

import dataclasses
import fractions
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files import npz
from exp_jax.systems.liveportrait.networks.motion import KEYPOINTS, Motion

FORMAT = 'exp_jax liveportrait motion 1'
_SHAPES = dict(canonical=(KEYPOINTS, 3), rotation=(3, 3), expression=(KEYPOINTS, 3), scale=(), translation=(3,))


@dataclasses.dataclass(frozen=True)
class Template:
  """motion: T frames, numpy float32. rate: frames a second, exact. eyes [T, 2], lip [T]: ratios, or None.

  times [T]: seconds from the first frame; None: i / rate. found [T] bool: frames with a face; None: all.
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
  arrays |= {name: np.asarray(value) for name in ('eyes', 'lip', 'times', 'found')
             if (value := getattr(template, name)) is not None}
  arrays['rate'] = np.array([template.rate.numerator, template.rate.denominator], np.int64)
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  npz.write_npz(path, arrays | {'format': np.frombuffer(FORMAT.encode(), np.uint8)})


def load_template(path) -> Template:
  """Reads what `save_template` wrote.

  Raises:
    UserError: no such file, another kind of file, or arrays of wrong shapes or with values that are not finite.
  """
  if str(path).endswith('.pkl'):
    raise UserError(f'{path} is a pickle: make an .npz of it by `python -m exp_jax.convert.liveportrait template {path} -o '
                    f'{str(path)[:-4]}.npz`')
  arrays = npz.read_npz(path)
  if bytes(arrays.get('format', np.zeros(0, np.uint8))) != FORMAT.encode():
    raise UserError(f'{path} is no motion template of LivePortrait; make one with --save_template or from a .pkl')
  count = len(arrays.get('scale', ()))
  shapes = _SHAPES | {name: shape for name, shape in dict(eyes=(2,), lip=(), times=(), found=()).items() if name in arrays}
  for name, shape in shapes.items():
    if name not in arrays or arrays[name].shape != (count, *shape) or not np.isfinite(arrays[name]).all():
      raise UserError(f'{path}: {name} is missing, not [{count}, {", ".join(map(str, shape))}], or not finite')
  rate = arrays.get('rate', np.zeros(2, np.int64))
  if not count or rate.shape != (2,) or min(rate) < 1:
    raise UserError(f'{path} has no frames or no frame rate')
  motion = Motion(**{name: arrays[name].astype(np.float32) for name in _SHAPES})
  optional = {name: arrays[name] for name in ('eyes', 'lip', 'times', 'found') if name in arrays}
  return Template(motion, fractions.Fraction(int(rate[0]), int(rate[1])), **optional)
