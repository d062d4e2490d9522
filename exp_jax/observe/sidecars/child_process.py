"""A process that answers requests over pipes, and of which nothing is expected: it may hang, die,
talk nonsense or talk for ever.

Requests go to its standard input, answers come on a descriptor of their own, whose number is its
last argument. What it writes to standard error is drained and only its end is remembered. POSIX
only.
"""

import contextlib
import os
import select
import subprocess
import threading
import time

from exp_jax.errors import UserError, one_line

_WORDS = 2000  # bytes of standard error that are remembered
_CHUNK = 2**16
TIMEOUT = 'EXP_JAX_MEDIAPIPE_TIMEOUT'


class NoAnswer(Exception):
  """The process did not answer as it should; the message says how, with its own last words."""


def time_limit(seconds: float) -> float:
  """Seconds to wait for an answer: longer where the machine is busy with other work, or what the
  environment says.

  Raises:
    UserError: EXP_JAX_MEDIAPIPE_TIMEOUT is not a number of seconds.
  """
  if text := os.environ.get(TIMEOUT, '').strip():
    try:
      if 0 < (wanted := float(text)) < 1e6:
        return wanted
    except ValueError:
      pass
    raise UserError(f'{TIMEOUT} must be a number of seconds above 0, got {text[:40]!r}')
  busy = os.getloadavg()[0] / (os.cpu_count() or 1)
  return seconds * min(max(busy, 1.0), 2.0)


class AnsweringProcess:
  """One such process, started at once.

  Args:
    command: the program and its arguments; the number of the descriptor for answers is added.
    environment: of the process.
    quiet: drain its standard error and remember the end; False: let it through.
  """

  def __init__(self, command: list[str], environment: dict[str, str], *, quiet: bool = True):
    answers, sink = os.pipe()
    try:
      self._process = subprocess.Popen(
        [*command, str(sink)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if quiet else None,
        pass_fds=(sink,),
        env=environment,
      )
    except OSError as error:
      os.close(answers)
      raise UserError(f'{command[0]!r} does not start: {error.strerror}') from None
    finally:
      os.close(sink)
    self._answers = answers
    os.set_blocking(answers, False)
    os.set_blocking(self._process.stdin.fileno(), False)
    self._words = _Tail(self._process.stderr) if self._process.stderr else None

  def send(self, request: bytes | memoryview, until: float) -> None:
    """Writes a request.

    Args:
      request: bytes.
      until: time.monotonic() at which patience ends.

    Raises:
      NoAnswer: it ended, does not read, or has sent something that nobody asked for.
    """
    self.check_silence()
    left, pipe = memoryview(request), self._process.stdin.fileno()
    while left:
      self._wait([], [pipe], until)
      try:
        left = left[os.write(pipe, left[:_CHUNK]) :]
      except BlockingIOError:
        continue
      except BrokenPipeError:
        raise NoAnswer(f'stopped: {self.last_words()}') from None

  def check_silence(self) -> None:
    """Raises NoAnswer if it has sent something that nobody asked for."""
    if select.select([self._answers], [], [], 0)[0] and os.read(self._answers, 1):
      raise NoAnswer('sent more than it was asked for')

  def read(self, count: int, until: float) -> bytes:
    """Exactly `count` bytes of an answer.

    Raises NoAnswer if it ends before, or is silent until `until`.
    """
    parts, missing = [], count
    while missing:
      self._wait([self._answers], [], until)
      try:
        part = os.read(self._answers, min(missing, _CHUNK))
      except BlockingIOError:
        continue
      if not part:
        raise NoAnswer(f'stopped: {self.last_words()}')
      parts.append(part)
      missing -= len(part)
    return b''.join(parts)

  def _wait(self, readable: list, writable: list, until: float) -> None:
    """Until a pipe is ready."""
    left = until - time.monotonic()
    if left <= 0 or not any(select.select(readable, writable, [], left)):
      raise NoAnswer(f'did not answer in time{self._that_it_said()}')

  def _that_it_said(self) -> str:
    words = self._words.last(0) if self._words else ''
    return f', its last words were: {words}' if words else ''

  def last_words(self) -> str:
    """The last line that it wrote to standard error, or its exit status."""
    if words := self._words.last(1) if self._words else '':
      return words
    with contextlib.suppress(subprocess.TimeoutExpired):
      return f'exit status {self._process.wait(1)}'
    return 'it closed its pipe'

  def end(self, patience: float = 5.0) -> None:
    """Asks it to end by closing its input, then kills it."""
    with contextlib.suppress(OSError):
      self._process.stdin.close()
    try:
      self._process.wait(patience)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    if self._answers >= 0:
      os.close(self._answers)
      self._answers = -1


class _Tail:
  """Drains a pipe in the background and remembers its end; a line of any length takes no more
  memory."""

  def __init__(self, pipe):
    self._end = b''
    self._thread = threading.Thread(target=self._drain, args=(pipe,), daemon=True)
    self._thread.start()

  def _drain(self, pipe):
    with pipe:
      while part := pipe.read1(_CHUNK):
        self._end = (self._end + part)[-_WORDS:]

  def last(self, patience: float) -> str:
    """The last line with words, fit for a terminal; waits `patience` seconds for the end of the
    pipe."""
    self._thread.join(patience)
    lines = [line for line in self._end.decode(errors='replace').splitlines() if line.strip()]
    return one_line(lines[-1].strip())[-500:] if lines else ''
