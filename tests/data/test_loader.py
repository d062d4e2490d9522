"""The loader: positions say all; any number of hosts reads the same batches; bad records are
skipped, hung ones named."""

import time

import numpy as np
import pytest

from exp_jax.data.loader import DataStalled, batches_from
from exp_jax.data.sources import DamagedRecord
from exp_jax.errors import UserError


class Numbers:
  """Record i is i; some are damaged, some do not come, some are not finite."""

  def __init__(self, count=10, damaged=(), hang=(), bug=(), nan=()):
    self.count, self.damaged, self.hang, self.bug, self.nan = count, damaged, hang, bug, nan

  def __len__(self):
    return self.count

  def __getitem__(self, i):
    if i in self.damaged:
      raise DamagedRecord(f'record {i} of numbers is damaged')
    if i in self.hang:
      time.sleep(20)
    if i in self.bug:
      raise ZeroDivisionError(i)
    return np.nan if i in self.nan else i


def example(record, rng):
  return {'i': np.float64(record), 'noise': rng.random()}


def open_at(source=None, state=None, **options):
  return batches_from(source or Numbers(), example, **dict(batch_size=4, seed=5) | options)(state)


def take(batches, count):
  return [next(batches) for _ in range(count)]


def assert_equal(a, b):
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x['i'], y['i'])
    np.testing.assert_array_equal(x['noise'], y['noise'])


def test_resumes_exactly_with_another_number_of_threads():
  batches = open_at()
  before, state = take(batches, 3), batches.get_state()
  after = take(batches, 4)
  assert_equal(take(open_at(state=state, threads=1), 4), after)
  assert_equal(take(open_at(threads=7), 7), before + after)
  assert state['examples'] == 12 and not np.array_equal(before[0]['i'], after[0]['i'])


def test_an_epoch_holds_every_record_once_and_the_next_one_another_order():
  numbers = np.concatenate([b['i'] for b in take(open_at(batch_size=5), 4)])
  assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))
  assert list(numbers[:10]) != list(numbers[10:])


def test_hosts_share_the_rows_of_one_batch_and_their_number_may_change():
  whole = take(open_at(), 3)
  parts = [open_at(first=f, last=f + 2) for f in (0, 2)]
  for batch in whole:
    both = [next(part) for part in parts]
    for key in batch:
      np.testing.assert_array_equal(batch[key], np.concatenate([b[key] for b in both]))
  state = parts[1].get_state()
  assert_equal(take(open_at(state=state), 2), take(open_at(), 5)[3:])


def test_reader_processes_give_the_same_batches():
  batches = open_at(Numbers(), workers=1, timeout=60)
  assert_equal(take(batches, 5), take(open_at(), 5))
  batches.close()


def test_other_records_are_refused():
  state = open_at().get_state()
  with pytest.raises(UserError, match='data_changed_ok'):
    open_at(Numbers(11), state)
  assert len(take(open_at(Numbers(11), state, changed_ok=True), 1)) == 1


@pytest.mark.parametrize('kind', ['damaged', 'nan'])
def test_a_bad_record_gives_way_and_is_named_once(kind):
  said = []
  batches = open_at(Numbers(40, **{kind: (7,)}), warn=said.append)
  numbers = np.concatenate([b['i'] for b in take(batches, 20)])
  assert len(numbers) == 80 and 7 not in numbers and np.isfinite(numbers).all()
  assert len(said) == 1 and 'record 7' in said[0] and '1 of 40' in said[0]
  state = batches.get_state()
  assert state['damaged'] == [7]
  again = []
  resumed = open_at(Numbers(40, **{kind: (7,)}), state, warn=again.append)
  assert_equal(take(resumed, 10), take(batches, 10))
  assert not again  # it was told already


def test_too_many_bad_records_stop_the_run():
  batches = open_at(Numbers(40, damaged=(7, 8, 9)), warn=lambda words: None)
  with pytest.raises(UserError, match='3 of 40 records are damaged.*bad_records'):
    take(batches, 12)


def test_a_record_that_does_not_come_is_named():
  batches = open_at(Numbers(hang=(3,)), timeout=1.0)
  begun = time.monotonic()
  with pytest.raises(DataStalled, match='reading record 3 has not ended'):
    take(batches, 5)
  assert 1 <= time.monotonic() - begun < 10, 'the limit of the user and no other'


def test_a_bug_of_the_transform_is_not_hidden():
  with pytest.raises(ZeroDivisionError):
    take(open_at(Numbers(bug=(3,))), 5)
