"""The landmark process in every illness: each ends in one sentence within the time limit, or in a
healthy new process."""

import resource
import time

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.observe import landmarks
from exp_jax.observe.sidecars.child_process import TIMEOUT, time_limit

IMAGE = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
START = """#!/usr/bin/env python3
import os, pathlib, struct, sys, time
out = os.fdopen(int(sys.argv[2]), 'wb', 0)
starts = pathlib.Path(__file__).with_suffix('.starts')
starts.write_text((starts.read_text() if starts.exists() else '') + 'x')
again = len(starts.read_text()) > 1
def request():
  head = sys.stdin.buffer.read(8)
  if len(head) < 8:
    sys.exit(0)
  height, width = struct.unpack('<II', head)
  sys.stdin.buffer.read(height * width * 3)
  return height, width
def answer(height, width, faces=1, value=3.0, extra=b''):
  numbers = struct.pack('<f', value) * (faces * 478 * 3) + struct.pack('<f', 0.9) * faces
  out.write(struct.pack('<I', faces) + numbers + bytes(height * width) + extra)
"""
GOOD = 'while True:\n  answer(*request())\n'
SICK = {
  'hangs before': 'time.sleep(60)\n',
  'hangs after a request': 'request(); time.sleep(60)\n',
  'hangs in an answer': 'request(); out.write(struct.pack("<I", 1) + bytes(100)); time.sleep(60)\n',
  'ends at once': 'sys.exit("line one\\nno \\x1b[31mlibrary")\n',
  'dies in an answer': 'request(); out.write(struct.pack("<I", 1) + bytes(100)); os._exit(9)\n',
  'text': 'request(); out.write(b"Traceback (most recent call last)" * 9000); time.sleep(60)\n',
  'too many faces': 'request(); out.write(b"\\xff" * 4); time.sleep(60)\n',
  'no numbers': 'answer(*request(), value=float("nan")); time.sleep(60)\n',
  'far away': 'answer(*request(), value=1e30); time.sleep(60)\n',
  'closes its pipe': 'request(); out.close(); time.sleep(60)\n',
}


@pytest.fixture
def program(tmp_path, monkeypatch):
  """Makes a landmark process of a script, and counts its starts."""

  def make(body):
    path = tmp_path / 'worker'
    path.write_text(START + body)
    path.chmod(0o755)
    monkeypatch.setenv('EXP_JAX_MEDIAPIPE', str(path))
    return path.with_suffix('.starts')

  monkeypatch.setenv(TIMEOUT, '1.5')
  return make


@pytest.mark.long
@pytest.mark.parametrize('illness', SICK)
def test_one_sentence_in_time(program, illness):
  starts, begun = program(SICK[illness]), time.monotonic()
  with (
    landmarks.FaceEstimator() as estimator,
    pytest.raises(landmarks.EstimatorFailed, match='landmark estimator') as said,
  ):
    estimator(IMAGE)
  assert (
    time.monotonic() - begun < 12 and str(said.value).isprintable() and len(starts.read_text()) == 2
  )
  assert illness != 'ends at once' or 'library' in str(said.value)


@pytest.mark.long
@pytest.mark.parametrize('illness', SICK)
def test_a_new_process_answers(program, illness):
  program(
    'if not again:\n  ' + SICK[illness].strip().replace('; ', '\n  ') + '\n  sys.exit(0)\n' + GOOD
  )
  with landmarks.FaceEstimator() as estimator:
    for _ in range(2):
      points, scores, matte = estimator(IMAGE)
      assert (
        points.shape == (1, 478, 3)
        and (points == 3).all()
        and scores.shape == (1,)
        and matte.shape == (30, 40)
      )


@pytest.mark.parametrize('pause', (0, 0.1))
def test_more_than_was_asked_for(program, pause):
  """At once, or after the answer was read: then the next request finds it."""
  starts = program(
    f'while True:\n  answer(*request())\n  time.sleep({pause})\n  out.write(b"EXTRA!!!")\n'
    if pause
    else 'while True:\n  answer(*request(), extra=b"EXTRA!!!")\n'
  )
  with landmarks.FaceEstimator() as estimator:
    for _ in range(3):
      if pause:
        assert (estimator(IMAGE)[0] == 3).all(), 'an answer that is taken is a right one'
        time.sleep(2 * pause)
      else:
        with pytest.raises(UserError, match='more than it was asked for'):
          estimator(IMAGE)
  assert len(starts.read_text()) == (3 if pause else 6)


def test_who_fails_always_is_not_asked_for_ever(program):
  starts = program('sys.exit(3)\n')
  with landmarks.FaceEstimator() as estimator:
    for _ in range(6):
      with pytest.raises(UserError):
        estimator(IMAGE)
  assert len(starts.read_text()) == 6, 'three images with two starts each, then none'


@pytest.mark.long
def test_a_large_picture_and_a_process_that_reads_nothing(program):
  """The request is larger than a pipe holds: writing must not block for ever either."""
  program('time.sleep(60)\n')
  begun = time.monotonic()
  with landmarks.FaceEstimator() as estimator, pytest.raises(UserError, match='in time'):
    estimator(np.zeros((900, 1000, 3), np.uint8))
  assert time.monotonic() - begun < 12


def test_endless_words_take_no_memory(program, monkeypatch):
  program(
    'request()\nfor _ in range(300):\n  os.write(2, b"a" * 10**6)\nos.write(2, b"\\nthe '
    'end")\nanswer(3, 3)\nos._exit(1)\n'
  )
  monkeypatch.setenv(TIMEOUT, '20')
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with landmarks.FaceEstimator() as estimator, pytest.raises(UserError, match='the end'):
    estimator(IMAGE)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, 'kB'


def test_the_limit_is_a_setting(monkeypatch):
  monkeypatch.delenv(TIMEOUT, raising=False)
  assert 10 <= time_limit(10) <= 20
  monkeypatch.setenv(TIMEOUT, '2.5')
  assert time_limit(10) == 2.5
  for wrong in ('never', '0', 'nan', '-1'):
    monkeypatch.setenv(TIMEOUT, wrong)
    with pytest.raises(UserError, match=TIMEOUT):
      time_limit(10)
