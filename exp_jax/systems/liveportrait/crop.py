"""From the picture to the square that the networks read, and the mask with which
`exp_jax.media.paste` puts it back.

Matrices are [3, 3], pixels to pixels, in the convention of the published pipeline: a pixel's centre
is at whole numbers.
Warps are bilinear with zeros outside. Letters: N points, S pixels of a square crop, H, W of a
picture.
Source: the published pipeline's crop rectangle and paste-back mask.
"""

import numpy as np

from exp_jax.media.squares import Square
from exp_jax.media.warps import bilinear_map


def square_about(
  points: np.ndarray,
  eyes: np.ndarray,
  mouth: np.ndarray,
  *,
  scale: float,
  vx: float = 0.0,
  vy: float = 0.0,
) -> Square:
  """The square about a face, upright in the face's own axes.

  Args:
    points: [N, 2] pixels that shall be inside.
    eyes: [2] the point midway between the eyes. mouth: [2] midway between the mouth's corners.
    scale: side over the larger extent of the points. vx, vy: shift of the centre along the face's
      axes, in sides.
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
  return Square(
    np.mean([s.center for s in squares], 0), float(np.mean([s.side for s in squares])), 0.0
  )


def cut(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
  """The crop of uint8 [H, W, 3] by a matrix of `Square`: float32 [size, size, 3] in 0..255.

  Where two or more pixels fall into one, blocks of them are averaged first.
  """
  scale = np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
  factor = int(1 / scale + 1e-6)
  if factor >= 2:
    image = np.pad(
      image, ((0, -image.shape[0] % factor), (0, -image.shape[1] % factor), (0, 0)), mode='edge'
    )
    H, W, C = image.shape
    image = image.reshape(H // factor, factor, W // factor, factor, C).mean(
      (1, 3), dtype=np.float32
    )
    matrix = matrix @ np.array(
      [[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]]
    )
  return bilinear_map(matrix, image.shape[:2], (size, size))(image)


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

  floor(255 clip(1 - d / f, 0, 1)), with d the distance to the square from f to size - f. At 512 and
  feather 1 it is the published mask, pixel for pixel.
  """
  f = feather * size / 32
  place = np.arange(size, dtype=np.float64)
  beyond = np.maximum(np.maximum(f - place, place - (size - f)), 0)
  distance = np.hypot(beyond[:, None], beyond[None])
  return np.floor(
    255 * np.clip(1 - distance / f, 0, 1) if f else np.where(distance > 0, 0, 255)
  ).astype(np.uint8)
