"""A fitted portrait and its motions are taken as they were, to the bit; damaged ones are made
again."""

import dataclasses
import json

import numpy as np
import pytest

from exp_jax.controls.reenact import Motion
from exp_jax.heads.personalized import Subject
from exp_jax.systems.expportrait.kept_portraits import (
  OpenedPortrait,
  kept_motions,
  kept_portrait,
)
from exp_jax.systems.expportrait.portrait import Portrait
from exp_jax.systems.expportrait.resumed import frames_key


def opened(light):
  rng = np.random.default_rng(0)
  numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
  subject = Subject(
    'e\u0301',
    'head',
    'digest',
    1,
    (64, 72),
    24000 / 1001,
    numbers(5),
    numbers(1, 6),
    numbers(1, 4, 3),
    numbers(1, 3),
    numbers(2),
    numbers(2),
    np.zeros(1, np.float32),
    numbers(30, 3),
    np.arange(7, dtype=np.int32),
    numbers(1, 7, 3),  # a subject file would round these
    light=light,
    source_crop=numbers(1, 3, 3),
    report=json.dumps({'warnings': []}),
  )
  pixels = lambda *shape: rng.integers(0, 255, shape).astype(np.uint8)
  portrait = Portrait(subject, pixels(64, 72, 3), pixels(64, 72), pixels(64, 72) > 99)
  return OpenedPortrait(pixels(90, 80, 3), 5, portrait)


def same(one, two):
  assert one.frame == two.frame
  np.testing.assert_array_equal(one.image, two.image)
  for field in dataclasses.fields(Subject):
    first, second = (getattr(each.portrait.subject, field.name) for each in (one, two))
    np.testing.assert_array_equal(first, second, err_msg=field.name)
    assert type(first) is type(second) and getattr(first, 'dtype', 0) == getattr(second, 'dtype', 0)
  assert frames_key([one.portrait], []) == frames_key([two.portrait], [])


@pytest.mark.parametrize('light', (None, np.ones((9, 3), np.float32)))
def test_a_portrait_is_the_same_to_the_bit(tmp_path, light):
  made, first = [], opened(light)
  make = lambda: made.append(1) or first
  for _ in range(3):
    same(first, kept_portrait(tmp_path / 'new', 'a', make))
  assert len(made) == 1
  kept_portrait(tmp_path / 'new', 'b', make)
  assert len(made) == 2


def motions():
  rng = np.random.default_rng(1)
  return [
    Motion(*(rng.normal(size=(4, *shape)).astype(np.float32) for shape in ((6,), (4, 3), (3,))))
    for _ in range(2)
  ]


def test_motions_are_the_same_to_the_bit(tmp_path):
  made = []
  for _ in range(3):
    found = kept_motions(tmp_path / 'new', 'a', lambda: made.append(1) or motions())
    for one, two in zip(found, motions(), strict=True):
      for field in dataclasses.fields(Motion):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))
  assert len(made) == 1


@pytest.mark.parametrize('damage', (lambda content: content[:200], lambda _: b'', lambda _: b'PK'))
def test_damaged_ones_are_made_again(tmp_path, damage):
  first, made = opened(None), []
  kept_portrait(tmp_path, 'a', lambda: first)
  kept_motions(tmp_path, 'a', motions)
  for path in tmp_path.iterdir():
    path.write_bytes(damage(path.read_bytes()))
  same(first, kept_portrait(tmp_path, 'a', lambda: made.append(1) or first))
  kept_motions(tmp_path, 'a', lambda: made.append(1) or motions())
  assert len(made) == 2
