"""The square that a clip is fitted in: one for the whole clip, so that one camera serves all its frames."""

import dataclasses

import numpy as np

from exp_jax.media.paste import upright_square
from exp_jax.observe.observation import Observation


@dataclasses.dataclass(frozen=True)
class Crop:
  """A square of the source: its top-left corner and side in source pixels, and the size it is resampled to."""
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
    return np.array([[1 / self.scale, 0, self.left], [0, 1 / self.scale, self.top], [0, 0, 1]], np.float32)

  def cut(self, image: np.ndarray) -> np.ndarray:
    """Resamples the square out of uint8 [H, W, 3] or [H, W]; outside the source the border is repeated."""
    return upright_square(image, left=self.left, top=self.top, side=self.side, size=self.size)

  def cut_values(self, values: np.ndarray) -> np.ndarray:
    """Like `cut`, of float32 [H, W] or [H, W, C], linear: no ringing at the border of a map."""
    channels = values[..., None] if values.ndim == 2 else values
    height, width = channels.shape[:2]
    step = (np.arange(self.size) + 0.5) / self.scale - 0.5
    reduced = max(1, round(1 / self.scale))          # a box of this many samples where pixels merge
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


def head_crop(observation: Observation, *, size: int, scale: float = 2.1, up: float = 0.12) -> Crop:
  """A square about the head in all frames, kept inside the picture wherever the picture is large enough.

  Args:
    observation: landmarks of the clip.
    size: pixels of the resampled square.
    scale: side of the square, in face heights (chin to forehead, median over the clip).
    up: shift of the centre towards the hair, in face heights.
  """
  points = observation.points[observation.found][:, :468]
  low, high = points.min(1), points.max(1)                         # [T, 2]
  face = np.median((high - low).max(-1))
  low, high = low.min(0), high.max(0)
  center = (low + high) / 2 - [0, up * face]
  side = max(scale * face, 1.25 * (high - low).max())
  height, width = observation.image_size
  if side > min(height, width) and side < 1.15 * min(height, width):
    side = min(height, width)                                      # a little tighter beats repeated borders
  corner = center - side / 2
  for axis, extent in enumerate((width, height)):
    corner[axis] = (extent - side) / 2 if side > extent else np.clip(corner[axis], 0, extent - side)
  return Crop(float(corner[0]), float(corner[1]), float(side), size)


def crop_observation(observation: Observation, crop: Crop) -> Observation:
  """The same observation in crop pixels; maps resampled, with weight 0 outside the source."""
  cut = lambda maps: None if maps is None else np.stack([crop.cut(each) for each in maps])
  values = lambda maps: np.stack([crop.cut_values(np.asarray(each, np.float32)) for each in maps])
  weigh = lambda weights: np.asarray(
    np.clip(values(weights) * crop.inside(observation.image_size), 0, 1), np.float16)
  maps = {}
  # weighted, so that a pixel without a value says nothing about its neighbours
  if observation.normals is not None:
    share = np.asarray(observation.normal_weights, np.float32)[..., None]
    mixed = values(np.asarray(observation.normals, np.float32) * share)
    length = np.linalg.norm(mixed, axis=-1, keepdims=True)
    maps['normals'] = (mixed / np.where(length > 1e-6, length, 1)).astype(np.float16)
    maps['normal_weights'] = weigh(observation.normal_weights)
  if observation.depth is not None:
    share = np.asarray(observation.depth_weights, np.float32)
    total = values(share)
    mixed = values(observation.depth * share)
    maps['depth'] = np.where(total > 1e-6, mixed / np.where(total > 1e-6, total, 1), 0)
    maps['depth_weights'] = weigh(observation.depth_weights)
  return dataclasses.replace(
    observation, points=crop.to_crop(observation.points), matte=cut(observation.matte),
    image_size=(crop.size, crop.size), **maps)
