"""Whether a JPEG file holds as much data as the size in its header needs.

libjpeg fills what is missing with grey, without an error: 691 bytes that claim 8000 x 8000 pixels
take a gigabyte. Every block of 8 x 8 pixels needs at least one Huffman code of one bit, so the
least length of the scans is known. Format: ITU-T T.81, annex B.
"""

# baseline needs two codes a block, progressive one; halved for odd samplings
_PIXELS_PER_BYTE = {0xC0: 512, 0xC1: 512, 0xC2: 1024}
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length: TEM, RST0 to RST7, SOI


def scan_bytes(content: bytes) -> tuple[int | None, int]:
  """Frame marker (0xc0 baseline, 0xc2 progressive, ...; None: there is none) and bytes of
  compressed data of all scans."""
  at, frame, total = 2, None, 0
  while (at := content.find(b'\xff', at)) >= 0 and at + 1 < len(content):
    marker = content[at + 1]
    if marker in (0x00, 0xFF) or marker in _ALONE:
      at += 1 if marker == 0xFF else 2
      continue
    if marker == 0xD9:
      break
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      frame = marker if frame is None else frame
    at += 2 + int.from_bytes(content[at + 2 : at + 4])
    if marker == 0xDA:
      begin = at
      while (
        (at := content.find(b'\xff', at)) >= 0
        and at + 1 < len(content)
        and (content[at + 1] == 0 or 0xD0 <= content[at + 1] <= 0xD7)
      ):
        at += 2
      at = len(content) if at < 0 else at
      total += max(0, at - begin)
  return frame, total


def enough_for(content: bytes, pixels: int) -> bool:
  """False if the scans of a JPEG file are too short for so many pixels.

  True where the least length is not known.
  """
  frame, total = scan_bytes(content)
  return frame not in _PIXELS_PER_BYTE or total * _PIXELS_PER_BYTE[frame] >= pixels
