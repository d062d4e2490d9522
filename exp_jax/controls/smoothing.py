"""Motion without tremor: a Gaussian over time, which delays nothing.

Landmarks of every frame jitter by a fraction of a pixel, and so does what is fitted to them. Rotations are averaged as
rotations (the mean that the chordal distance gives), the rest as numbers. Letters: T frames, E expressions, J joints.
"""

import dataclasses

import numpy as np
import scipy.ndimage
from scipy.spatial.transform import Rotation

from exp_jax.heads.personalized import Subject


def smoothed(subject: Subject, seconds: float) -> Subject:
  """The subject's motion averaged over time.

  Args:
    seconds: standard deviation of the Gaussian; 0 changes nothing, 0.04 takes out jitter, 0.15 rounds off blinks.

  Raises:
    ValueError: `seconds` is negative.
  """
  if seconds < 0:
    raise ValueError(f'seconds must not be negative, got {seconds}')
  sigma = seconds * subject.fps
  if sigma == 0 or subject.num_frames < 2:
    return subject
  average = lambda values: scipy.ndimage.gaussian_filter1d(np.asarray(values, np.float64), sigma, axis=0, mode='nearest')
  rotations = Rotation.from_rotvec(np.asarray(subject.pose, np.float64).reshape(-1, 3)).as_matrix()
  blurred = average(rotations.reshape(*subject.pose.shape[:2], 3, 3)).reshape(-1, 3, 3)
  pose = Rotation.from_matrix(_nearest_rotations(blurred)).as_rotvec().reshape(subject.pose.shape)
  return dataclasses.replace(subject, pose=pose.astype(np.float32), expression=average(subject.expression).astype(np.float32),
                             translation=average(subject.translation).astype(np.float32))


def _nearest_rotations(matrices: np.ndarray) -> np.ndarray:
  """[N, 3, 3] -> the rotations nearest to them in the Frobenius norm."""
  left, _, right = np.linalg.svd(matrices)
  sign = np.sign(np.linalg.det(left @ right))
  left[..., -1] *= sign[:, None]
  return left @ right
