"""A picture of any kind that Pillow opens -> RGB uint8, sRGB, transparency on white.

Colour profiles hold for pictures with transparency and with palettes as well. The picture is
converted by strips, so that the memory is that of the decoded picture, of the result, and of one
strip.
"""

import collections.abc
import io

import numpy as np
from PIL import Image, ImageCms

from exp_jax.errors import UserError

_STRIP = 1 << 20  # pixels converted at once
_SIXTEEN = ('I;16', 'I;16B', 'I;16L', 'I;16N')
_BITS = 258  # the TIFF tag of bits per sample


def to_srgb(image: Image.Image, name: str) -> np.ndarray:
  """[H, W, 3] uint8 of an opened picture, not yet turned upright.

  Args:
    name: of the file, for messages.

  Raises:
    UserError: a picture of numbers whose black and white are not known.
  """
  image.load()
  convert = _converter(image, name)
  width, height = image.size
  rows = max(1, _STRIP // width)
  result = np.empty((height, width, 3), np.uint8)
  for top in range(0, height, rows):
    result[top : top + rows] = convert(image.crop((0, top, width, min(height, top + rows))))
  return result


def _converter(
  image: Image.Image, name: str
) -> collections.abc.Callable[[Image.Image], np.ndarray]:
  """Strip -> [h, W, 3] or [h, W, 1] uint8."""
  if image.mode in ('F', 'I', *_SIXTEEN):
    scale = 1 / 257 if image.mode in _SIXTEEN else _scale(image, name)
    transform = _transform(image, ('L',))

    def grey(strip):
      values = np.clip(np.rint(np.asarray(strip).astype(np.float32) * scale), 0, 255).astype(
        np.uint8
      )
      return (
        values[..., None]
        if transform is None
        else np.asarray(transform[1].apply(Image.fromarray(values)))
      )

    return grey
  opaque = (
    image.mode not in ('La', 'RGBa')
    and 'A' not in image.getbands()
    and 'transparency' not in image.info
  )
  modes = {
    'L': ('L', 'RGB'),
    'LA': ('L', 'RGB'),
    'La': ('L', 'RGB'),
    '1': ('L', 'RGB'),
    'CMYK': ('CMYK',),
  }
  transform = _transform(image, modes.get(image.mode, ('RGB',)))

  def colour(strip):
    clear = None if opaque else strip.convert('RGBA')
    plain = strip if opaque else clear
    if transform is None:
      plain = plain.convert('RGB')
    else:
      mode, operation = transform
      plain = operation.apply(
        plain.convert('RGB').convert(mode) if not opaque and mode == 'L' else plain.convert(mode)
      )
    if opaque:
      return np.asarray(plain)
    white = Image.new('RGB', plain.size, 'white')
    white.paste(plain, mask=clear.getchannel('A'))
    return np.asarray(white)

  return colour


def _transform(
  image: Image.Image, modes: tuple[str, ...]
) -> tuple[str, ImageCms.ImageCmsTransform] | None:
  """The first of `modes` that the picture's profile speaks of, and the way from there to sRGB;
  None: no profile that can be used."""
  profile = image.info.get('icc_profile')
  if not profile:
    return None
  try:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
  except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
    return None  # an unreadable profile says nothing; the plain values stand
  for mode in modes:
    try:
      return mode, ImageCms.buildTransform(source, ImageCms.createProfile('sRGB'), mode, 'RGB')
    except ImageCms.PyCMSError:
      continue  # a profile of other colours
  return None


def _scale(image: Image.Image, name: str) -> float:
  """What to multiply 32-bit numbers with, so that white is 255."""
  width, height = image.size
  rows = max(1, _STRIP // width)
  low, high = np.inf, -np.inf
  for top in range(0, height, rows):
    part = np.asarray(image.crop((0, top, width, min(height, top + rows))))
    low, high = min(low, part.min()), max(high, part.max())
    if not np.isfinite(part).all():
      raise UserError(f'image {name!r} holds numbers that are not finite; save it as an 8-bit PNG')
  if image.mode == 'F':
    if low < -0.01 or high > 1.01:
      raise UserError(
        f'image {name!r} holds floating-point numbers from {low:.4g} to {high:.4g}; only 0 (black) '
        'to 1 (white) is '
        'read; save it as an 8-bit PNG'
      )
    return 255.0
  bits = getattr(image, 'tag_v2', {}).get(_BITS, (16,))
  if low < 0 or high > 65535:
    raise UserError(
      f'image {name!r} holds whole numbers from {low} to {high}, whose black and white are not '
      'known; '
      'save it as an 8-bit PNG'
    )
  return 1.0 if max(np.ravel(bits)) > 16 and high <= 255 else 1 / 257
