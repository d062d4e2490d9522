"""The coarse stage on landmarks whose parameters are known. MakeHuman's head: it has MediaPipe's 478 points."""

import dataclasses

import numpy as np
import pytest
import known_clips
from scipy.spatial.transform import Rotation

from exp_jax.errors import UserError
from exp_jax.fitting.coarse import fit_coarse, initial_pose
from exp_jax.heads.model import load_head


@pytest.fixture(scope='module')
def head():
  return known_clips.makehuman()


def turned(head, pose):
  """[T] rotations of the head in the camera: root, neck and head together."""
  index = {name: i for i, name in enumerate(head.joint_names)}
  of = lambda joint: Rotation.from_rotvec(np.asarray(pose)[:, index[joint]])
  return of('spine') * of('neck') * of('head')


def degrees_off(head, fit, truth):
  return np.degrees((turned(head, fit.pose).inv() * turned(head, truth.params.pose)).magnitude())


@pytest.mark.parametrize('frames', [1, 2, 5])
def test_known_parameters_are_recovered(head, frames):
  truth = known_clips.clip(head, frames)
  fit = fit_coarse(head, truth.observation)
  assert fit.expression.shape == (frames, 49) and fit.pose.shape == (frames, 6, 3) and fit.error.shape == (frames,)
  assert np.asarray(fit.error).max() < 0.005, fit.error           # half a percent of the eye distance
  assert degrees_off(head, fit, truth).max() < 2
  names = [head.expression_names.index(n) for n in ('mouthSmileLeft', 'browInnerUp')]
  np.testing.assert_allclose(np.asarray(fit.expression)[:, names], np.asarray(truth.params.expression)[:, names], atol=0.2)
  jaw = head.joint_names.index('jaw')
  np.testing.assert_allclose(fit.pose[:, jaw, 0], truth.params.pose[:, jaw, 0], atol=0.05)
  assert abs(float(fit.focal) / truth.focal - 1) < 0.15
