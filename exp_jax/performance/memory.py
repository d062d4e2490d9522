"""What a loaded model remembers of its inputs: results by content, bounded in bytes, the least
recently used ones forgotten."""

import collections
import dataclasses
import threading
from collections.abc import Callable, Hashable


def bytes_of(value) -> int:
  """Bytes of all arrays inside dataclasses, tuples, lists and dicts."""
  if hasattr(value, 'nbytes'):
    return int(value.nbytes)
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return sum(bytes_of(getattr(value, field.name)) for field in dataclasses.fields(value))
  if isinstance(value, dict):
    return sum(map(bytes_of, value.values()))
  if isinstance(value, (tuple, list)) and not isinstance(value, str):
    return sum(map(bytes_of, value))
  return 0


class Memory:
  """A bounded store of results.

  Safe to use from several threads; equal keys must mean equal results.
  """

  def __init__(self, limit: int):
    """limit: bytes of arrays in all; the newest result stays even where it alone is larger."""
    self._limit, self._lock = limit, threading.Lock()
    self._found: collections.OrderedDict[Hashable, tuple[object, int]] = collections.OrderedDict()
    self._making: dict[Hashable, threading.Lock] = {}

  def __contains__(self, key: Hashable) -> bool:
    return key in self._found

  def __len__(self) -> int:
    return len(self._found)

  @property
  def bytes(self) -> int:
    """Bytes of the arrays that are remembered."""
    with self._lock:
      return sum(size for _, size in self._found.values())

  def get(self, key: Hashable, make: Callable[[], object]):
    """The result of that key: remembered, or made now.

    Who asks while another thread makes it waits for that one.
    """
    with self._lock:
      making = self._making.setdefault(key, threading.Lock())
    with making:
      with self._lock:
        if key in self._found:
          self._found.move_to_end(key)
          return self._found[key][0]
      try:
        value = make()
        with self._lock:
          self._found[key] = value, bytes_of(value)
          while (
            len(self._found) > 1 and sum(size for _, size in self._found.values()) > self._limit
          ):
            self._found.popitem(last=False)
        return value
      finally:
        with self._lock:
          self._making.pop(key, None)

  def clear(self) -> None:
    """Forgets everything."""
    with self._lock:
      self._found.clear()
