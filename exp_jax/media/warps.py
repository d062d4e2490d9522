"""Resampling of pictures under affine maps, by two kernels.

`warp` is for pictures that are looked at: it averages where it shrinks, and its pixels have centres
at 0.5. `bilinear_map` is the plain bilinear interpolation of published pipelines, between pixel
indices, made once for many pictures of one size.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

_KERNELS = {'linear': Image.Resampling.BILINEAR, 'cubic': Image.Resampling.BICUBIC}


def warp(
  image: np.ndarray,
  matrix: np.ndarray,
  size: tuple[int, int],
  *,
  border: str = 'edge',
  kernel: str = 'linear',
) -> np.ndarray:
  """Resamples an image under an affine map.

  Where the map shrinks, boxes of whole pixels are averaged first, so that nothing aliases.

  Args:
    image: [H, W] or [H, W, C], any number type.
    matrix: [2, 3], result pixels -> image pixels, centres at 0.5.
    size: (height, width) of the result.
    border: 'edge' repeats the image's border, 'zero' is 0 beyond it, blended over the last half
      pixels.
    kernel: 'linear' or 'cubic' (sharper where it enlarges; overshoots).

  Returns:
    float32 [*size(, C)] in the image's own range.
  """
  channels = image[..., None] if image.ndim == 2 else image
  reduced = max(1, int(np.floor(np.sqrt(abs(np.linalg.det(matrix[:, :2]))) + 1e-6)))
  corners = (
    np.array([[0, 0], [size[1], 0], [0, size[0]], [size[1], size[0]]], np.float64) @ matrix[:, :2].T
    + matrix[:, 2]
  )
  # Only what the result can see is touched, plus a margin for the kernel.
  margin = 2 * reduced + 2
  low, high = (
    np.floor(corners.min(0)).astype(int) - margin,
    np.ceil(corners.max(0)).astype(int) + margin,
  )
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
  part = channels[inside_low[1] : inside_high[1], inside_low[0] : inside_high[0]]
  before, after = np.maximum(inside_low - low, 0), np.maximum(high - inside_high, 0)
  pad = ((before[1], after[1]), (before[0], after[0]), (0, 0))
  part = np.pad(part, pad, mode='edge' if border == 'edge' else 'constant')
  offset = matrix[:, 2] - (inside_low - before)
  coefficients = np.concatenate([matrix[:, :2], offset[:, None]], 1) / reduced
  planes = []
  for c in range(part.shape[-1]):
    plane = Image.fromarray(np.ascontiguousarray(part[..., c], np.float32))
    plane = plane.reduce(reduced) if reduced > 1 else plane
    planes.append(
      np.asarray(
        plane.transform(
          (size[1], size[0]), Image.Transform.AFFINE, tuple(coefficients.ravel()), _KERNELS[kernel]
        )
      )
    )
  return planes[0] if image.ndim == 2 else np.stack(planes, -1)


def bilinear_map(
  matrix: np.ndarray,
  source_size: tuple[int, int],
  size: tuple[int, int],
  *,
  origin: tuple[int, int] = (0, 0),
) -> Callable[[np.ndarray], np.ndarray]:
  """result(x, y) = image(M^-1 (x, y)) between pixel indices, bilinear, zero outside.

  Args:
    matrix: [3, 3], image indices -> result indices: the first pixel's centre is at (0, 0) in both.
    source_size: (H, W) of the images.
    size: (h, w) of the result.
    origin: (row, column) of the result's first pixel.

  Returns:
    A function of an image [H, W] or [H, W, C], in any unit, to float32 [h, w(, C)]; ValueError for
    another size.
  """
  inverse = np.linalg.inv(matrix)
  rows, columns = np.mgrid[origin[0] : origin[0] + size[0], origin[1] : origin[1] + size[1]].astype(
    np.float64
  )
  x, y = (inverse[i, 0] * columns + inverse[i, 1] * rows + inverse[i, 2] for i in (0, 1))
  H, W = source_size
  x, y = np.clip(x, -1, W), np.clip(y, -1, H)  # one pixel beyond the border all is zero
  left, top = np.minimum(np.floor(x), W - 1), np.minimum(np.floor(y), H - 1)
  index = ((top + 1) * (W + 2) + left + 1).astype(np.int64)
  u, v = (x - left).astype(np.float32), (y - top).astype(np.float32)
  weights = ((1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v)

  def resampled(image: np.ndarray) -> np.ndarray:
    if image.shape[:2] != (H, W):
      raise ValueError(f'a picture of {image.shape[:2]} in a map of {(H, W)}')
    channels = image[..., None] if image.ndim == 2 else image
    padded = np.pad(channels, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels.shape[-1])
    steps = (0, 1, W + 2, W + 3)
    out = sum(weight[..., None] * padded[index + step] for weight, step in zip(weights, steps))
    return out[..., 0] if image.ndim == 2 else out

  return resampled
