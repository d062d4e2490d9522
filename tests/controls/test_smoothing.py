import dataclasses
import types

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.controls.smoothing import smoothed


@dataclasses.dataclass(frozen=True)
class Moving:
  """What of a subject the filter looks at."""
  pose: np.ndarray
  expression: np.ndarray
  translation: np.ndarray
  fps: float = 25.0

  @property
  def num_frames(self):
    return len(self.pose)


def moving(frames, pose):
  time = np.arange(frames)[:, None] / 25.0
  return Moving(pose.astype(np.float32), np.float32(time * [1.0, -2.0, 0.5]), np.float32(time * [0.1, 0.0, -0.2]))


def test_a_steady_turn_stays_and_tremor_goes():
  """Also where axis-angle numbers jump: a turn through half a circle and beyond."""
  angles = np.linspace(2.6, 4.1, 41)
  axis = np.array([0.0, 1.0, 0.0])
  steady = np.repeat(Rotation.from_rotvec(angles[:, None] * axis).as_rotvec()[:, None], 2, axis=1)
  assert np.abs(np.diff(steady[:, 0, 1])).max() > 6, 'the numbers jump'
  kept = smoothed(moving(41, steady), 0.06)
  off = (Rotation.from_rotvec(kept.pose[8:-8, 0]).inv() * Rotation.from_rotvec(steady[8:-8, 0])).magnitude()
  assert off.max() < 1e-4
  np.testing.assert_allclose(kept.expression[8:-8], moving(41, steady).expression[8:-8], atol=1e-5)
  rng = np.random.default_rng(0)
  tremor = (Rotation.from_rotvec(steady[:, 0]) * Rotation.from_rotvec(0.02 * rng.normal(size=(41, 3)))).as_rotvec()
  quiet = smoothed(moving(41, np.stack([tremor, tremor], 1)), 0.06)
  off = lambda r: (Rotation.from_rotvec(steady[:, 0]).inv() * Rotation.from_rotvec(r)).magnitude()[8:-8]
  assert np.sqrt(np.mean(off(quiet.pose[:, 0]) ** 2)) < 0.5 * np.sqrt(np.mean(off(tremor) ** 2))


def test_nothing_asked_nothing_changed():
  subject = moving(5, np.random.default_rng(0).normal(size=(5, 3, 3)))
  assert smoothed(subject, 0.0) is subject
  single = moving(1, np.zeros((1, 3, 3)))
  assert smoothed(single, 1.0) is single
  with pytest.raises(ValueError, match='-1'):
    smoothed(types.SimpleNamespace(fps=25.0, num_frames=3), -1)
