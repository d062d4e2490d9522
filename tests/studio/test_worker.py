"""What the worker reports: not too often, with the time that remains, and no clip longer than
allowed."""

import pytest

from exp_jax.studio import worker
from exp_jax.studio.refusals import TooLarge, told


@pytest.fixture
def clock(monkeypatch):
  """A clock that is moved by hand."""
  now = [100.0]
  monkeypatch.setattr(worker.time, 'monotonic', lambda: now[0])
  return now


def test_the_time_that_remains_comes_from_the_estimate_then_from_the_drawing(clock):
  said = []
  reports = worker.Reports(said.append)
  reports('load', 0, None)
  reports.expect(40.0, 20.0)  # seconds before drawing, and of it
  clock[0] += 10
  reports('fit the driver', 0, None)
  clock[0] += 50
  reports('portrait', 0, None)
  reports('draw', 0, 8)
  clock[0] += 6
  reports('draw', 2, 8)
  clock[0] += 18
  reports('draw', 8, 8)
  reports('side by side', 0, None)
  assert [each['remaining'] for each in said] == [None, 50.0, 20.0, 20.0, 18.0, 0.0, None]


def test_reports_are_not_too_many_and_the_last_of_a_stage_is_among_them(clock):
  said = []
  reports = worker.Reports(said.append)
  for done in range(1001):
    clock[0] += 0.001
    reports('track', done, 1000)
  assert len(said) <= 6 and said[0]['done'] == 0 and said[-1]['done'] == 1000


def test_a_clip_that_did_not_say_how_long_it_is(clock):
  reports = worker.Reports(lambda report: None, max_frames=100)
  reports('track', 100, None)
  with pytest.raises(TooLarge, match='more than 100 frames'):
    reports('track', 101, None)


@pytest.mark.parametrize(
  'words, clean',
  [
    ("'/home/me/a b/c.jpg' is bad", "'c.jpg' is bad"),
    ('/srv/x/y.mp4: no\x1b[2J', 'y.mp4: no\\x1b[2J'),
    ('x' * 5000, 'x' * 2000),
  ],
)
def test_what_is_told_names_no_folder(words, clean):
  assert told(words) == clean
