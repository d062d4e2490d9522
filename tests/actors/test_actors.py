"""Actors: equal seeds give equal people, wrinkles obey expression and age, the truth is what was
drawn."""

import dataclasses

import jax
import numpy as np
import pytest

from exp_jax.actors import (
  GESTURES,
  dynamic_offsets,
  gesture,
  make_stage,
  render_actor,
  sample_actor,
  sample_motion,
  still_motion,
)
from exp_jax.actors.lighting import lamp, sample_background, sh_basis
from exp_jax.actors.noise import value_noise
from exp_jax.geometry import Camera, clip_coordinates, project
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import (
  check_head,
  frame_params,
  in_camera,
  load_subject,
  save_subject,
  subject_vertices,
)
from exp_jax.heads.skinning import head_landmarks
from exp_jax.rendering import Topology, rasterize

SIZE = 40


@pytest.fixture(scope='module')
def stage():
  return make_stage(load_head('procedural'), 1)


@pytest.fixture(scope='module')
def clip(stage):
  motion = sample_motion(np.random.default_rng(3), stage.assets.head, num_frames=5, fps=10)
  return render_actor(
    sample_actor(np.random.default_rng(2), stage), motion, stage, size=SIZE, maps=True
  )


def leaves(actor):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(actor)]


@pytest.mark.long
def test_equal_seeds_make_equal_people_and_others_differ(stage):
  one, same, other = (sample_actor(np.random.default_rng(seed), stage) for seed in (7, 7, 8))
  for a, b in zip(leaves(one), leaves(same)):
    np.testing.assert_array_equal(a, b)
  assert np.abs(one.static_offsets - other.static_offsets).max() > 1e-3
  assert np.abs(one.look.skin - other.look.skin).mean() > 0.01
  assert all(np.isfinite(leaf).all() for leaf in leaves(one))
  assert [leaf.shape for leaf in leaves(one)] == [leaf.shape for leaf in leaves(other)], (
    'one compile for all'
  )


@pytest.mark.long
def test_a_fixed_trait_changes_nothing_else(stage):
  free = sample_actor(np.random.default_rng(7), stage)
  old = sample_actor(np.random.default_rng(7), stage, age=1.0)
  assert float(old.traits['age']) == 1.0
  np.testing.assert_array_equal(old.light, free.light)
  np.testing.assert_array_equal(old.gains, free.gains)


@pytest.mark.long
def test_wrinkles_are_zero_at_rest_and_grow_with_expression_and_age(stage):
  head = stage.assets.head
  young, old = (sample_actor(np.random.default_rng(7), stage, age=age) for age in (0.0, 1.0))
  row, _ = gesture(head, GESTURES['surprise'])
  depth = lambda actor, expression: float(np.abs(dynamic_offsets(actor, expression)).max())
  assert depth(old, np.zeros_like(row)) == 0.0
  assert 0 < depth(young, 0.5 * row) < depth(young, row)
  assert 1.5 * depth(young, row) < depth(old, row) < 0.006


@pytest.mark.long
def test_each_action_wrinkles_its_own_skin(stage):
  actor = sample_actor(np.random.default_rng(7), stage, age=1.0)
  place = stage.place[np.asarray(stage.assets.skin_ids)]
  for actions, high in (({'browInnerUp': 1.0}, True), ({'mouthSmileLeft': 1.0}, False)):
    moved = np.linalg.norm(dynamic_offsets(actor, gesture(stage.assets.head, actions)[0]), axis=1)
    centre = (moved[:, None] * place).sum(0) / moved.sum()
    assert (centre[1] > stage.anatomy.eye[1]) == high, actions
  assert centre[0] > 0.01, 'the left smile folds the left side'


@pytest.mark.long
def test_the_matte_is_the_coverage_of_the_true_geometry(stage, clip):
  """Independent path: subject file -> dense vertices -> camera of the file -> rasterizer."""
  subject, frame = clip.truth, 2
  dense = densify(stage.assets.head, subject.levels)
  check_head(subject, stage.assets.head, dense)
  vertices = in_camera(subject_vertices(stage.assets.head, dense, subject, frame))
  camera = Camera(np.eye(3), np.zeros(3), subject.focal, subject.center, subject.image_size)
  seen = (
    rasterize(
      clip_coordinates(vertices, camera),
      Topology.from_faces(np.asarray(dense.faces)),
      subject.image_size,
    ).face_id
    >= 0
  )
  inside = clip.matte[frame] / 255
  edge = (inside > 0) & (inside < 1)
  np.testing.assert_array_equal(np.asarray(seen)[~edge], inside[~edge] > 0.5)
  assert 0.2 < seen.mean() < 0.9
  points = in_camera(head_landmarks(stage.assets.head, frame_params(subject, frame)))
  np.testing.assert_allclose(project(points, camera)[0], clip.landmarks[frame], atol=1e-3)


@pytest.mark.long
def test_frames_normals_and_truth_agree_in_size(stage, clip):
  assert clip.frames.shape == (5, SIZE, SIZE, 3) and clip.frames.dtype == np.uint8
  assert clip.maps['normals'].shape == (5, SIZE, SIZE, 3)
  length = np.linalg.norm(clip.maps['normals'].astype(np.float32), axis=-1)
  np.testing.assert_allclose(length[length > 0], 1, atol=2e-3)  # float16
  inside = clip.matte[0] == 255
  assert np.median(clip.maps['normals'][0][inside][:, 2]) < -0.3, (
    'the surface looks at the camera, toward -z'
  )
  assert clip.frames[0][inside].std() > 5
  assert clip.truth.num_frames == 5 and clip.truth.image_size == (SIZE, SIZE)


@pytest.mark.long
def test_padding_of_the_last_chunk_changes_nothing(stage, clip):
  motion = sample_motion(np.random.default_rng(3), stage.assets.head, num_frames=5, fps=10)
  last = dataclasses.replace(
    motion,
    **{key: getattr(motion, key)[4:] for key in ('expression', 'pose', 'translation', 'times')},
  )
  alone = render_actor(sample_actor(np.random.default_rng(2), stage), last, stage, size=SIZE)
  np.testing.assert_array_equal(alone.matte[0], clip.matte[4])


@pytest.mark.long
def test_another_motion_moves_the_same_person(stage):
  """Cross-reenactment truth: rotations are those of the driver, the seat is the actor's own."""
  one, two = (sample_actor(np.random.default_rng(seed), stage) for seed in (1, 2))
  motion = sample_motion(np.random.default_rng(9), stage.assets.head, num_frames=2, fps=10)
  a, b = (render_actor(actor, motion, stage, size=SIZE).truth for actor in (one, two))
  np.testing.assert_array_equal(a.pose, b.pose)
  np.testing.assert_array_equal(a.expression, b.expression)
  np.testing.assert_allclose(
    a.translation - np.asarray(one.seat), b.translation - np.asarray(two.seat), atol=1e-6
  )
  assert np.abs(a.shape - b.shape).max() > 0.1


@pytest.mark.long
def test_truth_survives_its_file(clip, tmp_path):
  save_subject(tmp_path / 'a.npz', clip.truth)
  again = load_subject(tmp_path / 'a.npz')
  np.testing.assert_array_equal(again.static_offsets, clip.truth.static_offsets)
  np.testing.assert_allclose(again.dynamic_offsets, clip.truth.dynamic_offsets, atol=2e-6)


@pytest.mark.long
def test_motion_is_smooth_bounded_and_repeats(stage):
  head = stage.assets.head
  motion = sample_motion(np.random.default_rng(4), head, num_frames=60, fps=30)
  again = sample_motion(np.random.default_rng(4), head, num_frames=60, fps=30)
  np.testing.assert_array_equal(motion.pose, again.pose)
  assert 0 <= motion.expression.min() and motion.expression.max() <= 1.2
  turns = motion.pose[:, [head.joint(n) for n in ('neck', 'head')]]
  assert np.abs(np.diff(turns, axis=0)).max() < 0.12, 'no jump of the head within 1/30 s'
  assert np.ptp(motion.pose[:, 1:], axis=0).max() > 0.05, 'but it moves'
  jaw = motion.pose[:, head.joint('jaw'), 0]
  assert 0 <= jaw.min() and jaw.max() <= 0.38


@pytest.mark.long
def test_gestures_leave_out_what_a_head_lacks(stage):
  row, jaw = gesture(stage.assets.head, {'mouthSmile?': 0.5, 'antlers?': 1.0, 'jaw': 0.1})
  assert jaw == 0.1 and np.count_nonzero(row) == 2 and row.max() == 0.5
  assert still_motion(stage.assets.head, num_frames=3).expression.shape == (3, len(row))


def test_a_lamp_lights_what_faces_it():
  toward = np.array([0.6, 0.0, -0.8])
  light = lamp(toward, np.array([1.0, 0.5, 0.25]))
  facing, away = sh_basis(toward) @ light, sh_basis(-toward) @ light
  # clamped cosine in nine terms: 1.06 facing and 0.06 away, Ramamoorthi & Hanrahan 2001
  np.testing.assert_allclose(facing, [1.0625, 0.53125, 0.265625], rtol=2e-3)
  assert np.abs(away).max() < 0.07


def test_harmonics_are_orthonormal():
  rng = np.random.default_rng(0)
  normals = rng.normal(size=(200_000, 3))
  basis = sh_basis(normals / np.linalg.norm(normals, axis=1, keepdims=True))
  # Monte Carlo
  np.testing.assert_allclose(4 * np.pi * basis.T @ basis / len(basis), np.eye(9), atol=0.02)


def test_backgrounds_vary_and_stay_in_range():
  images = [sample_background(np.random.default_rng(seed)) for seed in range(12)]
  assert all(np.isfinite(i).all() and i.min() >= 0 and i.max() <= 1 for i in images)
  assert np.std([i.mean((0, 1)) for i in images], axis=0).min() > 0.03


def test_noise_is_continuous_and_seeded():
  points = np.random.default_rng(0).uniform(size=(500, 3))
  noise = lambda p: value_noise(p, np.random.default_rng(1), size=0.2)
  assert np.abs(noise(points + 1e-6) - noise(points)).max() < 1e-4
  assert noise(points).std() > 0.1 and np.abs(noise(points)).max() <= 1
