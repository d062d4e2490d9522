"""Which of the faces in a clip is followed."""

import numpy as np

from exp_jax.errors import UserError

_STEP = 0.8   # face sizes that a face may move from one frame to the next, where others are in the clip
_DRIFT = 0.1  # and more for every frame in which it was not seen
_GROWTH = 1.8  # factor by which its size may change
_ALIKE = 0.6  # a second face at least this large, relative to the first, is worth a warning


def face_box(points: np.ndarray) -> np.ndarray:
  """[..., K, 2] -> [..., 4]: left, top, right, bottom, pixels."""
  return np.concatenate([points.min(-2), points.max(-2)], -1)


def follow(faces: list[np.ndarray], *, name: str, face: int | None = None,
           near: tuple[float, float] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
  """One face through all frames.

  It starts in the first frame that has faces and goes on with the nearest one. In a clip that shows several
  people at once a face that is too far from the last place, or of another size, is another person's, and
  the frame counts as not seen; in a clip of one person nothing is too far (it may have few frames a second).

  Args:
    faces: a [N_t, K, 2] array of pixels for every frame, N_t faces each, in any order.
    name: what to call the clip in messages.
    face: which of the first faces, 0 the largest. near: or the one nearest to this (x, y) in pixels.

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
    raise UserError(f'{name} shows {len(start)} face(s) in its frame {first}, there is no face {chosen}; '
                    'faces count from 0, the largest first')
  several = max(len(f) for f in faces) > 1
  last, size, unseen = start[chosen], _size(start[chosen]), 0
  for t, found in enumerate(faces):
    if t < first or not len(found):
      unseen += 1
      continue
    away = np.linalg.norm(found.mean(1) - last.mean(0), axis=-1)
    if several:
      sizes = np.array([_size(f) for f in found])
      other = (away > (_STEP + _DRIFT * unseen) * size) | (np.maximum(sizes / size, size / sizes) > _GROWTH)
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
        words = (f'{name} shows two faces of similar size in frame {t}: {text(track[t])} is followed, '
                 f'{text(other)} is not; choose by --face (fit: --config.face) or crop the clip',)
  return words
