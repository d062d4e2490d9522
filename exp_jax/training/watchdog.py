"""Ends a process that does nothing any more, and says where it stood.

A host that is alive but stuck keeps all others waiting in a collective, and nothing in JAX notices.
Every phase of the loop announces how long it may take; when the time is over, the stacks of all
threads go to standard error and the process ends with status 75, which launchers answer by a
restart. Should the interpreter itself be stuck, a second timer, without the interpreter, does the
same some seconds later with status 1.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_BACKSTOP = 20.0  # seconds


def end_now(status: int) -> None:
  """Ends this process and its reader processes at once, hung threads or not.

  What is committed stays.
  """
  for child in multiprocessing.active_children():
    with contextlib.suppress(OSError):
      os.kill(child.pid, signal.SIGKILL)  # readers ignore SIGTERM
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def print_stacks() -> None:
  """The stacks of all threads, on standard error."""
  sys.stderr.flush()
  faulthandler.dump_traceback(sys.__stderr__, all_threads=True)


class Watchdog:
  """`expect` announces a phase; the process ends if none is announced again within its time."""

  def __init__(self):
    self._phase, self._deadline = '', None
    self._closed = threading.Event()
    threading.Thread(target=self._watch, name='watchdog', daemon=True).start()

  def expect(self, phase: str, seconds: float) -> None:
    """The next `expect` or `close` comes within `seconds`; `phase` is what is done until then."""
    self._phase, self._seconds, self._deadline = phase, seconds, time.monotonic() + seconds
    faulthandler.dump_traceback_later(seconds + _BACKSTOP, exit=True, file=sys.__stderr__)

  def close(self) -> None:
    """No phase is watched any more."""
    self._closed.set()
    faulthandler.cancel_dump_traceback_later()

  def _watch(self) -> None:
    while not self._closed.wait(0.2):
      if self._deadline is not None and time.monotonic() > self._deadline:
        print(
          f'error: {self._phase} took more than {self._seconds:g} s; the stacks of all threads '
          'follow, then this '
          f'process ends with status {TRY_AGAIN}',
          file=sys.stderr,
        )
        print_stacks()
        end_now(TRY_AGAIN)
