"""Animated GIF, WebP, PNG and AVIF as clips: RGB uint8 frames with their times.

A frame that is to be shown for 10 ms or less is shown for 100 ms, as all browsers do.
"""

import collections.abc
import fractions
import os

import numpy as np

from exp_jax.errors import UserError
from exp_jax.media.foreign.failures import reason
from exp_jax.media.formats import picture_format
from exp_jax.media.images import frame_count, hidden_frames, open_picture, upright

_SHORT, _USUAL = 10, 100  # milliseconds


def is_animation(path: str | os.PathLike) -> bool:
  """Whether a file is a picture with several frames, by its content.

  False for what cannot be opened.
  """
  if picture_format(path) not in ('GIF', 'PNG', 'WEBP', 'AVIF'):
    return False  # the pages of a TIFF and the views of a phone's JPEG are no animation
  try:
    with open_picture(path) as image:
      return frame_count(image) > 1
  except UserError:
    return False


def declared_frames(path: str | os.PathLike) -> int:
  """How many frames an animation has. UserError as `open_picture`."""
  with open_picture(path) as image:
    return frame_count(image)


def animation_frames(
  path: str | os.PathLike,
) -> collections.abc.Iterator[tuple[np.ndarray, fractions.Fraction]]:
  """Streams an animation, one frame in memory at a time.

  Yields:
    frame: [H, W, 3] uint8 RGB.
    duration: seconds for which it is shown, exact.

  Raises:
    UserError: as `open_picture`; of a frame that is damaged, with its number.
  """
  with open_picture(path) as image:
    first = hidden_frames(image)
    for number in range(first, getattr(image, 'n_frames', 1)):
      try:
        image.seek(number)
        pixels = upright(image, str(path))
      except UserError:
        raise
      except Exception as error:
        raise UserError(
          f'animation {str(path)!r} is damaged after frame {number - first} ({reason(error)}); '
          'export it again '
          'or pass --allow_partial'
        ) from error
      shown = fractions.Fraction(image.info.get('duration') or 0).limit_denominator(1000)
      yield pixels, (shown if shown > _SHORT else fractions.Fraction(_USUAL)) / 1000


def animation_rate(path: str | os.PathLike) -> fractions.Fraction:
  """Frames per second on average, exact. UserError as `animation_frames`."""
  shown = []
  try:
    for _, duration in animation_frames(path):
      shown.append(duration)
  except UserError:
    if not shown:
      raise
  return fractions.Fraction(len(shown)) / sum(shown)
