"""The pace of a live session, by hand."""

from exp_jax.performance.pace import Pace


def test_frames_after_the_first_two_are_counted():
  pace = Pace()
  assert pace.rate == 0 and pace.seconds == {}
  pace.ended(1, 100.0, {'fit': 50.0, 'draw': 40.0})
  pace.ended(2, 200.0, {'fit': 50.0, 'draw': 40.0})
  assert pace.rate == 0 and pace.seconds == {}, 'their programs were compiled'
  for number, now in enumerate((200.5, 201.0, 201.5), 3):
    pace.ended(number, now, {'fit': 0.1 * number, 'draw': 0.2})
  assert pace.rate == 2
  assert abs(pace.seconds['fit'] - 0.4) < 1e-12 and abs(pace.seconds['draw'] - 0.2) < 1e-12


def test_a_frame_that_is_shown_again_counts_for_the_rate_alone():
  pace = Pace()
  for now in (1.0, 2.0, 3.0):
    pace.ended(5, now, {'draw': 0.5})
  pace.ended(5, 3.5)
  assert pace.rate == 3 / 2.5 and pace.seconds == {'draw': 0.5}


def test_the_rate_is_of_the_last_twenty_frames():
  pace = Pace()
  times = [*range(0, 1000, 10), *(1000 + k / 4 for k in range(20))]
  for number, now in enumerate(times, 3):
    pace.ended(number, float(now), {})
  assert pace.rate == 4
