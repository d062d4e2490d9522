"""What our own parts say of a face in every frame of a long clip: landmarks followed, and
coefficients of our head model.

Clips come in windows of frames, so that memory does not grow with their length: the face is
followed from window to window, and what the first window with a face gives (shape, focal length,
crop) is kept for the others. Metrics compare the coefficients of a generated clip with those of its
driver. Letters: T frames of a window, J joints, E expressions.
"""

import dataclasses

import numpy as np

from exp_jax.fitting.coarse.coarse_fit import make_camera
from exp_jax.fitting.coarse.fit import fit_coarse_many, unexplained
from exp_jax.fitting.head_directions import head_directions
from exp_jax.geometry import Camera
from exp_jax.heads.model import HeadModel
from exp_jax.observe.face_crop import crop_observation, head_crop
from exp_jax.observe.observation import make_observation
from exp_jax.observe.people import follow

_CROP = 512


class LandmarkFollower:
  """Follows one face, the largest of the first frame that shows any, through windows of frames."""

  def __init__(self, estimator, name: str):
    self._estimator, self._name, self._near = estimator, name, None

  def __call__(self, frames: np.ndarray) -> np.ndarray:
    """[T, H, W, 3] uint8 -> [T, 478, 2] pixels, NaN where the face is not seen."""
    faces = [np.asarray(self._estimator(frame)[0], np.float32)[:, :, :2] for frame in frames]
    points, _ = follow(faces, name=self._name, near=self._near)
    seen = np.flatnonzero(np.isfinite(points).all((1, 2)))
    if len(seen):
      self._near = tuple(points[seen[-1]].mean(0))
    return points


@dataclasses.dataclass(frozen=True)
class Coefficients:
  """Of T frames; rows are NaN where no face was fitted.

  Angles in radians, head frame (y up, z out of the face).
  """

  shape: np.ndarray  # [S], of the whole clip
  expression: np.ndarray  # [T, E]
  pose: np.ndarray  # [T, J, 3]
  translation: np.ndarray  # [T, 3]
  rotation: np.ndarray  # [T, 3, 3] of the head in the camera
  gaze: np.ndarray  # [T, 2, 3] directions of left and right eye
  camera: Camera | None  # None where nothing was fitted


class HeadFollower:
  """Fits our head model to the landmarks of a clip, window by window."""

  def __init__(self, head: HeadModel, name: str, window: int = 16):
    self._head, self._name, self._window = head, name, window
    self._shape = self._focal = self._crop = None
    self._directions = head_directions(head)

  def __call__(self, points: np.ndarray, image_size: tuple[int, int]) -> Coefficients:
    """[T, 478, 2] pixels, T at most the window, NaN where no face was seen -> coefficients."""
    found, count = np.isfinite(points).all((1, 2)), len(points)
    if not found.any():
      return self._nothing(count)
    # one program for every length
    filled = np.concatenate([points, np.repeat(points[-1:], self._window - count, 0)])
    seen = make_observation(
      filled,
      found=np.isfinite(filled).all((1, 2)),
      image_size=image_size,
      estimator='',
      name=self._name,
    )
    self._crop = self._crop or head_crop(seen, size=_CROP)
    known = {} if self._shape is None else {'shapes': [self._shape], 'focals': [self._focal]}
    fit = fit_coarse_many(self._head, [crop_observation(seen, self._crop)], **known)[0]
    if unexplained(fit):
      return self._nothing(count)
    self._shape, self._focal = fit.shape, float(fit.focal)
    rotation, gaze = self._directions(fit.shape, fit.expression, fit.pose, fit.translation)
    blank = lambda values: np.where(
      found.reshape(-1, *(1,) * (values.ndim - 1)), np.asarray(values)[:count], np.nan
    )
    return Coefficients(
      np.asarray(fit.shape),
      *(blank(v) for v in (fit.expression, fit.pose, fit.translation, rotation, gaze)),
      make_camera(fit.focal, fit.image_size),
    )

  def _nothing(self, count: int) -> Coefficients:
    nan = lambda *shape: np.full((count, *shape), np.nan)
    joints, size = len(self._head.parents), self._head.expression_basis.shape[-1]
    shape = (
      np.zeros(self._head.shape_basis.shape[-1]) if self._shape is None else np.asarray(self._shape)
    )
    return Coefficients(shape, nan(size), nan(joints, 3), nan(3), nan(3, 3), nan(2, 3), None)
