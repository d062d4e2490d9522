"""Where to look for small faces: overlapping square tiles of a large picture, from large tiles to
small ones.

A face detector sees the whole picture scaled down to 192 or 128 pixels and misses faces narrower
than about 6 % of it. Tiles of half the side find those of 3 %, and so on. Standard library only:
MediaPipe's own process imports this file too.
"""

_SMALLEST = (
  400  # pixels of a tile's side; a face of 6 % of it, 24 pixels, is too small to be of use
)


def tile_levels(height: int, width: int) -> list[list[tuple[int, int, int]]]:
  """Tiles to try, level by level, until one level shows a face.

  Neighbours overlap by at least half, so that a face that is cut by one tile lies whole in another
  one.

  Returns:
    levels, each a list of (top, left, side); a tile may reach beyond the picture, where it is
    narrower than the side. None for pictures so small that the whole picture was enough.
  """
  levels, side = [], max(height, width) // 2
  while side >= _SMALLEST:
    levels.append(
      [(top, left, side) for top in _starts(height, side) for left in _starts(width, side)]
    )
    side //= 2
  return levels


def _starts(length: int, side: int) -> list[int]:
  """Where tiles begin along one axis."""
  if length <= side:
    return [0]
  count = -(-2 * (length - side) // side) + 1
  return sorted({round(i * (length - side) / (count - 1)) for i in range(count)})
