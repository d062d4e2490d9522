"""From frames to a subject, with an estimator that answers from known points."""

import json

import jax
import jax.numpy as jnp
import known_clips
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.fitting.compiled_programs import make_room
from exp_jax.fitting.seen_clip import look_at
from exp_jax.fitting.subject import fit_clips, fit_frames
from exp_jax.heads.densify import densify
from exp_jax.heads.personalized import check_head, load_subject, save_subject


class FakeEstimator:
  """One face a frame, at known points."""

  def __init__(self, points):
    self._points = iter(points)

  def __call__(self, image):
    flat = next(self._points)
    return (
      np.float32(np.concatenate([flat, 0 * flat[:, :1]], -1))[None],
      np.ones(1),
      np.full(image.shape[:2], 255, np.uint8),
    )


@pytest.fixture(scope='module')
def head():
  return known_clips.makehuman()


@pytest.fixture(scope='module')
def dense(head):
  return densify(head, 0)


def fit(head, dense, points, **options):
  frames = np.zeros((len(points), 256, 320, 3), np.uint8)
  return fit_frames(
    frames,
    name='somebody',
    rate=12.5,
    head=head,
    dense=dense,
    size=256,
    estimator=FakeEstimator(points),
    **options,
  )


@pytest.mark.long
def test_a_clip_becomes_a_subject_file(head, dense, tmp_path):
  truth = known_clips.clip(head, 5)
  fitted = fit(head, dense, truth.observation.points + [40, 0])
  subject = fitted.subject
  assert subject.num_frames == 5 and subject.image_size == (256, 256) and subject.fps == 12.5
  np.testing.assert_allclose(subject.times, np.arange(5) / 12.5, atol=1e-6)
  assert not subject.static_offsets.any() and subject.dynamic_offsets.shape == (5, 0, 3), (
    'no offsets for clips'
  )
  check_head(subject, head, dense)
  save_subject(tmp_path / 'a.npz', subject)
  np.testing.assert_array_equal(load_subject(tmp_path / 'a.npz').pose, subject.pose)
  # source_crop takes pixels of the frame to those of the crop that the fit saw
  homogeneous = np.concatenate([truth.observation.points[3] + [40, 0], np.ones((478, 1))], -1)
  np.testing.assert_allclose(
    (homogeneous @ subject.source_crop[3].T)[:, :2], fitted.observation.points[3], atol=1e-2
  )
  report = json.loads(subject.report)
  assert report['frames'] == report['frames_with_face'] == 5
  assert report['landmark_error_share_of_eye_distance'] < 0.01
  bend = np.diff(fitted.crop.to_crop(truth.observation.points), 2, axis=0)  # the truth's own jitter
  np.testing.assert_allclose(
    report['jitter_pixels'], np.sqrt(np.mean(np.sum(bend**2, -1))), rtol=0.15
  )
  assert report['focal_in_heights'] > 1 and report['face_pixels'] > 60 and report['estimator']
  assert 'offset_losses' not in report


@pytest.mark.long
def test_a_clip_that_no_head_explains_harms_no_other(head, dense):
  """Two clips and one of nonsense in one call: the good ones are those of a call of their own."""
  truth = known_clips.clip(head, 2)
  nonsense = (
    np.random.default_rng(0).uniform(60, 200, truth.observation.points.shape).astype(np.float32)
  )
  seen = [
    look_at(
      np.zeros((len(points), 256, 320, 3), np.uint8),
      name=name,
      rate=25.0,
      size=256,
      estimator=FakeEstimator(points),
    )
    for name, points in (
      ('one', truth.observation.points),
      ('bad', nonsense),
      ('two', truth.observation.points + [20, 5]),
    )
  ]
  one, bad, two = fit_clips(seen, head=head, dense=dense)
  assert isinstance(bad, UserError) and str(bad).startswith(
    'bad: the head model does not explain the landmarks'
  )
  assert [one.subject.subject_id, two.subject.subject_id] == ['one', 'two']
  alone = fit_clips(seen[2:], head=head, dense=dense)[0].subject
  for name in ('shape', 'expression', 'pose', 'translation', 'focal'):
    np.testing.assert_allclose(
      getattr(two.subject, name), getattr(alone, name), rtol=1e-5, atol=1e-5, err_msg=name
    )


def test_a_face_that_is_too_small_is_named_with_its_size(head, dense):
  points = known_clips.clip(head, 1).observation.points
  small = (points - points.mean(1, keepdims=True)) * 0.1 + 100
  with pytest.raises(UserError, match=r'the face in somebody is only about \d+ pixels high'):
    fit(head, dense, small)


def test_programs_are_dropped_before_the_memory_maps_are_used_up():
  double = jax.jit(lambda x: 2 * x)
  double(jnp.ones(3))
  make_room(share=1.0)
  assert double._cache_size() == 1
  make_room(share=0.0)
  assert double._cache_size() == 0
  np.testing.assert_array_equal(double(jnp.ones(3)), 2)
