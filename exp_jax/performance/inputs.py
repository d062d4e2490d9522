"""Pictures and clips that a system reads, whether they come as a path or as arrays.

Letters: T frames.
"""

import dataclasses
import fractions
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.digests import file_digest
from exp_jax.media.footage import is_image, stream_footage
from exp_jax.media.video import declared_frames, video_rate

# opens (frame uint8 [H, W, 3], seconds) from the start
Frames = Callable[[], Iterator[tuple[np.ndarray, float]]]


@dataclasses.dataclass(frozen=True)
class Footage:
  """A picture or a clip that can be read from its start as often as is needed.

  Attributes:
    name: for messages.
    frames: opens it: yields (frame uint8 [H, W, 3], seconds).
    rate: frames a second; 25 for a picture.
    still: whether it is one picture.
    count: number of frames, where that is known before reading, else None.
    digest: sha256 of the file or of the arrays, hexadecimal.
    path: the file, or None for arrays.
  """

  name: str
  frames: Frames
  rate: fractions.Fraction
  still: bool
  count: int | None
  digest: str
  path: pathlib.Path | None = None

  @property
  def stem(self) -> str:
    """The name without its suffix, at most 120 characters."""
    return pathlib.Path(self.name).stem[:120]


def footage(
  source: str | os.PathLike | np.ndarray | Footage,
  *,
  rate: float = 25,
  name: str = 'the input',
  allow_partial: bool = False,
) -> Footage:
  """What a path or an array stands for.

  Args:
    source: a file; or uint8 RGB [H, W, 3] of a picture, [T, H, W, 3] of a clip.
    rate: frames a second of an array with T frames.
    name: of an array, for messages.
    allow_partial: read what can be read of a damaged or truncated file.

  Raises:
    UserError: there is no such file, it is neither picture nor clip, or an array has another shape
      or type.
  """
  if isinstance(source, Footage):
    return source
  if isinstance(source, np.ndarray):
    if (
      source.dtype != np.uint8
      or source.ndim not in (3, 4)
      or source.shape[-1] != 3
      or 0 in source.shape
    ):
      raise UserError(
        f'{name} must be uint8 [H, W, 3] or [T, H, W, 3], got {source.dtype} {list(source.shape)}'
      )
    frames, per_second = (
      source.reshape(-1, *source.shape[-3:]),
      fractions.Fraction(rate).limit_denominator(100_000),
    )
    known = hashlib.sha256(repr((source.shape, str(per_second))).encode())
    for frame in frames:
      known.update(np.ascontiguousarray(frame).tobytes())
    return Footage(
      name,
      lambda: ((frame, i / float(per_second)) for i, frame in enumerate(frames)),
      per_second,
      source.ndim == 3,
      len(frames),
      known.hexdigest(),
    )
  path = pathlib.Path(source)
  if not path.is_file():
    raise UserError(f'{str(path)!r} does not exist')
  still = is_image(path)
  rate, count = (fractions.Fraction(25), 1) if still else (video_rate(path), declared_frames(path))
  return Footage(
    path.name,
    lambda: stream_footage(path, allow_partial=allow_partial),
    rate,
    still,
    count,
    file_digest(path),
    path,
  )


def frame_of(clip: Footage, number: int) -> np.ndarray:
  """One frame uint8 [H, W, 3]; numbers count from 0.

  Raises:
    UserError: there is no such frame.
  """
  count = 0
  for frame, _ in clip.frames():
    if count == number:
      return frame
    count += 1
  raise UserError(
    f'{clip.name!r} has {count} frames, there is no frame {number}; they count from 0'
  )


def first_picture(clip: Footage) -> np.ndarray:
  """The first frame uint8 [H, W, 3]."""
  return frame_of(clip, 0)
