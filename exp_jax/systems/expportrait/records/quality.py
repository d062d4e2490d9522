"""Whether a clip is worth training on: figures of its pictures, and limits that refuse a clip by
name.

All figures are of the square that a head is trained in, or of the film's border; each is written
into the report of `prepare`.
Letters: T frames, H, W pixels of the film, S of the square.
"""

import dataclasses

import numpy as np
import scipy.ndimage

from exp_jax.media.images import resize

_LOOKED_AT = 8  # frames that sharpness and borders are measured in, spread over the clip
_BLACK = 20  # of 255: video black with its noise
_EDGE = 12  # of 255
_SMALL = 64  # pixels of the square in which movement is measured, so that noise is averaged out


@dataclasses.dataclass(frozen=True)
class Limits:
  """What is refused; 0 (1 for shares) lets everything pass.

  Attributes:
    least_face: height of the face in the film, pixels.
    least_sharpness: see `sharpness`; sharp pictures have 0.45 and more, those enlarged to twice
      their size 0.3 to 0.4, to three times 0.2, to four times 0.17.
    least_motion: see `motion`; a photograph shown as a film has less than 0.5.
    most_invented: share of the square that lies beyond the picture or in black bars.
  """

  least_face: float = 64.0
  least_sharpness: float = 0.18
  least_motion: float = 0.5
  most_invented: float = 0.5


def black_bars(frames: np.ndarray) -> tuple[int, int, int, int]:
  """(top, bottom, left, right) lines that are black in all frames uint8 [T, H, W, 3] and end at an
  edge; zeros if all is black.

  A dark wall that grows lighter is a picture: the two lines behind a bar must be brighter by
  `_EDGE` in the mean.
  """
  chosen = (
    frames[np.unique(np.linspace(0, len(frames) - 1, _LOOKED_AT).astype(int))]
    .max(-1)
    .astype(np.float32)
  )
  found = []
  for axis in (2, 1):  # rows, columns
    # The brightest but one percent of a line: a few bright pixels of compression beside a picture's
    # border are no picture.
    bright = np.percentile(chosen, 99, axis=axis).max(0)
    mean = chosen.mean(axis).mean(0)
    for lit, level in ((bright > _BLACK, mean), ((bright > _BLACK)[::-1], mean[::-1])):
      count = int(lit.argmax())
      sharp = count and level[count : count + 2].mean() > level[:count].mean() + _EDGE
      found.append(count if sharp else 0)
  return tuple(found)


def sharpness(pictures: np.ndarray) -> float:
  """Strength of the finest detail beside that of detail twice as coarse: root mean square of two
  bands of Gaussians, their ratio.

  uint8 [T, S, S, 3] of squares; the middle half is looked at, which is the face. A picture without
  any detail gives 0.
  """
  chosen = pictures[np.unique(np.linspace(0, len(pictures) - 1, _LOOKED_AT).astype(int))]
  quarter = chosen.shape[1] // 4
  middle = chosen[:, quarter : -quarter or None, quarter : -quarter or None].astype(np.float32)
  grey = middle @ np.array([0.299, 0.587, 0.114], np.float32)
  blurred = [scipy.ndimage.gaussian_filter(grey, (0, sigma, sigma)) for sigma in (0.7, 1.4, 2.8)]
  fine, coarse = (
    float(np.sqrt(np.mean((one - other) ** 2)))
    for one, other in ((grey, blurred[0]), (blurred[1], blurred[2]))
  )
  return fine / coarse if coarse > 1e-3 else 0.0


def motion(pictures: np.ndarray) -> float:
  """The largest mean change of any frame from the first, of 255, in squares averaged down to 64
  pixels."""
  small = np.stack([resize(picture, (_SMALL, _SMALL)).astype(np.float32) for picture in pictures])
  return float(np.abs(small - small[0]).mean((1, 2, 3)).max())


def figures_of(
  pictures: np.ndarray, valid: np.ndarray, *, face_pixels: float | None = None
) -> dict[str, float]:
  """What is reported of a clip: uint8 pictures [T, S, S, 3] and valid [T, S, S]; face_pixels where
  the face was looked for."""
  found = dict(
    frames=len(pictures),
    sharpness=round(sharpness(pictures), 3),
    motion=round(motion(pictures), 2),
    invented=round(1 - float((valid > 0).mean()), 4),
  )
  return found if face_pixels is None else found | {'face_pixels': round(face_pixels, 1)}


def complaint(figures: dict[str, float], limits: Limits) -> str:
  """What is wrong with a clip of these figures, and the option that lets it pass; '' if nothing
  is."""
  if figures.get('face_pixels', np.inf) < limits.least_face:
    return (
      f'its face is {figures["face_pixels"]:.0f} pixels high, at least {limits.least_face:g} are '
      'asked for; leave the '
      'clip out, or pass --least_face'
    )
  if figures['invented'] > limits.most_invented:
    return (
      f'{100 * figures["invented"]:.0f} % of its square lie beyond the picture or in black bars, '
      'more than '
      f'{100 * limits.most_invented:g} %; leave the clip out, or pass --most_invented'
    )
  if figures['frames'] > 1 and figures['motion'] < limits.least_motion:
    return (
      f'it stands still like a photograph (change {figures["motion"]:g} of 255, at least '
      f'{limits.least_motion:g} is asked for)'
      '; leave the clip out, or pass --least_motion 0'
    )
  if figures['sharpness'] < limits.least_sharpness:
    return (
      f'it is blurred or was enlarged (sharpness {figures["sharpness"]:g}, at least '
      f'{limits.least_sharpness:g} is asked for); '
      'leave the clip out, or pass --least_sharpness 0'
    )
  return ''
