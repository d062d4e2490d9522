"""Cut a turned square out of a picture, and put what was made of it back at the picture's own resolution.

A `Cut` is a similarity: source pixels -> crop pixels, p' = k R p + t. Pixel coordinates as in all of the house: the top-left
pixel has its centre at (0.5, 0.5); `from_integer_centers` takes matrices of the other convention (OpenCV's), where it is (0, 0).
Pasting touches the source only where the warped mask is positive: everything else stays as it was, bit for bit.

    cut = square_cut((320, 240), side=300, angle=0.1, size=512)
    crop = cut_out(frame, cut)                                   # [512, 512, 3] float32, 0..255
    patch = open_patch(cut, feathered_box((512, 512)), frame.shape[:2])
    frame = paste(patch, frame, edited)                          # edited [512, 512, 3], uint8 or float in 0..1

Several faces: paste one after the other, largest first. Letters: H, W source; h, w crop.
"""

import dataclasses

import numpy as np
from PIL import Image

_KERNELS = {'linear': Image.Resampling.BILINEAR, 'cubic': Image.Resampling.BICUBIC}


@dataclasses.dataclass(frozen=True)
class Cut:
  """matrix [2, 3] float64, source pixels -> crop pixels (a similarity); size (h, w) of the crop, pixels."""
  matrix: np.ndarray
  size: tuple[int, int]

  @property
  def scale(self) -> float:
    """Crop pixels per source pixel."""
    return float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

  def inverse(self) -> np.ndarray:
    """[2, 3], crop pixels -> source pixels."""
    linear = np.linalg.inv(self.matrix[:, :2])
    return np.concatenate([linear, -linear @ self.matrix[:, 2:]], 1)

  def to_crop(self, points: np.ndarray) -> np.ndarray:
    """[..., 2] source pixels -> crop pixels."""
    return points @ self.matrix[:, :2].T + self.matrix[:, 2]

  def to_source(self, points: np.ndarray) -> np.ndarray:
    """[..., 2] crop pixels -> source pixels."""
    inverse = self.inverse()
    return points @ inverse[:, :2].T + inverse[:, 2]

  def resized(self, size: tuple[int, int]) -> 'Cut':
    """The same place at another (h, w): networks often give back more pixels than they took."""
    return Cut(self.matrix * np.array([[size[1] / self.size[1]], [size[0] / self.size[0]]]), tuple(size))


def square_cut(center: tuple[float, float], *, side: float, size: int, angle: float = 0.0) -> Cut:
  """A square of `side` source pixels about `center` (x, y), as size x size pixels.

  Args:
    angle: radians by which the head is turned in the picture, clockwise on screen; the crop shows it upright.

  Raises:
    ValueError: side or size is not positive.
  """
  if not (side > 0 and size > 0):
    raise ValueError(f'side and size must be positive, got {side} and {size}')
  k, c, s = size / side, np.cos(angle), np.sin(angle)
  linear = k * np.array([[c, s], [-s, c]])
  offset = size / 2 - linear @ np.asarray(center, np.float64)
  return Cut(np.concatenate([linear, offset[:, None]], 1), (size, size))


def box_cut(left: float, top: float, side: float, size: int) -> Cut:
  """An upright square by its top-left corner, as `exp_jax.observe.face_crop.Crop` has it."""
  return square_cut((left + side / 2, top + side / 2), side=side, size=size)


def upright_square(image: np.ndarray, *, left: float, top: float, side: float, size: int) -> np.ndarray:
  """An upright square of uint8 [H, W, 3] or [H, W], resampled with antialiasing -> uint8 [size, size(, 3)].

  Args:
    left, top, side: in pixels of the image; beyond its border the border is repeated.
  """
  height, width = image.shape[:2]
  margin = int(np.ceil(max(0, -left, -top, left + side - width, top + side - height)))
  if margin:
    image = np.pad(image, ((margin, margin), (margin, margin)) + ((0, 0),) * (image.ndim - 2), mode='edge')
  box = (left + margin, top + margin, left + margin + side, top + margin + side)
  return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS, box=box))


def cut_picture(image: np.ndarray, cut: Cut) -> np.ndarray:
  """The part of uint8 [H, W, 3] that `cut` names, as portraits are cut (`upright_square`) -> uint8 [h, w, 3].

  Squares that are turned, and boxes, are resampled by `cut_out`, cubic.
  """
  inverse = cut.inverse()
  turned = np.abs(inverse[:, :2] - inverse[0, 0] * np.eye(2)).max() > 1e-6 * inverse[0, 0]
  if cut.size[0] == cut.size[1] and inverse[0, 0] > 0 and not turned:
    return upright_square(image, left=inverse[0, 2], top=inverse[1, 2], side=inverse[0, 0] * cut.size[0], size=cut.size[0])
  return np.clip(np.rint(cut_out(image, cut, kernel='cubic')), 0, 255).astype(np.uint8)


def from_integer_centers(matrix: np.ndarray, size: tuple[int, int]) -> Cut:
  """A [2, 3] or [3, 3] matrix between pixel indices (OpenCV's convention) as a Cut."""
  matrix = np.asarray(matrix, np.float64)[:2]
  shift = matrix[:, 2] + 0.5 - matrix[:, :2] @ np.array([0.5, 0.5])
  return Cut(np.concatenate([matrix[:, :2], shift[:, None]], 1), tuple(size))


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], *, border: str = 'edge', kernel: str = 'linear'
         ) -> np.ndarray:
  """Resamples an image under an affine map.

  Where the map shrinks, boxes of whole pixels are averaged first, so that nothing aliases.

  Args:
    image: [H, W] or [H, W, C], any number type.
    matrix: [2, 3], result pixels -> image pixels, centres at 0.5.
    size: (height, width) of the result.
    border: 'edge' repeats the image's border, 'zero' is 0 beyond it, blended over the last half pixels.
    kernel: 'linear' or 'cubic' (sharper where it enlarges; overshoots).

  Returns:
    float32 [*size(, C)] in the image's own range.
  """
  channels = image[..., None] if image.ndim == 2 else image
  reduced = max(1, int(np.floor(np.sqrt(abs(np.linalg.det(matrix[:, :2]))) + 1e-6)))
  corners = np.array([[0, 0], [size[1], 0], [0, size[0]], [size[1], size[0]]], np.float64) @ matrix[:, :2].T + matrix[:, 2]
  # Only what the result can see is touched, plus a margin for the kernel.
  margin = 2 * reduced + 2
  low, high = np.floor(corners.min(0)).astype(int) - margin, np.ceil(corners.max(0)).astype(int) + margin
  height, width = image.shape[:2]
  if border == 'zero':
    low, high = np.maximum(low, -margin), np.minimum(high, [width + margin, height + margin])
    low = np.minimum(low, high - 1)
  inside_low, inside_high = np.clip(low, 0, [width, height]), np.clip(high, 0, [width, height])
  if (inside_high <= inside_low).any():
    if border == 'zero':
      return np.zeros((*size, *image.shape[2:]), np.float32)
    inside_low = np.clip(low, 0, [width - 1, height - 1])
    inside_high = np.maximum(inside_high, inside_low + 1)
  part = channels[inside_low[1]:inside_high[1], inside_low[0]:inside_high[0]]
  before, after = np.maximum(inside_low - low, 0), np.maximum(high - inside_high, 0)
  pad = ((before[1], after[1]), (before[0], after[0]), (0, 0))
  part = np.pad(part, pad, mode='edge' if border == 'edge' else 'constant')
  offset = matrix[:, 2] - (inside_low - before)
  coefficients = np.concatenate([matrix[:, :2], offset[:, None]], 1) / reduced
  planes = []
  for c in range(part.shape[-1]):
    plane = Image.fromarray(np.ascontiguousarray(part[..., c], np.float32))
    plane = plane.reduce(reduced) if reduced > 1 else plane
    planes.append(np.asarray(plane.transform((size[1], size[0]), Image.Transform.AFFINE, tuple(coefficients.ravel()),
                                             _KERNELS[kernel])))
  return planes[0] if image.ndim == 2 else np.stack(planes, -1)


def cut_out(image: np.ndarray, cut: Cut, *, border: str = 'edge', kernel: str = 'linear') -> np.ndarray:
  """The crop of [H, W] or [H, W, C] as float32 [h, w(, C)] in the image's range; arguments as of `warp`."""
  return warp(image, cut.inverse(), cut.size, border=border, kernel=kernel)


def feathered_box(size: tuple[int, int], *, feather: float = 1 / 16, inset: float = 0.0) -> np.ndarray:
  """[h, w] float32: 1 inside, falling linearly to 0 toward the border of the crop, so that no edge is seen.

  Args:
    size: (h, w).
    feather: width of the ramp as a share of the shorter side.
    inset: share of the shorter side that stays 0 along the border.
  """
  short = min(size)
  ramp = max(feather * short, 1e-6)
  distances = []
  for extent in size:
    place = np.arange(extent) + 0.5
    distances.append(np.maximum(0, inset * short + ramp - np.minimum(place, extent - place)))
  away = np.hypot(distances[0][:, None], distances[1][None])
  return np.clip(1 - away / ramp, 0, 1).astype(np.float32)


def feathered(mask: np.ndarray, radius: int) -> np.ndarray:
  """[h, w] in 0..1 -> the same, softened inward over about `radius` pixels: never positive where it was 0 before.

  For masks with a shape (a face, a matte): the product of the mask and its own average over a square, rescaled so that the
  middle stays 1 and the old border becomes 0.
  """
  mask = np.asarray(mask, np.float32)
  if radius < 1:
    return mask
  width = 2 * radius + 1
  average = np.pad(mask, radius, mode='edge')
  for axis in (0, 1):
    total = np.cumsum(np.pad(average, [(1, 0) if a == axis else (0, 0) for a in (0, 1)]), axis=axis, dtype=np.float64)
    ends = [slice(None)] * 2, [slice(None)] * 2
    ends[0][axis], ends[1][axis] = slice(width, None), slice(None, -width)
    average = (total[tuple(ends[0])] - total[tuple(ends[1])]) / width
  return (mask * np.clip(2 * average - 1, 0, 1)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Patch:
  """Where a crop goes back: box (top, bottom, left, right) of the source that can change, mask [b, r] float32 there."""
  cut: Cut
  box: tuple[int, int, int, int]
  mask: np.ndarray


def open_patch(cut: Cut, mask: np.ndarray, source_size: tuple[int, int]) -> Patch:
  """Prepares pasting: once for a still source, once a frame where the crop or the mask moves.

  Args:
    cut: how the crop was cut out.
    mask: [h, w] in 0..1 over the crop, any size (it covers the same place).
    source_size: (H, W).
  """
  cut = cut.resized(mask.shape)
  h, w = mask.shape
  rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
  if not len(rows):
    return Patch(cut, (0, 0, 0, 0), np.zeros((0, 0), np.float32))
  top, bottom, left, right = rows[0] - 1, rows[-1] + 2, columns[0] - 1, columns[-1] + 2
  corners = cut.to_source(np.array([[left, top], [right, top], [left, bottom], [right, bottom]], np.float64))
  low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, source_size[::-1])
  high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, source_size[::-1])
  box = int(low[1]), int(high[1]), int(low[0]), int(high[0])
  if box[1] <= box[0] or box[3] <= box[2]:
    return Patch(cut, (0, 0, 0, 0), np.zeros((0, 0), np.float32))
  warped = warp(np.asarray(mask, np.float32), _shifted(cut.matrix, box), (box[1] - box[0], box[3] - box[2]), border='zero')
  return Patch(cut, box, np.clip(warped, 0, 1))


def paste(patch: Patch, source: np.ndarray, edited: np.ndarray, *, kernel: str = 'linear') -> np.ndarray:
  """The source with the edited crop in its place.

  Args:
    patch: of `open_patch`.
    source: uint8 [H, W, 3]; is not changed.
    edited: [h, w, 3] of the crop at any size, uint8 or float in 0..1.
    kernel: 'linear', or 'cubic' for sharper edges where the crop is enlarged.

  Returns:
    uint8 [H, W, 3]: equal to the source, bit for bit, where the mask is 0.
  """
  out = source.copy()
  top, bottom, left, right = patch.box
  if bottom <= top or right <= left:
    return out
  values = edited.astype(np.float32) if edited.dtype == np.uint8 else 255 * np.clip(np.nan_to_num(edited), 0, 1)
  cut = patch.cut.resized(edited.shape[:2])
  warped = warp(values, _shifted(cut.matrix, patch.box), patch.mask.shape, kernel=kernel)
  under, share = source[top:bottom, left:right], patch.mask[..., None]
  mixed = np.rint(np.clip(share * warped + (1 - share) * under, 0, 255)).astype(np.uint8)
  out[top:bottom, left:right] = np.where(share > 0, mixed, under)
  return out


def paste_back(source: np.ndarray, edited: np.ndarray, cut: Cut, mask: np.ndarray | None = None, *, kernel: str = 'linear'
               ) -> np.ndarray:
  """`open_patch` and `paste` in one call, for a single picture; without a mask the box is feathered at its border."""
  mask = feathered_box(edited.shape[:2]) if mask is None else mask
  return paste(open_patch(cut, mask, source.shape[:2]), source, edited, kernel=kernel)


def _shifted(matrix: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
  """A map of source pixels as one of pixels of the box (top, bottom, left, right) in the source."""
  corner = np.array([box[2], box[0]], np.float64)
  return np.concatenate([matrix[:, :2], (matrix[:, 2] + matrix[:, :2] @ corner)[:, None]], 1)
