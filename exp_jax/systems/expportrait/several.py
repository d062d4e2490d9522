"""Several faces of one picture, each fitted and driven by itself, and put back into it together.

Where the squares of two faces overlap, a pixel belongs to the nearer face, so that the square of
one does not hold the other still. Letters: T frames, F faces, S pixels of a square.
"""

from collections.abc import Callable, Iterator

import numpy as np

from exp_jax.errors import UserError
from exp_jax.media.paste import feathered_box, open_patch, paste
from exp_jax.media.squares import Cut
from exp_jax.observe.people import choose_faces
from exp_jax.performance.options import SEVERAL_FACES
from exp_jax.systems.expportrait.drawing import square_of
from exp_jax.systems.expportrait.portrait import Portrait

_SEAM = 0.05  # of a square's side: half the width of the passage from one face to the next


def open_faces(
  open_one: Callable[..., object],
  face: str,
  *,
  find: Callable[[np.ndarray], np.ndarray],
  name: str,
  warn: Callable[[str], None],
) -> list:
  """The chosen faces of a picture, opened one after the other, the first of the choice first.

  Args:
    open_one: fits one face; called with `face`, a number as text, and from the second on with
      `source_frame`, so that all are of one frame of a clip. What it gives has `image` and `frame`.
    face: the choice.
    find: image -> [F, K, 2] the faces in it.
    name: of the picture, for messages.
    warn: called with a sentence about faces that cannot be fitted, where all were asked for.

  Raises:
    UserError: as of `open_one`; with 'all', of the largest face alone.
  """
  named = (
    []
    if face == 'all'
    else choose_faces(face, np.zeros((0, 1, 2)), name=name, words=SEVERAL_FACES, several=True)
  )
  first = named[0]['face'] if named else 0
  opened = [open_one(face=str(first))]
  chosen = named or choose_faces(
    face, find(opened[0].image), name=name, words=SEVERAL_FACES, several=True
  )
  for number in (each['face'] for each in chosen if each['face'] != first):
    try:
      opened.append(open_one(face=str(number), source_frame=str(opened[0].frame)))
    except UserError as error:
      if face != 'all':
        raise
      warn(f'face {number} of {name} is left as it is: {error}')
  return opened


def drawn_together(each: list[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
  """Frames uint8 [S, F S, 3]: the squares of all faces side by side, from frames [S, S, 3] of
  each."""
  for frames in zip(*each, strict=True):
    yield np.concatenate([np.asarray(frame) for frame in frames], axis=1)


def territory(cuts: list[Cut], number: int) -> np.ndarray:
  """[S, S] float32 in 0..1 over the square of a face: 1 where it is nearer than all others, measured
  in sides of their squares, 0 where another is, with a passage between."""
  height, width = cuts[number].size
  pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
  source = cuts[number].to_source(pixels.reshape(-1, 2))
  away = []
  for cut in cuts:
    h, w = cut.size
    corners = cut.to_source(np.array([[w / 2, h / 2], [0, h / 2], [w, h / 2]], np.float64))
    away.append(np.hypot(*(source - corners[0]).T) / np.hypot(*(corners[2] - corners[1])))
  own = away.pop(number)
  if not away:
    return np.ones((height, width), np.float32)
  share = 0.5 + (np.min(away, axis=0) - own) / (4 * _SEAM)
  return np.clip(share, 0, 1).reshape(height, width).astype(np.float32)


def pasted_faces(
  frames: Iterator[np.ndarray], portraits: list[Portrait], image: np.ndarray
) -> Iterator[np.ndarray]:
  """The whole picture uint8 [H, W, 3] with each face's square in its place, at the picture's own
  resolution.

  Args:
    frames: of `drawn_together`.
    portraits: in that order; the first lies lowest.
    image: uint8 [H, W, 3].
  """
  cuts = [square_of(portrait, image) for portrait in portraits]
  patches = None
  for frame in frames:
    if patches is None:
      patches = [
        open_patch(
          cut, feathered_box(cut.size) * territory(cuts, number), image.shape[:2], kernel='cubic'
        )
        for number, cut in enumerate(cuts)
      ]
    canvas = image
    for patch, square in zip(patches, np.split(np.asarray(frame), len(patches), axis=1)):
      canvas = paste(patch, canvas, square)
    yield canvas
