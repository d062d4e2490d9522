"""Where a film cuts from one shot to another, so that a clip shows one scene and one person.

Each frame is reduced to a picture of 16 x 16 cells; a cut is a change between two neighbours that
is large, stands out from
the changes around it, and stays: a flash of one frame comes back to what was there before.
Dissolves are not found.
"""

import collections.abc

import numpy as np
from PIL import Image

_CELLS = 16
_LEAST = 14.0  # mean change of a cell, of 255
_STANDS_OUT = 4.0  # times the median of the changes around it
_AROUND = 6  # frames to each side
_RETURNS = 0.5  # share of the change that is left when a flash is over


def cells(frame: np.ndarray) -> np.ndarray:
  """uint8 [H, W, 3] -> float32 [16, 16, 3], the average colour of each cell."""
  return np.asarray(
    Image.fromarray(frame).resize((_CELLS, _CELLS), Image.Resampling.BOX), np.float32
  )


def cuts(frames: collections.abc.Iterable[np.ndarray]) -> list[int]:
  """Numbers of the frames that begin a new shot, without 0.

  Args:
    frames: uint8 [H, W, 3] each; only their 16 x 16 cells are kept.
  """
  small = [cells(frame) for frame in frames]
  if len(small) < 2:
    return []
  apart = lambda one, other: float(np.abs(one - other).mean())
  change = np.array([0.0] + [apart(a, b) for a, b in zip(small, small[1:])])
  found = []
  for t in range(1, len(small)):
    around = np.concatenate([change[max(1, t - _AROUND) : t], change[t + 1 : t + 1 + _AROUND]])
    usual = float(np.median(around)) if len(around) else 0.0
    if change[t] < max(_LEAST, _STANDS_OUT * usual):
      continue
    flash_begins = t + 1 < len(small) and apart(small[t - 1], small[t + 1]) < _RETURNS * change[t]
    flash_ends = t > 1 and apart(small[t - 2], small[t]) < _RETURNS * change[t]
    if not (flash_begins or flash_ends):
      found.append(t)
  return found


def longest_shot(count: int, starts: list[int]) -> tuple[int, int]:
  """First frame, and one after the last, of the longest shot of `count` frames; the earlier one of
  equals."""
  edges = [0, *starts, count]
  return max(zip(edges, edges[1:]), key=lambda span: span[1] - span[0])
