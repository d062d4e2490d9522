"""A request to stop: SIGTERM or Ctrl-C once saves at the step's end; the second time it ends the
process at once."""

import signal
import sys
import threading

from exp_jax.training.watchdog import TRY_AGAIN, end_now


class Termination:
  """`seen` is the signal that arrived first, or None.

  Handlers are set in the main thread, and put back by `close`.
  """

  def __init__(self):
    self.seen: int | None = None
    self._before = {}
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._before[number] = signal.signal(number, self._handle)

  def _handle(self, number, _):
    if self.seen is not None:
      end_now(128 + number)  # 143 or 130; checkpoints are whole at any moment
    self.seen = number
    print(
      f'{signal.Signals(number).name}: the run is saved at the end of this step; the second signal '
      'ends it at once',
      file=sys.stderr,
      flush=True,
    )

  def status(self) -> int:
    """Of a process that saved and stopped: 75 after SIGTERM (here or at another host), 130 after
    Ctrl-C."""
    return 130 if self.seen == signal.SIGINT else TRY_AGAIN

  def close(self) -> None:
    """The handlers that were there before."""
    for number, handler in self._before.items():
      signal.signal(number, handler)
