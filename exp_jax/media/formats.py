"""What a file is, by its first bytes.

Names lie: browsers save JPEG as .jfif, and messengers save WebP as .jpg.

Suffixes only choose which files of a folder are looked at.
"""

import os
import pathlib

PICTURE_SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.apng', '.webp', '.bmp', '.tif', '.tiff', '.gif', '.avif', '.heic',
                    '.heif', '.jp2', '.tga', '.ppm', '.pgm')  # fmt: skip
CLIP_SUFFIXES = ('.mp4', '.mov', '.mkv', '.webm', '.avi', '.m4v', '.mpg', '.mpeg', '.ts', '.mts', '.m2ts', '.flv', '.wmv', '.ogv',
                 '.3gp', '.mxf', '.dv')  # fmt: skip
_MOTION_JPEG = ('.mjpeg', '.mjpg')  # pictures one after another, without a header of their own
_MAGIC = (
  (b'\xff\xd8\xff', 'JPEG'),
  (b'\x89PNG\r\n\x1a\n', 'PNG'),
  (b'GIF87a', 'GIF'),
  (b'GIF89a', 'GIF'),
  (b'BM', 'BMP'),
  (b'II*\0', 'TIFF'),
  (b'MM\0*', 'TIFF'),
  (b'II+\0', 'TIFF'),
  (b'MM\0+', 'TIFF'),
  (b'\0\0\0\x0cjP  \r\n\x87\n', 'JPEG2000'),
  (b'\xff\x4f\xff\x51', 'JPEG2000'),
)
_HEIF = (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1')
_TGA_END = b'TRUEVISION-XFILE.\0'


def looks_like_film(path: str | os.PathLike) -> bool:
  """Whether the first bytes are those of a common container of films, whatever the name says."""
  try:
    with open(path, 'rb') as stream:
      head = stream.read(12)
  except OSError:
    return False
  return (
    head[4:8] in (b'ftyp', b'moov', b'mdat', b'wide')
    or (head[:4] == b'RIFF' and head[8:] == b'AVI ')
    or head.startswith(
      (
        b'\x1aE\xdf\xa3',
        b'FLV',
        b'OggS',
        b'\x30\x26\xb2\x75',
        b'\0\0\1\xba',
        b'\0\0\1\xb3',
        b'G\x40',
      )
    )
  )


def picture_format(path: str | os.PathLike) -> str | None:
  """Pillow's name of a picture's format, 'HEIF' for phones' HEIC; None: no picture that is read
  here, or no file."""
  path = pathlib.Path(path)
  try:
    with open(path, 'rb') as stream:
      head = stream.read(64)
      tail = b''
      if len(head) == 64:
        stream.seek(-len(_TGA_END), os.SEEK_END)
        tail = stream.read()
  except OSError:
    return None
  if head[:4] == b'RIFF' and head[8:12] == b'WEBP':
    return 'WEBP'
  if head[4:8] == b'ftyp':
    brands = {
      head[8:12],
      *(head[at : at + 4] for at in range(16, min(len(head), int.from_bytes(head[:4])), 4)),
    }
    if brands & {b'avif', b'avis'}:
      return 'AVIF'
    return 'HEIF' if head[8:12] in _HEIF else None
  for magic, name in _MAGIC:
    if head.startswith(magic):
      return None if name == 'JPEG' and path.suffix.lower() in _MOTION_JPEG else name
  if len(head) > 2 and head[:1] == b'P' and head[1:2] in b'123456' and head[2:3].isspace():
    return 'PPM'
  if tail == _TGA_END or (
    path.suffix.lower() == '.tga'
    and len(head) > 18
    and head[1] in (0, 1)
    and head[2] in (1, 2, 3, 9, 10, 11)
  ):
    return 'TGA'
  return None


def heif_turns_itself(path: str | os.PathLike) -> bool:
  """Whether a HEIC file holds a turn or a mirror image of its own, which its reader applies; then
  EXIF's does not count.

  Source: ISO/IEC 23008-12, 6.5.10 and 6.5.12; the properties lie before the pixels.
  """
  with open(path, 'rb') as stream:
    head = stream.read(1 << 20)
  return b'irot' in head or b'imir' in head
