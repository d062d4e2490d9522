"""Breaks lines of mathematics, one at a time, and says which quick test notices.

  python tests/mutations/run.py                   all of them; goes on where it was stopped
  python tests/mutations/run.py depth* 14 -j 2    some, two at once
  python tests/mutations/run.py --list

Exit status 1 if a mutation survives or a run says nothing. See README.md here.
"""

import argparse
import concurrent.futures
import dataclasses
import fnmatch
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from mutation import ROOT, Outcome, digest, mistakes, run_tests  # noqa: E402
from mutation_list import MUTATIONS  # noqa: E402


def chosen(patterns: list[str]) -> list:
  """The mutations whose names match one of the patterns; all without patterns."""
  if not patterns:
    return list(MUTATIONS)
  found = [m for m in MUTATIONS if any(fnmatch.fnmatchcase(m.name, p) for p in patterns)]
  for pattern in patterns:
    if not any(fnmatch.fnmatchcase(m.name, pattern) for m in MUTATIONS):
      raise SystemExit(f'no mutation is called {pattern!r}; --list shows their names')
  return found


def table(rows: list[dict]) -> str:
  """Markdown, a line a mutation."""
  lines = [
    '| mutation | file | what is broken | result | by | seconds |',
    '|---|---|---|---|---|---|',
  ]
  for row in rows:
    test = (
      row['test'].replace('tests/', '').replace('|', '\\|')
      if row['status'] == 'killed'
      else row['test']
    )
    cells = (
      row['name'],
      row['file'].removeprefix('exp_jax/'),
      row['meaning'],
      row['status'],
      test,
      f'{row["seconds"]:.0f}',
    )
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('names', nargs='*', help='names of mutations, with * and ?; none: all')
  parser.add_argument('-j', '--jobs', type=int, default=1, help='how many at once')
  parser.add_argument(
    '-o',
    '--out',
    type=pathlib.Path,
    default=ROOT / 'out' / 'mutations',
    help='folder of results.json and compiled programs',
  )
  parser.add_argument('--limit', type=float, default=600, help='seconds that a run may take')
  parser.add_argument(
    '--again', action='store_true', help='also those whose outcome is known for these very files'
  )
  parser.add_argument(
    '--unbroken',
    action='store_true',
    help='first run the same tests without any mutation: they must pass',
  )
  parser.add_argument('--list', action='store_true', help='show the list and end')
  return parser


class Results:
  """results.json: {name: row}, written after every run, so that a stopped run goes on."""

  def __init__(self, path: pathlib.Path):
    self.path, self.rows = path, {}
    if path.is_file():
      self.rows = json.loads(path.read_text())

  def known(self, mutation) -> bool:
    row = self.rows.get(mutation.name)
    return bool(row) and row['digest'] == digest(mutation) and row['status'] != 'error'

  def put(self, mutation, outcome: Outcome, state: str):
    self.rows[mutation.name] = (
      dataclasses.asdict(mutation) | dataclasses.asdict(outcome) | {'digest': state}
    )
    self.path.parent.mkdir(parents=True, exist_ok=True)
    draft = self.path.with_suffix('.part')
    draft.write_text(json.dumps(self.rows, indent=1))
    draft.replace(self.path)


def unbroken(mutations, run) -> list[str]:
  """Sentences on tests that fail although nothing is broken: what they say of a mutation means
  nothing."""
  found = []
  for targets in sorted({m.targets for m in mutations}):
    outcome = run(None, targets)
    print(f'unbroken   {outcome.seconds:5.0f} s  {" ".join(targets)}: {outcome.test}', flush=True)
    if outcome.status != 'survived':
      found.append(f'{" ".join(targets)} does not pass without a mutation: {outcome.test}')
  return found


def main(arguments: list[str] | None = None) -> int:
  given = parser().parse_args(arguments)
  mutations = chosen(given.names)
  if given.list:
    print('\n'.join(f'{m.name:28} {m.file:48} {m.meaning}' for m in mutations))
    return 0
  if stale := mistakes(mutations):
    raise SystemExit('the list is stale:\n' + '\n'.join(stale))
  results = Results(given.out / 'results.json')
  cache = (given.out / 'compiled').resolve()
  cache.mkdir(parents=True, exist_ok=True)
  run = lambda mutation, targets: run_tests(mutation, targets, cache=cache, limit=given.limit)
  if given.unbroken and (failing := unbroken(mutations, run)):
    raise SystemExit('\n'.join(failing))
  todo = [m for m in mutations if given.again or not results.known(m)]
  with concurrent.futures.ThreadPoolExecutor(max(1, given.jobs)) as pool:
    running = {pool.submit(run, m, m.targets): (m, digest(m)) for m in todo}
    for done in concurrent.futures.as_completed(running):
      (mutation, state), outcome = running[done], done.result()
      results.put(mutation, outcome, state)
      print(
        f'{outcome.status:9} {outcome.seconds:5.0f} s  {mutation.name}: {outcome.test}', flush=True
      )
  rows = [results.rows[m.name] for m in mutations]
  print(f'\n{table(rows)}\n')
  count = {
    status: sum(r['status'] == status for r in rows) for status in ('killed', 'survived', 'error')
  }
  print(', '.join(f'{n} {status}' for status, n in count.items()))
  return int(count['killed'] < len(rows))


if __name__ == '__main__':
  sys.exit(main())
