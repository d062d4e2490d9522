"""The first seconds of a job, there while the rest is drawn; every frame is drawn once."""

import dataclasses
import fractions
import time

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.media.video import read_video
from exp_jax.performance.animation import Animation
from exp_jax.studio.first_seconds import with_first_seconds
from tests.studio.stand_in import DRAWS


def animation_of(count, drawn):
  def frames():
    for number in range(count):
      drawn.append(number)
      yield np.full((32, 48, 3), 20 * number, np.uint8)

  times = np.arange(count) / 10
  picture = np.zeros((32, 48, 3), np.uint8)
  return Animation(frames(), times, fractions.Fraction(10), picture, {}, provenance=False)


def test_the_preview_is_there_before_the_rest_is_drawn_and_no_frame_is_drawn_twice(tmp_path):
  drawn, seen = [], []
  path = tmp_path / 'preview.mp4'
  shown = with_first_seconds(animation_of(7, drawn), 0.3, path, lambda: seen.append(len(drawn)))
  frames = shown.frames()
  assert seen == [3] and drawn == list(range(7)) and len(frames) == 7
  preview = read_video(path).frames
  assert preview.shape == (3, 32, 48, 3)
  np.testing.assert_allclose(preview, frames[:3], atol=6)  # H.264


def test_a_result_that_is_no_longer_has_none(tmp_path):
  animation = animation_of(3, [])
  assert with_first_seconds(animation, 0.3, tmp_path / 'p.mp4', pytest.fail) is animation


def test_it_is_marked_as_the_result_is(tmp_path):
  from exp_jax.provenance.stamp import Stamp

  animation = dataclasses.replace(animation_of(4, []), provenance=True)
  with_first_seconds(animation, 0.2, tmp_path / 'p.mp4', lambda: None).frames()
  unmarked = with_first_seconds(animation_of(4, []), 0.2, tmp_path / 'q.mp4', lambda: None)
  unmarked.frames()
  stamped, plain = ((tmp_path / name).read_bytes() for name in ('p.mp4', 'q.mp4'))
  assert b'c2pa' in stamped and b'c2pa' not in plain and Stamp({}).record['mark']


def test_a_job_shows_it_while_it_runs_and_nothing_stays_after_a_cancellation(studio, pair):
  job = studio.create('animate', engine='proxy', **pair, options={'seed': DRAWS}, preview=0.1)
  until = time.monotonic() + 120
  while not studio.results(job.id):
    assert time.monotonic() < until and studio.get(job.id).state in ('queued', 'running')
    time.sleep(0.02)
  (path,) = studio.results(job.id).values()
  assert path.name == 'preview.mp4' and read_video(path).frames.shape == (1, 16, 16, 3)
  assert studio.get(job.id).state == 'running'
  studio.cancel(job.id)
  assert (
    studio.wait(job.id).state == 'cancelled' and not path.exists() and not studio.results(job.id)
  )


@pytest.mark.long
@pytest.mark.parametrize(
  'kind, seconds, words',
  [
    ('animate', -1, '0..10 seconds'),
    ('animate', 11, '0..10 seconds'),
    ('animate', 'x', '0..10'),
    ('portrait', 1, "belongs to jobs of kind 'animate'"),
  ],
)
def test_other_previews_are_refused(studio, pair, kind, seconds, words):
  with pytest.raises(UserError, match=words):
    studio.create(kind, engine='proxy', **pair, preview=seconds)
