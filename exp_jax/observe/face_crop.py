"""The square that a clip is fitted in: one for the whole clip, so that one camera serves all its
frames."""

import dataclasses

import numpy as np

from exp_jax.media.squares import Crop, head_place
from exp_jax.observe.observation import Observation


def head_crop(observation: Observation, *, size: int) -> Crop:
  """A square about the head in all frames, kept inside the picture wherever the picture is large
  enough.

  Args:
    observation: landmarks of the clip.
    size: pixels of the resampled square.
  """
  middle, lift, side = head_place(observation.points[observation.found][:, :468])
  center = middle - [0, lift]
  height, width = observation.image_size
  if side > min(height, width) and side < 1.15 * min(height, width):
    side = min(height, width)  # a little tighter beats repeated borders
  corner = center - side / 2
  for axis, extent in enumerate((width, height)):
    corner[axis] = (extent - side) / 2 if side > extent else np.clip(corner[axis], 0, extent - side)
  return Crop(float(corner[0]), float(corner[1]), float(side), size)


def crop_observation(observation: Observation, crop: Crop) -> Observation:
  """The same observation in crop pixels; maps resampled, with weight 0 outside the source."""
  cut = lambda maps: None if maps is None else np.stack([crop.cut(each) for each in maps])
  values = lambda maps: np.stack([crop.cut_values(np.asarray(each, np.float32)) for each in maps])
  weigh = lambda weights: np.asarray(
    np.clip(values(weights) * crop.inside(observation.image_size), 0, 1), np.float16
  )
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
    observation,
    points=crop.to_crop(observation.points),
    matte=cut(observation.matte),
    image_size=(crop.size, crop.size),
    **maps,
  )
