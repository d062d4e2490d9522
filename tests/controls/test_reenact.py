import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.controls.reenact import ReenactOptions, reenact
from exp_jax.heads.personalized import Subject

JOINTS = ('spine', 'neck', 'head', 'jaw', 'left_eye', 'right_eye')
NECK, HEAD, JAW = 1, 2, 3


def subject(seed, frames=4, focal=300.0, size=100, depth=-0.7):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(0, 0.2, shape).astype(np.float32)
  return Subject(f's{seed}', 'none', 'none', 0, (size, size), 25.0, draw(5), draw(frames, 7), draw(frames, 6, 3),
                 0.05 * draw(frames, 3) + np.float32([0, 0, depth]), np.full(2, focal, np.float32),
                 np.full(2, size / 2, np.float32), np.arange(frames, dtype=np.float32) / 25,
                 np.zeros((3, 3), np.float32), np.zeros(0, np.int32), np.zeros((frames, 0, 3), np.float32))


@pytest.mark.parametrize('rotation', ['absolute', 'relative'])
def test_driving_oneself_reproduces_oneself(rotation):
  own = subject(0)
  motion = reenact(own, own, JOINTS, ReenactOptions(rotation=rotation, drive_torso=True))
  np.testing.assert_allclose(motion.expression, own.expression, atol=1e-6)
  np.testing.assert_allclose(motion.pose, own.pose, atol=1e-5)        # rotation vectors through float64 and back
  np.testing.assert_allclose(motion.translation, own.translation, atol=1e-6)


def test_the_torso_stays_unless_asked_for():
  own, driver = subject(0), subject(1, frames=3)
  motion = reenact(own, driver, JOINTS, frame=2)
  np.testing.assert_allclose(motion.pose[:, 0], np.repeat(own.pose[2:3, 0], 3, 0), atol=1e-6)
  driven = reenact(own, driver, JOINTS, ReenactOptions(drive_torso=True), frame=2)
  np.testing.assert_allclose(driven.pose[:, 0], driver.pose[:, 0], atol=1e-6)
  np.testing.assert_allclose(driven.pose[:, 1:], motion.pose[:, 1:], atol=1e-6)


def test_absolute_turns_are_the_drivers_and_relative_ones_start_at_the_references():
  own, driver = subject(0), subject(1, frames=3)
  absolute = reenact(own, driver, JOINTS)
  np.testing.assert_allclose(absolute.pose[:, [NECK, HEAD]], driver.pose[:, [NECK, HEAD]], atol=1e-6)
  relative = reenact(own, driver, JOINTS, ReenactOptions(rotation='relative'), frame=1)
  np.testing.assert_allclose(relative.pose[0, HEAD], own.pose[1, HEAD], atol=1e-6)
  change = Rotation.from_rotvec(relative.pose[2, HEAD]) * Rotation.from_rotvec(own.pose[1, HEAD]).inv()
  wanted = Rotation.from_rotvec(driver.pose[2, HEAD]) * Rotation.from_rotvec(driver.pose[0, HEAD]).inv()
  np.testing.assert_allclose(change.as_rotvec(), wanted.as_rotvec(), atol=1e-5)
  np.testing.assert_allclose(relative.pose[:, JAW:], absolute.pose[:, JAW:], atol=1e-6)


def test_steps_are_scaled_by_the_ratio_of_distances():
  """Twice as far, or half the focal length per image height: half as large on screen, so twice the step."""
  own, driver = subject(0, frames=1), subject(1)
  step = np.diff(driver.translation, axis=0)
  moved = reenact(own, driver, JOINTS)
  np.testing.assert_allclose(moved.translation[0], own.translation[0], atol=1e-6)
  ratio = own.translation[0, 2] / driver.translation[0, 2]
  np.testing.assert_allclose(np.diff(moved.translation, axis=0), ratio * step, atol=1e-6)
  wide = dataclasses.replace(driver, focal=driver.focal / 2)
  np.testing.assert_allclose(np.diff(reenact(own, wide, JOINTS).translation, axis=0), ratio / 2 * step, atol=1e-6)
  # The same camera in pictures of twice the size changes nothing.
  large = dataclasses.replace(driver, focal=2 * driver.focal, image_size=(200, 200))
  np.testing.assert_allclose(reenact(own, large, JOINTS).translation, moved.translation, atol=1e-6)


def test_strength_scales_expression_and_jaw_only():
  own, driver = subject(0), subject(1)
  once, half = (reenact(own, driver, JOINTS, ReenactOptions(expression_strength=s)) for s in (1.0, 0.5))
  np.testing.assert_allclose(half.expression, 0.5 * once.expression, atol=1e-6)
  np.testing.assert_allclose(half.pose[:, JAW], 0.5 * once.pose[:, JAW], atol=1e-6)
  others = [0, NECK, HEAD, 4, 5]
  np.testing.assert_allclose(half.pose[:, others], once.pose[:, others], atol=1e-6)


def test_an_unknown_mode_is_named():
  with pytest.raises(ValueError, match="'sideways'"):
    reenact(subject(0), subject(1), JOINTS, ReenactOptions(rotation='sideways'))
