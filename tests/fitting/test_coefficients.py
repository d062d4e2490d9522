"""Landmarks followed and heads fitted window by window, against a motion that is known."""

import dataclasses

import jax.numpy as jnp
import known_clips
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.controls.deformation_maps import expression_maps
from exp_jax.fitting.coarse.coarse_fit import make_camera
from exp_jax.fitting.coefficients import Coefficients, HeadFollower, LandmarkFollower
from exp_jax.fitting.head_directions import head_directions
from exp_jax.metrics import hpf
from exp_jax.metrics.evaluation import probes

HEAD = known_clips.makehuman()


TRUTH = known_clips.clip(HEAD, 11)
HIDDEN = (5, 8, 9, 10)  # frames that show nobody; the last of three windows has no others


def known(start, stop):
  """Coefficients of some frames as a perfect fit would give them."""
  cut = lambda values: np.array(values)[start:stop]
  params, hidden = TRUTH.params, [t - start for t in HIDDEN if start <= t < stop]
  expression, pose, translation = cut(params.expression), cut(params.pose), cut(params.translation)
  rotation, gaze = (
    np.array(v) for v in head_directions(HEAD)(params.shape, expression, pose, translation)
  )
  for values in (expression, pose, translation, rotation, gaze):
    values[hidden] = np.nan
  camera = (
    make_camera(jnp.float32(TRUTH.focal), known_clips.SIZE) if len(hidden) < stop - start else None
  )
  return Coefficients(
    np.asarray(params.shape), expression, pose, translation, rotation, gaze, camera
  )


@pytest.mark.slow
def test_the_motion_is_found_again_and_windows_share_one_shape():
  points = np.array(TRUTH.observation.points)
  points[list(HIDDEN)] = np.nan
  follower = HeadFollower(HEAD, 'known', window=4)
  found = [follower(points[i : i + 4], known_clips.SIZE) for i in (0, 4, 8)]
  rotation = np.concatenate([f.rotation for f in found])
  assert rotation.shape == (11, 3, 3)
  np.testing.assert_array_equal(
    np.isfinite(rotation).all((1, 2)), [t not in HIDDEN for t in range(11)]
  )
  score = hpf(rotation, known(0, 11).rotation)
  assert score.count == 7 and score.value < 1.0  # degrees; the clip turns by 40
  np.testing.assert_array_equal(found[0].shape, found[1].shape)
  np.testing.assert_allclose(found[0].camera.focal, found[1].camera.focal, rtol=1e-5)
  gaze = np.concatenate([f.gaze for f in found])
  np.testing.assert_allclose(np.linalg.norm(gaze[:5], axis=-1), 1, atol=1e-5)
  assert (gaze[0, :, 0] < gaze[4, :, 0]).all()  # head and eyes turn to the same side
  assert found[2].camera is None and np.isnan(found[2].expression).all()


def test_the_rotation_of_the_head_is_that_of_neck_and_head():
  pose = np.asarray(TRUTH.params.pose)
  turn = lambda joint: Rotation.from_rotvec(pose[:5, HEAD.joint(joint)])
  np.testing.assert_allclose(
    known(0, 5).rotation, (turn('neck') * turn('head')).as_matrix(), atol=1e-5
  )
  eye = (turn('neck') * turn('head') * turn('left_eye')).as_matrix()[:, :, 2]
  np.testing.assert_allclose(known(0, 5).gaze[:, 0], eye, atol=1e-5)


@pytest.mark.long
def test_deformation_maps_differ_where_expressions_do():
  first, second, nobody = known(0, 4), known(4, 8), known(8, 11)
  target, swapped, mask = expression_maps(HEAD, first, first, size=64)
  np.testing.assert_array_equal(target, swapped)
  assert 0.05 < mask.mean() < 0.9 and np.abs(target[mask]).mean() > 0.01
  target, swapped, mask = expression_maps(HEAD, first, second, size=64)
  assert (
    mask.any((1, 2)).tolist() == [True, False, True, True]
    and np.abs(target - swapped)[mask].max() > 0.01
  )
  turned = dataclasses.replace(
    first, pose=first.pose + 0.2 * np.eye(len(HEAD.parents))[HEAD.joint('head')][:, None]
  )
  _, swapped, mask = expression_maps(HEAD, first, turned, size=64)
  # turns of the head do not count
  np.testing.assert_array_equal(swapped, expression_maps(HEAD, first, first, size=64)[0])
  nobody = dataclasses.replace(nobody, expression=np.concatenate([nobody.expression] * 2)[:4])
  *_, mask = expression_maps(HEAD, first, nobody, size=64)
  assert not mask.any()


@pytest.mark.long
def test_the_probe_scores_a_clip_against_itself_as_perfect():
  first, second = known(0, 4), known(4, 8)
  frames = np.zeros((4, *known_clips.SIZE, 3), np.uint8)
  window = probes.Window('self', frames, frames, np.zeros((4, 478, 2)), np.zeros((4, 478, 2)))
  wanted = ('aed_fit', 'apd_fit', 'e_rmse_fit', 'p_rmse_fit', 'gaze_fit', 'hef')
  ask = lambda a, b: probes.own_fit(
    window, head=HEAD, follow_result=lambda *_: a, follow_target=lambda *_: b, wanted=wanted
  )[0]
  same, other = ask(first, first), ask(first, second)
  assert set(same) == set(wanted)
  for name in wanted:
    assert same[name].value == pytest.approx(0, abs=1e-5) and same[name].coverage == 1, name
    assert other[name].value > 1e-3 and other[name].coverage == 0.75, name
    assert 'exp_jax fit of makehuman' in other[name].variant
  assert other['e_rmse_fit'].value >= other['aed_fit'].value


def test_a_face_is_followed_over_the_border_of_windows():
  """The larger face of the first window stays the one that is followed, though another grows
  larger."""
  face = lambda x, size: np.random.default_rng(0).uniform(-size, size, (478, 3)) + [x, 50, 0]
  seen = [
    [face(20, 10), face(80, 8)],
    [face(21, 10), face(80, 9)],
    [face(22, 10), face(80, 14)],
    [],
    [face(23, 10), face(80, 15)],
  ]
  answers = iter(seen)
  follower = LandmarkFollower(
    lambda frame: (np.array(next(answers)).reshape(-1, 478, 3), None, None), 'two'
  )
  points = np.concatenate([follower(np.zeros((count, 4, 4, 3), np.uint8)) for count in (2, 3)])
  assert points.shape == (5, 478, 2) and np.isnan(points[3]).all()
  middle = face(0, 10)[:, 0].mean()
  np.testing.assert_allclose(
    points[[0, 1, 2, 4], :, 0].mean(1) - [20, 21, 22, 23], middle, atol=1e-4
  )
