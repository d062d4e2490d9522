"""Reads mutated files with the project's readers; each must end in a result or one sentence, in
time and in bounded memory.

  python -m tests.fuzz                                  # 5,000 media files, 3,000 pickles and .pth, 1,000 other files
  python -m tests.fuzz --kind media --count 200 --seed 7

A failure names kind, seed and number, which make the same file again: --kind media --seed 7 --only
123 --keep DIR.
Exit status: 0 none failed, 1 at least one did.
"""

import argparse
import pathlib
import resource
import signal
import sys
import tempfile

import numpy as np

from exp_jax.errors import UserError
from tests.fuzz.mutants import KINDS, mutant

COUNTS = {'media': 5000, 'pickles': 3000, 'files': 1000}
_SECONDS, _MOST_MB = 20, 300
_RUNS = (
  'os.system',
  'os.exec',
  'os.posix_spawn',
  'os.fork',
  'os.forkpty',
  'subprocess.Popen',
  'socket.connect',
  'pty.spawn',
)


class TooLong(BaseException):
  """The reader did not end in time."""


class Watcher:
  """Notes what readers try to start; an audit hook can never be taken away, so it is switched."""

  def __init__(self):
    self.on, self.seen = False, []
    sys.addaudithook(
      lambda event, args: self.seen.append(event) if self.on and event.startswith(_RUNS) else None
    )


def _resident() -> float:
  """MB that the process has now; where the system allows it, the peak is counted anew from here."""
  try:
    pathlib.Path('/proc/self/clear_refs').write_text('5')
    return (
      int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize() / 1e6
    )
  except OSError:
    return _peak()


def _peak() -> float:
  """MB that the process had at most; since `_resident`, where that could be."""
  try:
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) * 1024 / 1e6
  except (OSError, StopIteration):
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(
  kind: str,
  count: int,
  seed: int,
  watcher: Watcher,
  *,
  only: int | None = None,
  keep: pathlib.Path | None = None,
) -> tuple[list[str], float]:
  """Reads `count` mutants of a kind; returns a line for each failure, and the most MB that one
  took."""
  make, read = KINDS[kind]
  failures, most = [], 0.0

  def late(*_):
    raise TooLong

  signal.signal(signal.SIGALRM, late)
  with tempfile.TemporaryDirectory() as scratch:
    seeds = pathlib.Path(scratch) / 'seeds'
    seeds.mkdir()
    contents = [(path.name, path.read_bytes()) for path in make(seeds)]
    for name, _ in contents:  # imports and pools are no growth of a damaged file
      try:
        read(seeds / name)
      except UserError:
        if 'calls' not in name:  # a seed that is refused as it is would prove nothing
          raise
    for number in range(count) if only is None else [only]:
      rng = np.random.default_rng([seed, number])
      name, content = contents[int(rng.integers(len(contents)))]
      path = (keep or pathlib.Path(scratch)) / name
      path.write_bytes(mutant(content, rng))
      before, words = _resident(), ''
      watcher.on, watcher.seen = True, []
      signal.alarm(_SECONDS)
      try:
        read(path)
      except UserError as error:
        words = '' if str(error).isprintable() else f'an unprintable sentence {str(error)!r}'
      except TooLong:
        words = f'no end after {_SECONDS} s'
      except BaseException as error:
        words = f'{type(error).__name__}: {error}'
      finally:
        signal.alarm(0)
        watcher.on = False
      if watcher.seen:
        words += f' started something ({watcher.seen[0]})'
      grown = _peak() - before
      most = max(most, grown)
      if grown > _MOST_MB + path.stat().st_size / 1e6:
        words += f' took {grown:.0f} MB'
      if words:
        failures.append(f'{kind} --seed {seed} --only {number} ({name}): {words[:300]}')
  return failures, most


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--kind', choices=tuple(KINDS), help='default: all')
  parser.add_argument('--count', type=int, help='of each kind')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--only', type=int, help='the one mutant of that number')
  parser.add_argument('--keep', type=pathlib.Path, help='folder that the mutant stays in')
  args = parser.parse_args(argv)
  watcher, failed = Watcher(), 0
  for kind in [args.kind] if args.kind else KINDS:
    count = args.count or COUNTS[kind]
    failures, most = fuzz(kind, count, args.seed, watcher, only=args.only, keep=args.keep)
    print(
      *failures,
      f'{kind}: {count} files, {len(failures)} failures, at most {most:.0f} MB for one',
      sep='\n',
      flush=True,
    )
    failed += len(failures)
  return 1 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
