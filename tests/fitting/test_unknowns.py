"""Unknowns of the coarse stage: named parts of a vector, and the pose that they stand for."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.fitting.coarse.unknowns import PLACE, pose_from_unknowns, pose_of, unpack
from exp_jax.heads.head_files import load_head

HEAD = load_head('procedural')


def test_every_number_has_one_name():
  vector = jnp.arange(2 * 21.0).reshape(2, 21)
  parts = unpack(vector)
  assert parts['expression'].shape == (2, 5) and parts['eyes'].shape == (2, 2, 2)
  joined = np.concatenate([np.asarray(part).reshape(2, -1) for part in parts.values()], 1)
  np.testing.assert_array_equal(joined, vector)
  np.testing.assert_array_equal(
    vector[:, PLACE], np.concatenate([parts['head'], parts['translation']], 1)
  )


@pytest.mark.parametrize('jaw', [True, False])
def test_neck_and_head_share_the_turn_and_a_jaw_that_is_not_there_does_not_turn(jaw):
  head = (
    HEAD
    if jaw
    else HEAD.replace(
      joint_names=tuple('spare' if name == 'jaw' else name for name in HEAD.joint_names)
    )
  )
  motion = jnp.asarray(np.random.default_rng(0).normal(0, 0.3, 16), jnp.float32)
  pose, translation = pose_of(head, motion)
  parts = unpack(motion)
  np.testing.assert_array_equal(pose, pose_from_unknowns(head, parts))
  np.testing.assert_array_equal(translation, parts['translation'])
  of = lambda name: Rotation.from_rotvec(np.asarray(pose)[head.joint(name)])
  np.testing.assert_allclose((of('neck') * of('head')).as_rotvec(), parts['head'], atol=1e-6)
  np.testing.assert_array_equal(pose[0], parts['torso'])
  np.testing.assert_array_equal(
    head.joint_turns(pose, 'jaw'), parts['jaw'] if jaw else jnp.zeros(3)
  )
  np.testing.assert_array_equal(pose[HEAD.joint('jaw')], parts['jaw'] if jaw else jnp.zeros(3))
