"""Where the square that a subject was fitted in lies in the film, frame by frame."""

from exp_jax.errors import UserError
from exp_jax.heads.personalized import Subject
from exp_jax.media.squares import Crop, crop_of


def crops_of(subject: Subject, size: int, count: int, film: tuple[int, int]) -> list[Crop]:
  """The square of each of `count` frames of a film of `film` = (height, width) pixels, resampled to
  `size`.

  Raises:
    UserError: the subject was not fitted in a square, or does not fit the film.
  """
  height, width = subject.image_size
  if height != width:
    raise UserError(f'the subject was fitted at {width}x{height}, training frames are square')
  if subject.source_crop is None:
    if film != (height, width):
      raise UserError(
        f'the clip is {film[1]}x{film[0]}, its subject was fitted at {width}x{height}'
      )
    return [Crop(0.0, 0.0, float(width), size)] * count
  return [crop_of(matrix, width, size) for matrix in subject.source_crop[:count]]
