"""Long functions: what they report, that a cancellation does not wait for them, and that errors
come through."""

import threading
import time

import pytest

from exp_jax.progress import SILENT, Background, Cancelled, Watch


def test_steps_are_reported_before_the_first_and_after_each():
  told = []
  watch = Watch(lambda *report: told.append(report))
  assert list(watch.each('ab', 'read', 2)) == ['a', 'b']
  assert told == [('read', 0, 2), ('read', 1, 2), ('read', 2, 2)]
  told.clear()
  assert list(watch.each_slowly(iter('ab'), 'draw')) == ['a', 'b']
  assert told == [('draw', 0, None), ('draw', 1, None), ('draw', 2, None)]


def test_without_listeners_nothing_is_started():
  here = threading.get_ident()
  assert SILENT.wait_for(threading.get_ident, 'x') == here
  assert Watch(lambda *_: None).wait_for(threading.get_ident, 'x') != here


def test_a_cancellation_does_not_wait_for_what_cannot_be_interrupted():
  """The work goes on in its thread, as a compilation would; the caller is free at once."""
  release, ended = threading.Event(), threading.Event()
  asked = []

  def work():
    release.wait(30)
    ended.set()

  def cancel():
    asked.append(None)
    return len(asked) > 2

  watch = Watch(cancel=cancel)
  with pytest.raises(Cancelled):
    watch.run(work)
  assert not ended.is_set()
  release.set()
  assert ended.wait(30)


def test_work_that_ends_at_once_is_cancelled_too():
  began = []
  for _ in range(200):  # a thread that is done before the first look must make no difference
    with pytest.raises(Cancelled):
      Watch(cancel=lambda: True).run(lambda: began.append(None))
  assert not began


def test_a_stage_without_steps_is_heard_of_while_it_runs():
  told = []
  watch = Watch(lambda *report: told.append(report))
  waiting = threading.Event()
  threading.Timer(1.3, waiting.set).start()
  assert watch.wait_for(lambda: waiting.wait(30), 'fit') is True
  assert told[0] == ('fit', 0, None) and told[-1] == ('fit', 1, 1) and len(told) >= 3


def test_errors_of_the_work_reach_the_caller():
  def fails():
    raise KeyError('gone')

  for watch in (SILENT, Watch(lambda *_: None)):
    with pytest.raises(KeyError, match='gone'):
      watch.wait_for(fails, 'x')
  with pytest.raises(KeyError, match='gone'):
    list(Watch(lambda *_: None).each_slowly((fails() for _ in range(2)), 'x'))


def test_cancelled_between_steps():
  stop = []
  seen = []
  with pytest.raises(Cancelled):
    for item in Watch(cancel=lambda: bool(stop)).each(range(9), 'read'):
      seen.append(item)
      if item == 2:
        stop.append(True)
  assert seen == [0, 1, 2]


def test_a_warning_goes_to_who_listens_or_to_python():
  heard = []
  Watch(warn=heard.append).warn('odd input')
  assert heard == ['odd input']
  with pytest.warns(UserWarning, match='odd input'):
    SILENT.warn('odd input')


def test_reports_come_in_time_order():
  told, start = [], time.monotonic()
  watch = Watch(lambda *_: told.append(time.monotonic() - start))
  list(watch.each_slowly((time.sleep(0.01) for _ in range(5)), 'x', 5))
  assert told == sorted(told) and len(told) == 6


def test_background_work_is_waited_for_and_its_warnings_are_kept_until_then():
  begun, told, words = threading.Event(), [], []

  def work(watch):
    watch.warn('odd')
    begun.set()
    return 7

  watch = Watch(lambda *report: told.append(report), None, words.append)
  with Background(work) as solving:
    assert solving.meanwhile(watch, lambda watch: begun.wait(30)) and not words
    assert solving.wait(watch, 'solve') == 7
  assert words == ['odd'] and told == [('solve', 0, None), ('solve', 1, 1)]


def test_an_error_in_the_background_ends_what_is_done_meanwhile():
  def fails(watch):
    raise ValueError('no face')

  def long(watch):
    for _ in watch.each(range(3000), 'track'):
      time.sleep(0.01)

  for watch in (SILENT, Watch(lambda *_: None, lambda: False)):
    with pytest.raises(ValueError, match='no face'), Background(fails) as solving:
      solving.meanwhile(watch, long)


def test_background_work_is_asked_to_stop_where_its_block_is_left():
  stopped = threading.Event()

  def endless(watch):
    try:
      while True:
        watch.check()
        time.sleep(0.01)
    except Cancelled:
      stopped.set()
      raise

  for error in (Cancelled, OSError):
    stopped.clear()
    with pytest.raises(error), Background(endless) as solving:
      solving.meanwhile(SILENT, lambda watch, error=error: (_ for _ in ()).throw(error))
    assert stopped.wait(30)
