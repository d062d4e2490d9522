"""A head without a jaw joint, as one form of FLAME, is loaded, posed, made dense and driven as any
other."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.actors.motion import sample_motion
from exp_jax.controls.channels import surface_attributes
from exp_jax.controls.driving_options import ReenactOptions
from exp_jax.controls.reenact import reenact
from exp_jax.controls.smoothing import smoothed
from exp_jax.errors import UserError
from exp_jax.heads.densify import dense_vertices, densify
from exp_jax.heads.head_files import load_head, save_head
from exp_jax.heads.model import HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_joints, head_landmarks, head_vertices

WITH_JAW = load_head('procedural')
JAW = WITH_JAW.joint('jaw')
KEPT = np.delete(np.arange(len(WITH_JAW.parents)), JAW)


@pytest.fixture(scope='module')
def head(tmp_path_factory):
  """The procedural head whose jaw belongs to the skull, through a file."""
  weights = np.array(WITH_JAW.weights)
  weights[:, WITH_JAW.joint('head')] += weights[:, JAW]
  shorter = WITH_JAW.replace(
    name='toothless',
    weights=jnp.asarray(weights[:, KEPT]),
    joint_names=tuple(WITH_JAW.joint_names[k] for k in KEPT),
    parents=tuple(
      int(np.searchsorted(KEPT, p)) if p >= 0 else -1 for p in np.array(WITH_JAW.parents)[KEPT]
    ),
    **{
      name: getattr(WITH_JAW, name)[KEPT]
      for name in ('joint_template', 'joint_shape', 'joint_expression')
    },
  )
  path = tmp_path_factory.mktemp('heads') / 'toothless.npz'
  save_head(path, shorter)
  return load_head(path)


def subject(seed, frames=6):
  """Random parameters of the head with a jaw, the jaw at rest."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(0, 1, shape).astype(np.float32)
  pose = 0.2 * draw(frames, len(WITH_JAW.parents), 3)
  pose[:, JAW] = 0
  return Subject(
    f's{seed}',
    'none',
    'none',
    0,
    (100, 100),
    25.0,
    0.5 * draw(10),
    0.2 * draw(frames, 10),
    pose,
    0.02 * draw(frames, 3) + np.float32([0, 0, -0.7]),
    np.full(2, 300.0),
    np.full(2, 50.0),
    np.arange(frames) / 25,
    np.zeros((3, 3)),
    np.zeros(0, int),
    np.zeros((frames, 0, 3)),
  )


def cut(person):
  return dataclasses.replace(person, pose=person.pose[:, KEPT])


@pytest.mark.long
def test_it_is_posed_as_the_head_whose_jaw_rests(head):
  person = subject(0)
  of = lambda person: HeadParams(
    *(
      jnp.asarray(a)
      for a in (person.shape, person.expression[0], person.pose[0], person.translation[0])
    )
  )
  for points in (head_vertices, head_landmarks):
    np.testing.assert_allclose(
      points(head, of(cut(person))), points(WITH_JAW, of(person)), atol=1e-6
    )
  np.testing.assert_allclose(
    head_joints(head, of(cut(person))), head_joints(WITH_JAW, of(person))[KEPT], atol=1e-6
  )
  dense, other = densify(head, 1), densify(WITH_JAW, 1)
  none = jnp.zeros((len(dense.coarse_ids), 3))
  np.testing.assert_allclose(
    dense_vertices(head, dense, of(cut(person)), none, none),
    dense_vertices(WITH_JAW, other, of(person), none, none),
    atol=1e-6,
  )


@pytest.mark.parametrize('rotation', ['absolute', 'relative'])
def test_it_is_driven_as_the_head_whose_jaw_rests(head, rotation):
  own, driver = subject(1), subject(2)
  options = ReenactOptions(rotation=rotation, drive_torso=True, expression_strength=0.7)
  true, found = (
    reenact(own, driver, WITH_JAW, options),
    reenact(cut(own), cut(driver), head, options),
  )
  np.testing.assert_array_equal(found.expression, true.expression)
  np.testing.assert_allclose(found.pose, true.pose[:, KEPT], atol=1e-6)
  np.testing.assert_allclose(found.translation, true.translation, atol=1e-6)
  true, found = smoothed(driver, WITH_JAW), smoothed(cut(driver), head)
  np.testing.assert_allclose(found.pose, true.pose[:, KEPT], atol=1e-6)


def test_no_tooth_is_a_lower_one(head):
  dense = densify(head, 0)
  dense = dense.replace(regions=dense.regions | {'teeth': dense.regions['lips']})
  person = dataclasses.replace(cut(subject(3)), static_offsets=np.zeros((len(dense.coarse_ids), 3)))
  upper, lower = np.asarray(surface_attributes(head, dense, person))[:, 4:6].T
  assert upper.any() and not lower.any()


def test_where_a_jaw_is_needed_the_reason_is_given(head):
  with pytest.raises(
    UserError,
    match="'toothless' has no joint 'jaw', which is needed because actors open their mouths",
  ):
    sample_motion(np.random.default_rng(0), head, num_frames=2)
