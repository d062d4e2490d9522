"""Driving mathematics: every option's branch against plain loops, on drawn motions and on the
published templates."""

import dataclasses
import pathlib

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.systems.liveportrait.motion import editing
from exp_jax.systems.liveportrait.motion.driving import (
  EYES,
  LIP,
  MOVING,
  NEUTRAL,
  compose,
  expression_friendly,
  filtered,
  hull_volume,
  resample,
  stack,
  take,
)
from exp_jax.systems.liveportrait.motion.smoothing import (
  kalman_smooth,
  nearest_rotations,
  rotation_power,
)
from exp_jax.systems.liveportrait.networks.keypoints import (
  degrees_from_rotation,
  posed,
  rotation_from_degrees,
)
from exp_jax.systems.liveportrait.networks.motion import Motion
from exp_jax.systems.liveportrait.pipeline_options import DrivingOptions

TEMPLATES = pathlib.Path(__file__).parents[4] / 'shared' / 'real' / 'templates'


def drawn(count, seed):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=(count, *shape)).astype(np.float32)
  return Motion(
    0.3 * draw(21, 3),
    np.asarray(rotation_from_degrees(15 * draw(3))),
    0.01 * draw(21, 3),
    1.3 + 0.05 * draw(),
    0.1 * draw(3),
  )


def published(name):
  from exp_jax.convert.liveportrait_weights.liveportrait_files import read_template

  return read_template(TEMPLATES / f'{name}.pkl').motion


@pytest.fixture(
  params=['drawn', 'd1', 'd5', 'd8', 'laugh', 'wink', 'open_lip', 'shake_face', 'talking']
)
def driver(request):
  if request.param == 'drawn':
    return drawn(9, 1)
  if not TEMPLATES.is_dir():
    pytest.skip('third-party templates, for local testing only')
  return published(request.param)


def expected(source, driving, region, relative, source_video, driving_video, variance=3e-7):
  """The table of the specification, frame by frame, coordinate by coordinate."""
  T = len(driving.scale) if driving_video else len(source.scale)
  s = lambda i: take(source, i if source_video else 0)
  d = lambda i: take(driving, i if driving_video else 0)
  E = {(k, c) for k in (1, 2, 6, *range(11, 21)) for c in range(3)} | {
    (3, 1),
    (4, 1),
    (5, 2),
    (8, 2),
    (9, 1),
    (9, 2),
  }
  R, exp, scale, t = [], [], [], []
  for i in range(T):
    if relative and driving_video:
      R.append(d(i).rotation @ d(0).rotation.T @ s(i).rotation)
      exp.append(s(i).expression + d(i).expression - d(0).expression)
      scale.append(s(i).scale if source_video else s(i).scale * d(i).scale / d(0).scale)
      t.append(
        s(i).translation if source_video else s(i).translation + d(i).translation - d(0).translation
      )
    elif relative:
      rest = np.zeros_like(NEUTRAL) if region == 'eyes' and not source_video else NEUTRAL
      R.append(s(i).rotation)
      exp.append(s(i).expression + d(i).expression - rest)
      scale.append(s(i).scale)
      t.append(s(i).translation)
    else:
      R.append(d(i).rotation)
      exp.append(d(i).expression)
      scale.append(s(i).scale)
      t.append(d(i).translation)
  R, exp = np.stack(R), np.stack(exp)
  if source_video and driving_video:
    R, exp = kalman_smooth(R, variance), kalman_smooth(exp, variance)
  out = []
  for i in range(T):
    delta = s(i).expression.copy()
    for k in range(21):
      for c in range(3):
        if region in ('all', 'exp'):
          use = (relative and not source_video) or (k, c) in E
        else:
          use = k in {'lip': (6, 12, 14, 17, 19, 20), 'eyes': (11, 13, 15, 16, 18)}.get(region, ())
        if use:
          delta[k, c] = exp[i, k, c]
    turn = R[i] if region in ('all', 'pose') else s(i).rotation
    size = scale[i] if region == 'all' else s(i).scale
    move = (t[i] if region in ('all', 'pose') else s(i).translation) * [1, 1, 0]
    out.append(size * (s(i).canonical @ turn + delta) + move)
  return np.stack(out)


@pytest.mark.parametrize('region', ['all', 'exp', 'pose', 'lip', 'eyes'])
@pytest.mark.parametrize('relative', [True, False])
def test_every_branch(driver, region, relative):
  options = DrivingOptions(region=region, relative=relative)
  frames = min(len(driver.scale), 25)
  driver = take(driver, slice(0, frames))
  for source_video, driving_video in ((False, True), (False, False), (True, True), (True, False)):
    source = drawn(frames if source_video else 1, 7)
    given = driver if driving_video else take(driver, slice(3, 4))
    found = posed(
      compose(source, given, options, source_is_video=source_video, driving_is_video=driving_video)
    )
    want = expected(source, given, region, relative, source_video, driving_video)
    np.testing.assert_allclose(found, want, atol=2e-6)


@pytest.mark.parametrize('region', ['all', 'exp', 'pose', 'lip', 'eyes'])
def test_the_first_frame_is_the_source(driver, region):
  """8.7, and what it means for 'expression-friendly': nothing, in relative mode."""
  source = drawn(1, 2)
  driven = posed(compose(source, driver, DrivingOptions(region=region)))
  np.testing.assert_allclose(driven[0], posed(source)[0], atol=1e-6)
  np.testing.assert_allclose(expression_friendly(posed(source), driven), driven, atol=1e-5)
  one = posed(
    compose(source, take(driver, slice(0, 1)), DrivingOptions(region='lip'), driving_is_video=False)
  )
  # a picture is relative to the neutral expression
  assert np.abs(one[0] - posed(source)[0]).max() > 1e-4


def test_expression_friendly_takes_the_sources_proportions():
  source, driver = drawn(1, 2), drawn(5, 3)
  # turning a head does not change its volume
  driver = driver.replace(expression=10 * driver.expression)
  place = posed(source)
  driven = posed(compose(source, driver, DrivingOptions(relative=False)))
  found = expression_friendly(place, driven)
  factor = np.sqrt(hull_volume(place[0])) / np.sqrt(hull_volume(driven[0]))
  assert abs(factor - 1) > 0.01
  np.testing.assert_allclose(found, (driven - driven[0]) * factor + place, atol=1e-5)
  np.testing.assert_allclose(
    hull_volume(np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 0, 5.0]])), 5.0
  )
  flat = np.zeros((2, 21, 3), np.float32)
  # degenerate: all points in one place
  np.testing.assert_array_equal(expression_friendly(place, flat)[0], place[0])


def test_animals_move_absolutely_in_all_keypoints():
  source, driver = drawn(1, 2), drawn(4, 3)
  found = posed(compose(source, driver, DrivingOptions(), animals=True))
  for i in range(4):
    want = source.scale[0] * (
      source.canonical[0] @ driver.rotation[i] + driver.expression[i]
    ) + driver.translation[i] * [1, 1, 0]
    np.testing.assert_allclose(found[i], want, atol=1e-6)


def test_equation_8():
  source, driver = drawn(5, 2), drawn(5, 3)
  found = posed(compose(source, driver, DrivingOptions(video_edit='paper'), source_is_video=True))
  s, d = source, driver
  for i in range(5):
    mean = 0.5 * (d.expression[i] + d.expression[min(i + 1, 4)])
    turn = d.rotation[i] @ d.rotation[0].T @ s.rotation[i]
    move = (s.translation[i] + d.translation[i] - d.translation[0]) * [1, 1, 0]
    want = (
      s.scale[i]
      * d.scale[i]
      / d.scale[0]
      * (s.canonical[i] @ turn + s.expression[i] + mean - d.expression[0])
      + move
    )
    np.testing.assert_allclose(found[i], want, atol=2e-6)


def test_kalman_vectors():
  z = np.array([0, 1, 0, 0, 2, 2, 1.0])
  np.testing.assert_allclose(
    kalman_smooth(z, 3e-7),
    [0.027524, 0.944977, 0.028325, 0.055825, 1.944153, 1.970918, 1.028279],
    atol=1e-6,
  )
  np.testing.assert_allclose(
    kalman_smooth(z, 3e-6),
    [0.159547, 0.691370, 0.194426, 0.345570, 1.648616, 1.780382, 1.180088],
    atol=1e-6,
  )
  np.testing.assert_array_equal(kalman_smooth(z, 0), z.astype(np.float32))
  together = np.random.default_rng(0).normal(size=(7, 2, 3))
  np.testing.assert_allclose(
    kalman_smooth(together, 1e-6)[:, 1, 2], kalman_smooth(together[:, 1, 2], 1e-6), atol=1e-6
  )


def test_smoothed_rotations_are_projected_on_request():
  source, driver = drawn(6, 2), drawn(6, 3)
  off = lambda m: np.abs(m.rotation @ m.rotation.transpose(0, 2, 1) - np.eye(3)).max()
  assert off(compose(source, driver, DrivingOptions(), source_is_video=True)) > 1e-3
  assert off(compose(source, driver, DrivingOptions(project=True), source_is_video=True)) < 1e-5
  plain = filtered(driver, (1e-5, 0, 0, 0))
  assert off(plain) < 1e-5 and not np.allclose(plain.rotation, driver.rotation, atol=1e-3)
  np.testing.assert_array_equal(plain.expression, driver.expression)


def test_filters_touch_one_part_each():
  driver = drawn(8, 4)
  for i, name in enumerate(('rotation', 'expression', 'scale', 'translation')):
    found = filtered(driver, tuple(3e-6 * (i == j) for j in range(4)))
    for other in ('rotation', 'expression', 'scale', 'translation'):
      assert (other == name) != np.array_equal(getattr(found, other), getattr(driver, other)), (
        name,
        other,
      )


def test_reference_frame_and_scale_modes():
  source, driver = drawn(1, 2), drawn(6, 3)
  found = posed(compose(source, driver, DrivingOptions(), reference=take(driver, slice(4, 5))))
  np.testing.assert_allclose(found[4], posed(source)[0], atol=1e-6)
  for mode, power in (('relative', 1), ('damped', 0.5), ('fixed', 0)):
    scale = compose(source, driver, DrivingOptions(scale_mode=mode)).scale
    np.testing.assert_allclose(
      scale, source.scale[0] * (driver.scale / driver.scale[0]) ** power, rtol=1e-5
    )


@pytest.mark.filterwarnings('error')
def test_sizes_of_other_signs_have_no_root():
  source, driver = drawn(1, 2), drawn(6, 3)
  driver = dataclasses.replace(driver, scale=driver.scale * np.float32([1, 1, -1, 1, 1, 1]))
  for mode, power in (('relative', 1), ('fixed', 0)):
    np.testing.assert_allclose(
      compose(source, driver, DrivingOptions(scale_mode=mode)).scale,
      source.scale[0] * (driver.scale / driver.scale[0]) ** power,
      rtol=1e-5,
    )
  with pytest.raises(
    UserError, match="in frame 2, which has no root: use scale_mode 'relative' or 'fixed'"
  ):
    compose(source, driver, DrivingOptions(scale_mode='damped'))


def test_weights_of_regions():
  source, driver = drawn(1, 2), drawn(3, 3)
  full = compose(source, driver, DrivingOptions())
  none = compose(source, driver, DrivingOptions(pose=0, eyes=0, lips=0, other=0))
  np.testing.assert_allclose(posed(none), np.broadcast_to(posed(source), (3, 21, 3)), atol=1e-6)
  half = compose(source, driver, DrivingOptions(pose=0.5, lips=0.25, other=1, eyes=0))
  step, s = full.expression - source.expression, source.expression
  np.testing.assert_allclose(half.expression[:, LIP], (s + 0.25 * step)[:, LIP], atol=1e-6)
  np.testing.assert_array_equal(half.expression[:, EYES], np.broadcast_to(s, step.shape)[:, EYES])
  np.testing.assert_allclose(half.expression[:, 7], full.expression[:, 7], atol=1e-7)
  turn = full.rotation @ source.rotation.transpose(0, 2, 1)
  twice = half.rotation @ source.rotation.transpose(0, 2, 1)
  np.testing.assert_allclose(twice @ twice, turn, atol=1e-5)
  one = compose(source, driver, DrivingOptions(left_eye=0))
  place = posed(source)[0]
  left = (11, 13) if place[[11, 13], 0].mean() <= place[[15, 16], 0].mean() else (15, 16)
  right = (15, 16) if left == (11, 13) else (11, 13)
  np.testing.assert_array_equal(one.expression[:, left], np.broadcast_to(s, step.shape)[:, left])
  np.testing.assert_allclose(one.expression[:, right], full.expression[:, right], atol=1e-7)


def test_sets_are_as_published():
  assert MOVING.sum() == 3 * 13 + 2 + 1 + 1 + 2 and not MOVING[[0, 7, 10]].any()
  assert NEUTRAL.shape == (21, 3)
  np.testing.assert_array_equal(NEUTRAL[19], np.float32([-4.16022e-6, -1.50906e-2, -2.54940e-3]))
  assert {k for k in range(21) if np.abs(NEUTRAL[k]).max() > 1e-3} == {7, 14, 17, 19, 20}
  with pytest.raises(ValueError, match='unknown region'):
    compose(drawn(1, 0), drawn(2, 0), DrivingOptions(region='nose'))
  with pytest.raises(ValueError, match='do not go together'):
    compose(drawn(3, 0), drawn(2, 0), DrivingOptions())


def test_resampling_keeps_frames_and_turns_evenly():
  motion = drawn(4, 5)
  times = np.array([0, 0.1, 0.2, 0.3])
  same = resample(motion, times, times + 1e-6)
  for name in vars(motion):
    np.testing.assert_array_equal(getattr(same, name), getattr(motion, name))
  between = resample(motion, times, np.array([0.05, 0.15, 0.9]))
  np.testing.assert_allclose(
    between.expression[0], (motion.expression[0] + motion.expression[1]) / 2, atol=1e-6
  )
  np.testing.assert_array_equal(between.rotation[2], motion.rotation[3])
  first = motion.rotation[0].T @ between.rotation[0]
  np.testing.assert_allclose(motion.rotation[0] @ first @ first, motion.rotation[1], atol=1e-5)


def test_rotation_tools():
  R = np.asarray(rotation_from_degrees(np.array([[10.0, -20, 30], [3, 4, 5]])))
  np.testing.assert_allclose(rotation_power(R, 1.0), R, atol=1e-6)
  np.testing.assert_allclose(rotation_power(R, 0.0), np.broadcast_to(np.eye(3), R.shape), atol=1e-6)
  np.testing.assert_allclose(
    nearest_rotations(R + 0.01), nearest_rotations(nearest_rotations(R + 0.01)), atol=1e-6
  )
  assert np.linalg.det(nearest_rotations(-R)).min() > 0.99
  np.testing.assert_allclose(degrees_from_rotation(R), [[10, -20, 30], [3, 4, 5]], atol=1e-4)
  both = stack([drawn(2, 0), drawn(3, 1)])
  assert len(both.scale) == 5


SLIDERS = {  # the published table, as (keypoint, axis): offset at a value
  ('gaze_x', 10): {(11, 0): 7e-3, (15, 0): 1e-2},
  ('gaze_x', -10): {(11, 0): -1e-2, (15, 0): -7e-3},
  ('gaze_y', 20): {(11, 1): -0.01, (15, 1): -0.01, (13, 1): -3e-3, (16, 1): -3e-3},
  ('smile', 1): {
    (20, 1): -0.01,
    (14, 1): -0.02,
    (17, 1): 0.0065,
    (17, 2): 0.003,
    (13, 1): -0.00275,
    (16, 1): -0.00275,
    (3, 1): -0.0035,
    (7, 1): -0.0035,
  },
  ('wink', 10): {(11, 1): 0.01, (13, 1): -0.003, (17, 0): 0.003, (17, 1): 0.003, (3, 1): -0.003},
  ('eyebrow', 10): {(1, 1): 0.01, (2, 1): -0.01},
  ('eyebrow', -10): {(1, 0): 0.01, (2, 0): -0.01, (1, 1): -0.003, (2, 1): 0.003},
  ('pout', 0.05): {(19, 0): 0.05},
  ('purse', 10): {(14, 1): 0.01, (3, 1): -0.005, (7, 1): -0.005, (17, 2): -0.005},
  ('grin', 10): {(20, 2): -0.01, (20, 1): -0.01, (14, 1): -0.01},
  ('lip', 10): {(19, 1): 0.01, (19, 2): 0.001, (17, 1): -0.001},
  ('move_x', 0.1): {(5, 0): -0.1},
  ('move_y', 0.1): {(5, 1): 0.1},
  ('yaw', 5): {},
}


@pytest.mark.parametrize('name, value', SLIDERS)
def test_sliders(name, value):
  want = np.zeros((21, 3))
  for place, offset in SLIDERS[name, value].items():
    want[place] = offset
  np.testing.assert_allclose(editing.expression_offset({name: value}), want, atol=1e-7)


def test_edits_turn_and_scale():
  motion = drawn(2, 3)
  found = editing.edit(motion, dict(yaw=10, roll=-3, move_z=1.1, smile=0.5))
  np.testing.assert_allclose(
    degrees_from_rotation(found.rotation) - degrees_from_rotation(motion.rotation),
    np.broadcast_to([0, 10, -3], (2, 3)),
    atol=1e-3,
  )
  np.testing.assert_allclose(found.scale, 1.1 * motion.scale, rtol=1e-6)
  assert found.expression[0, 14, 1] - motion.expression[0, 14, 1] == pytest.approx(-0.01, abs=1e-6)
  silent = editing.lips_silent(motion)
  np.testing.assert_array_equal(silent.expression[:, EYES], motion.expression[:, EYES])
  np.testing.assert_array_equal(silent.expression[1, 19], NEUTRAL[19])
  for values, words in (({'nose': 1}, 'unknown slider'), ({'smile': 5}, 'must be in')):
    with pytest.raises(ValueError, match=words):
      editing.expression_offset(values)
