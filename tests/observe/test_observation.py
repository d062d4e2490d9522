"""Repairs, refusals, versions and crops of the observation record."""

import dataclasses

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.media.squares import Crop
from exp_jax.observe.face_crop import crop_observation
from exp_jax.observe.observation import (
  Observation,
  load_observation,
  make_observation,
  save_observation,
)

T, H, W = 3, 24, 32


def parts(seed=0):
  """What a good estimator returns, in unequal sizes."""
  rng = np.random.default_rng(seed)
  normals = rng.normal(size=(T, H, W, 3)) + [0, 0, 2]
  return dict(
    points=rng.uniform(2, 20, (T, 478, 2)),
    trust=rng.uniform(0.1, 1, (T, 478)),
    matte=np.full((T, H, W), 255, np.uint8),
    normals=normals,
    depth=rng.uniform(1, 2, (T, H, W)),
    gaze=np.tile(np.float32([0, 0, 1]), (T, 2, 1)),
    image_size=(H, W),
    estimator='test',
    name='clip',
    provenance={'normals': {'estimator': 'n', 'licence': 'MIT', 'digest': 'ab'}},
  )


def test_all_parts_survive_the_file(tmp_path):
  seen = make_observation(**parts())
  save_observation(tmp_path / 'a.npz', seen)
  again = load_observation(tmp_path / 'a.npz')
  for field in dataclasses.fields(Observation):
    first, second = getattr(seen, field.name), getattr(again, field.name)
    if isinstance(first, np.ndarray):
      np.testing.assert_array_equal(first, second)
    else:
      assert first == second
  assert again.normals.dtype == np.float16 and not again.warnings
  np.testing.assert_allclose(np.linalg.norm(again.normals.astype(float), axis=-1), 1, atol=2e-3)


def test_version_one_still_loads(tmp_path):
  np.savez(
    tmp_path / 'old.npz',
    version=1,
    points=np.zeros((2, 478, 2), np.float32),
    found=np.ones(2, bool),
    image_size=np.array([5, 7]),
    estimator=np.array('old'),
    matte=np.zeros((2, 5, 7), np.uint8),
  )
  seen = load_observation(tmp_path / 'old.npz')
  assert seen.image_size == (5, 7) and seen.normals is None and seen.provenance == {}


def test_a_newer_version_is_refused(tmp_path):
  np.savez(tmp_path / 'new.npz', version=3)
  with pytest.raises(UserError, match='version 3'):
    load_observation(tmp_path / 'new.npz')


def test_nan_in_maps_gets_weight_zero_and_one_sentence():
  given = parts()
  given['normals'][1, 2, 3, 0] = np.nan
  given['depth'][2, 4, 5] = np.inf
  seen = make_observation(**given)
  assert seen.normal_weights[1, 2, 3] == 0 and seen.depth_weights[2, 4, 5] == 0
  assert (seen.normal_weights == 0).sum() == 1 == (seen.depth_weights == 0).sum()
  assert seen.depth[2, 4, 5] == 0
  assert len(seen.warnings) == 2 and '1 pixels of the normals hold NaN' in seen.warnings[0]


def test_nan_landmarks_make_a_frame_not_found():
  given = parts()
  given['points'][1, 7] = np.nan
  seen = make_observation(**given)
  assert seen.found.tolist() == [True, False, True] and 'not found' in seen.warnings[0]
  assert np.isfinite(seen.points).all()
  np.testing.assert_allclose(seen.points[1], seen.points[0])


def test_points_without_trust_may_be_missing():
  given = parts()
  given['points'][:, 7], given['trust'][:, 7] = np.nan, 0
  seen = make_observation(**given)
  assert seen.found.all() and np.isfinite(seen.points).all() and not seen.warnings


def test_an_empty_matte_is_dropped_and_said():
  seen = make_observation(**(parts() | {'matte': np.zeros((T, H, W), np.uint8)}))
  assert seen.matte is None and 'empty in all frames' in seen.warnings[0]
  matte = np.full((T, H, W), 200, np.uint8)
  matte[2] = 0
  seen = make_observation(**(parts() | {'matte': matte}))
  assert seen.matte is not None and 'empty in 1 of 3' in seen.warnings[0]


@pytest.mark.parametrize(
  'change, words',
  [
    ({'points': np.zeros((T, 68, 2))}, 'MediaPipe numbering'),
    ({'normals': np.zeros((T, W, H, 3))}, 'normals must be'),
    ({'depth': np.zeros((T, H))}, 'depth must be'),
    ({'trust': np.zeros((T, 68))}, 'trust must be'),
    ({'matte': np.zeros((T, W, H), np.uint8) + 1}, 'matte must be'),
    ({'gaze': np.zeros((T, 3))}, 'gaze must be'),
    ({'found': np.zeros(T, bool)}, 'no face found in clip'),
    ({'found': np.ones(T + 1, bool)}, 'found must be'),
    ({'normals': None, 'depth': None, 'normal_weights': np.ones((T, H, W))}, 'without normals'),
  ],
)
def test_wrong_parts_are_one_sentence(change, words):
  with pytest.raises(UserError, match=words):
    make_observation(**(parts() | change))


def test_a_crop_takes_maps_along():
  """A linear map stays linear: its value at a crop pixel is that at the source place."""
  given = parts()
  x, y = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
  given['depth'] = np.tile(2 * x + 3 * y, (T, 1, 1))
  given['normals'] = np.tile(np.stack([x - 16, y - 12, 30 + 0 * x], -1), (T, 1, 1, 1))
  crop = Crop(left=4.5, top=3.25, side=10.0, size=16)
  cut = crop_observation(make_observation(**given), crop)
  place = (np.arange(16) + 0.5) * 10 / 16
  u, v = np.meshgrid(place + 4.5, place + 3.25)
  np.testing.assert_allclose(cut.depth[1], 2 * u + 3 * v, rtol=1e-5)
  expected = np.stack([u - 16, v - 12, 30 + 0 * u], -1)
  expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
  np.testing.assert_allclose(cut.normals[1], expected, atol=5e-3)  # float16, and unit per pixel
  assert cut.normal_weights.min() == 1 and cut.image_size == (16, 16)


def test_a_crop_beyond_the_border_has_weight_zero_there():
  seen = make_observation(**parts())
  cut = crop_observation(seen, Crop(left=-8.0, top=0.0, side=16.0, size=16))
  assert (cut.normal_weights[:, :, :8] == 0).all() and (cut.normal_weights[:, :, 8:] == 1).all()
