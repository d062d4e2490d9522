"""Footage watched for faces: who is where in every frame, and what a driver does.

Frames are looked at and forgotten; what is kept of a clip are landmarks, then motions. Letters: T frames, N points, F faces.
"""

import dataclasses
import fractions
from collections.abc import Iterable, Iterator

import numpy as np

from exp_jax.errors import UserError
from exp_jax.observe.tracking import follow
from exp_jax.performance.inputs import Frames
from exp_jax.progress import SILENT, Watch
from exp_jax.systems.liveportrait.crop import cut, mean_square, network_input, squeezed
from exp_jax.systems.liveportrait.models import Model
from exp_jax.systems.liveportrait.motion.driving import stack, take
from exp_jax.systems.liveportrait.motion.templates import Template
from exp_jax.systems.liveportrait.networks.landmarks import has_openness, openness, square_of

CHOICES = 'largest, all, a number (0 the largest), numbers joined by +, left, right (in the picture), or X,Y in pixels'
_BATCH = 8


@dataclasses.dataclass(frozen=True)
class Watched:
  """All faces of a clip: faces[t] is [F, N, 2] pixels with centres at whole numbers; times [T]; size (H, W); rate."""
  faces: list[np.ndarray]
  times: np.ndarray
  size: tuple[int, int]
  rate: fractions.Fraction


def look_for_faces(frames: Frames, estimator, *, rate, name: str, limit: int | None = None, watch: Watch = SILENT) -> Watched:
  """Looks at every frame with `estimator` (image -> points [F, 478, 2 or 3], ...); None: frames are counted only."""
  faces, times, size = [], [], None
  for frame, time in watch.each(frames(), f'find faces in {name}', limit):
    if estimator is None:
      faces.append(np.zeros((0, 478, 2)))
    else:                                                        # the estimator's first pixel has its centre at 0.5
      faces.append(np.asarray(estimator(frame)[0], np.float64).reshape(-1, 478, 3)[..., :2] - 0.5)
    times.append(time)
    size = frame.shape[:2]
    if limit and len(times) == limit:
      break
  return Watched(faces, np.asarray(times, np.float64), size, fractions.Fraction(rate))


def tracks(watched: Watched, choice: str, name: str) -> list[np.ndarray]:
  """The chosen faces through the clip, largest first: a list of [T, N, 2], NaN where not seen; `choice` as in `CHOICES`.

  Raises:
    UserError: no face at all, or not the one asked for.
  """
  first = next((f for f in watched.faces if len(f)), None)
  if first is None:
    raise UserError(f'no face found in {name}; use footage where one face is clearly visible, give --source_landmarks, or '
                    '--no_crop for a picture that is a portrait already')
  extent = [np.ptp(face, axis=0).max() for face in first]
  by_size = np.argsort([-e for e in extent], kind='stable')
  if choice == 'all':
    numbers = list(range(len(first)))
  elif choice == 'largest':
    numbers = [0]
  elif choice in ('left', 'right'):
    across = first[by_size].mean(1)[:, 0]
    numbers = [int((np.argmin if choice == 'left' else np.argmax)(across))]
  elif all(part.isdecimal() for part in choice.split('+')):
    numbers = sorted({int(part) for part in choice.split('+')})
  else:
    try:
      place = np.array([float(part) for part in choice.split(',')])
      numbers = [int(np.argmin(np.linalg.norm(first[by_size].mean(1) - place, axis=-1)))]
    except ValueError:
      raise UserError(f'the face of {name} must be {CHOICES}; got {choice!r}') from None
  return [follow(watched.faces, name=name, face=number)[0].astype(np.float64) for number in numbers]


def seen(points: np.ndarray) -> np.ndarray:
  """[T, N, 2] -> [T] bool."""
  return np.isfinite(points).all((1, 2))


def denser(points: np.ndarray, frames: Frames, network) -> np.ndarray:
  """[T, N, 2] -> [T, 203, 2] by the user's landmark network: started by `points`, then by its own last answer."""
  out, last = np.full((len(points), 203, 2), np.nan), None
  for t, (frame, _) in zip(range(len(points)), frames()):
    if not np.isfinite(points[t]).all():
      last = None
      continue
    last = out[t] = network(frame, points[t] if last is None else last)
  return out


def read_driver(model: Model, frames: Frames, watched: Watched, points: np.ndarray | None, *, crop: str = 'auto',
                scale: float | None = None, vx: float | None = None, vy: float | None = None, no_face: str = 'hold',
                name: str = 'the driver', watch: Watch = SILENT) -> tuple[Template, np.ndarray]:
  """The motion of a driver.

  Args:
    points: [T, N, 2] of its face, NaN where not seen; None: the whole frames are used, and no ratios are known.
    crop: 'auto' crops what is not square, 'yes', 'no'. One upright square serves the whole clip.
    scale, vx, vy: of the crop, else the published ones.
    no_face: frames without a face repeat the nearest seen one ('hold'), are left out ('cut'), or are refused ('stop').
    watch: is told of the frames, and of those without a face.

  Returns:
    The template, and [T'] the numbers of the frames that are in it.

  Raises:
    UserError: no face at all, or one is missing with 'stop'.
  """
  size, (H, W) = model.nets.input_size, watched.size
  T = len(watched.times)
  there = np.ones(T, bool) if points is None else seen(points)
  if not there.any():
    raise UserError(f'no face found in {name}; use a clip where one face is clearly visible')
  if not there.all():
    words = f'{(~there).sum()} of {T} frames of {name} show no such face, the first at {watched.times[~there][0]:.2f} s'
    if no_face == 'stop':
      raise UserError(f'{words}; --no_face hold or cut goes on without them')
    watch.warn(f'{words}; ' + ('they are left out' if no_face == 'cut' else 'the nearest seen motion is held there'))
  matrix = squeezed((H, W), size)
  cropped = points is not None and (crop == 'yes' or (crop == 'auto' and H != W))
  if cropped:
    squares = [square_of(p, 'driving', scale=scale, vx=vx, vy=vy) for p in points[there]]
    matrix = mean_square(squares).matrix(2 * size, rotate=False)

  def inputs():
    for t, (frame, _) in zip(range(T), frames()):
      if there[t]:
        yield network_input(cut(frame, matrix, 2 * size)) if cropped else np.clip(cut(frame, matrix, size) / 255, 0, 1)

  motion = stack(list(watch.each_slowly(motions(model, inputs()), 'read the motion', -(-int(there.sum()) // _BATCH))))
  eyes = lip = None
  if points is not None and has_openness(points):
    eyes, lip = openness(points[there])
  kept = np.flatnonzero(there)
  if no_face == 'hold' or there.all():
    nearest = np.abs(np.arange(T)[:, None] - kept).argmin(1)
    motion, kept = take(motion, nearest), np.arange(T)
    eyes, lip = (None, None) if eyes is None else (eyes[nearest], lip[nearest])
    times, found = watched.times, there
  else:
    times, found = np.arange(len(kept)) / float(watched.rate), np.ones(len(kept), bool)
  return Template(motion, watched.rate, eyes, lip, times, found), kept


def motions(model: Model, images: Iterable[np.ndarray]) -> Iterator:
  """Motions of network inputs [S, S, 3], batch by batch (the last one is filled up, so that one size is compiled)."""
  batch = []
  for image in images:
    batch.append(image)
    if len(batch) == _BATCH:
      yield model.motion(np.stack(batch))
      batch = []
  if batch:
    filled = np.stack(batch + [batch[-1]] * (_BATCH - len(batch)))
    yield take(model.motion(filled), slice(0, len(batch)))
