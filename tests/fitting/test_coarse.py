"""The coarse stage on landmarks whose parameters are known.

MakeHuman's head: it has MediaPipe's 478 points.
"""

import dataclasses

import jax
import jax.numpy as jnp
import known_clips
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.errors import UserError
from exp_jax.fitting.coarse.clips import initial_rotation
from exp_jax.fitting.coarse.coarse_fit import make_camera
from exp_jax.fitting.coarse.elimination import frame_apart, placed, solve_positive
from exp_jax.fitting.coarse.fit import fit_coarse, fit_coarse_long, fit_coarse_many
from exp_jax.fitting.coarse.priors import course
from exp_jax.fitting.coarse.unknowns import PLACE
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import head_vertices
from exp_jax.rendering import Topology, surface_maps


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


@pytest.fixture(scope='module')
def five(head):
  truth = known_clips.clip(head, 5)
  return truth, fit_coarse(head, truth.observation)


@pytest.mark.long
@pytest.mark.parametrize('frames', [1, pytest.param(2, marks=pytest.mark.slow), 5])
def test_known_parameters_are_recovered(head, five, frames):
  truth, fit = five
  if frames != 5:
    truth = known_clips.clip(head, frames)
    fit = fit_coarse(head, truth.observation)
  assert (
    fit.expression.shape == (frames, 49)
    and fit.pose.shape == (frames, 6, 3)
    and fit.error.shape == (frames,)
  )
  assert np.asarray(fit.error).max() < 0.005, fit.error  # half a percent of the eye distance
  assert degrees_off(head, fit, truth).max() < 2
  names = [head.expression_names.index(n) for n in ('mouthSmileLeft', 'browInnerUp')]
  np.testing.assert_allclose(
    np.asarray(fit.expression)[:, names], np.asarray(truth.params.expression)[:, names], atol=0.2
  )
  jaw = head.joint('jaw')
  np.testing.assert_allclose(fit.pose[:, jaw, 0], truth.params.pose[:, jaw, 0], atol=0.05)
  assert abs(float(fit.focal) / truth.focal - 1) < 0.15


@pytest.mark.long
def test_a_head_that_turns_into_profile_is_found_where_its_landmarks_are(head):
  truth = known_clips.clip(head, 5, yaw=1.4)  # 80 degrees
  fit = fit_coarse(head, truth.observation)
  assert degrees_off(head, fit, truth).max() < 2 and np.asarray(fit.error).max() < 0.005


def changed(observation, **fields):
  return dataclasses.replace(observation, **fields)


@pytest.mark.long
def test_gross_outliers_are_ignored(head, five):
  truth, clean = five
  rng = np.random.default_rng(1)
  points = truth.observation.points.copy()
  wild = rng.random(points.shape[:2]) < 0.05
  points[wild] += rng.normal(0, 40, (wild.sum(), 2))  # pixels; the eyes are about 70 apart
  fit = fit_coarse(head, changed(truth.observation, points=points.astype(np.float32)))
  assert degrees_off(head, fit, truth).max() < 2
  moved = np.linalg.norm(np.asarray(fit.translation) - np.asarray(clean.translation), axis=-1)
  assert moved.max() < 0.02 * abs(float(clean.translation[0, 2])), moved


@pytest.mark.long
def test_points_that_the_estimator_does_not_trust_do_not_count(head, five):
  truth, clean = five
  points, trust = truth.observation.points.copy(), np.ones((5, 478), np.float32)
  points[:, :60] += [9, -7]  # all one way: not to be told from truth by outlier tests
  trust[:, :60] = 0
  fit = fit_coarse(head, changed(truth.observation, points=points, trust=trust))
  assert degrees_off(head, fit, truth).max() < 2
  believed = fit_coarse(head, changed(truth.observation, points=points))
  far = lambda fit: np.linalg.norm(np.asarray(fit.shape) - np.asarray(clean.shape))
  assert far(fit) < 0.5 * far(believed)


@pytest.mark.long
def test_eyes_follow_the_gaze_where_irises_are_not_seen(head, five):
  truth, _ = five
  trust = np.ones((5, 478), np.float32)
  trust[:, 468:] = 0
  aside = np.deg2rad(20)
  gaze = np.tile(np.float32([np.sin(aside), 0, np.cos(aside)]), (5, 2, 1))
  fit = fit_coarse(head, changed(truth.observation, trust=trust, gaze=gaze), sweeps=0)
  eyes = [head.joint(name) for name in ('left_eye', 'right_eye')]
  look = [
    (turned(head, fit.pose) * Rotation.from_rotvec(np.asarray(fit.pose)[:, eye])).apply([0, 0, 1])
    for eye in eyes
  ]
  cosine = np.sum(np.stack(look, 1) * gaze, -1)
  assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 4
  without = fit_coarse(head, changed(truth.observation, trust=trust), sweeps=0)
  assert np.abs(np.asarray(without.pose)[:, eyes] - np.asarray(fit.pose)[:, eyes]).max() > 0.1


@pytest.mark.long
def test_normals_settle_the_relief_that_landmarks_leave_open(head):
  """A face that hardly turns: noisy landmarks and, then, noisy normals as well bring the neutral
  face near the true one."""
  truth = known_clips.clip(head, 5, yaw=0.05)
  rng = np.random.default_rng(3)
  points = (truth.observation.points + rng.normal(0, 0.5, truth.observation.points.shape)).astype(
    np.float32
  )
  topology, camera = (
    Topology.from_faces(np.asarray(head.faces)),
    make_camera(jnp.float32(truth.focal), known_clips.SIZE),
  )
  draw = jax.jit(
    lambda params: surface_maps(head_vertices(head, params), camera, topology)['normal']
  )
  each = [
    draw(
      HeadParams(
        truth.params.shape,
        truth.params.expression[t],
        truth.params.pose[t],
        truth.params.translation[t],
      )
    )
    for t in range(5)
  ]
  normals = np.stack(each) * [1, -1, -1]  # camera -> towards the viewer
  weights = np.linalg.norm(normals, axis=-1) > 0.5
  normals = np.where(weights[..., None], normals + rng.normal(0, 0.05, normals.shape), 0)
  seen = changed(truth.observation, points=points)
  maps = dict(normals=normals.astype(np.float16), normal_weights=weights.astype(np.float16))
  face = np.asarray(head.regions['face']) > 0.5

  def off(fit):
    """Millimetres, after the best rotation, scale and shift."""
    true, found = (
      np.asarray(head.template + head.shape_basis @ shape)[face]
      for shape in (truth.params.shape, fit.shape)
    )
    return 1e3 * procrustes(found, true)

  by_landmarks, by_both = fit_coarse(head, seen), fit_coarse(head, changed(seen, **maps))
  assert off(by_both) < 0.6 * off(by_landmarks), (off(by_both), off(by_landmarks))
  assert np.asarray(by_both.error).max() < 1.2 * np.asarray(by_landmarks.error).max(), (
    'at no cost to the landmarks'
  )
  blind = changed(seen, **maps | dict(normal_weights=np.zeros_like(maps['normal_weights'])))
  np.testing.assert_allclose(off(fit_coarse(head, blind)), off(by_landmarks), rtol=0.02)


def procrustes(points, goal) -> float:
  """Mean distance after the best similarity transform."""
  a, b = points - points.mean(0), goal - goal.mean(0)
  rotation, _ = Rotation.align_vectors(b, a)
  a = rotation.apply(a)
  return np.linalg.norm(a * (a * b).sum() / (a * a).sum() - b, axis=1).mean()


@pytest.mark.long
def test_a_frame_without_face_is_filled_from_its_neighbours(head, five):
  truth, _ = five
  points, found = truth.observation.points.copy(), np.array([True, True, False, True, True])
  points[2] = points[1] + 30  # what `observe` leaves there is not trusted
  fit = fit_coarse(head, changed(truth.observation, points=points, found=found))
  assert degrees_off(head, fit, truth)[found].max() < 2
  assert degrees_off(head, fit, truth)[2] < 6 and np.isfinite(np.asarray(fit.expression)).all()


@pytest.mark.long
def test_a_smooth_truth_gives_a_smooth_fit(head, five):
  """Second differences of the turn and of the position stay near those of the truth, noise or
  not."""
  truth, _ = five
  noise = np.random.default_rng(2).normal(0, 0.4, truth.observation.points.shape)
  points = (truth.observation.points + noise).astype(np.float32)
  rough = fit_coarse(head, changed(truth.observation, points=points), sweeps=0)
  fit = fit_coarse(head, changed(truth.observation, points=points))
  bend = lambda a: np.abs(np.diff(np.asarray(a), 2, axis=0)).max()
  assert bend(fit.expression) < 0.6 * bend(rough.expression)
  neck = head.joint('neck')
  assert bend(fit.pose[:, neck]) < bend(truth.params.pose[:, neck]) + 0.02
  assert degrees_off(head, fit, truth).max() < 2.5


@pytest.mark.long
def test_the_temporal_prior_compares_what_is_seen_to_move(head):
  """However torso, head and translation share a motion, only the torso's three numbers tell it."""
  rng, size = np.random.default_rng(3), head.expression_basis.shape[-1]
  shape, index = (
    rng.normal(0, 0.5, head.shape_basis.shape[-1]),
    {name: i for i, name in enumerate(head.joint_names)},
  )
  expression, rest, of = rng.random(size), rng.normal(0, 0.1, 7), Rotation.from_rotvec
  joints = (
    np.asarray(head.joint_template, np.float64) + np.asarray(head.joint_shape, np.float64) @ shape
  )
  wanted, place, found = of([0.1, 0.5, -0.2]), np.array([0.02, 0.01, -0.7]), []
  for torso in ([0.0, 0, 0], [0.2, -0.1, 0.3]):
    turn = (of(torso).inv() * wanted).as_rotvec()
    bones = [joints[index[a]] - joints[index[b]] for a, b in (('neck', 'spine'), ('head', 'neck'))]
    carried = joints[0] + of(torso).apply(bones[0]) + (of(torso) * of(turn / 2)).apply(bones[1])
    vector = np.concatenate([expression, turn, torso, rest, place - carried])
    found.append(
      np.array(course(head, jnp.asarray(shape, jnp.float32), jnp.asarray(vector, jnp.float32)))
    )
  torso = slice(size, size + 3)
  assert np.abs(found[0][torso] - found[1][torso]).max() > 1
  for values in found:
    values[torso] = 0
  np.testing.assert_allclose(found[1], found[0], atol=1e-3)  # standard deviations; float32 at 0.7 m
  np.testing.assert_allclose(found[0][-3:] * 0.002, place, atol=2e-6)
  np.testing.assert_allclose(
    found[0][-12:-3].reshape(3, 3) * 0.02 * np.sqrt(2), wanted.as_matrix(), atol=1e-5
  )


@pytest.mark.long
def test_a_known_shape_is_kept(head, five):
  truth, _ = five
  fit = fit_coarse(head, truth.observation, shape=truth.params.shape)
  np.testing.assert_array_equal(fit.shape, truth.params.shape)
  assert np.asarray(fit.error).max() < 0.01


def test_the_first_guess_of_the_pose_is_near(head):
  rng = np.random.default_rng(0)
  model = rng.normal(0, 0.06, (50, 3))
  rotation = Rotation.from_rotvec([0.1, 0.4, -0.2])
  seen = rotation.apply(model) + [0.02, 0.01, -4.0]  # far away: nearly orthographic
  pixels = np.stack(
    [128 + 2000 * seen[:, 0] / -seen[:, 2], 128 - 2000 * seen[:, 1] / -seen[:, 2]], -1
  )
  matrix = initial_rotation(model, pixels)
  assert np.degrees((Rotation.from_matrix(matrix) * rotation.inv()).magnitude()) < 2
  np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)


def test_a_head_without_mediapipe_landmarks_is_named(head):
  with pytest.raises(UserError, match="'procedural' has 12 landmarks, fitting needs the 478"):
    fit_coarse(load_head('procedural'), known_clips.clip(head, 1).observation)


@pytest.mark.long
def test_points_that_are_no_face_are_refused(head):
  observation = known_clips.clip(head, 1).observation
  points = np.random.default_rng(0).uniform(60, 200, observation.points.shape).astype(np.float32)
  with pytest.raises(UserError, match='does not explain the landmarks'):
    fit_coarse(head, changed(observation, points=points))


@pytest.mark.long
def test_many_clips_at_once_equal_one_by_one(head):
  """To 1e-5: metres of every vertex, posed and neutral, and share of the focal length.

  Unknowns to 1e-4, their rounding.
  """
  rng, clips = (
    np.random.default_rng(5),
    [known_clips.clip(head, 5, seed=seed).observation for seed in range(3)],
  )
  clips = [
    changed(clip, points=(clip.points + rng.normal(0, 0.5, clip.points.shape)).astype(np.float32))
    for clip in clips
  ]
  vertices = jax.jit(jax.vmap(head_vertices, in_axes=(None, HeadParams(None, 0, 0, 0))))
  for one, other in zip(
    (fit_coarse(head, clip) for clip in clips), fit_coarse_many(head, clips, at_once=3)
  ):
    np.testing.assert_allclose(one.focal, other.focal, rtol=1e-5)
    np.testing.assert_allclose(
      head.shape_basis @ one.shape, head.shape_basis @ other.shape, atol=1e-5
    )
    np.testing.assert_allclose(
      vertices(head, one.params(slice(None))), vertices(head, other.params(slice(None))), atol=1e-5
    )
    for name in ('shape', 'expression', 'pose', 'translation'):
      np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-4, err_msg=name)


@pytest.mark.long
def test_a_step_keeps_its_digits_where_an_unknown_carries_the_whole_face():
  """Against least squares in float64, with an unknown that places the head but for a thousandth, as
  torso and neck do."""
  rng, count, size = np.random.default_rng(0), 900, 30
  jacobian, residual = rng.normal(size=(size, count)) * 30, rng.normal(size=count) * 0.3
  place = np.arange(size)[PLACE]
  carried = [k for k in range(size) if k not in place][:4]
  jacobian[carried] = 3 * rng.normal(size=(4, 6)) @ jacobian[place] + 0.03 * rng.normal(
    size=(4, count)
  )
  true = np.linalg.lstsq(jacobian.T, -residual, rcond=None)[0]
  single, right = jnp.asarray(jacobian, jnp.float32), jnp.asarray(residual, jnp.float32)
  off = lambda step: np.abs(np.asarray(step) - true)[carried].max() / np.abs(true[carried]).max()
  solve = lambda rows: -solve_positive(rows @ rows.T, rows @ right)
  apart, shares = frame_apart(single)
  step = solve(apart)
  assert off(placed(step, step, shares)) < 3e-3
  assert not off(solve(single)) < 0.1


@pytest.mark.slow
def test_a_long_clip_in_chunks_is_the_clip_at_once(head):
  """Shape and focal length are one for all chunks, and nothing jumps where they meet."""
  truth = known_clips.clip(head, 22)
  whole = fit_coarse(head, truth.observation)
  parts = fit_coarse_long(head, truth.observation, chunk=12, overlap=4)
  assert parts.expression.shape == whole.expression.shape and parts.error.shape == (22,)
  assert np.asarray(parts.error).max() < 0.005
  assert abs(float(parts.focal) / float(whole.focal) - 1) < 0.02
  assert degrees_off(head, parts, truth).max() < 2
  second = lambda fit: np.abs(np.diff(np.asarray(fit.translation), 2, axis=0)).max()
  assert second(parts) < 1.5 * second(whole) + 1e-4, (second(parts), second(whole))
  short = fit_coarse_long(head, truth.observation, chunk=64)
  np.testing.assert_array_equal(short.pose, whole.pose)
