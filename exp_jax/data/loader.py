"""Batches by Grain that restart exactly, share themselves among any number of hosts, and survive
bad records.

Every example has a position g = 0, 1, 2, ... in one endless order: epochs of a seeded shuffle. Its
record and its random generator are functions of (seed, g) alone, so that g says all about the data:
neither hosts, nor threads, nor batch size enter. Host rows [first, last) of global batch i are the
positions i * B + first ... i * B + last.

A damaged record gives way to the next sound one of the order (a function of g too); it is counted
and named, and the run stops when too many are. Reading goes on in threads, or in processes; a batch
that does not come is an error.
"""

import ctypes
import dataclasses
import hashlib
import queue
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import grain
import numpy as np
from absl import flags

from exp_jax.errors import UserError, one_line
from exp_jax.files.array_records import DamagedRecord

_ATTEMPTS = 100  # neighbours tried in place of a damaged record
_ENDLESS = 2**60
_AHEAD = 2  # batches in the queue, beyond Grain's own buffers


class DataStalled(Exception):
  """A batch did not come in time.

  The message names the record that is being read, where that is known.
  """


def _finite(example: dict, index: int) -> None:
  for key, value in example.items():
    if np.issubdtype(np.asarray(value).dtype, np.floating) and not np.isfinite(value).all():
      raise DamagedRecord(f'record {index} gives values of {key!r} that are not finite')


@dataclasses.dataclass
class _Examples:
  """Random access to a host's examples by their local number; each comes with the damaged records
  met on the way."""

  source: object
  transform: Callable
  order: object  # position -> record index
  seed: int
  start: int  # position of local number 0's batch
  batch_size: int  # global
  first: int  # rows of every global batch that are this host's
  last: int
  # thread -> (record, since), to name what hangs
  reading: dict = dataclasses.field(default_factory=dict)

  def __len__(self):
    return _ENDLESS

  def __getitem__(self, i):
    batch, row = divmod(i, self.last - self.first)
    position = self.start + batch * self.batch_size + self.first + row
    damaged = []
    for attempt in range(_ATTEMPTS):
      index = int(self.order[position + attempt])
      self.reading[threading.get_ident()] = (index, time.monotonic())
      try:
        rng = np.random.default_rng((self.seed, position, attempt))
        example = self.transform(self.source[index], rng)
        _finite(example, index)
        return example, damaged
      except DamagedRecord as error:
        damaged.append((index, str(error)))
      finally:
        self.reading.pop(threading.get_ident(), None)
    raise UserError(f'{_ATTEMPTS} records in a row are damaged, the last: {damaged[-1][1]}')

  def __getstate__(self):
    return self.__dict__ | {'reading': {}}


def _together(examples) -> tuple[dict, list]:
  arrays = {k: np.stack([example[k] for example, _ in examples]) for k in examples[0][0]}
  return arrays, [one for _, damaged in examples for one in damaged]


def _in_worker(index: int, count: int) -> None:
  """Of reader processes: deaf to what is meant for their parent, and gone when it is."""
  del index, count
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def fingerprint_of(source) -> str:
  """A short digest of what a source holds: its own `fingerprint` if it has one, else its kind and
  length."""
  told = getattr(source, 'fingerprint', '')
  return hashlib.sha256(f'{type(source).__name__} {len(source)} {told}'.encode()).hexdigest()[:16]


class Batches:
  """An endless iterator of batches; see `batches_from`. Ends with its process, or by `close`."""

  def __init__(
    self,
    open_at: Callable,
    state: dict,
    *,
    batch_size: int,
    records: int,
    timeout: float,
    share: float,
    warn: Callable,
  ):
    self._state, self._batch_size, self._records = dict(state), batch_size, records
    self._timeout, self._share, self._warn = timeout, share, warn
    self._damaged = set(self._state['damaged'])
    self._queue: queue.Queue = queue.Queue(_AHEAD)
    self._closed = threading.Event()
    examples, iterator = open_at(self._state['examples'])
    self._examples = examples
    # the thread knows nothing of this object: one that nobody holds any more closes itself
    weakref.finalize(self, self._closed.set)
    self._thread = threading.Thread(
      target=self._feed, args=(iterator, self._queue, self._closed), name='batches', daemon=True
    )
    self._thread.start()

  @staticmethod
  def _feed(iterator, waiting: queue.Queue, closed: threading.Event) -> None:
    def put(item) -> bool:
      while not closed.is_set():
        try:
          waiting.put(item, timeout=0.1)
          return True
        except queue.Full:
          pass
      return False

    # Reader processes inherit the mask, so that a signal to the whole group cannot reach them
    # before `_in_worker` does.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    reading = iter(iterator)
    try:
      while put((next(reading), None)):
        pass
    except BaseException as error:
      put((None, error))
    finally:
      reading.close()  # ends reader processes

  def __iter__(self) -> Iterator:
    return self

  def __next__(self) -> dict:
    """The next batch of this process: arrays [last - first, ...].

    Raises:
      DataStalled: if it does not come in time.
      UserError: if more records are damaged than allowed.
    """
    try:
      item, error = self._queue.get(timeout=self._timeout)
    except queue.Empty:
      raise DataStalled(f'no batch in {self._timeout:g} s{self._who_hangs()}') from None
    if error is not None:
      raise error
    arrays, damaged = item
    for index, words in damaged:
      if index not in self._damaged:
        self._damaged.add(index)
        self._warn(
          f'warning: {words}; it is skipped ({len(self._damaged)} of {self._records} records so '
          'far)'
        )
    if len(self._damaged) > self._share * self._records:
      raise UserError(
        f'{len(self._damaged)} of {self._records} records are damaged, more than the '
        f'{100 * self._share:g} % that config.bad_records allows; the last: {damaged[-1][1]}'
      )
    self._state['examples'] += self._batch_size
    return arrays

  def _who_hangs(self) -> str:
    reading = sorted(self._examples.reading.values(), key=lambda pair: pair[1])
    if reading:
      return f': reading record {reading[0][0]} has not ended'
    at = self._state['examples']
    return f': a reader process hangs within the examples {at} to {at + 8 * self._batch_size} of the order'

  def get_state(self) -> dict:
    """JSON-ready: describes the last batch handed out, not those read ahead."""
    return self._state | {'damaged': sorted(self._damaged)}

  def close(self) -> None:
    """Ends the reading thread and its processes; a thread that hangs is left behind."""
    self._closed.set()
    self._thread.join(5.0)


def batches_from(
  source,
  transform: Callable,
  *,
  batch_size: int,
  seed: int,
  first: int = 0,
  last: int | None = None,
  threads: int = 2,
  workers: int = 0,
  timeout: float = 300.0,
  bad_records: float = 0.05,
  changed_ok: bool = False,
  warn: Callable = lambda words: print(one_line(words), file=sys.stderr),
) -> Callable[[dict | None], Batches]:
  """A function: data state (None: from the start) -> endless iterator of batches with
  `get_state() -> dict`.

  Args:
    source: `__len__` and `__getitem__(index) -> record`; optionally `fingerprint`, a string that
      tells data from data.
    transform: (record, numpy generator) -> dict of arrays, equal shapes for every record.
    batch_size: examples of a batch over all processes.
    seed: of shuffling and of the transform's randomness.
    first, last: rows of every batch that this process reads; `last` None: all.
    threads: that read, in each process.
    workers: reader processes; 0 reads in threads of this one.
    timeout: seconds to wait for a batch.
    bad_records: share of the records that may be damaged (`DamagedRecord`, or values that are not
      finite).
    changed_ok: go on with other records than those of the state.
    warn: takes a line for every record that is skipped.

  Raises:
    UserError: if there are no records, or (by the function) if the state belongs to other records.
  """
  if not len(source):
    raise UserError('the data source has no records')
  last = batch_size if last is None else last
  order = grain.MapDataset.range(len(source)).seed(seed % 2**32).shuffle().repeat()
  identity = fingerprint_of(source)

  def open_at(start: int):
    examples = _Examples(source, transform, order, seed, start, batch_size, first, last)
    dataset = grain.MapDataset.source(examples).batch(
      last - first, drop_remainder=True, batch_fn=_together
    )
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = dataset.to_iter_dataset(options)
    if workers:
      if not flags.FLAGS.is_parsed():  # Grain reads flags of its own; scripts may have none
        flags.FLAGS.mark_as_parsed()
      iterator = iterator.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
        worker_init_fn=_in_worker,
      )
    return examples, iterator

  def from_state(state: dict | None) -> Batches:
    state = state or {'examples': 0, 'damaged': [], 'records': identity, 'seed': seed}
    if (state['records'], state['seed']) != (identity, seed) and not changed_ok:
      raise UserError(
        'the records or the seed are not those of the checkpoint, so the run would not go on where '
        'it '
        'stopped: restore them, or set config.data_changed_ok=True'
      )
    state = state | {'records': identity, 'seed': seed}
    return Batches(
      open_at,
      state,
      batch_size=batch_size,
      records=len(source),
      timeout=timeout,
      share=bad_records,
      warn=warn,
    )

  return from_state
