"""A photograph or a clip, whichever the path names, as frames."""

import collections.abc
import fractions
import os
import pathlib

import numpy as np

from exp_jax.media.images import read_image
from exp_jax.media.video import Clip, read_frames, read_video

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.gif')


def is_image(path: str | os.PathLike) -> bool:
  """By the ending of the name."""
  return pathlib.Path(path).suffix.lower() in IMAGE_SUFFIXES


def read_footage(path: str | os.PathLike, *, limit: int | None = None, allow_partial: bool = False) -> Clip:
  """Frames [T, H, W, 3] of a clip, or [1, H, W, 3] of a photograph; UserError as the readers'."""
  if is_image(path):
    return Clip(read_image(path)[None], np.zeros(1), fractions.Fraction(25))
  return read_video(path, limit=limit, allow_partial=allow_partial)


def stream_footage(path: str | os.PathLike, *, allow_partial: bool = False
                   ) -> collections.abc.Iterator[tuple[np.ndarray, float]]:
  """(frame, seconds) of a clip, one in memory at a time, or the photograph at 0; UserError as the readers'."""
  if is_image(path):
    return iter([(read_image(path), 0.0)])
  return read_frames(path, allow_partial=allow_partial)
