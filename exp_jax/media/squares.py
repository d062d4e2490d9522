"""Squares and boxes of pictures: where they lie, and their pixels cut out.

`exp_jax.media.paste` puts them back.

Pixel coordinates: the top-left pixel has its centre at (0.5, 0.5). `from_integer_centers` takes
matrices of the other convention (OpenCV's), where it is (0, 0). Three records say where a part
lies: a `Crop` is upright and square, a `Square` may be turned, and a `Cut` is any affine map of a
source to a crop.

    cut = Square((320, 240), side=300, angle=0.1).cut(512)
    crop = cut_out(frame, cut)                                   # [512, 512, 3] float32, 0..255

Letters: H, W source; h, w crop; T frames; K points.
"""

import dataclasses

import numpy as np
from PIL import Image

from exp_jax.media.warps import warp

# of the square about a head, and how far its centre is above the face's; in face heights
_SIDE, _LIFT = 2.1, 0.12
_ROOM = 1.25  # its least side, relative to the box that the face moves in


@dataclasses.dataclass(frozen=True)
class Crop:
  """An upright square.

  Attributes:
    left, top: its corner, source pixels.
    side: source pixels.
    size: pixels of its side after resampling.
  """

  left: float
  top: float
  side: float
  size: int

  @property
  def scale(self) -> float:
    """Crop pixels per source pixel."""
    return self.size / self.side

  def to_crop(self, points: np.ndarray) -> np.ndarray:
    """[..., 2] source pixels -> crop pixels."""
    return ((points - np.array([self.left, self.top])) * self.scale).astype(np.float32)

  def matrix(self) -> np.ndarray:
    """[3, 3] float32, crop pixels -> source pixels, homogeneous."""
    return np.array(
      [[1 / self.scale, 0, self.left], [0, 1 / self.scale, self.top], [0, 0, 1]], np.float32
    )

  def cut(self, image: np.ndarray) -> np.ndarray:
    """Resamples the square out of uint8 [H, W, 3] or [H, W], with antialiasing; outside the source
    the border is repeated."""
    left, top, side, (height, width) = self.left, self.top, self.side, image.shape[:2]
    margin = int(np.ceil(max(0, -left, -top, left + side - width, top + side - height)))
    if margin:
      image = np.pad(
        image, ((margin, margin), (margin, margin)) + ((0, 0),) * (image.ndim - 2), mode='edge'
      )
    box = (left + margin, top + margin, left + margin + side, top + margin + side)
    return np.array(
      Image.fromarray(image).resize((self.size, self.size), Image.Resampling.LANCZOS, box=box)
    )

  def cut_values(self, values: np.ndarray) -> np.ndarray:
    """Like `cut`, of float32 [H, W] or [H, W, C], linear: no ringing at the border of a map."""
    channels = values[..., None] if values.ndim == 2 else values
    height, width = channels.shape[:2]
    step = (np.arange(self.size) + 0.5) / self.scale - 0.5
    reduced = max(1, round(1 / self.scale))  # a box of this many samples where pixels merge
    offsets = (np.arange(reduced) + 0.5) / reduced - 0.5
    rows = np.zeros((self.size, height), np.float32)
    columns = np.zeros((self.size, width), np.float32)
    for matrix, corner in ((rows, self.top), (columns, self.left)):
      extent = matrix.shape[1]
      for offset in offsets:
        place = np.clip(step + corner + offset / self.scale, 0, extent - 1)
        low = np.minimum(place.astype(int), max(extent - 2, 0))
        matrix[np.arange(self.size), low] += (1 - (place - low)) / reduced
        matrix[np.arange(self.size), np.minimum(low + 1, extent - 1)] += (place - low) / reduced
    total = np.einsum('ah,hwc,bw->abc', rows, channels, columns, optimize=True)
    return total[..., 0] if values.ndim == 2 else total

  def inside(self, image_size: tuple[int, int]) -> np.ndarray:
    """[size, size] float32: 1 where the crop shows the source, 0 beyond its border."""
    place = (np.arange(self.size) + 0.5) / self.scale
    rows = (0 <= place + self.top) & (place + self.top <= image_size[0])
    columns = (0 <= place + self.left) & (place + self.left <= image_size[1])
    return (rows[:, None] & columns[None]).astype(np.float32)


def crop_of(matrix: np.ndarray, width: int, size: int) -> Crop:
  """The upright square that a matrix cuts.

  Args:
    matrix: [3, 3], source pixels -> pixels of a crop.
    width: pixels of that crop.
    size: pixels that the square is resampled to.
  """
  back = np.linalg.inv(matrix)
  return Crop(float(back[0, 2]), float(back[1, 2]), float(back[0, 0] * width), size)


def head_place(points: np.ndarray) -> tuple[np.ndarray, float, float]:
  """The square about a head in all frames, wherever the picture ends.

  Args:
    points: [T, K, 2] pixels of the skin.

  Returns:
    middle: [2] of all points.
    lift: how far above it the square's centre lies, towards the hair, pixels.
    side: at least 2.1 face heights (chin to forehead, median over the frames), pixels.
  """
  low, high = points.min(1), points.max(1)  # [T, 2]
  face = np.median((high - low).max(-1))
  low, high = low.min(0), high.max(0)
  return (low + high) / 2, _LIFT * face, max(_SIDE * face, _ROOM * (high - low).max())


@dataclasses.dataclass(frozen=True)
class Cut:
  """A turned square or a box.

  Attributes:
    matrix: [2, 3] float64, source pixels -> crop pixels.
    size: (h, w) of the crop, pixels.
  """

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
    return Cut(
      self.matrix * np.array([[size[1] / self.size[1]], [size[0] / self.size[0]]]), tuple(size)
    )


@dataclasses.dataclass(frozen=True)
class Square:
  """A square that may be turned.

  Attributes:
    center: (x, y) in pixels of the source.
    side: source pixels.
    angle: radians by which it is turned in the picture, clockwise on screen; the crop is upright.
  """

  center: np.ndarray | tuple[float, float]
  side: float
  angle: float = 0.0

  def matrix(self, size: int, *, rotate: bool = True) -> np.ndarray:
    """[3, 3] float64, source pixels -> pixels of a crop of `size`; its centre lands at size / 2, in
    the convention of `center`.

    Raises:
      ValueError: side or size is not positive.
    """
    if not (self.side > 0 and size > 0):
      raise ValueError(f'side and size must be positive, got {self.side} and {size}')
    k, (cx, cy) = size / self.side, self.center
    cos, sin = (np.cos(self.angle), np.sin(self.angle)) if rotate else (1.0, 0.0)
    return np.array(
      [
        [k * cos, k * sin, size / 2 - k * (cos * cx + sin * cy)],
        [-k * sin, k * cos, size / 2 - k * (-sin * cx + cos * cy)],
        [0, 0, 1],
      ]
    )

  def cut(self, size: int) -> Cut:
    """The square as size x size pixels."""
    return Cut(self.matrix(size)[:2], (size, size))


def from_integer_centers(matrix: np.ndarray, size: tuple[int, int]) -> Cut:
  """A [2, 3] or [3, 3] matrix between pixel indices (OpenCV's convention) as a Cut."""
  matrix = np.asarray(matrix, np.float64)[:2]
  shift = matrix[:, 2] + 0.5 - matrix[:, :2] @ np.array([0.5, 0.5])
  return Cut(np.concatenate([matrix[:, :2], shift[:, None]], 1), tuple(size))


def cut_out(image: np.ndarray, cut: Cut, *, kernel: str = 'linear') -> np.ndarray:
  """The crop of [H, W] or [H, W, C] as float32 [h, w(, C)] in the image's range, its border
  repeated; `kernel` as of `warp`."""
  return warp(image, cut.inverse(), cut.size, kernel=kernel)


def cut_picture(image: np.ndarray, cut: Cut) -> np.ndarray:
  """The part of uint8 [H, W, 3] that `cut` names, as portraits are cut (`Crop`) -> uint8 [h, w, 3].

  Squares that are turned, and boxes, are resampled by `cut_out`, cubic.
  """
  inverse = cut.inverse()
  turned = np.abs(inverse[:, :2] - inverse[0, 0] * np.eye(2)).max() > 1e-6 * inverse[0, 0]
  if cut.size[0] == cut.size[1] and inverse[0, 0] > 0 and not turned:
    return Crop(inverse[0, 2], inverse[1, 2], inverse[0, 0] * cut.size[0], cut.size[0]).cut(image)
  return np.clip(np.rint(cut_out(image, cut, kernel='cubic')), 0, 255).astype(np.uint8)


def cut_bytes(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
  """The crop as published alignments of faces make it: bilinear, nothing averaged where it shrinks,
  black outside.

  Args:
    image: uint8 [H, W, 3].
    matrix: [2, 3], source pixels -> crop pixels.
    size: pixels of the crop's side.

  Returns:
    uint8 [size, size, 3].
  """
  inverse = np.linalg.inv(np.concatenate([matrix, [[0, 0, 1]]]))[:2]
  return np.asarray(
    Image.fromarray(image).transform(
      (size, size), Image.Transform.AFFINE, inverse.reshape(-1), Image.Resampling.BILINEAR
    )
  )
