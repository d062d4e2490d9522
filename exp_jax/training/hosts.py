"""Joining the other hosts of a run, before JAX is used for anything else.

EXP_JAX_PROCESSES, EXP_JAX_PROCESS, EXP_JAX_COORDINATOR   set by launch/: explicit
EXP_JAX_BIND                                               of process 0: the address that the coordinator listens on; default: all
SLURM_NTASKS > 1, or EXP_JAX_HOSTS=auto                    found by JAX: Slurm, Open MPI, TPU pods
EXP_JAX_JOIN_TIMEOUT                                       seconds to wait for the others (300)
"""

import contextlib
import os
import socket
import sys
import threading

import jax

from exp_jax.errors import UserError

_EXPLICIT = ('EXP_JAX_PROCESSES', 'EXP_JAX_PROCESS', 'EXP_JAX_COORDINATOR')
# that JAX reads
_OF_SRUN = 'SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_PROCID', 'SLURM_LOCALID'
_JOIN_SECONDS, _NOTE_SECONDS = 300, 15
_TRY_AGAIN = 75


def _number(name: str, least: int, default: int | None = None) -> int:
  """A whole number of the environment. Raises UserError if it is none, or smaller than `least`."""
  text = os.environ.get(name, '' if default is None else str(default)).strip()
  if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
    raise UserError(f'{name} must be a whole number of at least {least}, got {text[:40]!r}')
  return int(text)


def slurm_tasks() -> int:
  """How many tasks of Slurm are one run; 1 without Slurm.

  Raises:
    UserError: Slurm's variables are there in part: this process was not started by srun, and nobody
      else will come.
  """
  if 'SLURM_NTASKS' not in os.environ or (count := _number('SLURM_NTASKS', 1)) == 1:
    return 1
  if missing := [name for name in _OF_SRUN if not os.environ.get(name)]:
    raise UserError(
      f'SLURM_NTASKS is {count}, but {missing[0]} is not set, so srun did not start this process: '
      'start it with srun, '
      'or unset SLURM_NTASKS to run one process alone'
    )
  return count


@contextlib.contextmanager
def _waiting(words: str, seconds: float):
  """Says what is waited for after a while, and ends the process with a sentence and status 75 in
  the end: JAX itself aborts."""
  done = threading.Event()

  def watch():
    if done.wait(min(_NOTE_SECONDS, seconds)):
      return
    print(f'waiting for {words}', file=sys.stderr, flush=True)
    if not done.wait(max(seconds - _NOTE_SECONDS, 0.0)):
      print(
        f'error: after {seconds:g} s still waiting for {words}: start all of them, with the same '
        'settings, or set '
        'EXP_JAX_JOIN_TIMEOUT',
        file=sys.stderr,
        flush=True,
      )
      os._exit(_TRY_AGAIN)

  threading.Thread(target=watch, name='join', daemon=True).start()
  try:
    yield
  finally:
    done.set()


def check_listens(bind: str, port: int) -> None:
  """Raises UserError if process 0 cannot listen there; JAX itself ends in a traceback, or crashes
  on a name that it cannot read.

  Args:
    bind: an address or a name of this machine; '': all its addresses.
  """
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(
      bind or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
      # a run that has just ended leaves connections that still close
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      probe.bind(address)
  except (OSError, UnicodeError) as error:
    where = f'{bind or "all addresses"}, port {port}'
    raise UserError(
      f'the coordinator cannot listen at {where} ({getattr(error, "strerror", None) or error}): '
      'choose another port '
      'in EXP_JAX_COORDINATOR, or another EXP_JAX_BIND'
    ) from None


def _explicit() -> tuple[int, int, str]:
  """(processes, own number, HOST:PORT) of the variables that launch/ sets."""
  missing = [name for name in _EXPLICIT if name not in os.environ]
  if missing:
    there = ', '.join(name for name in _EXPLICIT if name in os.environ)
    raise UserError(f'the environment has {there} but not {", ".join(missing)}; see launch/')
  count, own, address = (
    _number('EXP_JAX_PROCESSES', 1),
    _number('EXP_JAX_PROCESS', 0),
    os.environ['EXP_JAX_COORDINATOR'],
  )
  if own >= count:
    raise UserError(
      f'EXP_JAX_PROCESS is {own}, but EXP_JAX_PROCESSES is {count}; they count from 0'
    )
  host, _, port = address.rpartition(':')
  if not host or not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
    raise UserError(f'EXP_JAX_COORDINATOR must be HOST:PORT, got {address!r}')
  return count, own, address


def join(heartbeat: int) -> None:
  """Connects to the coordinator if the environment names one; a host that dies is noticed within
  `heartbeat` seconds.

  Where the others do not come in time the process ends with one sentence and status 75.

  Raises:
    UserError: if the environment is incomplete or its values cannot be.
  """
  seconds = _number('EXP_JAX_JOIN_TIMEOUT', 1, _JOIN_SECONDS)
  found = os.environ.get('EXP_JAX_HOSTS', '')
  if found not in ('', 'auto'):
    raise UserError(
      f"EXP_JAX_HOSTS must be 'auto' or unset, got {found[:40]!r}; launch/run.py --hosts starts a "
      'number of hosts'
    )
  times = dict(
    heartbeat_timeout_seconds=heartbeat,
    shutdown_timeout_seconds=60,
    initialization_timeout=seconds + 60,
  )
  if any(name in os.environ for name in _EXPLICIT):
    count, own, address = _explicit()
    if count > 1:
      bind, port = os.environ.get('EXP_JAX_BIND', ''), address.rpartition(':')[2]
      if own == 0:
        check_listens(bind, int(port))
      with _waiting(
        f'the other {count - 1} of {count} processes at {address} (this is process {own})', seconds
      ):
        jax.distributed.initialize(
          address, count, own, coordinator_bind_address=f'{bind}:{port}' if bind else None, **times
        )
  elif (tasks := slurm_tasks()) > 1 or found:
    with _waiting(
      f'the other processes of {tasks} tasks of Slurm' if tasks > 1 else 'the other hosts', seconds
    ):
      try:
        jax.distributed.initialize(**times)
      except (
        ValueError,
        LookupError,
        TypeError,
      ) as error:  # variables of a scheduler that are there but cannot be
        remedy = 'start it with srun, or unset SLURM_NTASKS' if tasks > 1 else 'unset EXP_JAX_HOSTS'
        raise UserError(
          f'the other hosts are not found ({error}): {remedy} to run one process, or name them as '
          'launch/ '
          'does'
        ) from None
