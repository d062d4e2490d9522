"""How large a picture or a video frame may be.

Checked before anything is decoded, because a small file can claim any size.

Two limits, each a setting of the environment:

  EXP_JAX_MAX_PIXELS    pixels of a picture or of a video frame (64,000,000)
  EXP_JAX_MAX_MEDIA_MB  megabytes that decoding may take (256), to which the file's own size times
                        128 is added: a photograph of 50 megapixels is a large file and is read, a
                          file of a few kB that would fill the memory is not
"""

import os
import pathlib

from exp_jax.errors import UserError

MAX_PIXELS = 64_000_000
MAX_MEDIA_MB = 256
_PER_FILE_BYTE = 128  # no photograph or film of practical quality unpacks by more
_MOST_PIXELS = 178_956_970  # Pillow opens no larger picture


def setting(name: str, default: int, most: int) -> int:
  """A whole number from the environment.

  Raises:
    UserError: it is not a number from 1 to `most`.
  """
  text = os.environ.get(name, '').strip()
  if not text:
    return default
  if not (text.isascii() and text.isdecimal() and 1 <= int(text[:12]) <= most and len(text) <= 12):
    raise UserError(f'{name} must be a whole number from 1 to {most}, got {text[:40]!r}')
  return int(text)


def max_pixels(default: int = MAX_PIXELS) -> int:
  """The most pixels of a picture or a frame."""
  return setting('EXP_JAX_MAX_PIXELS', default, _MOST_PIXELS)


def memory_budget(path: str | os.PathLike) -> int:
  """Bytes that decoding a file may take."""
  return (
    setting('EXP_JAX_MAX_MEDIA_MB', MAX_MEDIA_MB, 10**6) * 10**6
    + _PER_FILE_BYTE * pathlib.Path(path).stat().st_size
  )


def check_size(
  path: str | os.PathLike,
  what: str,
  size: tuple[int, int],
  bytes_per_pixel: float,
  *,
  most_pixels: int = MAX_PIXELS,
) -> None:
  """Refuses what is too large to decode.

  Args:
    what: 'image' or 'video', for the message.
    size: (width, height) as the file claims.
    bytes_per_pixel: memory that decoding takes, bytes for each pixel.
    most_pixels: the limit if the environment sets none.

  Raises:
    UserError: more pixels than the limit, or more memory than a file of this length may take.
  """
  width, height = size
  if width < 1 or height < 1:
    raise UserError(
      f'{what} {str(path)!r} is damaged (it claims {width} x {height} pixels); export it again'
    )
  pixels, most = width * height, max_pixels(most_pixels)
  if pixels > most:
    raise UserError(
      f'{what} {str(path)!r} has {width} x {height} pixels, more than the limit of {most:,}; scale '
      'it down first, '
      'or set EXP_JAX_MAX_PIXELS'
    )
  budget, needed = memory_budget(path), pixels * bytes_per_pixel
  if needed > budget:
    length = pathlib.Path(path).stat().st_size
    raise UserError(
      f'{what} {str(path)!r} claims {width} x {height} pixels in a file of {length:,} bytes; '
      'decoding it would take '
      f'{needed / 1e6:.0f} MB, more than the limit of {budget / 1e6:.0f} MB; scale it down first, '
      'or set '
      f'EXP_JAX_MAX_MEDIA_MB={-(-int(needed) // 10**6)}'
    )
