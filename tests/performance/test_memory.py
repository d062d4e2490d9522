"""What a model remembers: by content, bounded in bytes, made once although several threads ask."""

import dataclasses
import threading

import numpy as np
import pytest

from exp_jax.performance.memory import Memory, bytes_of


@dataclasses.dataclass
class Pair:
  a: np.ndarray
  b: object


def test_bytes_of_what_is_nested():
  array = np.zeros((3, 5), np.float32)
  assert (
    bytes_of(Pair(array, {'x': [array, (array,)], 'y': 'text'})) == 3 * 60
    and bytes_of('text') == bytes_of(None) == 0
  )


def test_the_least_recently_used_is_forgotten_by_bytes():
  memory, made = Memory(100), []
  get = lambda key, size: memory.get(key, lambda: made.append(key) or np.zeros(size, np.uint8))
  get('a', 40), get('b', 40), get('a', 40), get('c', 40)
  assert made == ['a', 'b', 'c'] and 'a' in memory and 'b' not in memory and memory.bytes == 80
  get('large', 500)
  assert len(memory) == 1 and 'large' in memory
  memory.clear()
  assert not len(memory)


def test_several_threads_make_it_once():
  memory, made, start = Memory(1000), [], threading.Barrier(4)
  found = []

  def ask():
    start.wait(10)
    found.append(memory.get('x', lambda: made.append(1) or np.arange(3)))

  threads = [threading.Thread(target=ask) for _ in range(4)]
  [t.start() for t in threads]
  [t.join(10) for t in threads]
  assert made == [1] and len(found) == 4 and all(f is found[0] for f in found)


def test_a_failure_is_not_remembered():
  memory = Memory(1000)
  with pytest.raises(KeyError):
    memory.get('x', lambda: {}['gone'])
  assert memory.get('x', lambda: 3) == 3
