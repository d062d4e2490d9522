"""The faces of a clip as LivePortrait reads them: their landmarks, and the motion of a driver.

Pictures are not stored, only landmarks and motions. Letters: T frames, N points.
"""

import fractions
from collections.abc import Iterable, Iterator

import numpy as np

from exp_jax.errors import UserError
from exp_jax.observe.people import (
  WatchedFaces,
  check_seen,
  follow_chosen,
  frames_to_keep,
  nearest_seen,
  seen,
)
from exp_jax.performance.inputs import Frames
from exp_jax.performance.options import SEVERAL_FACES
from exp_jax.progress import SILENT, Watch
from exp_jax.systems.liveportrait.crop import cut, mean_square, network_input, squeezed
from exp_jax.systems.liveportrait.models import Model
from exp_jax.systems.liveportrait.motion.driving import stack, take
from exp_jax.systems.liveportrait.motion.templates import Template
from exp_jax.systems.liveportrait.networks.landmarks import has_openness, openness, square_of

_BATCH = 8


def tracks(watched: WatchedFaces, choice: str, name: str) -> list[np.ndarray]:
  """The chosen faces through the clip, largest first.

  Args:
    watched: all faces; their pixels have centres at 0.5.
    choice: one of `SEVERAL_FACES`; a place has centres at whole numbers.
    name: of the clip, for messages.

  Returns:
    [T, N, 2] of each face, centres at whole numbers, NaN where it was not seen.

  Raises:
    UserError: no face at all, or not the one asked for.
  """
  if not any(len(found) for found in watched.faces):
    raise UserError(
      f'no face found in {name}; use footage where one face is clearly visible, give '
      '--source_landmarks, or '
      '--no_crop for a picture that is a portrait already'
    )
  integer_centers = [found.astype(np.float64) - 0.5 for found in watched.faces]
  followed, _ = follow_chosen(integer_centers, choice, name=name, words=SEVERAL_FACES, several=True)
  return [points.astype(np.float64) for points in followed]


def denser(points: np.ndarray, frames: Frames, network) -> np.ndarray:
  """[T, N, 2] -> [T, 203, 2] by the user's landmark network: started by `points`, then by its own
  last answer."""
  out, last = np.full((len(points), 203, 2), np.nan), None
  for t, (frame, _) in zip(range(len(points)), frames()):
    if not np.isfinite(points[t]).all():
      last = None
      continue
    last = out[t] = network(frame, points[t] if last is None else last)
  return out


def read_driver(
  model: Model,
  frames: Frames,
  watched: WatchedFaces,
  points: np.ndarray | None,
  *,
  rate: fractions.Fraction,
  crop: str = 'auto',
  scale: float | None = None,
  vx: float | None = None,
  vy: float | None = None,
  no_face: str = 'hold',
  name: str = 'the driver',
  watch: Watch = SILENT,
) -> tuple[Template, np.ndarray]:
  """The motion of a driver.

  Args:
    points: [T, N, 2] of its face, NaN where not seen; None: the whole frames are used, and no
      ratios are known.
    rate: frames a second.
    crop: 'auto' crops what is not square, 'yes', 'no'. One upright square serves the whole clip.
    scale, vx, vy: of the crop, else the published ones.
    no_face: as of `frames_to_keep`.
    watch: gets the progress, and is warned of frames without a face.

  Returns:
    The template, and [T'] the numbers of the frames that are in it.

  Raises:
    UserError: no face at all, or one is missing with 'stop'.
  """
  size, (H, W) = model.nets.input_size, watched.size
  T = len(watched.times)
  there = np.ones(T, bool) if points is None else seen(points)
  check_seen(there, name)
  kept, times = frames_to_keep(
    there, watched.times, rate=float(rate), no_face=no_face, name=name, watch=watch
  )
  matrix = squeezed((H, W), size)
  cropped = points is not None and (crop == 'yes' or (crop == 'auto' and H != W))
  if cropped:
    squares = [square_of(p, 'driving', scale=scale, vx=vx, vy=vy) for p in points[there]]
    matrix = mean_square(squares).matrix(2 * size, rotate=False)

  def inputs():
    for t, (frame, _) in zip(range(T), frames()):
      if there[t]:
        yield (
          network_input(cut(frame, matrix, 2 * size))
          if cropped
          else np.clip(cut(frame, matrix, size) / 255, 0, 1)
        )

  motion = stack(
    list(
      watch.each_slowly(motions(model, inputs()), 'read the motion', -(-int(there.sum()) // _BATCH))
    )
  )
  held = nearest_seen(there)[kept]
  eyes = lip = None
  if points is not None and has_openness(points):
    eyes, lip = (values[held] for values in openness(points[there]))
  return Template(take(motion, held), rate, eyes, lip, times, there[kept]), kept


def motions(model: Model, images: Iterable[np.ndarray]) -> Iterator:
  """Motions of network inputs [S, S, 3], batch by batch (the last one is filled up, so that one
  size is compiled)."""
  batch = []
  for image in images:
    batch.append(image)
    if len(batch) == _BATCH:
      yield model.motion(np.stack(batch))
      batch = []
  if batch:
    filled = np.stack(batch + [batch[-1]] * (_BATCH - len(batch)))
    yield take(model.motion(filled), slice(0, len(batch)))
