"""Progress bars of a command: one at a time, drawn by tqdm on standard error, with the stage, what
is done and the time left."""

import sys
from collections.abc import Iterator

import tqdm

from exp_jax.errors import one_line


class Bars:
  """A `progress` callback that draws a bar for the stage that runs. Use it in a `with`."""

  def __init__(self):
    self._stage, self._bar, self._outer = None, None, None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._end()

  def __call__(self, stage: str, done: int, total: int | None) -> None:
    if stage != self._stage:
      self._end()
      self._stage = stage
      # nothing to count: how long it has run
      shape = {} if total else {'bar_format': '{desc} | {elapsed}'}
      self._bar = tqdm.tqdm(
        desc=one_line(stage),
        total=total,
        leave=False,
        position=0 if self._outer is None else 1,
        **shape,
      )
    self._bar.total = total
    self._bar.n = done
    self._bar.refresh()
    if total is not None and done >= total:
      self._end()

  def over(self, items: list, name: str, unit: str) -> Iterator:
    """The items under a bar of their own, above the one of the stage."""
    self._outer = tqdm.tqdm(items, desc=name, unit=unit, position=0)
    try:
      yield from self._outer
    finally:
      self._end()
      self._outer.close()
      self._outer = None

  def say(self, words: str, file=None) -> None:
    """A line that no bar is drawn over, in printable text."""
    tqdm.tqdm.write(one_line(words), file=file)

  def warn(self, words: str) -> None:
    """A warning on standard error."""
    self.say(f'warning: {words}', file=sys.stderr)

  def _end(self) -> None:
    if self._bar is not None:
      self._bar.close()
    self._stage = self._bar = None
