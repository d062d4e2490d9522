"""Images in and out: one canonical array, RGB uint8 [H, W, 3], upright, sRGB, whatever the file held.

EXIF orientation is applied, transparency is laid on white, 16-bit and grey and palette and CMYK images are
converted, the first frame of an animation is taken. Writing is atomic: a temporary name, then a rename.
"""

import io
import os
import pathlib

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from exp_jax.errors import UserError
from exp_jax.media.atomic import replacing

MAX_PIXELS = 64_000_000  # larger images are refused from their header, before memory is spent


def read_image(path: str | os.PathLike) -> np.ndarray:
  """Reads any common image file.

  Returns:
    [H, W, 3] uint8, RGB, upright.

  Raises:
    UserError: the file is missing, empty, no image, damaged, or larger than MAX_PIXELS.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'image {str(path)!r} does not exist; give the path of a JPEG, PNG or WebP file')
  if path.stat().st_size == 0:
    raise UserError(f'image {str(path)!r} is empty (0 bytes); give a JPEG, PNG or WebP file')
  try:
    with Image.open(path) as image:
      if image.width * image.height > MAX_PIXELS:
        raise UserError(f'image {str(path)!r} has {image.width} x {image.height} pixels, more than the limit '
                        f'of {MAX_PIXELS:,}; scale it down first')
      image.seek(0)
      return _to_srgb(ImageOps.exif_transpose(image))
  except UnidentifiedImageError:
    raise UserError(f'{str(path)!r} is not an image that can be read; '
                    'give a JPEG, PNG or WebP file') from None
  except (OSError, SyntaxError, Image.DecompressionBombError) as error:
    raise UserError(f'image {str(path)!r} is damaged ({error}); export it again') from None


def _to_srgb(image: Image.Image) -> np.ndarray:
  if image.mode in ('I;16', 'I;16B', 'I;16L', 'I'):
    grey = np.asarray(image).astype(np.float32) / 257.0
    return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
  profile = image.info.get('icc_profile')
  if 'A' in image.getbands() or 'transparency' in image.info:
    image = image.convert('RGBA')
    image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
  elif profile and image.mode in ('RGB', 'CMYK', 'L'):
    try:
      source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
      image = ImageCms.profileToProfile(image, source, ImageCms.createProfile('sRGB'), outputMode='RGB')
    except ImageCms.PyCMSError:
      image = image.convert('RGB')  # an unreadable profile says nothing; the plain values stand
  return np.array(image.convert('RGB'))


def write_image(path: str | os.PathLike, pixels: np.ndarray) -> None:
  """Writes [H, W, 3] or [H, W] pixels, uint8 or float in [0, 1]; the format follows the suffix."""
  path = pathlib.Path(path)
  if pixels.dtype != np.uint8:
    pixels = np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
  with replacing(path) as partial:
    Image.fromarray(pixels).save(partial)


def resize(pixels: np.ndarray, size: tuple[int, int], *, resample=Image.Resampling.LANCZOS) -> np.ndarray:
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
    sheet[top:top + height, left:left + width] = image
  return sheet
