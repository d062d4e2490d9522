"""Whose face: all faces of a clip are found, one or several are chosen and followed, frames without
them are dealt with.

Pixels: the first one has its centre at 0.5. Letters: T frames, F faces, K points of a face.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from exp_jax.errors import UserError
from exp_jax.progress import SILENT, Watch

_STEP = (
  0.8  # face sizes that a face may move from one frame to the next, where others are in the clip
)
_DRIFT = 0.1  # and more for every frame in which it was not seen
_GROWTH = 1.8  # factor by which its size may change
_ALIKE = 0.6  # a second face at least this large, relative to the first, is worth a warning


@dataclasses.dataclass(frozen=True)
class WatchedFaces:
  """All faces of a clip.

  Attributes:
    faces: for each of T frames [F, K, 2] float32, pixels.
    times: [T] seconds.
    size: (height, width) of the frames.
  """

  faces: list[np.ndarray]
  times: np.ndarray
  size: tuple[int, int]


def watch_faces(
  frames: Iterable[tuple[np.ndarray, float]],
  estimator: Callable | None,
  *,
  stage: str,
  total: int | None = None,
  watch: Watch = SILENT,
) -> WatchedFaces:
  """Finds all faces of all frames; pictures are not stored.

  Args:
    frames: (frame uint8 [H, W, 3], seconds) one after the other, at least one.
    estimator: frame -> (points [F, K, 2 or more], ...); None: frames are counted only, none has a
      face.
    stage: what progress is reported as.
    total: number of frames, where it is known.
    watch: gets the progress.
  """
  faces, times, size = [], [], None
  for frame, time in watch.each(frames, stage, total):
    faces.append(
      np.zeros((0, 478, 2), np.float32)
      if estimator is None
      else np.asarray(estimator(frame)[0], np.float32)[..., :2]
    )
    times.append(time)
    size = frame.shape[:2]
  return WatchedFaces(faces, np.asarray(times, np.float64), size)


def choose_faces(
  choice: str, first: np.ndarray, *, name: str, words: str, several: bool = False
) -> list[dict]:
  """The arguments `face` or `near` of `follow` for each chosen face.

  Args:
    choice: 'largest', a number (0 the largest), 'left', 'right' or 'X,Y' in pixels; with `several`
      also 'all' or '0+2'.
    first: [F, K, 2] the faces of the first frame that has any; F is 0 where no frame has.
    name: what to call the clip in messages.
    words: what a choice can be, for messages.
    several: whether more than one face can be chosen.

  Raises:
    UserError: the choice is none of these.
  """
  if choice == 'largest':
    return [{}]
  if choice in ('left', 'right'):
    centers = first.mean(1)
    outermost = np.argmin if choice == 'left' else np.argmax
    return [{'near': tuple(centers[outermost(centers[:, 0])])}] if len(first) else [{}]
  if several and choice == 'all':
    return [{'face': number} for number in range(len(first))]
  numbers = choice.split('+')
  if all(number.isdecimal() for number in numbers) and (several or len(numbers) == 1):
    return [{'face': number} for number in sorted({int(number) for number in numbers})]
  try:
    x, y = (float(number) for number in choice.split(','))
  except ValueError:
    raise UserError(f'the face of {name} must be {words}; got {choice!r}') from None
  return [{'near': (x, y)}]


def follow_chosen(
  faces: list[np.ndarray], choice: str, *, name: str, words: str, several: bool = False
) -> tuple[list[np.ndarray], tuple[str, ...]]:
  """The chosen faces through a clip; arguments as of `choose_faces`.

  Args:
    faces: for each of T frames [F, K, 2].

  Returns:
    tracks: [T, K, 2] float32 of each chosen face, NaN where it was not seen.
    warnings: of `follow`.

  Raises:
    UserError: the choice cannot be one, or there is no such face.
  """
  first = next((found for found in faces if len(found)), np.zeros((0, 478, 2), np.float32))
  followed = [
    follow(faces, name=name, **how)
    for how in choose_faces(choice, first, name=name, words=words, several=several)
  ]
  return [track for track, _ in followed], tuple(
    warning for _, warnings in followed for warning in warnings
  )


def seen(points: np.ndarray) -> np.ndarray:
  """[T] bool: in which frames a face [T, K, 2] was seen."""
  return np.isfinite(points).all((1, 2))


def check_seen(seen: np.ndarray, name: str, *, least: float = 0.0, what: str = 'clip') -> None:
  """Refuses footage that shows too little of a face.

  Args:
    seen: [T] bool.
    name: of the footage, for messages.
    least: share of the frames that must show the face.
    what: a word for the footage: 'picture' or 'clip'.

  Raises:
    UserError: no frame shows the face, or fewer than `least` of them.
  """
  if not seen.any():
    raise UserError(f'no face found in {name}; use a {what} where one face is clearly visible')
  if seen.mean() < least:
    raise UserError(
      f'a face was found in only {seen.sum()} of {len(seen)} frames of {name}; '
      'cut the clip to where the face is visible'
    )


def nearest_seen(seen: np.ndarray) -> np.ndarray:
  """[T] bool -> [T] int: for each frame the nearest one that shows the face, counted among those
  that show it."""
  return np.abs(np.arange(len(seen))[:, None] - np.flatnonzero(seen)).argmin(1)


def frames_to_keep(
  seen: np.ndarray,
  times: np.ndarray,
  *,
  rate: float,
  no_face: str,
  name: str,
  watch: Watch = SILENT,
) -> tuple[np.ndarray, np.ndarray]:
  """The frames that a driver's motion has, where some do not show the face.

  Args:
    seen: [T] bool.
    times: [T] seconds.
    rate: frames a second, for new times where frames are left out.
    no_face: what happens to the others: they hold the nearest motion ('hold'), are left out
      ('cut'), or are refused ('stop').
    name: of the clip, for messages.
    watch: is warned of them.

  Returns:
    numbers: [T'] of the frames that are kept.
    times: [T'] seconds.

  Raises:
    UserError: a frame does not show the face, and `no_face` is 'stop'.
  """
  numbers = np.arange(len(seen))
  if seen.all():
    return numbers, times
  words = f'{(~seen).sum()} of {len(seen)} frames of {name} show no such face, the first at {times[~seen][0]:.2f} s'
  if no_face == 'stop':
    raise UserError(f'{words}; --no_face hold or cut goes on without them')
  watch.warn(
    f'{words}; '
    + ('they are left out' if no_face == 'cut' else 'the nearest seen motion is held there')
  )
  return (numbers[seen], np.arange(seen.sum()) / rate) if no_face == 'cut' else (numbers, times)


def face_box(points: np.ndarray) -> np.ndarray:
  """[..., K, 2] -> [..., 4]: left, top, right, bottom, pixels."""
  return np.concatenate([points.min(-2), points.max(-2)], -1)


def follow(
  faces: list[np.ndarray],
  *,
  name: str,
  face: int | None = None,
  near: tuple[float, float] | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
  """One face through all frames.

  It starts in the first frame that has faces and goes on with the nearest one. In a clip that shows
  several people at once a face that is too far from the last place, or of another size, is another
  person's, and the frame counts as not seen; in a clip of one person nothing is too far (it may
  have few frames a second).

  Args:
    faces: a [N_t, K, 2] array of pixels for every frame, N_t faces each, in any order.
    name: what to call the clip in messages.
    face: which of the first faces, 0 the largest. near: or the one nearest to this (x, y) in
      pixels.

  Returns:
    points: [T, K, 2], NaN where the face was not seen.
    warnings: a sentence with both boxes if a second face of similar size is there and nobody chose.

  Raises:
    UserError: there is no such face, or both `face` and `near` were given.
  """
  if face is not None and near is not None:
    raise UserError('choose the face by its number or by a place, not by both')
  count = max((f.shape[1] for f in faces if len(f)), default=478)
  track = np.full((len(faces), count, 2), np.nan, np.float32)
  first = next((t for t, f in enumerate(faces) if len(f)), None)
  if first is None:
    return track, ()
  start = faces[first][np.argsort([-_size(f) for f in faces[first]], kind='stable')]
  chosen = face or 0
  if near is not None:
    chosen = int(np.argmin(np.linalg.norm(start.mean(1) - np.asarray(near, float), axis=-1)))
  if not 0 <= chosen < len(start):
    raise UserError(
      f'{name} shows {len(start)} face(s) in its frame {first}, there is no face {chosen}; '
      'faces count from 0, the largest first'
    )
  several = max(len(f) for f in faces) > 1
  last, size, unseen = start[chosen], _size(start[chosen]), 0
  for t, found in enumerate(faces):
    if t < first or not len(found):
      unseen += 1
      continue
    away = np.linalg.norm(found.mean(1) - last.mean(0), axis=-1)
    if several:
      sizes = np.array([_size(f) for f in found])
      other = (away > (_STEP + _DRIFT * unseen) * size) | (
        np.maximum(sizes / size, size / sizes) > _GROWTH
      )
      away = np.where(other, np.inf, away)
    nearest = int(np.argmin(away))
    if not np.isfinite(away[nearest]):
      unseen += 1
      continue
    last = track[t] = found[nearest]
    size, unseen = _size(last), 0
  return track, () if face is not None or near is not None else _rivals(faces, track, name)


def _size(points):
  """The longer side of a face's box, pixels."""
  box = face_box(points)
  return float(max(box[2] - box[0], box[3] - box[1], 1e-3))


def _rivals(faces, track, name):
  """A sentence about the frame in which another face comes nearest to the followed one in size."""
  worst, words = _ALIKE, ()
  text = lambda points: '({:.0f}, {:.0f})-({:.0f}, {:.0f})'.format(*face_box(points))
  for t, found in enumerate(faces):
    for other in found if np.isfinite(track[t]).all() else ():
      alike = _size(other) / _size(track[t])
      if alike >= worst and not np.array_equal(other, track[t]):
        worst = alike
        words = (
          f'{name} shows two faces of similar size in frame {t}: {text(track[t])} is followed, '
          f'{text(other)} is not; choose by --face (fit: --config.face) or crop the clip',
        )
  return words
