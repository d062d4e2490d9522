"""Images in and out: one canonical array, RGB uint8 [H, W, 3], upright, sRGB, whatever the file
held.

What the field's readers disagree on is decided here once:

  format       by the content, whatever the name says; from a fixed list, so that no file starts another program
  size         refused before decoding if it is too large, or larger than the file can hold (`limits`)
  orientation  EXIF is applied
  colour       transparency is laid on white, profiles are applied, and 16-bit, float, grey, palette and CMYK images are converted
  animation    `read_image` takes the first frame; `animation` reads all
  extras       text and profiles that unpack to megabytes are left out (`png_chunks`)

Writing is atomic: a temporary name, then a rename.
"""

import collections.abc
import contextlib
import os
import pathlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from exp_jax.errors import UserError
from exp_jax.files.atomic import replacing
from exp_jax.media.foreign import jpeg_scans, png_chunks
from exp_jax.media.foreign.failures import one_sentence
from exp_jax.media.foreign.limits import MAX_PIXELS as _MOST
from exp_jax.media.foreign.limits import check_size
from exp_jax.media.foreign.srgb import to_srgb
from exp_jax.media.formats import heif_turns_itself, picture_format

MAX_PIXELS = _MOST  # larger images are refused from their header, before memory is spent
_REMEDY = 'give a JPEG, PNG or WebP file'
# Memory of decoding and of our result, bytes a pixel: measured on 25 megapixels, and 3 more for a
# picture that is turned.
_BYTES_PER_PIXEL = {'WEBP': 20, 'AVIF': 14, 'JPEG2000': 23, 'HEIF': 20}
_BYTES_ELSE = 12


@contextlib.contextmanager
def open_picture(path: str | os.PathLike) -> collections.abc.Iterator[Image.Image]:
  """An opened picture whose size is checked and whose pixels are not decoded yet.

  Raises:
    UserError: missing, empty, no picture, damaged, or too large; also for whatever the block
      raises.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(
      f'image {str(path)!r} does not exist; give the path of a JPEG, PNG or WebP file'
    )
  if path.stat().st_size == 0:
    raise UserError(f'image {str(path)!r} is empty (0 bytes); {_REMEDY}')
  kind = picture_format(path)
  if kind is None:
    raise UserError(f'{str(path)!r} is not an image that can be read; {_REMEDY}')
  with one_sentence(path, 'image'):
    stream, profile = png_chunks.cleaned(path.read_bytes()) if kind == 'PNG' else (None, None)
    try:
      image = Image.open(
        stream or path, formats=_heif_formats(path) if kind == 'HEIF' else _formats(kind)
      )
    except UnidentifiedImageError:
      raise UserError(
        f'image {str(path)!r} is a {kind} file of a kind that is not read, or damaged; {_REMEDY}'
      ) from None
    except Image.DecompressionBombError:
      raise UserError(
        f'image {str(path)!r} has more pixels than the limit of {MAX_PIXELS:,}; scale it down first'
      ) from None
    with image:
      check_size(
        path, 'image', image.size, _BYTES_PER_PIXEL.get(kind, _BYTES_ELSE), most_pixels=MAX_PIXELS
      )
      pixels = image.width * image.height
      if kind == 'JPEG' and not jpeg_scans.enough_for(path.read_bytes(), pixels):
        raise UserError(
          f'image {str(path)!r} is damaged (it claims {image.width} x {image.height} pixels, but '
          'its data are too '
          'short for them); export it again'
        )
      if profile:
        image.info['icc_profile'] = profile
      yield image


def _formats(kind: str) -> tuple[str, ...]:
  return ('JPEG', 'MPO') if kind == 'JPEG' else (kind,)


def _heif_formats(path: pathlib.Path) -> tuple[str, ...]:
  """Registers the optional reader of HEIC."""
  try:
    import pillow_heif
  except ImportError:
    raise UserError(
      f'image {str(path)!r} is a HEIC picture, for which pillow-heif is missing; run `pip install '
      'pillow-heif`, '
      'or export the picture as JPEG'
    ) from None
  pillow_heif.register_heif_opener()
  return ('HEIF',)


def frame_count(image: Image.Image) -> int:
  """How many pictures an opened GIF, WebP, PNG or AVIF shows one after another."""
  return getattr(image, 'n_frames', 1) - hidden_frames(image)


def hidden_frames(image: Image.Image) -> int:
  """1 for an animated PNG whose first picture is only for programs that show no animation,
  else 0."""
  return int(bool(getattr(image, 'default_image', False)))


def read_image(path: str | os.PathLike) -> np.ndarray:
  """Reads any common image file.

  Returns:
    [H, W, 3] uint8, RGB, upright.

  Raises:
    UserError: the file is missing, empty, no image, damaged, or larger than the limits.
  """
  with open_picture(path) as image:
    image.seek(0)
    return upright(image, str(path))


def upright(image: Image.Image, name: str) -> np.ndarray:
  """[H, W, 3] uint8 of the present frame of an opened picture, turned as its EXIF says; `name` is
  its path."""
  pixels = to_srgb(image, name)
  try:
    orientation = image.getexif().get(274, 1)
  except Exception:  # noqa: BLE001
    orientation = 1  # damaged EXIF says nothing; viewers show the picture as it is stored
  if image.format == 'HEIF' and not heif_turns_itself(name):
    # its reader takes the turn out of EXIF without applying it
    orientation = image.info.get('original_orientation') or 1
  turn = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],
    8: lambda p: np.rot90(p, 1),
  }.get(orientation)
  return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def write_image(path: str | os.PathLike, pixels: np.ndarray) -> None:
  """Writes [H, W, 3] or [H, W] pixels, uint8 or float in [0, 1]; the format follows the suffix."""
  path = pathlib.Path(path)
  if pixels.dtype != np.uint8:
    pixels = np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
  # a third of the time of Pillow's own choice, for files 3 % larger; other formats do not read it
  with replacing(path) as partial:
    Image.fromarray(pixels).save(partial, compress_level=4)


def resize(
  pixels: np.ndarray, size: tuple[int, int], *, resample=Image.Resampling.LANCZOS
) -> np.ndarray:
  """Resamples uint8 [H, W, 3] or [H, W] to `size` = (height, width), antialiased."""
  return np.array(Image.fromarray(pixels).resize((size[1], size[0]), resample))


def contact_sheet(images, *, columns: int, gap: int = 4) -> np.ndarray:
  """Lays equally sized uint8 [H, W, 3] images out in rows; returns one uint8 image on white."""
  images = [np.asarray(image) for image in images]
  height, width = images[0].shape[:2]
  rows = -(-len(images) // columns)
  sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
  for i, image in enumerate(images):
    top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
    sheet[top : top + height, left : left + width] = image
  return sheet
