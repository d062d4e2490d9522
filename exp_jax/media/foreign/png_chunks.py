"""The chunks of a PNG file that may be left out: text that unpacks to megabytes, profiles that do,
and damaged ones.

Programs that make pictures store whole work flows as text, and a chunk of 80 kB can unpack to 80
MB. The picture does not need them; all viewers show it. Format: W3C, Portable Network Graphics
(PNG) Specification, 3rd ed., sec. 5 and 11.3.
"""

import io
import zlib

SIGNATURE = b'\x89PNG\r\n\x1a\n'
_MOST_TEXT = 250_000  # bytes of one chunk, unpacked; EXIF that is stored as text is smaller
_MOST_TEXTS = 4_000_000  # bytes of all of them together
_MOST_PROFILE = 8_000_000  # bytes; the largest profiles of printers have 3 MB
_TEXT = (b'tEXt', b'zTXt', b'iTXt')


def unpacked(data: bytes, most: int) -> bytes | None:
  """The content of a zlib stream; None if it has more than `most` bytes or is damaged.

  Memory stays within `most`.
  """
  stream = zlib.decompressobj()
  try:
    content = stream.decompress(data, most)
  except zlib.error:
    return None
  return content if stream.eof else None


def _text_length(kind: bytes, data: bytes) -> int | None:
  """Bytes of a text chunk, unpacked; None: too many, or damaged."""
  if len(data) > _MOST_TEXT:
    return None
  packed = None
  if kind == b'zTXt':
    packed = data[data.find(b'\0') + 2 :]
  elif kind == b'iTXt':
    key, _, rest = data.partition(b'\0')
    if rest[:1] == b'\1':
      packed = rest[2:].partition(b'\0')[2].partition(b'\0')[2]
  if packed is None:
    return len(data)
  content = unpacked(packed, _MOST_TEXT)
  return None if content is None else len(content)


def cleaned(content: bytes) -> tuple[io.BytesIO | None, bytes | None]:
  """A PNG file without the chunks that a picture does not need and that are too large or damaged.

  Returns:
    stream: the file without them; None if nothing had to go.
    profile: the colour profile, if its chunk was taken out although it is sound; else None.
  """
  parts, profile, texts, at, gone = [content[:8]], None, 0, 8, False
  while at + 12 <= len(content):
    length = int.from_bytes(content[at : at + 4])
    kind, data, end = content[at + 4 : at + 8], content[at + 8 : at + 8 + length], at + 12 + length
    keep = True
    if kind in _TEXT or kind == b'iCCP':
      whole = end <= len(content) and zlib.crc32(kind + data) == int.from_bytes(
        content[end - 4 : end]
      )
      if kind == b'iCCP':
        keep, profile = (
          False,
          unpacked(data[data.find(b'\0') + 2 :], _MOST_PROFILE) if whole else None,
        )
      else:
        size = _text_length(kind, data) if whole else None
        texts += size or 0
        keep = size is not None and texts <= _MOST_TEXTS
    if keep:
      parts.append(content[at:end])
    gone, at = gone or not keep, end
    if kind == b'IEND':
      break
  return (io.BytesIO(b''.join(parts)) if gone else None), profile
