"""Imports from arrays, Sapiens JSON and actors; degradations."""

import json

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.observe import arrays, sapiens
from exp_jax.observe.degrade import Degradation, degrade
from exp_jax.observe.observation import load_observation, save_observation
from exp_jax.observe.sources import read_observation

T, H, W = 3, 40, 56


def people(seed, count=2):
  """Sapiens people: the larger one second."""
  rng = np.random.default_rng(seed)
  return [
    {
      'keypoints': (rng.uniform(0, 10 * (1 + k), (308, 2)) + 5).tolist(),
      'keypoint_scores': np.linspace(0.5, 1, 308).tolist(),
    }
    for k in range(count)
  ]


def test_sapiens_points_arrive_under_their_mediapipe_numbers(tmp_path):
  for t in range(T):
    (tmp_path / f'{t:04d}.json').write_text(json.dumps({'instance_info': people(t)}))
  seen = sapiens.read_sapiens(tmp_path, image_size=(H, W), name='clip')
  large = np.array(people(1)[1]['keypoints'])
  # left outer corner of the eye
  np.testing.assert_allclose(seen.points[1, 263], large[97], rtol=1e-5)
  np.testing.assert_allclose(seen.points[1, 61], large[188], rtol=1e-5)  # right corner of the mouth
  np.testing.assert_allclose(seen.trust[1, 468], np.linspace(0.5, 1, 308)[281], rtol=1e-5)
  assert (seen.trust[0] > 0).sum() == len(sapiens.POINTS) and seen.found.all()
  assert seen.provenance['points']['licence'] == 'CC-BY-NC-4.0'
  assert f'{len(sapiens.POINTS)} of the 238' in seen.warnings[0]
  save_observation(tmp_path / 'a.npz', seen)
  assert load_observation(tmp_path / 'a.npz').trust.shape == (T, 478)


def test_one_json_of_many_frames_and_a_frame_of_low_scores(tmp_path):
  poor = people(1, 1)
  poor[0]['keypoint_scores'] = [0.1] * 308
  text = {
    'instance_info': [
      {'frame_id': 1, 'instances': people(0, 1)},
      {'frame_id': 2, 'instances': poor},
      {'frame_id': 3, 'instances': []},
    ]
  }
  (tmp_path / 'clip.json').write_text(json.dumps(text))
  seen = sapiens.read_sapiens(tmp_path / 'clip.json', image_size=(H, W), name='clip')
  assert seen.found.tolist() == [True, False, False]


def test_the_table_has_no_point_twice_and_agrees_left_with_right():
  places, targets = zip(*sapiens.POINTS.values())
  assert len(set(places)) == len(set(targets)) == len(places) and max(places) < 308
  mirror = {
    33: 263,
    133: 362,
    159: 386,
    145: 374,
    61: 291,
    78: 308,
    468: 473,
    107: 336,
    55: 285,
    129: 358,
    46: 276,
    470: 475,
    472: 477,
  }
  for name, (_, target) in sapiens.POINTS.items():
    if name.startswith('r_'):
      assert sapiens.POINTS['l_' + name[2:]][1] == mirror[target]


@pytest.mark.parametrize(
  'text, words',
  [
    ('nothing', 'not JSON of Sapiens'),
    ('{"instance_info": [{"keypoints": [[1, 2]]}]}', 'not JSON of Sapiens'),
    ('{"instance_info": [{"keypoints": [[1, 2]], "keypoint_scores": [1]}]}', '308 keypoints'),
    ('[]', 'not JSON of Sapiens'),
    ('{"instance_info": []}', 'no face found'),
  ],
)
def test_wrong_json_is_one_sentence(text, words, tmp_path):
  (tmp_path / 'a.json').write_text(text)
  with pytest.raises(UserError, match=words):
    sapiens.read_sapiens(tmp_path / 'a.json', image_size=(H, W), name='clip')
  with pytest.raises(UserError, match='no Sapiens JSON'):
    sapiens.read_sapiens(tmp_path / 'b.json', image_size=(H, W), name='clip')


def test_arrays_come_in_with_their_frame_said(tmp_path):
  points = np.random.default_rng(0).uniform(0, 30, (T, 478, 2))
  normals = np.tile(np.float32([0.6, -0.48, -0.64]), (T, H, W, 1))
  np.savez(
    tmp_path / 'a.npz', landmarks=points, normals=normals, depth=np.full((T, H, W), 2.0), other=1
  )
  seen = arrays.read_arrays(
    tmp_path / 'a.npz', image_size=(H, W), name='a', frame='opencv', near_is_large=True
  )
  np.testing.assert_allclose(seen.normals[2, 5, 6], [0.6, 0.48, 0.64], atol=1e-3)
  assert seen.depth[0, 0, 0] == -2 and 'normals' in seen.provenance
  with pytest.raises(UserError, match='must be one of'):
    arrays.read_arrays(tmp_path / 'a.npz', image_size=(H, W), name='a', frame='blender')
  np.savez(tmp_path / 'b.npz', points=np.array(['x']))
  with pytest.raises(UserError, match='not arrays of numbers'):
    arrays.read_arrays(tmp_path / 'b.npz', image_size=(H, W), name='b')
  np.savez(tmp_path / 'c.npz', other=1)
  with pytest.raises(UserError, match='no points'):
    arrays.read_arrays(tmp_path / 'c.npz', image_size=(H, W), name='c')


def actor_files(tmp_path):
  """What an actor leaves, with half of the picture person and normals in camera axes."""
  rng = np.random.default_rng(1)
  matte = np.zeros((T, H, W), np.uint8)
  matte[:, :, : W // 2] = 255
  normals = np.where(matte[..., None] > 0, np.float16([0.0, -0.6, -0.8]), 0).astype(np.float16)
  depth = np.where(matte > 0, 1 + 0.1 * rng.random((T, H, W)), 0).astype(np.float16)
  (tmp_path / 'mattes').mkdir()
  np.savez(
    tmp_path / 'mattes' / 'actor_00000.npz',
    matte=matte,
    normals=normals,
    depth=depth,
    landmarks=rng.uniform(4, 30, (T, 478, 2)),
    gaze=np.tile([0.0, 0.1, -1.0], (T, 2, 1)),
  )
  return tuple(str(k) for k in range(478))


def test_an_actor_is_seen_in_the_frame_of_observations(tmp_path):
  names = actor_files(tmp_path)
  seen = arrays.read_actor(tmp_path, 'actor_00000', names)
  # up and towards the viewer
  np.testing.assert_allclose(seen.normals[1, 3, 4], [0, 0.6, 0.8], atol=1e-3)
  assert seen.gaze[0, 0, 2] > 0 > seen.gaze[0, 0, 1] and seen.trust is None
  assert (seen.depth_weights[:, :, W // 2 :] == 0).all() and seen.normal_weights[0, 0, 0] == 1
  partly = arrays.read_actor(tmp_path, 'actor_00000', ('chin', *names[1:]))
  assert (
    partly.trust[0, 0] == 0
    and partly.trust[0, 1] == 1
    and '1 landmarks without' in partly.warnings[0]
  )
  with pytest.raises(UserError, match='MediaPipe number'):
    arrays.read_actor(tmp_path, 'actor_00000', ('chin',) * 478)


def test_degradation_is_seeded_and_of_the_size_asked_for(tmp_path):
  seen = arrays.read_actor(tmp_path, 'actor_00000', actor_files(tmp_path))
  frames = np.full((T, H, W, 3), 100, np.uint8)
  first, pictures = degrade(seen, frames, seed=3)
  again, same = degrade(seen, frames, seed=3)
  other, _ = degrade(seen, frames, seed=4)
  np.testing.assert_array_equal(first.points, again.points)
  np.testing.assert_array_equal(pictures, same)
  assert np.abs(first.points - other.points).max() > 0
  eye = np.median(np.linalg.norm(seen.points[:, 263] - seen.points[:, 33], axis=-1))
  error = (first.points - seen.points).std() / eye
  np.testing.assert_allclose(error, np.hypot(0.012, 0.008), rtol=0.05)  # 2868 numbers, 2 sigma
  assert pictures.std() > 2 and np.isfinite(first.depth).all()
  person = seen.normal_weights > 0
  cosine = (np.float32(first.normals) * np.float32(seen.normals)).sum(-1)[person]
  assert 0.9 < cosine.mean() < 0.9999
  nothing = Degradation(jitter=0, drift=0, blur=0, noise=0, depth_scale=0)
  np.testing.assert_allclose(degrade(seen, how=nothing)[0].points, seen.points)


def test_occluders_take_matte_weights_and_trust(tmp_path):
  seen = arrays.read_actor(tmp_path, 'actor_00000', actor_files(tmp_path))
  bad, pictures = degrade(
    seen, np.zeros((T, H, W, 3), np.uint8), how=Degradation(occluders=2, noise=0), seed=1
  )
  gone = (seen.matte > 0) & (bad.matte == 0)
  assert (
    gone.any() and (bad.normal_weights[gone] == 0).all() and (bad.depth_weights[gone] == 0).all()
  )
  assert (pictures[gone] > 0).any() and bad.trust.min() < 0.5 and bad.trust.max() == 1
  assert not degrade(seen, how=Degradation(lost=0.7), seed=2)[0].found.all()


def test_parts_of_two_observations_join(tmp_path):
  full = arrays.read_actor(tmp_path, 'actor_00000', actor_files(tmp_path))
  np.savez(tmp_path / 'p.npz', points=full.points + 1)
  points = arrays.read_arrays(tmp_path / 'p.npz', image_size=(H, W), name='p')
  both = arrays.merged(points, full)
  np.testing.assert_array_equal(both.points, points.points)
  np.testing.assert_array_equal(both.normals, full.normals)
  assert both.provenance['normals']['estimator'] == 'synthetic truth'
  assert both.provenance['points']['estimator'] == 'arrays of p.npz'


def test_one_door_tells_files_apart_and_checks_the_clip(tmp_path):
  seen = arrays.read_actor(tmp_path, 'actor_00000', actor_files(tmp_path))
  save_observation(tmp_path / 'ours.npz', seen)
  np.savez(tmp_path / 'theirs.npz', points=seen.points)
  (tmp_path / 'json').mkdir()
  for t in range(T):
    (tmp_path / 'json' / f'{t}.json').write_text(json.dumps({'instance_info': people(t)}))
  read = lambda name, count=T, size=(H, W): read_observation(
    tmp_path / name, image_size=size, num_frames=count, name='clip'
  )
  assert read('ours.npz').normals is not None and read('theirs.npz').normals is None
  assert 'Sapiens' in read('json').estimator
  with pytest.raises(UserError, match='speaks of 3 frames of 40 x 56 pixels, clip has 2 of'):
    read('theirs.npz', 2)
  with pytest.raises(UserError, match='clip has 3 of 56 x 40'):
    read('ours.npz', T, (W, H))
  with pytest.raises(UserError, match='neither'):
    read('clip.mp4')
