#!/usr/bin/env python3
"""Starts `exp_jax.train` on this host, again and again until it is finished. Standard library only.

  python launch/run.py --local 2 -- --config=configs/dit_a800.py:smoke --workdir=out/two        # N processes, one machine
  python launch/run.py --hosts 4 --host 0 --coordinator host0:8476 -- --config=... --workdir=...   # on every host, 0..3
  python launch/run.py -- --config=... --workdir=...                                            # one process

A process that ends with 75 (stopped, or stuck and ended by its watchdog), by a signal or by a crash
of the runtime is started again with the same command, and goes on from its last checkpoint;
with --local, the others are ended first. 0 (finished), 2 (bad input), 3 (not finite) and 74 (disk)
are final. After --restarts starts in a row without a new checkpoint this gives up with the last
status. Starts that a signal from outside ended do not count among them, because a run may not have
had the time to save; they have a limit of their own, --interruptions. Pauses double up
to --longest_pause.

SIGTERM and Ctrl-C are passed on, and nothing is started again; a second one kills. Run this under a
lease of your scheduler
or as a service: it is what restarts, not what watches machines.
"""

import argparse
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import time

FINAL = (0, 2, 3, 74)
# ended from outside
INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGKILL, 128 + signal.SIGINT, 128 + signal.SIGHUP
_POLL = 0.1  # seconds


def arguments(argv):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--local', type=int, default=1, help='processes on this machine')
  parser.add_argument('--hosts', type=int, default=1, help='machines of the run, one process each')
  parser.add_argument('--host', type=int, default=0, help='number of this machine, from 0')
  parser.add_argument('--coordinator', default='', help='HOST:PORT of machine 0')
  parser.add_argument('--restarts', type=int, default=5, help='in a row without a new checkpoint')
  parser.add_argument(
    '--interruptions',
    type=int,
    default=50,
    help='by signals from outside, in a row without a new checkpoint',
  )
  parser.add_argument(
    '--pause', type=float, default=5.0, help='seconds before a restart; doubles without progress'
  )
  parser.add_argument('--longest_pause', type=float, default=60.0, help='seconds')
  parser.add_argument(
    '--grace',
    type=float,
    default=30.0,
    help='seconds between asking the others to end and killing them',
  )
  parser.add_argument('train', nargs='+', help='arguments of exp_jax.train, after --')
  options = parser.parse_args(argv)
  if options.hosts > 1 and (options.local > 1 or not options.coordinator):
    parser.error('--hosts needs --coordinator and excludes --local')
  return options


def workdir_of(train: list[str]) -> str | None:
  """The run's folder among the arguments, in every form that absl takes: with one dash or two, with
  = or as the next word; the last one counts, and nothing after a lone --."""
  words = train[: train.index('--')] if '--' in train else train
  found = None
  for word, after in zip(words, [*words[1:], None]):
    name, equals, value = word.partition('=')
    if name in ('--workdir', '-workdir'):
      found = value if equals else after
  return found


def progress(train: list[str]) -> int:
  """The newest finished step in the run's folder; -1 if there is none."""
  workdir = workdir_of(train)
  marks = pathlib.Path(workdir).glob('checkpoints/*/commit.json') if workdir else ()
  return max((int(p.parent.name) for p in marks if p.parent.name.isdigit()), default=-1)


def start(options, program) -> list[subprocess.Popen]:
  count = max(options.local, options.hosts)
  address = options.coordinator or f'127.0.0.1:{random.randint(20000, 29999)}'
  processes = []
  for i in range(options.local):
    environment = dict(os.environ)
    if count > 1:
      environment |= {
        'EXP_JAX_PROCESSES': str(count),
        'EXP_JAX_COORDINATOR': address,
        'EXP_JAX_PROCESS': str(i if options.local > 1 else options.host),
      }
      if options.local > 1 and not options.coordinator:
        environment['EXP_JAX_BIND'] = (
          '127.0.0.1'  # nobody else on the network can reach the coordinator
        )
    processes.append(subprocess.Popen([*program, *options.train], env=environment))
  return processes


def program_of(environment) -> list[str]:
  """The command that is started: EXP_JAX_PROGRAM, split as a shell would, or exp_jax.train by this
  Python."""
  given = environment.get('EXP_JAX_PROGRAM')
  return shlex.split(given) if given else [sys.executable, '-m', 'exp_jax.train']


def complaint() -> str:
  """Why exp_jax.train cannot be started by this Python, '' if it can."""
  done = subprocess.run(
    [sys.executable, '-c', 'import exp_jax.commands.train'], capture_output=True, text=True
  )
  return (
    ''
    if done.returncode == 0
    else (done.stderr.strip().splitlines() or [f'exit status {done.returncode}'])[-1]
  )


def end_all(processes, grace: float) -> None:
  """SIGTERM, then SIGKILL, which a stopped process obeys as well."""
  for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
    for process in processes:
      if process.poll() is None:
        process.send_signal(number)
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(p.poll() is None for p in processes):
      time.sleep(_POLL)


def shell_status(code: int) -> int:
  return 128 - code if code < 0 else code


def main(argv=None) -> int:
  options = arguments(argv)
  program = program_of(os.environ)
  if 'EXP_JAX_PROGRAM' not in os.environ and (words := complaint()):
    print(
      f'launch: {sys.executable} cannot start exp_jax.train ({words}): install exp_jax there, or '
      'start this from its folder',
      file=sys.stderr,
    )
    return 2
  signals: list[int] = []
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: signals.append(number))
  failed, interruptions, best = 0, 0, progress(options.train)
  while True:
    processes, passed = start(options, program), 0
    while True:
      codes = [p.poll() for p in processes]
      for number in signals[passed:]:
        passed += 1
        for process in processes:
          if process.poll() is None:
            process.send_signal(number if passed == 1 else signal.SIGKILL)
      bad = [shell_status(c) for c in codes if c]
      if all(c is not None for c in codes) or (bad and not signals):
        break
      time.sleep(_POLL)
    if bad and not signals:  # a process that ended alone: the others wait for it
      time.sleep(min(2.0, options.grace))
      end_all(processes, options.grace)
      bad = [shell_status(p.poll()) for p in processes if p.poll()]
    status = next((s for s in FINAL if s in bad), bad[0] if bad else 0)
    if status in FINAL or signals:
      return status
    reached = progress(options.train)
    if reached > best:
      failed = interruptions = 0
    interrupted = status in INTERRUPTED
    failed, interruptions = failed + (not interrupted), interruptions + interrupted
    best = max(best, reached)
    if failed > options.restarts or interruptions > options.interruptions:
      print(
        f'launch: {failed} starts and {interruptions} interruptions in a row without a new '
        'checkpoint, giving up with status '
        f'{status}',
        file=sys.stderr,
      )
      return status
    pause = min(options.pause * 2.0 ** min(failed, 60), max(options.longest_pause, options.pause))
    print(
      f'launch: ended with status {status} after step {best}; again in {pause:g} s',
      file=sys.stderr,
      flush=True,
    )
    until = time.monotonic() + pause
    while time.monotonic() < until and not signals:
      time.sleep(_POLL)
    if signals:
      return status


if __name__ == '__main__':
  sys.exit(main())
