"""A photograph or a clip, whichever the path names, as frames."""

import collections.abc
import fractions
import os
import pathlib

import numpy as np

from exp_jax.media.foreign.animation import is_animation
from exp_jax.media.formats import PICTURE_SUFFIXES, looks_like_film, picture_format
from exp_jax.media.images import read_image
from exp_jax.media.video import Clip, read_frames, read_video


def is_image(path: str | os.PathLike) -> bool:
  """Whether a file is a still picture, by its content; an animation is a clip.

  By the name if there is no such file.
  """
  if not pathlib.Path(path).is_file() or pathlib.Path(path).stat().st_size == 0:
    return pathlib.Path(path).suffix.lower() in PICTURE_SUFFIXES
  if picture_format(path) is None:  # neither; the reader that its name speaks of says so
    return pathlib.Path(path).suffix.lower() in PICTURE_SUFFIXES and not looks_like_film(path)
  return not is_animation(path)


def read_footage(
  path: str | os.PathLike, *, limit: int | None = None, allow_partial: bool = False
) -> Clip:
  """Frames [T, H, W, 3] of a clip, or [1, H, W, 3] of a photograph; UserError as the readers'."""
  if is_image(path):
    return Clip(read_image(path)[None], np.zeros(1), fractions.Fraction(25))
  return read_video(path, limit=limit, allow_partial=allow_partial)


def stream_footage(
  path: str | os.PathLike, *, allow_partial: bool = False
) -> collections.abc.Iterator[tuple[np.ndarray, float]]:
  """(frame, seconds) of a clip, one in memory at a time, or the photograph at 0; UserError as the
  readers'."""
  if is_image(path):
    return iter([(read_image(path), 0.0)])
  return read_frames(path, allow_partial=allow_partial)
