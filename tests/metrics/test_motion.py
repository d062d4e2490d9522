import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.metrics import Score, aed, apd, csim, gaze_mae, hef, hpf, pooled, rmse
from exp_jax.metrics.motion import angles_between, gaze_directions
from exp_jax.metrics.score import mean_score

RNG = np.random.default_rng(0)
T = 7
NAN = np.nan


def turns(seed, spread=0.3):
  return Rotation.from_rotvec(
    np.cumsum(np.random.default_rng(seed).normal(0, spread, (T, 3)), 0)
  ).as_matrix()


def test_csim_is_the_mean_cosine_and_frames_without_a_face_lower_coverage():
  a, b = RNG.normal(size=(T, 5)), RNG.normal(size=(T, 5))
  expected = np.mean([x @ y / np.sqrt(x @ x) / np.sqrt(y @ y) for x, y in zip(a, b)])
  assert csim(a, b).value == pytest.approx(expected, abs=1e-12)
  assert csim(a, 3 * a).value == pytest.approx(1, abs=1e-12) and csim(a, -a).value == pytest.approx(
    -1, abs=1e-12
  )
  assert csim(a, b[0]).value == pytest.approx(np.mean([csim(x[None], b[:1]).value for x in a]))
  a[[1, 4]] = NAN
  score = csim(a, a)
  assert (
    score.value == pytest.approx(1) and score.count == 5 and score.coverage == pytest.approx(5 / 7)
  )
  nothing = csim(a * NAN, b)
  assert np.isnan(nothing.value) and nothing.count == 0 and nothing.coverage == 0


@pytest.mark.parametrize('metric', [aed, apd])
def test_distances_are_means_over_coefficients_and_frames(metric):
  a, b = RNG.normal(size=(T, 4)), RNG.normal(size=(T, 4))
  assert metric(a, b).value == pytest.approx(
    sum(abs(a[t, d] - b[t, d]) for t in range(T) for d in range(4)) / (4 * T), abs=1e-12
  )
  assert metric(a, a).value == 0
  a[3, 1] = NAN
  assert metric(a, b).count == T - 1 and metric(a, b).coverage == pytest.approx(6 / 7)
  with pytest.raises(ValueError, match='one shape'):
    metric(a, b[:5])


def test_rmse_pools_squares():
  a, b = RNG.normal(size=(T, 4)), RNG.normal(size=(T, 4))
  whole = rmse(a, b, variant='v')
  assert whole.value == pytest.approx(np.sqrt(np.mean((a - b) ** 2)), abs=1e-12)
  parts = [rmse(a[:2], b[:2], variant='v'), rmse(a[2:], b[2:], variant='v')]
  assert pooled(parts, root=True).value == pytest.approx(whole.value, abs=1e-12)
  assert pooled(parts).value != pytest.approx(whole.value, abs=1e-6)


def test_gaze_directions_are_those_of_gaze360_and_angles_are_exact():
  yaw, pitch = 0.3, -0.2
  expected = [-np.cos(pitch) * np.sin(yaw), -np.sin(pitch), -np.cos(pitch) * np.cos(yaw)]
  np.testing.assert_allclose(gaze_directions(np.array([yaw, pitch])), expected, atol=1e-12)
  a = gaze_directions(RNG.normal(0, 0.5, (T, 2)))
  axis = np.cross(a, [0.0, 1, 0])
  around = Rotation.from_rotvec(np.deg2rad(1e-4) * axis / np.linalg.norm(axis, axis=-1)[:, None])
  # arccos would lose this
  np.testing.assert_allclose(angles_between(around.apply(a), 2 * a), 1e-4, rtol=1e-6)
  np.testing.assert_allclose(angles_between(a, -a), 180)
  arccos = np.degrees(np.arccos(np.clip(np.sum(a * a[::-1], -1), -1, 1)))
  assert gaze_mae(a, a[::-1]).value == pytest.approx(arccos.mean(), abs=1e-4)
  both = np.stack([a, a[::-1]], 1)
  assert gaze_mae(both, both[:, ::-1]).value == pytest.approx(arccos.mean(), abs=1e-4)


def test_hpf_by_quaternions_as_published():
  a, b = turns(1), turns(2)
  quaternion = lambda r: Rotation.from_matrix(r @ r[0].T).as_quat()
  dots = np.abs(np.sum(quaternion(a) * quaternion(b), -1))
  expected = np.mean(2 * np.degrees(np.arccos(np.clip(dots, 0, 1))))
  assert hpf(a, b).value == pytest.approx(expected, abs=1e-6)


def test_hpf_is_zero_on_itself_and_each_side_cancels_its_offset():
  a, offset = turns(1), Rotation.from_rotvec([0.2, -0.3, 0.1]).as_matrix()
  assert hpf(a, a).value < 1e-9
  assert hpf(a @ offset, a).value < 1e-9 and hpf(offset @ a, a, side='camera').value < 1e-9
  assert hpf(offset @ a, a).value > 1 and hpf(a @ offset, a, side='camera').value > 1
  more = a.copy()
  more[1:] = more[1:] @ Rotation.from_rotvec([0, np.deg2rad(5), 0]).as_matrix()
  assert hpf(more, a).value == pytest.approx(5 * (T - 1) / T, abs=1e-9)  # frame 0 contributes 0
  with pytest.raises(ValueError, match='two frames'):
    hpf(a[:1], a[:1])


def test_hpf_anchors_at_the_first_frame_that_both_know():
  a, b = turns(1), turns(2)
  gap = a.copy()
  gap[[0, 3]] = NAN
  score = hpf(gap, b)
  assert score.count == T - 2
  assert score.value == pytest.approx(
    np.mean([hpf(a[[1, t]], b[[1, t]]).value * 2 for t in (1, 2, 4, 5, 6)])
  )
  assert np.isnan(hpf(gap * NAN, b).value)


def test_hef_is_the_mean_over_the_mask():
  g, p = RNG.normal(size=(3, 5, 4, 3)), RNG.normal(size=(3, 5, 4, 3))
  mask = RNG.uniform(size=(3, 5, 4)) > 0.4
  mask[1] = False
  frame = lambda t: np.mean(
    [np.abs(p - g)[t, y, x].sum() / 3 for y in range(5) for x in range(4) if mask[t, y, x]]
  )
  expected = (frame(0) + frame(2)) / 2
  score = hef(p, g, mask)
  assert (
    score.value == pytest.approx(expected, abs=1e-12)
    and score.count == 2
    and score.coverage == pytest.approx(2 / 3)
  )
  assert hef(g, g, mask).value == 0


def test_pooling_weighs_frames_and_remembers_what_was_asked():
  a, b = mean_score(np.array([1.0, 3.0, NAN]), 'v'), mean_score(np.array([8.0]), 'v')
  found = pooled([a, b])
  assert found == Score(4.0, 'v', 3, 0.75)
  empty = mean_score(np.full(4, NAN), 'v')
  assert pooled([a, b, empty], asked=[3, 1, 4]).coverage == pytest.approx(3 / 8)
  with pytest.raises(ValueError, match='asked'):
    pooled([a, empty])
  with pytest.raises(ValueError, match='one variant'):
    pooled([a, mean_score(np.ones(2), 'w')])
