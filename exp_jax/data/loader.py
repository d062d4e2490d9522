"""Batches by Grain: seeded shuffle, a share per process, threads only, and a state that resumes exactly."""

from collections.abc import Callable, Iterator

import grain
import numpy as np

from exp_jax.errors import UserError


def batches_from(source, transform: Callable, *, batch_size: int, seed: int, process: int = 0,
                 processes: int = 1, threads: int = 2) -> Callable[[dict | None], Iterator]:
  """A function: data state (None: from the start) -> endless iterator of batches.

  The iterator's `get_state()` is a small JSON-ready dict that describes the last batch handed out, not those
  read ahead.

  Args:
    source: `__len__` and `__getitem__(index) -> record`.
    transform: (record, numpy generator) -> dict of arrays, equal shapes for every record.
    batch_size: examples per batch of this process.
    seed: of shuffling and of the transform's randomness.
    process, processes: this process's share is every `processes`-th example of the shuffled order.
    threads: of reading; processes are not used.

  Raises:
    UserError: if there are fewer records than processes.
  """
  if len(source) < processes:
    raise UserError(f'{len(source)} records cannot be shared by {processes} processes')
  dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
  dataset = dataset[process::processes].random_map(transform).batch(batch_size, drop_remainder=True)
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * max(threads, 1))

  def open_at(state: dict | None) -> Iterator[dict[str, np.ndarray]]:
    iterator = iter(dataset.to_iter_dataset(options))
    if state is not None:
      iterator.set_state(state)
    return iterator

  return open_at
