"""Driving: the head's motion in the camera is carried over, however the driver's pose divides it
over its joints."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.controls.driving_options import ReenactOptions
from exp_jax.controls.head_motion import head_motion, head_rotation
from exp_jax.controls.reenact import reenact
from exp_jax.errors import UserError
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_vertices

SPINE, NECK, SKULL, JAW = 0, 1, 2, 3
OPTIONS = [
  ReenactOptions(rotation=r, drive_torso=d, translation=t)
  for r in ('absolute', 'relative')
  for d in (False, True)
  for t in ('relative', 'none')
]
named = lambda o: f'{o.rotation}-{"torso" if o.drive_torso else "head"}-{o.translation}'


def a_head():
  """The procedural head with what it lacks: joints that move with shape and expression, and pose
  correctives."""
  head, rng = load_head('procedural'), np.random.default_rng(7)
  draw = lambda size, *shape: jnp.asarray(size * rng.normal(size=shape), jnp.float32)
  return head.replace(
    joint_shape=draw(0.003, 6, 3, 10),
    joint_expression=draw(0.002, 6, 3, 10),
    pose_basis=draw(0.001, len(head.template), 3, 45),
  )


HEAD = a_head()
JOINTS = [
  np.asarray(a, np.float64) for a in (HEAD.joint_template, HEAD.joint_shape, HEAD.joint_expression)
]
# vertices that neither neck nor torso moves
BOUND = np.asarray(HEAD.weights)[:, : NECK + 1].sum(1) == 0


def subject(seed, frames=4, focal=300.0, size=100, depth=-0.7, turn=0.2):
  """Random parameters, as float64: what is compared to 1e-6 m shall not be rounded before."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(0, 1, shape)
  return Subject(
    f's{seed}',
    'none',
    'none',
    0,
    (size, size),
    25.0,
    0.5 * draw(10),
    0.2 * draw(frames, 10),
    turn * draw(frames, 6, 3),
    0.02 * draw(frames, 3) + [0, 0, depth],
    np.full(2, focal),
    np.full(2, size / 2),
    np.arange(frames) / 25,
    np.zeros((3, 3)),
    np.zeros(0, int),
    np.zeros((frames, 0, 3)),
  )


def rotation(vectors):
  return Rotation.from_rotvec(vectors).as_matrix()


def head_at(person, frame, pose=None, translation=None):
  """[4, 4] of the head joint, rest to camera, written out; and where it carries the joint of the
  face without expression."""
  pose = person.pose[frame] if pose is None else pose
  neutral = JOINTS[0] + JOINTS[1] @ person.shape
  at = neutral + JOINTS[2] @ person.expression[frame]
  world = np.eye(4)
  for k in (SPINE, NECK, SKULL):
    about = np.eye(4)
    about[:3, :3] = rotation(pose[k])
    about[:3, 3] = at[k] - about[:3, :3] @ at[k]
    world = world @ about
  world[:3, 3] += person.translation[frame] if translation is None else translation
  return world, world[:3, :3] @ neutral[SKULL] + world[:3, 3]


def split_anew(person, seed):
  """The same motion of the head, divided over root, neck, head and translation in another way."""
  rng, pose, translation = (
    np.random.default_rng(seed),
    np.array(person.pose),
    np.array(person.translation),
  )
  for t in range(len(pose)):
    world, _ = head_at(person, t)
    pose[t, [SPINE, NECK]] = rng.normal(0, 0.5, (2, 3))
    rest = (rotation(pose[t, SPINE]) @ rotation(pose[t, NECK])).T @ world[:3, :3]
    pose[t, SKULL] = Rotation.from_matrix(rest).as_rotvec()
    translation[t] = world[:3, 3] - head_at(person, t, pose[t], np.zeros(3))[0][:3, 3]
  return dataclasses.replace(person, pose=pose, translation=translation)


@jax.jit
def _vertices(head, shape, expression, pose, translation):
  return jax.vmap(lambda *each: head_vertices(head, HeadParams(shape, *each)))(
    expression, pose, translation
  )


def vertices(person, motion, head=HEAD):
  """[T, V, 3] of a motion on the reference's shape."""
  return np.asarray(
    _vertices(
      head,
      jnp.asarray(person.shape, jnp.float32),
      motion.expression,
      motion.pose,
      motion.translation,
    )
  )


def driven_heads(person, motion):
  """Rotation [T, 3, 3] and place [T, 3] of the driven head, by `head_at`."""
  shown = dataclasses.replace(
    person, expression=motion.expression, pose=motion.pose, translation=motion.translation
  )
  worlds, places = zip(*(head_at(shown, t) for t in range(len(motion.pose))))
  return np.stack(worlds)[:, :3, :3], np.stack(places)


@pytest.mark.parametrize('options', OPTIONS, ids=named)
def test_any_split_of_one_motion_drives_the_same_head(options):
  own, driver = subject(0), subject(1, frames=5)
  # correctives follow the bend of the neck
  head = HEAD.replace(pose_basis=None) if options.drive_torso else HEAD
  motion, other = (reenact(own, d, head, options) for d in (driver, split_anew(driver, 2)))
  apart = np.linalg.norm(vertices(own, motion, head) - vertices(own, other, head), axis=-1)
  assert BOUND.sum() > 300 and apart[:, BOUND].max() < 1e-6
  if options.drive_torso:
    assert apart.max() > 1e-3, 'the torso is then the one of the split'
  else:
    assert apart.max() < 1e-6


@pytest.mark.parametrize('options', [o for o in OPTIONS if o.drive_torso], ids=named)
def test_a_driven_torso_changes_nothing_of_the_head(options):
  own, driver = subject(0), subject(1, frames=5)
  with_it = reenact(own, driver, HEAD, options)
  without = reenact(own, driver, HEAD, dataclasses.replace(options, drive_torso=False))
  apart = np.linalg.norm(vertices(own, with_it) - vertices(own, without), axis=-1)
  for found, expected in zip(driven_heads(own, with_it), driven_heads(own, without)):
    np.testing.assert_allclose(found, expected, atol=1e-6)
  assert apart.max() > 1e-3


@pytest.mark.parametrize('rotation_mode', ['absolute', 'relative'])
def test_driving_oneself_reproduces_oneself(rotation_mode):
  """Every head; at the frame of the reference also neck and torso, whatever the own split."""
  own = subject(0)
  motion = reenact(own, own, HEAD, ReenactOptions(rotation=rotation_mode))
  worlds, places = zip(*(head_at(own, t) for t in range(4)))
  turned, moved = driven_heads(own, motion)
  np.testing.assert_allclose(turned, np.stack(worlds)[:, :3, :3], atol=1e-6)
  np.testing.assert_allclose(moved, np.stack(places), atol=1e-6)
  np.testing.assert_allclose(motion.expression, own.expression, atol=1e-6)
  np.testing.assert_allclose(motion.pose[:, JAW:], own.pose[:, JAW:], atol=1e-6)
  np.testing.assert_allclose(motion.pose[0], own.pose[0], atol=1e-6)
  np.testing.assert_allclose(motion.translation[0], own.translation[0], atol=1e-6)
  shared = np.array(own.pose)  # neck and head as a fit shares them: half the turn each
  shared[:, SKULL] = shared[:, NECK]
  own = dataclasses.replace(own, pose=shared)
  motion = reenact(own, own, HEAD, ReenactOptions(rotation=rotation_mode, drive_torso=True))
  np.testing.assert_allclose(motion.pose, own.pose, atol=1e-6)
  np.testing.assert_allclose(motion.translation, own.translation, atol=1e-6)


def test_the_torso_does_not_turn_unless_asked_for():
  own, driver = subject(0), subject(1, frames=3)
  motion = reenact(own, driver, HEAD, frame=2)
  np.testing.assert_allclose(
    motion.pose[:, SPINE], np.repeat(own.pose[2:3, SPINE], 3, 0), atol=1e-6
  )
  driven = reenact(own, driver, HEAD, ReenactOptions(drive_torso=True), frame=2)
  np.testing.assert_allclose(driven.pose[:, SPINE], driver.pose[:, SPINE], atol=1e-6)
  relative = reenact(
    own, driver, HEAD, ReenactOptions(rotation='relative', drive_torso=True), frame=2
  )
  np.testing.assert_allclose(relative.pose[0, SPINE], own.pose[2, SPINE], atol=1e-6)


def test_a_still_torso_means_a_still_translation():
  """A driver who only turns the head on a still torso, as its own fit says, leaves the reference's
  torso where it is."""
  own, driver = subject(0, frames=1), subject(1, turn=0.0)
  driver.pose[1:, [NECK, SKULL]] = np.random.default_rng(3).normal(0, 0.1, (3, 1, 3))
  driver = dataclasses.replace(
    driver,
    shape=own.shape,
    expression=0 * driver.expression,
    translation=np.repeat(driver.translation[:1], 4, 0),
  )
  own = dataclasses.replace(own, pose=0 * own.pose, translation=driver.translation[:1])
  motion = reenact(own, driver, HEAD)
  np.testing.assert_allclose(motion.translation, np.repeat(own.translation, 4, 0), atol=1e-6)
  np.testing.assert_allclose(
    motion.pose[:, [NECK, SKULL]], driver.pose[:, [NECK, SKULL]], atol=1e-6
  )


def test_absolute_turns_are_the_drivers_and_relative_ones_start_at_the_references():
  own, driver = subject(0), subject(1, frames=3)
  theirs = np.stack([head_at(driver, t)[0][:3, :3] for t in range(3)])
  np.testing.assert_allclose(head_rotation(HEAD, driver.pose), theirs, atol=1e-12)
  absolute, relative = (
    reenact(own, driver, HEAD, ReenactOptions(rotation=r), frame=1)
    for r in ('absolute', 'relative')
  )
  np.testing.assert_allclose(driven_heads(own, absolute)[0], theirs, atol=1e-6)
  wanted = theirs @ theirs[0].T @ head_at(own, 1)[0][:3, :3]
  np.testing.assert_allclose(driven_heads(own, relative)[0], wanted, atol=1e-6)
  np.testing.assert_allclose(
    relative.pose[0, [SPINE, NECK, SKULL]], own.pose[1, [SPINE, NECK, SKULL]], atol=1e-6
  )
  np.testing.assert_allclose(relative.pose[:, JAW:], absolute.pose[:, JAW:], atol=1e-6)


@pytest.mark.parametrize('options', [o for o in OPTIONS if o.translation == 'relative'], ids=named)
def test_steps_are_scaled_by_the_ratio_of_distances(options):
  """Twice as far, or half the focal length per image height: half as large on screen, so twice the
  step."""
  own, driver = subject(0, frames=1), subject(1)
  places = np.stack([head_at(driver, t)[1] for t in range(4)])
  ratio = head_at(own, 0)[1][2] / places[0, 2]
  moved = driven_heads(own, reenact(own, driver, HEAD, options))[1]
  np.testing.assert_allclose(moved - moved[0], ratio * (places - places[0]), atol=1e-6)
  wide = dataclasses.replace(driver, focal=driver.focal / 2)
  moved_wide = driven_heads(own, reenact(own, wide, HEAD, options))[1]
  np.testing.assert_allclose(
    moved_wide - moved_wide[0], ratio / 2 * (places - places[0]), atol=1e-6
  )
  # The same camera in pictures of twice the size changes nothing.
  large = dataclasses.replace(driver, focal=2 * driver.focal, image_size=(200, 200))
  np.testing.assert_allclose(
    driven_heads(own, reenact(own, large, HEAD, options))[1], moved, atol=1e-6
  )


def test_without_translation_the_torso_stays():
  own, driver = subject(0), subject(1)
  motion = reenact(own, driver, HEAD, ReenactOptions(translation='none'))
  np.testing.assert_allclose(motion.translation, np.repeat(own.translation[:1], 4, 0), atol=1e-6)


def test_a_crop_that_follows_the_head_hides_nothing_of_its_motion():
  """A tracker that cuts every frame anew: shifted, scaled and turned crops of one film give the
  motion of the film."""
  rng, driver = np.random.default_rng(5), subject(1, turn=0.3)
  crops, poses, translations = [], np.array(driver.pose), np.array(driver.translation)
  for t in range(4):
    scale, angle = rng.uniform(0.6, 1.5) if t else 1.0, 0.3 * rng.normal() if t else 0.0
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    crops.append(
      np.array([[cos, -sin, 30 * rng.normal()], [sin, cos, 30 * rng.normal()], [0, 0, 1]])
      if t
      else np.eye(3)
    )
    _, (x, y, z) = head_at(driver, t)
    # where the crop shows the head, and how large
    u, v, _ = crops[t] @ [50 + 300 * x / -z, 50 - 300 * y / -z, 1]
    z = z / scale
    at = np.array([(u - 50) * -z / 300, -(v - 50) * -z / 300, z])
    roll = Rotation.from_rotvec([0, 0, -angle])  # y up: clockwise on screen is negative
    poses[t, SPINE] = (roll * Rotation.from_rotvec(poses[t, SPINE])).as_rotvec()
    translations[t] += at - head_at(driver, t, poses[t])[1]
  seen = dataclasses.replace(
    driver, pose=poses, translation=translations, source_crop=np.stack(crops)
  )
  film, cut = head_motion(HEAD, driver), head_motion(HEAD, seen)
  np.testing.assert_allclose(cut.rotation, film.rotation, atol=1e-6)
  np.testing.assert_allclose(cut.place, film.place, atol=1e-6)
  own = subject(0)
  np.testing.assert_allclose(
    reenact(own, seen, HEAD).pose, reenact(own, driver, HEAD).pose, atol=1e-6
  )
  crops[2] = np.diag([-1.0, 1, 1])
  with pytest.raises(UserError, match='mirrors'):
    head_motion(HEAD, dataclasses.replace(driver, source_crop=np.stack(crops)))


@pytest.mark.parametrize('degrees', [60, 80, 130])
def test_a_neck_bends_no_further_than_a_neck_does(degrees):
  """The head turns as asked for; what the neck cannot do the torso does, about the same axis."""
  own, driver = subject(0, frames=1, turn=0.0), subject(1, frames=2, turn=0.0)
  driver.pose[1, SPINE] = np.deg2rad(degrees) * np.array([0.6, 0.8, 0])
  motion = reenact(own, driver, HEAD)
  np.testing.assert_allclose(
    driven_heads(own, motion)[0][1], rotation(driver.pose[1, SPINE]), atol=1e-6
  )
  bent = np.degrees(np.linalg.norm(motion.pose[1, [SPINE, NECK, SKULL]], axis=-1))
  neck = min(degrees, 70) / 2
  np.testing.assert_allclose(bent, [max(0, degrees - 70), neck, neck], atol=1e-4)


def test_strength_scales_expression_and_jaw_only():
  own, driver = subject(0), subject(1)
  once, half = (
    reenact(own, driver, HEAD, ReenactOptions(expression_strength=s)) for s in (1.0, 0.5)
  )
  np.testing.assert_allclose(half.expression, 0.5 * once.expression, atol=1e-6)
  np.testing.assert_allclose(half.pose[:, JAW], 0.5 * once.pose[:, JAW], atol=1e-6)
  others = [SPINE, NECK, SKULL, 4, 5]
  np.testing.assert_allclose(half.pose[:, others], once.pose[:, others], atol=1e-6)


def test_a_head_whose_root_is_the_neck_is_driven_too():
  """FLAME: no torso joint.

  Its root's turn counts as any other, and asking for the torso is refused.
  """
  chain = HEAD.replace(
    parents=(-1, 0, 0, 1, 1, 1),
    joint_names=('neck', 'head', 'spare', 'jaw', 'left_eye', 'right_eye'),
  )
  own, driver = subject(0), subject(1)
  motion = reenact(own, driver, chain)
  whole = lambda pose: rotation(pose[:, 0]) @ rotation(pose[:, 1])
  np.testing.assert_allclose(whole(motion.pose), whole(driver.pose), atol=1e-6)
  with pytest.raises(UserError, match='no joint below the neck'):
    reenact(own, driver, chain, ReenactOptions(drive_torso=True))
  nameless = HEAD.replace(joint_names=('a', 'b', 'c', 'jaw', 'left_eye', 'right_eye'))
  with pytest.raises(UserError, match="needs a joint 'head'"):
    reenact(own, driver, nameless)


def test_an_unknown_mode_is_named():
  with pytest.raises(ValueError, match="'sideways'"):
    reenact(subject(0), subject(1), HEAD, ReenactOptions(rotation='sideways'))
