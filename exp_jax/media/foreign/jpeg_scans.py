"""Whether a JPEG file holds as much data as the size in its header needs.

libjpeg fills what is missing with grey, without an error: 691 bytes that claim 8000 x 8000 pixels take a gigabyte. Every block of
8 x 8 pixels needs at least one Huffman code of one bit, so the least length of the scans is known. Format: ITU-T T.81, annex B.
"""

_PIXELS_PER_BYTE = {0xc0: 512, 0xc1: 512, 0xc2: 1024}   # baseline needs two codes a block, progressive one; halved for odd samplings
_ALONE = (0x01, *range(0xd0, 0xd9))                     # markers without a length: TEM, RST0 to RST7, SOI


def scan_bytes(content: bytes) -> tuple[int | None, int]:
  """Frame marker (0xc0 baseline, 0xc2 progressive, ...; None: there is none) and bytes of compressed data of all scans."""
  at, frame, total = 2, None, 0
  while (at := content.find(b'\xff', at)) >= 0 and at + 1 < len(content):
    marker = content[at + 1]
    if marker in (0x00, 0xff) or marker in _ALONE:
      at += 1 if marker == 0xff else 2
      continue
    if marker == 0xd9:
      break
    if 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc):
      frame = marker if frame is None else frame
    at += 2 + int.from_bytes(content[at + 2:at + 4])
    if marker == 0xda:
      begin = at
      while (at := content.find(b'\xff', at)) >= 0 and at + 1 < len(content) and (
          content[at + 1] == 0 or 0xd0 <= content[at + 1] <= 0xd7):
        at += 2
      at = len(content) if at < 0 else at
      total += max(0, at - begin)
  return frame, total


def enough_for(content: bytes, pixels: int) -> bool:
  """False if the scans of a JPEG file are too short for so many pixels. True where the least length is not known."""
  frame, total = scan_bytes(content)
  return frame not in _PIXELS_PER_BYTE or total * _PIXELS_PER_BYTE[frame] >= pixels
