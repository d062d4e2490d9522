"""Blinks close on another person's eyes; everything else of the motion stays."""

import jax
import numpy as np
import pytest

from exp_jax.controls.lids import close_lids, lid_gaps, wanted_share
from exp_jax.controls.maps import own_motion
from exp_jax.errors import UserError
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import head_digest
from exp_jax.heads.personalized import Subject


@pytest.fixture(scope='module')
def head():
  try:
    return load_head('makehuman')
  except UserError:
    pytest.skip('`make setup` fetches the MakeHuman head')


def someone(head, seed, blink):
  rng, frames = np.random.default_rng(seed), len(blink)
  names = list(head.expression_names)
  expression = np.zeros((frames, len(names)), np.float32)
  for side in ('Left', 'Right'):
    expression[:, names.index(f'eyeBlink{side}')] = blink
  shape = np.zeros(head.shape_basis.shape[-1], np.float32)
  shape[rng.choice(len(shape), min(12, len(shape)), replace=False)] = 0.5 * rng.normal(
    size=min(12, len(shape))
  )
  zeros = lambda *axes: np.zeros(axes, np.float32)
  return Subject(
    f's{seed}',
    head.name,
    head_digest(head),
    0,
    (64, 64),
    25.0,
    shape,
    expression,
    zeros(frames, len(head.parents), 3),
    zeros(frames, 3),
    np.full(2, 100, np.float32),
    np.full(2, 32, np.float32),
    np.arange(frames, dtype=np.float32),
    zeros(5, 3),
    np.zeros(0, np.int32),
    zeros(frames, 0, 3),
  )


def test_the_share_is_zero_when_shut_and_kept_when_open():
  share = np.linspace(0, 1.2, 200)
  wanted = wanted_share(share)
  assert not wanted[share < 0.25].any() and (np.diff(wanted) >= 0).all()
  np.testing.assert_array_equal(wanted[share > 0.61], share[share > 0.61])
  assert np.abs(np.diff(wanted)).max() < 2.01 * (share[1] - share[0]), (
    'no jump: the steepest part rises by 2'
  )


def test_a_tracked_blink_that_leaves_a_gap_closes_the_targets_eyes(head):
  # never reaches 1
  tracked = np.array([0, 0.05, 0.3, 0.62, 0.66, 0.3, 0, 0.1, 0, 0.05], np.float32)
  driver, target = someone(head, 1, tracked), someone(head, 2, np.zeros(1, np.float32))
  motion = own_motion(driver)
  closed = close_lids(head, target, driver, motion)
  names = list(head.expression_names)
  blinks = [names.index('eyeBlinkLeft'), names.index('eyeBlinkRight')]
  others = np.delete(np.arange(len(names)), blinks)
  np.testing.assert_array_equal(closed.expression[:, others], motion.expression[:, others])
  for side in ('Left', 'Right'):
    before, after = (lid_gaps(head, target.shape, m.expression, side) for m in (motion, closed))
    theirs = lid_gaps(head, driver.shape, driver.expression, side)
    share = theirs / np.percentile(theirs, 80)
    awake = share > 0.75
    assert awake.sum() >= 6
    np.testing.assert_allclose(after[awake], before[awake], atol=1e-6)
    shut = share < 0.3
    if shut.any():
      assert np.abs(after[shut]).max() < 0.03 < before[shut].max()
    assert (after <= before + 1e-6).all()


def test_another_person_is_measured_by_the_same_program(head):
  """A program for each person would stay in memory with its copy of the head, 26 MB."""
  compiled, expression = [], np.zeros((7, len(head.expression_names)))
  note = lambda event, seconds, **_: (
    compiled.append(event) if event.startswith('/jax/core/compile') else None
  )
  measure = lambda seed: lid_gaps(head, someone(head, seed, np.zeros(7)).shape, expression, 'Left')
  first = measure(1)
  jax.monitoring.register_event_duration_secs_listener(note)
  try:
    second = measure(2)
    assert not compiled and not np.array_equal(first, second)
    jax.jit(lambda x: x + 1)(first)
    assert compiled, 'the listener hears'
  finally:
    jax.monitoring.unregister_event_duration_listener(note)


def test_a_head_without_lid_points_moves_as_before():
  head = load_head('procedural')
  driver = someone(head, 1, np.linspace(0, 1, 4).astype(np.float32))
  motion = own_motion(driver)
  assert close_lids(head, driver, driver, motion) is motion
