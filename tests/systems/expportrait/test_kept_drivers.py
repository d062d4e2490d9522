"""A driver that was tracked before an interruption is taken as it was, to the bit; a damaged one is
tracked again."""

import dataclasses
import fractions
import json

import numpy as np
import pytest

from exp_jax.fitting.kept_drivers import kept_driver
from exp_jax.fitting.tracked_driver import Driver
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject
from exp_jax.systems.expportrait import animate, opening
from exp_jax.systems.expportrait.options import Options

HEAD = load_head('procedural')
T = 4


@pytest.fixture
def driver():
  rng = np.random.default_rng(0)
  numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
  times = np.array([0, 0.1, 0.15, 1 / 3])
  subject = Subject(
    'd',
    HEAD.name,
    head_digest(HEAD),
    1,
    (64, 72),
    24000 / 1001,
    numbers(HEAD.shape_basis.shape[-1]),
    numbers(T, HEAD.expression_basis.shape[-1]),
    numbers(T, len(HEAD.parents), 3),
    numbers(T, 3) - np.float32([0, 0, 9]),
    np.float32([150, 150]),
    np.float32([36, 32]),
    times.astype(np.float32),
    numbers(30, 3) / 10,
    np.zeros(0, np.int32),
    np.zeros((T, 0, 3), np.float32),
    source_crop=np.tile(np.diag(np.float32([2, 2, 1])), (T, 1, 1)),
    report=json.dumps({'warnings': ['two faces']}),
  )
  return Driver(subject, times, fractions.Fraction(24000, 1001), np.array([0, 2, 3, 8]), False)


def same(one, two):
  for field in dataclasses.fields(Subject):
    np.testing.assert_array_equal(
      getattr(one.subject, field.name), getattr(two.subject, field.name), err_msg=field.name
    )
  np.testing.assert_array_equal(one.times, two.times)
  np.testing.assert_array_equal(one.kept, two.kept)
  assert (one.rate, one.whole) == (two.rate, two.whole) and two.times.dtype == np.float64


def test_the_same_bits_and_the_same_warnings(driver, tmp_path):
  said, made = [], []
  make = lambda: made.append(1) or driver
  for _ in range(3):
    same(driver, kept_driver(tmp_path / 'new', 'a', make, said.append))
  assert len(made) == 1 and said == ['two faces'] * 2
  kept_driver(tmp_path / 'new', 'b', make, said.append)
  assert len(made) == 2


@pytest.mark.parametrize('name', ('a.npz', 'a.frames.npz'))
def test_a_damaged_or_lost_file_is_made_again(driver, tmp_path, name):
  for damage in (
    lambda path: path.write_bytes(path.read_bytes()[:100]),
    lambda path: path.unlink(),
  ):
    made = []
    kept_driver(tmp_path, 'a', lambda: driver, print)
    damage(tmp_path / name)
    same(driver, kept_driver(tmp_path, 'a', lambda made=made: made.append(1) or driver, print))
    assert made


def test_another_process_goes_on_with_it_and_other_options_do_not(driver, tmp_path, monkeypatch):
  watched = []
  monkeypatch.setattr(
    opening, 'track', lambda clip, **what: watched.append(what['limit']) or driver
  )
  clip = np.zeros((T, 16, 18, 3), np.uint8)
  for limit in (None, None, 3, 3):
    with animate.load(head='procedural', transfer='none', drivers=tmp_path) as model:
      same(driver, model.motion(clip, options=Options(limit=limit), rate=10))
  assert watched == [None, 3]
  with animate.load(head='procedural', transfer='none', networks='none', drivers=tmp_path) as model:
    same(driver, model.motion(clip, options=Options(), rate=10))
  assert watched == [None, 3, None], 'one without maps is another'
