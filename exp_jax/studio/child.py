"""A process of our own that takes requests and reports what becomes of them, one JSON object a
line; it may die or hang at any time.

Requests go to its standard input. Reports come on its standard output, which it moves away before
anything else can print there (`exp_jax.studio.worker`). What it writes to standard error goes where
ours goes.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading

import exp_jax

WORKER = (sys.executable, '-c', 'from exp_jax.studio.worker import main; main()')


class Died(Exception):
  """The process has ended; the message says how."""


class Silent(Exception):
  """It has reported nothing for too long."""


class Child:
  """A process that is started when it is first needed, and again after its end.

  Args:
    command: the program and its arguments.
    **variables: of its environment, beside ours.

  Attributes:
    turn: a lock for callers that send and then wait for the answer.
  """

  def __init__(self, command: tuple[str, ...] = WORKER, **variables: str):
    self._command, self._variables = command, variables
    self._lock, self.turn = threading.Lock(), threading.Lock()
    self._process: subprocess.Popen | None = None
    self._closed = False
    self._reports: queue.Queue = queue.Queue()

  @property
  def process_id(self) -> int | None:
    """Its number, or None where none runs."""
    process = self._process
    return None if process is None or process.poll() is not None else process.pid

  def send(self, message: dict) -> None:
    """Hands over a request; starts the process where none runs.

    A process that dies meanwhile is noticed by `receive`.

    Raises:
      Died: it was closed.
    """
    with self._lock:
      if self._closed:
        raise Died('ended with its server')
      if self._process is None or self._process.poll() is not None:
        self._start()
      self._write(message)

  def tell(self, message: dict) -> None:
    """As `send`, but only to a process that runs."""
    with self._lock:
      if self._process is not None and self._process.poll() is None:
        self._write(message)

  def receive(self, seconds: float) -> dict:
    """The next report.

    Raises:
      Died: there will be none; how it ended.
      Silent: none came within that time.
    """
    try:
      report = self._reports.get(timeout=seconds)
    except queue.Empty:
      raise Silent from None
    if report is None:
      raise Died(_ending(self._process.wait()))
    return report

  def close(self, seconds: float) -> None:
    """Ends it as `end` does, for ever."""
    with self._lock:
      self._closed = True
    self.end(seconds)

  def end(self, seconds: float = 0.0) -> None:
    """Closes its input, and ends it where it is still there after so long."""
    with self._lock:
      process = self._process
      if process is None:
        return
      with contextlib.suppress(OSError):
        process.stdin.close()
      try:
        process.wait(seconds)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

  def _start(self) -> None:
    root = os.path.dirname(os.path.dirname(os.path.abspath(exp_jax.__file__)))
    paths = [root, *filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))]
    environment = (
      os.environ | self._variables | {'PYTHONPATH': os.pathsep.join(dict.fromkeys(paths))}
    )
    self._reports = queue.Queue()
    self._process = subprocess.Popen(
      self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    threading.Thread(
      target=_read, args=(self._process.stdout, self._reports), name='exp_jax reports', daemon=True
    ).start()

  def _write(self, message: dict) -> None:
    with contextlib.suppress(OSError, ValueError):
      self._process.stdin.write(json.dumps(message).encode() + b'\n')
      self._process.stdin.flush()


def _read(stream, reports: queue.Queue) -> None:
  """Reports of one process, then None."""
  with stream:
    for line in stream:
      try:
        report = json.loads(line)
      except ValueError:
        continue  # cut off by its end
      if isinstance(report, dict):
        reports.put(report)
  reports.put(None)


def _ending(status: int) -> str:
  return f'ended by signal {-status}' if status < 0 else f'ended with status {status}'
