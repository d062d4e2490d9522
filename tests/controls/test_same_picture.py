"""Two fits of one picture: their difference goes, the motion stays, and other pictures are left
alone."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.controls.head_motion import HeadMotion, head_motion, posed
from exp_jax.controls.same_picture import ALIKE, picture_distances, without_difference
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import Subject

HEAD = load_head('procedural')


def person(seed=0, frames=7):
  """Turns by 20 degrees and more, and makes faces."""
  rng, time = np.random.default_rng(seed), np.linspace(0, 1, frames)[:, None]
  pose = np.zeros((frames, len(HEAD.parents), 3))
  pose[:, HEAD.joint('neck')] = pose[:, HEAD.joint('head')] = 0.5 * (
    rng.normal(0, 0.05, 3) + time * [0.1, 0.5, 0.05]
  )
  pose[:, HEAD.joint('jaw'), 0] = 0.05 + 0.2 * time[:, 0]
  return Subject(
    f's{seed}',
    HEAD.name,
    'none',
    0,
    (100, 100),
    25.0,
    0.3 * rng.normal(size=10),
    0.3 + 0.5 * time * rng.random(10),
    pose,
    np.array([0.01, 0.02, -0.7]) + 0.01 * time,
    np.full(2, 250.0),
    np.full(2, 50.0),
    time[:, 0],
    np.zeros((3, 3)),
    np.zeros(0, int),
    np.zeros((frames, 0, 3)),
  )


def one(subject, frame):
  return dataclasses.replace(
    subject,
    **{
      n: getattr(subject, n)[[frame]]
      for n in ('expression', 'pose', 'translation', 'times', 'dynamic_offsets')
    },
  )


def fitted_otherwise(subject, degrees=1.0, by=0.05):
  """The same motion as another fit sees it: turned in the head's own frame about the face, every
  frame alike, with another face."""
  corners = np.asarray(HEAD.faces)[np.asarray(HEAD.landmark_faces)]
  middle = (
    np.asarray(HEAD.template)[corners].mean((0, 1))
    - np.asarray(HEAD.joint_template)[HEAD.joint('head')]
  )
  motion = head_motion(HEAD, subject)
  bias = Rotation.from_euler('yx', [degrees, -0.5 * degrees], degrees=True).as_matrix()
  pose = np.array(subject.pose)
  pose[:, HEAD.joint('jaw'), 0] += 0.02
  expression, place = (
    subject.expression + by * np.cos(np.arange(10)),
    motion.place + motion.rotation @ (middle - bias @ middle),
  )
  pose, translation = posed(
    HEAD,
    subject.shape,
    expression,
    pose,
    HeadMotion(motion.rotation @ bias, place),
    own=0 * pose[0],
  )
  return dataclasses.replace(subject, pose=pose, expression=expression, translation=translation)


def degrees_between(one, other):
  return np.degrees(Rotation.from_matrix(one @ np.swapaxes(other, -1, -2)).magnitude())


@pytest.mark.parametrize('frame', [0, 4])
def test_the_portraits_own_picture_gives_back_the_portrait(frame):
  true = person()
  portrait, driver = one(true, frame), fitted_otherwise(true)
  assert picture_distances(HEAD, portrait, driver).argmin() == frame
  found = without_difference(HEAD, portrait, driver)
  jaw = HEAD.joint('jaw')
  before, after = (
    degrees_between(head_motion(HEAD, each).rotation, head_motion(HEAD, true).rotation)
    for each in (driver, found)
  )
  assert before.min() > 1 and after.max() < 0.06
  np.testing.assert_allclose(found.expression, true.expression, atol=3e-3)
  np.testing.assert_allclose(found.pose[:, jaw], true.pose[:, jaw], atol=1e-3)


def test_the_face_stays_where_it_was_seen():
  true = person()
  driver = fitted_otherwise(true)
  found = without_difference(HEAD, one(true, 0), driver)
  place = lambda subject: head_motion(HEAD, subject).place
  assert np.abs(place(driver) - place(true)).max() > 1e-3  # metres: two pixels of a face of 256
  assert np.abs(place(found) - place(true)).max() < 3e-4


def test_another_picture_is_left_alone():
  true, other = person(), person(3)
  assert picture_distances(HEAD, one(true, 6), one(true, 0)).min() > 3 * ALIKE
  for reference, driving in ((one(true, 6), one(true, 0)), (one(true, 0), one(other, 5))):
    assert without_difference(HEAD, reference, driving) is driving


def test_an_exact_fit_changes_nothing():
  true = person()
  found = without_difference(HEAD, one(true, 2), true)
  np.testing.assert_allclose(
    head_motion(HEAD, found).rotation, head_motion(HEAD, true).rotation, atol=1e-6
  )
  np.testing.assert_allclose(
    head_motion(HEAD, found).place, head_motion(HEAD, true).place, atol=1e-6
  )
  np.testing.assert_allclose(found.expression, true.expression, atol=1e-6)
