"""Progress and cancellation of long functions: what they report, and where they stop.

A long function takes `watch: Watch = SILENT` and reports each stage as (stage, done, total). Where
a stage is one call that cannot be interrupted, such as a compilation, `Watch.run` runs it in a
thread: the caller hears every second that it still runs, and a cancellation returns at once while
the call ends by itself.
"""

import dataclasses
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')
_PERIOD = 0.1  # seconds between two looks at `cancel`
_HEARTBEAT = 1.0  # seconds between two reports of a stage that has no steps


class Cancelled(Exception):
  """The caller's `cancel` was true; nothing half-made is left behind."""


@dataclasses.dataclass(frozen=True)
class Watch:
  """Who follows progress, and who may cancel.

  Attributes:
    progress: called with (stage, done, total); total is None where it is not known.
    cancel: asked between steps; a true answer ends the work with `Cancelled`.
    warn: called with one sentence about input that is used although something is wrong with it.
  """

  progress: Callable[[str, int, int | None], None] | None = None
  cancel: Callable[[], bool] | None = None
  warn: Callable[[str], None] = lambda words: warnings.warn(words, stacklevel=3)

  def check(self) -> None:
    """Raises Cancelled if the caller wants no more."""
    if self.cancel is not None and self.cancel():
      raise Cancelled

  def tell(self, stage: str, done: int, total: int | None = None) -> None:
    """Reports a stage, after a look at `cancel`."""
    self.check()
    if self.progress is not None:
      self.progress(stage, done, total)

  def each(self, items: Iterable[T], stage: str, total: int | None = None) -> Iterator[T]:
    """The items, with a report before the first and after each that the caller has worked on."""
    self.tell(stage, 0, total)
    for done, item in enumerate(items, 1):
      yield item
      self.tell(stage, done, total)

  def run(self, work: Callable[[], T], *, stage: str | None = None) -> T:
    """`work()`, in a thread so that a cancellation need not wait for its end; reports `stage` every
    second if one is named.

    Errors of `work` are raised here. After a cancellation it runs on in the background and its
    result is dropped, unless `work` stores it.
    """
    if self.progress is None and self.cancel is None:
      return work()
    self.check()  # work that ends before the first look below is cancelled too
    outcome: dict = {}

    def call():
      try:
        outcome['result'] = work()
      except BaseException as error:  # carried to the caller's thread
        outcome['error'] = error

    thread = threading.Thread(target=call, name=f'exp_jax {stage or "work"}', daemon=True)
    thread.start()
    reported = time.monotonic()
    while thread.is_alive():
      thread.join(_PERIOD)
      self.check()
      if stage and time.monotonic() - reported >= _HEARTBEAT:
        reported = time.monotonic()
        self.tell(stage, 0, None)
    if 'error' in outcome:
      raise outcome['error']
    return outcome['result']

  def wait_for(self, work: Callable[[], T], stage: str) -> T:
    """`run` of a whole stage without steps: reported at its start, every second, and at its end."""
    self.tell(stage, 0, None)
    result = self.run(work, stage=stage)
    self.tell(stage, 1, 1)
    return result

  def each_slowly(self, items: Iterable[T], stage: str, total: int | None = None) -> Iterator[T]:
    """As `each`, for an iterator that computes for long: every item is waited for as by `run`."""
    iterator, done, end = iter(items), 0, object()
    self.tell(stage, 0, total)
    while (item := self.run(lambda: next(iterator, end))) is not end:
      yield item
      done += 1
      self.tell(stage, done, total)


SILENT = Watch()


class Background:
  """Work that goes on in a thread while its caller does something else; leave the `with` block, and
  it is asked to stop.

    with Background(lambda watch: solve(picture, watch=watch)) as solving:
      other = solving.meanwhile(watch, lambda watch: follow(clip, watch=watch))
      answer = solving.wait(watch, 'solve')

  Args:
    work: takes a `Watch` that reports nothing, keeps warnings until `wait`, and cancels where the
      block is left before.
  """

  def __init__(self, work: Callable[[Watch], T]):
    self._left, self._words, self._outcome = threading.Event(), [], {}
    watch = Watch(None, self._left.is_set, self._words.append)

    def call():
      try:
        self._outcome['result'] = work(watch)
      except BaseException as error:  # carried to the caller's thread
        self._outcome['error'] = error

    self._thread = threading.Thread(target=call, name='exp_jax background', daemon=True)
    self._thread.start()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._left.set()

  def meanwhile(self, watch: Watch, work: Callable[[Watch], T]) -> T:
    """`work(watch)` of the caller, which stops early, with the error of the background work where
    that has failed."""
    failed = lambda: 'error' in self._outcome
    try:
      return work(
        dataclasses.replace(
          watch, cancel=lambda: failed() or watch.cancel is not None and watch.cancel()
        )
      )
    except Cancelled:
      if failed():
        self.wait(watch, '')
      raise

  def wait(self, watch: Watch, stage: str) -> T:
    """The result, waited for as by `Watch.wait_for`; warnings come first, then errors of the work
    are raised here."""

    def joined():
      self._thread.join()
      if 'error' in self._outcome:
        raise self._outcome['error']
      return self._outcome['result']

    try:
      return watch.wait_for(joined, stage) if 'error' not in self._outcome else joined()
    finally:
      for words in self._words:
        watch.warn(words)
