"""Which face is followed, and what is said when it is doubtful."""

import sys
import types
import zipfile

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.observe import landmarks
from exp_jax.observe.mediapipe_tasks import TaskEstimator, check_task
from exp_jax.observe.people import (
  check_seen,
  choose_faces,
  follow,
  follow_chosen,
  frames_to_keep,
  nearest_seen,
  seen,
  watch_faces,
)
from exp_jax.progress import Watch


def a_face(x, y, side=20.0, count=478):
  points = np.random.default_rng(0).uniform(-0.5, 0.5, (count, 2)).astype(np.float32)
  points -= (points.max(0) + points.min(0)) / 2
  return points / np.ptp(points, axis=0) * side + np.float32([x, y])


def centres(track):
  return (track.max(1) + track.min(1))[:, 0] / 2


def test_who_leaves_is_not_replaced_by_another():
  both = lambda x: np.stack([a_face(x, 50), a_face(150, 50)])
  track, _ = follow([both(50), both(55), a_face(150, 50)[None], both(60)], name='clip')
  np.testing.assert_allclose(centres(track), [50, 55, np.nan, 60], atol=0.1)


def test_who_comes_closer_takes_nothing():
  large = a_face(52, 50, 60)
  track, _ = follow(
    [a_face(50, 50)[None], np.stack([large, a_face(51, 50)]), large[None]], name='clip'
  )
  np.testing.assert_allclose(centres(track), [50, 51, np.nan], atol=0.1)


def test_one_person_may_jump():
  """Three frames a second: far between frames, but there is nobody else."""
  track, _ = follow([a_face(50, 50)[None], a_face(300, 50)[None]], name='clip')
  assert np.isfinite(track).all()


def test_the_face_is_chosen_by_number_or_place():
  first = np.stack([a_face(50, 50, 20), a_face(150, 50, 40), a_face(250, 50, 30)])
  assert np.round(centres(follow([first], name='c')[0])) == 150
  assert np.round(centres(follow([first], name='c', face=2)[0])) == 50
  assert np.round(centres(follow([first], name='c', near=(240, 0))[0])) == 250
  with pytest.raises(UserError, match='shows 3 face'):
    follow([first], name='c', face=3)
  with pytest.raises(UserError, match='not by both'):
    follow([first], name='c', face=1, near=(1, 1))


def test_two_alike_faces_are_named_with_boxes():
  pair = np.stack([a_face(50, 50, 20), a_face(150, 60, 18)])
  _, warnings = follow([pair[:1], pair], name='my clip')
  assert len(warnings) == 1 and 'my clip' in warnings[0] and 'frame 1' in warnings[0]
  assert '(40, 40)-(60, 60)' in warnings[0] and '(141, 51)-(159, 69)' in warnings[0]
  assert not follow([pair], name='c', face=0)[1]
  assert not follow([np.stack([a_face(50, 50, 20), a_face(150, 60, 8)])], name='c')[1]


def test_the_warning_reaches_the_record_and_choices_have_caches_of_their_own(tmp_path):
  pair = [np.concatenate([a_face(x, 50), np.zeros((478, 1), np.float32)], 1) for x in (50, 150)]

  class Estimator:
    name, licence, digest, calls = 'mine', 'MIT', 'ff', 0

    def __call__(self, image):
      Estimator.calls += 1
      return np.stack(pair), np.ones(2), None

  frames = np.zeros((2, 100, 200, 3), np.uint8)
  see = lambda **how: landmarks.observe(
    frames, name='clip', estimator=Estimator(), cache=tmp_path, **how
  )
  first = see()
  assert 'two faces' in first.warnings[0] and first.matte is None
  assert first.provenance == {'points': {'estimator': 'mine', 'licence': 'MIT', 'digest': 'ff'}}
  other = see(near=(150, 50))
  assert other.points.mean() > first.points.mean() and Estimator.calls == 4
  assert see().warnings == first.warnings and Estimator.calls == 4
  for stored in tmp_path.glob('*.npz'):
    stored.write_bytes(b'damaged')
  see()
  assert Estimator.calls == 6


WORDS = 'left, right, or a number'


def test_faces_by_place_and_number():
  faces = np.stack([a_face(x, 50.0) for x in (300.0, 20.0, 150.0)])
  one = lambda choice: choose_faces(choice, faces, name='clip', words=WORDS)[0]
  assert (
    one('largest') == {} and one('2') == {'face': 2} and one('12,30.5') == {'near': (12.0, 30.5)}
  )
  assert (
    one('left')['near'][0] == faces[1].mean(0)[0] and one('right')['near'][0] == faces[0].mean(0)[0]
  )
  assert choose_faces('left', faces[:0], name='clip', words=WORDS) == [{}]
  for wrong in ('nobody', '1,2,3', '-1', 'all', '0+1', '1+'):
    with pytest.raises(UserError, match='the face of clip must be left, right'):
      one(wrong)


def test_several_faces_are_followed_largest_first():
  """Face by face the tracks are those of `follow`, whose choices are tested above."""
  sizes = (20.0, 40.0, 30.0)
  frame = lambda t: np.stack([a_face(100 * i + t, 50, side) for i, side in enumerate(sizes)])
  faces = [np.zeros((0, 478, 2), np.float32), frame(10), frame(12)[::-1]]
  several = lambda choice: [
    np.round(centres(track)[2])
    for track in follow_chosen(faces, choice, name='clip', words=WORDS, several=True)[0]
  ]
  assert several('all') == [112, 212, 12] and several('2+0+2') == [112, 12]
  assert (
    several('largest') == [112]
    and several('left') == [12]
    and several('right') == [212]
    and several('190,50') == [212]
  )
  for wrong, words in (('0+3', 'there is no face 3'), ('5.5', 'must be left')):
    with pytest.raises(UserError, match=words):
      several(wrong)
  tracks, _ = follow_chosen(faces[:1], 'largest', name='clip', words=WORDS)
  assert len(tracks) == 1 and not seen(tracks[0]).any()
  similar = [np.stack([a_face(50, 50, 20), a_face(150, 60, 18)])]
  assert len(follow_chosen(similar, 'largest', name='clip', words=WORDS)[1]) == 1, 'nobody chose'
  assert not follow_chosen(similar, 'left', name='clip', words=WORDS)[1]


def test_all_frames_are_searched_and_none_is_stored():
  frames = [(np.full((30, 50, 3), t, np.uint8), 0.1 * t) for t in range(3)]
  estimator = lambda image: (np.full((image[0, 0, 0], 478, 3), 7.0), None, None)
  steps = []
  found = watch_faces(
    iter(frames),
    estimator,
    stage='find',
    total=3,
    watch=Watch(progress=lambda *step: steps.append(step)),
  )
  assert [each.shape for each in found.faces] == [(t, 478, 2) for t in range(3)] and found.size == (
    30,
    50,
  )
  np.testing.assert_allclose(found.times, [0, 0.1, 0.2])
  assert steps[-1] == ('find', 3, 3)
  assert [len(each) for each in watch_faces(frames, None, stage='count').faces] == [0, 0, 0]


def test_frames_without_a_face_are_kept_cut_or_refused():
  shown, times, warned = (
    np.array([False, True, True, False, True]),
    np.array([0, 0.1, 0.3, 0.4, 0.5]),
    [],
  )
  keep = lambda shown, how: frames_to_keep(
    shown, times, rate=10, no_face=how, name='a.mp4', watch=Watch(warn=warned.append)
  )
  for how in ('hold', 'cut', 'stop'):
    numbers, kept_times = keep(np.ones(5, bool), how)
    assert numbers.tolist() == [0, 1, 2, 3, 4] and (kept_times == times).all() and not warned
  numbers, kept_times = keep(shown, 'hold')
  assert numbers.tolist() == [0, 1, 2, 3, 4] and (kept_times == times).all()
  assert (
    warned.pop()
    == '2 of 5 frames of a.mp4 show no such face, the first at 0.00 s; the nearest seen motion is '
    'held there'
  )
  numbers, kept_times = keep(shown, 'cut')
  assert numbers.tolist() == [1, 2, 4]
  np.testing.assert_allclose(kept_times, [0, 0.1, 0.2])
  assert warned.pop().endswith('they are left out')
  with pytest.raises(UserError, match='2 of 5 frames of a.mp4 .* --no_face hold or cut'):
    keep(shown, 'stop')
  assert nearest_seen(shown).tolist() == [0, 0, 1, 1, 2]


def test_too_little_of_a_face_is_refused():
  with pytest.raises(UserError, match='no face found in a.jpg; use a picture'):
    check_seen(np.zeros(3, bool), 'a.jpg', what='picture')
  few = np.array([True, False, False, False])
  check_seen(few, 'a.mp4')
  with pytest.raises(UserError, match='only 1 of 4 frames of a.mp4'):
    check_seen(few, 'a.mp4', least=0.5)
  check_seen(few[:2], 'a.mp4', least=0.5)


def bundle(path, **members):
  with zipfile.ZipFile(path, 'w') as stream:
    for name, content in members.items():
      stream.writestr(f'{name}.tflite', content)
  return path


def test_task_bundles_are_checked(tmp_path):
  good = bundle(tmp_path / 'good.task', face_detector=b'a', face_landmarks_detector=b'b')
  assert len(check_task(good)) == 64
  hand = bundle(tmp_path / 'hand.task', hand_detector=b'a')
  with pytest.raises(UserError, match=r'hand.task holds .*hand_detector.* but no face_detector'):
    check_task(hand)
  (tmp_path / 'cut.task').write_bytes(good.read_bytes()[:80])
  with pytest.raises(UserError, match='truncated'):
    check_task(tmp_path / 'cut.task')
  flipped = bytearray(good.read_bytes())
  flipped[good.read_bytes().index(b'face_landmarks_detector.tflite') + 30] ^= 1
  (tmp_path / 'flip.task').write_bytes(flipped)
  with pytest.raises(UserError, match='face_landmarks_detector.tflite is damaged'):
    check_task(tmp_path / 'flip.task')
  with pytest.raises(UserError, match='no such landmark model'):
    check_task(tmp_path / 'none.task')


def test_without_mediapipe_the_remedy_is_named(tmp_path, monkeypatch):
  good = bundle(tmp_path / 'good.task', face_detector=b'a', face_landmarks_detector=b'b')
  monkeypatch.setitem(sys.modules, 'mediapipe', None)
  with pytest.raises(UserError, match='pip install "mediapipe'):
    TaskEstimator(good)


def _stand_in(monkeypatch, detect):
  """A module of the same names stands in for MediaPipe; `detect` gives the faces of pixels, each
  [478] points."""
  record = lambda **fields: types.SimpleNamespace(**fields)
  landmarker = record(
    detect=lambda image: record(face_landmarks=detect(image.data)), close=lambda: None
  )
  vision = types.SimpleNamespace(
    FaceLandmarkerOptions=record,
    RunningMode=record(IMAGE='image'),
    FaceLandmarker=record(create_from_options=lambda options: landmarker),
  )
  package = types.ModuleType('mediapipe')
  package.__version__, package.Image, package.ImageFormat = '1.2.2', record, record(SRGB=1)
  python = types.ModuleType('mediapipe.tasks.python')
  python.BaseOptions, python.vision = record, vision
  monkeypatch.setitem(sys.modules, 'mediapipe', package)
  monkeypatch.setitem(sys.modules, 'mediapipe.tasks', types.ModuleType('mediapipe.tasks'))
  monkeypatch.setitem(sys.modules, 'mediapipe.tasks.python', python)


def _point(x, y, z):
  return types.SimpleNamespace(x=x, y=y, z=z)


def test_the_tasks_backend_gives_pixels(tmp_path, monkeypatch):
  good = bundle(tmp_path / 'good.task', face_detector=b'a', face_landmarks_detector=b'b')
  _stand_in(monkeypatch, lambda pixels: [[_point(0.5, 0.25, -0.1)] * 478] * 2)
  with TaskEstimator(good) as estimator:
    points, scores, matte = estimator(np.zeros((40, 100, 3), np.uint8))
  assert points.shape == (2, 478, 3) and len(scores) == 2 and matte is None
  np.testing.assert_allclose(points[1, 3], [50, 10, -10])


def test_the_tasks_backend_searches_parts_for_small_faces(tmp_path, monkeypatch):
  """The stand-in sees a white square of 40 pixels in pictures of up to 600 pixels only; several
  tiles show it, it counts once."""

  def detect(pixels):
    rows, columns = np.nonzero(pixels[..., 0])
    if pixels.shape[1] > 600 or len(rows) < 1600:
      return []
    size = np.float64(pixels.shape[1::-1])
    corners = [(columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)]
    return [[_point(*(np.array(corners[i % 2]) / size), 0.0) for i in range(478)]]

  _stand_in(monkeypatch, detect)
  picture = np.zeros((900, 2000, 3), np.uint8)
  picture[450:490, 1300:1340] = 255
  picture[100:140, 60:100] = 255
  with TaskEstimator(
    bundle(tmp_path / 'good.task', face_detector=b'a', face_landmarks_detector=b'b')
  ) as estimator:
    points, scores, _ = estimator(picture)
    nothing, _, _ = estimator(np.zeros((900, 2000, 3), np.uint8))
  assert sorted(points[:, 0, :2].round().tolist()) == [[60, 100], [1300, 450]] and len(scores) == 2
  np.testing.assert_allclose(points[:, 1, :2] - points[:, 0, :2], 40, atol=1e-3)
  assert nothing.shape == (0, 478, 3)
