"""Crops put back into their pictures, at the pictures' own resolution.

    cut = Square((320, 240), side=300, angle=0.1).cut(512)
    patch = open_patch(cut, feathered_box((512, 512)), frame.shape[:2])
    frame = paste(patch, frame, edited)                          # edited [512, 512, 3], uint8 or float in 0..1

The source changes only where the mask, brought into the picture, is positive: everything else stays
as it was, bit for bit.
Several faces: paste one after the other, largest first. Letters: H, W source; h, w crop; b, r the
box that changes.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from exp_jax.media.squares import Cut
from exp_jax.media.warps import bilinear_map, warp


def feathered_box(size: tuple[int, int], *, feather: float = 1 / 16) -> np.ndarray:
  """[h, w] float32: 1 inside, falling linearly to 0 toward the border of the crop, so that no edge
  is seen.

  Args:
    size: (h, w).
    feather: width of the ramp as a share of the shorter side.
  """
  ramp = max(feather * min(size), 1e-6)
  distances = []
  for extent in size:
    place = np.arange(extent) + 0.5
    distances.append(np.maximum(0, ramp - np.minimum(place, extent - place)))
  away = np.hypot(distances[0][:, None], distances[1][None])
  return np.clip(1 - away / ramp, 0, 1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Patch:
  """Where a crop goes back.

  Attributes:
    box: (top, bottom, left, right) of the part of the source that can change.
    mask: [b, r] float32 in 0..1 of that part.
    warp: crop [h, w, 3] -> [b, r, 3] of that part.
    whole: whether grey levels are whole numbers before and after the warp, and rounded down at the
      end, as published.
  """

  box: tuple[int, int, int, int]
  mask: np.ndarray
  warp: Callable[[np.ndarray], np.ndarray] | None = None
  whole: bool = False


_NOTHING = Patch((0, 0, 0, 0), np.zeros((0, 0), np.float32))


def open_patch(
  cut: Cut, mask: np.ndarray, source_size: tuple[int, int], *, kernel: str = 'linear'
) -> Patch:
  """Prepares pasting: once for a still source, once a frame where the crop or the mask moves.

  Args:
    cut: how the crop was cut out; pictures of other sizes cover the same place.
    mask: [h, w] in 0..1 over the crop, of any size too.
    source_size: (H, W).
    kernel: for the picture; 'linear', or 'cubic' for sharper edges where the crop is enlarged.
  """
  h, w = mask.shape
  rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
  if not len(rows):
    return _NOTHING
  top, bottom, left, right = rows[0] - 1, rows[-1] + 2, columns[0] - 1, columns[-1] + 2
  corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]], np.float64)
  box = _box(cut.resized((h, w)).to_source(corners), source_size, after=1)
  if box[1] <= box[0] or box[3] <= box[2]:
    return _NOTHING
  size = box[1] - box[0], box[3] - box[2]
  place = lambda values: _shifted(cut.resized(values.shape[:2]).matrix, box)
  shown = warp(np.asarray(mask, np.float32), place(mask), size, border='zero')
  return Patch(
    box, np.clip(shown, 0, 1), lambda values: warp(values, place(values), size, kernel=kernel)
  )


def open_published_patch(
  matrix: np.ndarray, mask: np.ndarray, source_size: tuple[int, int]
) -> Patch:
  """The same as the published pipelines of OpenCV do it: plain bilinear maps, whole grey levels.

  Args:
    matrix: [3, 3], source -> crop, between pixel indices: the first pixel's centre is at (0, 0).
    mask: uint8 [h, w] of the crop; pictures must have its size.
    source_size: (H, W).
  """
  back, (h, w) = np.linalg.inv(matrix), mask.shape
  box = _box(
    (np.array([[0, 0, 1], [w, 0, 1], [0, h, 1], [w, h, 1]]) @ back.T)[:, :2], source_size, after=2
  )
  map_back = bilinear_map(back, (h, w), (box[1] - box[0], box[3] - box[2]), origin=(box[0], box[2]))
  return Patch(
    box, (np.rint(map_back(mask)) / np.float32(255)).astype(np.float32), map_back, whole=True
  )


def paste(patch: Patch, source: np.ndarray, edited: np.ndarray) -> np.ndarray:
  """The source with the edited crop in its place.

  Args:
    patch: of `open_patch` or `open_published_patch`.
    source: uint8 [H, W, 3]; is not changed.
    edited: [h, w, 3] of the crop, uint8 or float in 0..1.

  Returns:
    uint8 [H, W, 3]: equal to the source, bit for bit, where the mask is 0.
  """
  out = source.copy()
  top, bottom, left, right = patch.box
  if bottom <= top or right <= left:
    return out
  values = (
    edited.astype(np.float32)
    if edited.dtype == np.uint8
    else 255 * np.clip(np.nan_to_num(edited), 0, 1)
  )
  warped = np.rint(patch.warp(np.floor(values))) if patch.whole else patch.warp(values)
  under, share = source[top:bottom, left:right], patch.mask[..., None]
  mixed = np.clip(share * warped + (1 - share) * under, 0, 255)
  mixed = (np.floor(mixed) if patch.whole else np.rint(mixed)).astype(np.uint8)
  out[top:bottom, left:right] = np.where(share > 0, mixed, under)
  return out


def _box(
  corners: np.ndarray, source_size: tuple[int, int], *, after: int
) -> tuple[int, int, int, int]:
  """(top, bottom, left, right) about corners [N, 2] (x, y), a pixel wider before and `after` pixels
  after, inside the source."""
  low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, source_size[::-1])
  high = np.clip(np.ceil(corners.max(0)).astype(int) + after, 0, source_size[::-1])
  return int(low[1]), int(high[1]), int(low[0]), int(high[0])


def _shifted(matrix: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
  """A map of source pixels as one of pixels of the box (top, bottom, left, right) in the source."""
  corner = np.array([box[2], box[0]], np.float64)
  return np.concatenate([matrix[:, :2], (matrix[:, 2] + matrix[:, :2] @ corner)[:, None]], 1)
