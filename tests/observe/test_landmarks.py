import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.observe import landmarks
from exp_jax.observe.observation import Observation, load_observation, save_observation


def _face(x, y, side=20.0):
  rng = np.random.default_rng(0)
  points = rng.uniform(-side / 2, side / 2, (478, 3)).astype(np.float32)
  return points - points.mean(0) + [x, y, 0]


class FakeEstimator:
  """Answers from a script: one list of faces a frame."""

  def __init__(self, script):
    self._script = iter(script)

  def __call__(self, image):
    faces = np.float32(next(self._script)).reshape(-1, 478, 3)
    return faces, np.ones(len(faces)), np.full(image.shape[:2], 200, np.uint8)


FRAMES = np.zeros((4, 30, 50, 3), np.uint8)


def test_the_first_face_is_followed_when_a_larger_one_appears():
  near = _face(40, 15, 40)
  script = [[_face(10, 10)], [near, _face(11, 10)], [near, _face(12, 10)], [_face(13, 10)]]
  seen = landmarks.observe(FRAMES, name='clip', estimator=FakeEstimator(script))
  np.testing.assert_allclose(seen.points.mean(1)[:, 0], [10, 11, 12, 13], atol=1e-3)
  assert seen.found.all() and seen.matte.shape == (4, 30, 50)


def test_a_frame_without_face_is_marked_and_filled():
  script = [[_face(10, 10)], [], [_face(12, 10)], [_face(13, 10)]]
  seen = landmarks.observe(FRAMES, name='clip', estimator=FakeEstimator(script))
  assert seen.found.tolist() == [True, False, True, True] and np.isfinite(seen.points).all()


@pytest.mark.parametrize(
  'script, words',
  [
    ([[], [], [], []], 'no face found in my clip'),
    ([[_face(1, 1)], [], [], []], 'only 1 of 4 frames of my clip'),
  ],
)
def test_no_face_is_one_sentence(script, words):
  with pytest.raises(UserError, match=words):
    landmarks.observe(FRAMES, name='my clip', estimator=FakeEstimator(script))


def test_results_are_cached_by_content(tmp_path):
  script = [[_face(10, 10)]] * 4
  first = landmarks.observe(FRAMES, name='clip', estimator=FakeEstimator(script), cache=tmp_path)
  # would need the process
  again = landmarks.observe(FRAMES, name='clip', estimator=None, cache=tmp_path)
  np.testing.assert_array_equal(first.points, again.points)


def test_observation_files_are_checked(tmp_path):
  seen = Observation(np.zeros((2, 478, 2), np.float32), np.ones(2, bool), None, (30, 50), 'test')
  save_observation(tmp_path / 'a.npz', seen)
  assert load_observation(tmp_path / 'a.npz').image_size == (30, 50)
  whole = (tmp_path / 'a.npz').read_bytes()
  (tmp_path / 'b.npz').write_bytes(whole[: len(whole) // 2])
  np.savez(tmp_path / 'c.npz', other=np.zeros(3))
  for name in ('b.npz', 'c.npz'):
    with pytest.raises(UserError, match=name):
      load_observation(tmp_path / name)
  with pytest.raises(UserError, match='NaN'):
    Observation(np.full((2, 478, 2), np.nan), np.ones(2, bool), None, (30, 50), 'test')


def test_a_missing_sidecar_names_the_remedy(monkeypatch):
  monkeypatch.setenv('EXP_JAX_MEDIAPIPE', '/nowhere/python')
  with pytest.raises(UserError, match='make setup'):
    landmarks.FaceEstimator()


def test_the_real_estimator_finds_the_astronaut():
  data = pytest.importorskip('skimage.data')
  try:
    landmarks.interpreter()
  except UserError:
    pytest.skip('run `make setup` for the landmark estimator')
  image = data.astronaut()
  with landmarks.FaceEstimator() as estimator:
    points, scores, matte = estimator(image)
    nothing, _, _ = estimator(np.full((64, 64, 3), 90, np.uint8))
  assert points.shape == (1, 478, 3) and scores[0] > 0.8 and len(nothing) == 0
  # Irises of the photograph, read off the enlarged picture.
  np.testing.assert_allclose(points[0, 468, :2], (204, 101.5), atol=2)
  np.testing.assert_allclose(points[0, 473, :2], (247, 103.5), atol=2)
  assert matte[100, 225] > 200 and matte[20, 20] < 50


def test_the_networks_of_the_sidecar_have_a_digest(tmp_path, monkeypatch):
  python = tmp_path / 'bin' / 'python'
  folder = (
    tmp_path / 'lib' / 'python3.11' / 'site-packages' / 'mediapipe' / 'modules' / 'face_landmark'
  )
  for path in (python, folder / 'a.tflite'):
    path.parent.mkdir(parents=True)
    path.write_bytes(b'one')
  monkeypatch.setenv('EXP_JAX_MEDIAPIPE', str(python))
  first = landmarks.weights_digest()
  (folder / 'a.tflite').write_bytes(b'two')
  assert len(first) == 64 and landmarks.weights_digest() != first
  (folder / 'a.tflite').unlink()
  assert landmarks.weights_digest() == ''
