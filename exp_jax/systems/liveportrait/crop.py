"""From the picture to the square that the networks read, and back without touching anything else.

Matrices are [3, 3], pixels to pixels, in the convention of the published pipeline: a pixel's centre is at whole numbers.
Warps are bilinear with zeros outside. Letters: N points, S pixels of a square crop, H, W of a picture.
Source: the published pipeline's crop rectangle and paste-back mask.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Square:
  """A rotated square in a picture: centre (x, y) and side in pixels, angle in radians (clockwise as seen)."""
  center: np.ndarray
  side: float
  angle: float

  def matrix(self, size: int, *, rotate: bool = True) -> np.ndarray:
    """[3, 3] float64: picture -> crop of `size` pixels."""
    k, (cx, cy) = size / self.side, self.center
    cos, sin = (np.cos(self.angle), np.sin(self.angle)) if rotate else (1.0, 0.0)
    return np.array([[k * cos, k * sin, size / 2 - k * (cos * cx + sin * cy)],
                     [-k * sin, k * cos, size / 2 - k * (-sin * cx + cos * cy)], [0, 0, 1]])


def square_about(points: np.ndarray, eyes: np.ndarray, mouth: np.ndarray, *, scale: float, vx: float = 0.0,
                 vy: float = 0.0) -> Square:
  """The square about a face, upright in the face's own axes.

  Args:
    points: [N, 2] pixels that shall be inside.
    eyes: [2] the point midway between the eyes. mouth: [2] midway between the mouth's corners.
    scale: side over the larger extent of the points. vx, vy: shift of the centre along the face's axes, in sides.
  """
  points, down = np.asarray(points, np.float64), np.asarray(mouth, np.float64) - eyes
  length = np.linalg.norm(down)
  down = down / length if length > 1e-3 else np.array([0.0, 1.0])
  right = np.array([down[1], -down[0]])
  angle = np.arccos(np.clip(right[0], -1, 1)) * (-1 if right[1] < 0 else 1)
  middle = points.mean(0)
  own = (points - middle) @ np.stack([right, down]).T
  low, high = own.min(0), own.max(0)
  side = (high - low).max() * scale
  center = middle + (low + high) / 2 @ np.stack([right, down]) + side * (vx * right + vy * down)
  return Square(center, float(side), float(angle))


def mean_square(squares) -> Square:
  """One upright square for a whole clip: the means of centres and sides."""
  return Square(np.mean([s.center for s in squares], 0), float(np.mean([s.side for s in squares])), 0.0)


class Warp:
  """dst(x, y) = src(M^-1 (x, y)) for one matrix and one size, ready to be used for many pictures."""

  def __init__(self, matrix: np.ndarray, source_size: tuple[int, int], size: tuple[int, int], origin: tuple[int, int] = (0, 0)):
    """matrix: source -> destination. sizes: (H, W). origin: (row, column) of the destination's first pixel."""
    inverse = np.linalg.inv(matrix)
    rows, columns = np.mgrid[origin[0]:origin[0] + size[0], origin[1]:origin[1] + size[1]].astype(np.float64)
    x, y = (inverse[i, 0] * columns + inverse[i, 1] * rows + inverse[i, 2] for i in (0, 1))
    H, W = source_size
    self.shape = (H, W)
    x, y = np.clip(x, -1, W), np.clip(y, -1, H)                  # one pixel beyond the border all is zero
    left, top = np.minimum(np.floor(x), W - 1), np.minimum(np.floor(y), H - 1)
    self._index = ((top + 1) * (W + 2) + left + 1).astype(np.int64)
    u, v = (x - left).astype(np.float32), (y - top).astype(np.float32)
    self._weights = ((1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v)

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """[H, W, C] or [H, W] -> float32 of the destination's size, in the image's own units."""
    flat = image if image.ndim == 3 else image[..., None]
    if flat.shape[:2] != self.shape:
      raise ValueError(f'a picture of {flat.shape[:2]} in a warp of {self.shape}')
    padded = np.pad(flat, ((1, 1), (1, 1), (0, 0))).reshape(-1, flat.shape[-1])
    stride = self.shape[1] + 2
    out = sum(weight[..., None] * padded[self._index + step] for weight, step in zip(self._weights, (0, 1, stride, stride + 1)))
    return out if image.ndim == 3 else out[..., 0]


def cut(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
  """The crop of uint8 [H, W, 3] by a matrix of `Square`: float32 [size, size, 3] in 0..255.

  Where two or more pixels fall into one, blocks of them are averaged first.
  """
  scale = np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
  factor = int(1 / scale + 1e-6)
  if factor >= 2:
    image = np.pad(image, ((0, -image.shape[0] % factor), (0, -image.shape[1] % factor), (0, 0)), mode='edge')
    H, W, C = image.shape
    image = image.reshape(H // factor, factor, W // factor, factor, C).mean((1, 3), dtype=np.float32)
    matrix = matrix @ np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
  return Warp(matrix, image.shape[:2], (size, size))(image)


def squeezed(size: tuple[int, int], target: int) -> np.ndarray:
  """[3, 3] of a whole picture (H, W) squeezed into a square, pixel areas onto pixel areas."""
  y, x = (target / n for n in size)
  return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def network_input(crops: np.ndarray) -> np.ndarray:
  """[..., 2 S, 2 S, 3] in 0..255 -> [..., S, S, 3] float32 in [0, 1]: means of 2 x 2."""
  *lead, H, W, C = crops.shape
  means = crops.reshape(*lead, H // 2, 2, W // 2, 2, C).mean((-4, -2), dtype=np.float32)
  return np.clip(means / 255, 0, 1)


def blend_mask(size: int, *, feather: float = 1.0) -> np.ndarray:
  """[size, size] uint8: 255 inside, falling to 0 at the border over `feather` * size / 32 pixels.

  floor(255 clip(1 - d / f, 0, 1)), with d the distance to the square from f to size - f. At 512 and feather 1 it is the
  published mask, pixel for pixel.
  """
  f = feather * size / 32
  place = np.arange(size, dtype=np.float64)
  beyond = np.maximum(np.maximum(f - place, place - (size - f)), 0)
  distance = np.hypot(beyond[:, None], beyond[None])
  return np.floor(255 * np.clip(1 - distance / f, 0, 1) if f else np.where(distance > 0, 0, 255)).astype(np.uint8)


class PasteBack:
  """Puts painted squares back where a crop was taken. Only pixels under the mask are computed, or changed."""

  def __init__(self, matrix: np.ndarray, image_size: tuple[int, int], size: int, *, feather: float = 1.0):
    """matrix: picture -> crop of `size` pixels. image_size: (H, W)."""
    back = np.linalg.inv(matrix)
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ back.T
    low = np.maximum(np.floor(corners.min(0)[:2]).astype(int) - 1, 0)
    high = np.minimum(np.ceil(corners.max(0)[:2]).astype(int) + 2, image_size[::-1])
    self._box = (slice(low[1], max(high[1], low[1])), slice(low[0], max(high[0], low[0])))
    shape = tuple(s.stop - s.start for s in self._box)
    self._warp = Warp(back, (size, size), shape, (low[1], low[0]))
    self._mask = (np.rint(self._warp(blend_mask(size, feather=feather))) / np.float32(255))[..., None].astype(np.float32)

  def __call__(self, canvas: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """canvas: uint8 [H, W, 3], left alone. picture: [size, size, 3] in [0, 1]. -> uint8 [H, W, 3]."""
    out = canvas.copy()
    painted = np.floor(255 * np.clip(np.asarray(picture, np.float32), 0, 1))
    mixed = self._mask * np.rint(self._warp(painted)) + (1 - self._mask) * out[self._box]
    out[self._box] = np.clip(mixed, 0, 255).astype(np.uint8)     # truncated, as published
    return out

  @property
  def box(self) -> tuple[slice, slice]:
    """Rows and columns of the picture that can change."""
    return self._box

  @property
  def mask(self) -> np.ndarray:
    """[h, w] float32 in 0..1 of the box."""
    return self._mask[..., 0]
