"""Portraits and drivers are seen by the networks that were given; a kept driver belongs to them."""

import dataclasses
import fractions
import json

import numpy as np
import pytest

from exp_jax.fitting import fitted_inputs
from exp_jax.fitting.fitted_inputs import FittedInputs
from exp_jax.fitting.tracked_driver import Driver
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject
from exp_jax.performance.inputs import footage

HEAD = load_head('procedural')


@dataclasses.dataclass(frozen=True)
class Network:
  digest: str


@dataclasses.dataclass(frozen=True)
class Choice:
  limit: int | None = None
  driving_stride: int = 1
  driving_face: str = 'largest'
  no_face: str = 'hold'
  allow_partial: bool = False


def driver(frames):
  zeros = lambda *shape: np.zeros(shape, np.float32)
  subject = Subject(
    'd',
    HEAD.name,
    head_digest(HEAD),
    0,
    (64, 64),
    25.0,
    zeros(HEAD.shape_basis.shape[-1]),
    zeros(frames, HEAD.expression_basis.shape[-1]),
    zeros(frames, len(HEAD.parents), 3),
    zeros(frames, 3) - np.float32([0, 0, 1]),
    np.float32([150, 150]),
    np.float32([32, 32]),
    np.arange(frames, dtype=np.float32) / 25,
    zeros(len(HEAD.template), 3),
    np.zeros(0, np.int32),
    zeros(frames, 0, 3),
    report=json.dumps({}),
  )
  return Driver(subject, np.arange(frames) / 25, fractions.Fraction(25), np.arange(frames), True)


@pytest.fixture
def tracked(monkeypatch):
  """The networks of every call of `track`, which answers at once."""
  calls = []

  def track(source, *, map_estimators=(), **_):
    calls.append(map_estimators)
    return driver(source.count)

  monkeypatch.setattr(fitted_inputs, 'track', track)
  return calls


def inputs(*networks, drivers=None):
  estimator = lambda image: pytest.fail('nothing is to be watched')
  return FittedInputs(
    'a system', HEAD, estimator=estimator, drivers=drivers, map_estimators=networks
  )


def test_portrait_and_driver_are_seen_by_the_same_networks(tracked):
  network, clip = Network('one'), np.zeros((3, 8, 8, 3), np.uint8)
  found = inputs(network)
  found.portrait(footage(clip[0], name='p'), face='largest', source_frame='best')
  found.motion(clip, options=Choice())
  assert tracked == [(network,), (network,)]


def test_a_kept_driver_belongs_to_its_networks(tracked, tmp_path):
  clip, how = np.zeros((3, 8, 8, 3), np.uint8), dict(options=Choice())
  for networks in ((), (Network('one'),), (Network('two'),)):
    before = len(tracked)
    for _ in range(2):  # the second time it is kept
      inputs(*networks, drivers=tmp_path).motion(clip, **how)
    assert tracked[before:] == [networks]
