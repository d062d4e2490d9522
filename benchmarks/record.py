"""The one form in which benchmarks leave their figures, and the tables of the documentation that
are made of it.

  python benchmarks/record.py           # writes the tables again, in the pages that name them
  python benchmarks/record.py --check   # exit status 1 where a page differs from its figures

A benchmark calls `write_record`, which leaves docs/results/figures/NAME.json: columns with unit and
digits, rows of values, and how they came about: command, commit, machine, load, versions, date. A
  page has the table between two comments,

  <!-- figures: NAME -->
  <!-- end of figures -->

or, of some columns and rows alone, <!-- figures: NAME column,column where key=value -->. Nothing
between them is typed.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys

from exp_jax.files.atomic import write_text

ROOT = pathlib.Path(__file__).parents[1]
FIGURES = ROOT / 'docs' / 'results' / 'figures'
FORMAT = 'exp_jax figures 1'
_PACKAGES = ('jax', 'jaxlib', 'flax', 'numpy')
_BLOCK = re.compile(
  r'(<!-- figures: (?P<asked>[^\n]*?) -->\n).*?(<!-- end of figures -->)', re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of figures.

  Attributes:
    key: of the values in the rows.
    heading: in tables.
    unit: 'milliseconds', 'pixels', ...; '' for names and plain numbers.
    digits: behind the point; None for text and whole numbers.
  """

  key: str
  heading: str
  unit: str = ''
  digits: int | None = None


def _git(*arguments: str) -> str:
  done = subprocess.run(['git', *arguments], cwd=ROOT, capture_output=True, text=True)
  return done.stdout.strip() if done.returncode == 0 else ''


def commit() -> str:
  """The commit that the tree is of, with '+' where tracked files were changed since; 'unknown'
  outside of a repository."""
  found = _git('rev-parse', '--short=10', 'HEAD')
  return (
    (found + ('+' if _git('status', '--porcelain', '--untracked-files=no') else ''))
    if found
    else 'unknown'
  )


def machine() -> dict:
  """Processor, cores that this process may use, memory in GB, and the devices of JAX."""
  import jax

  name = platform.processor() or platform.machine()
  info = pathlib.Path('/proc/cpuinfo')
  if info.is_file() and (found := re.search(r'model name\s*: (.*)', info.read_text())):
    name = found[1]
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9
  return {
    'processor': name,
    'cores': cores,
    'memory_gb': round(memory, 1),
    'devices': [str(each) for each in jax.devices()],
  }


def versions() -> dict:
  """Of Python and of the packages that figures depend on."""
  found = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def write_record(
  name: str,
  columns: list[Column],
  rows: list[dict],
  *,
  load: tuple[float, float],
  folder: pathlib.Path = FIGURES,
) -> pathlib.Path:
  """Writes the figures of a benchmark.

  Args:
    name: of the record.
    columns: of its table.
    rows: {key: text, number or None}; a key that is no column is a figure all the same.
    load: processes that wanted a core, over the last minute, before and after
      (`os.getloadavg()[0]`).
    folder: where NAME.json is written.

  Returns:
    The file.

  Raises:
    ValueError: a row lacks a column, or has a number that is not finite.
  """
  for row in rows:
    for column in columns:
      if column.key not in row:
        raise ValueError(f'{name}: a row has no {column.key!r}: {row}')
    for key, value in row.items():
      if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f'{name}: {key} is {value}')
  record = {
    'format': FORMAT,
    'name': name,
    'command': ' '.join(['python', *map(_shown, sys.argv)]),
    'commit': commit(),
    'date': datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M UTC'),
    'load': [round(each, 2) for each in load],
    'machine': machine(),
    'versions': versions(),
    'columns': [dataclasses.asdict(column) for column in columns],
    'rows': rows,
  }
  folder.mkdir(parents=True, exist_ok=True)
  write_text(folder / f'{name}.json', json.dumps(record, indent=1, ensure_ascii=False) + '\n')
  return folder / f'{name}.json'


def _shown(argument: str) -> str:
  """An argument of the command line, paths below the repository from there."""
  try:
    return (
      str(pathlib.Path(argument).resolve().relative_to(ROOT)) if os.sep in argument else argument
    )
  except ValueError:
    return pathlib.Path(argument).name


def _cell(column: dict, value) -> str:
  if value is None:
    return ''
  if isinstance(value, bool) or not isinstance(value, (int, float)) or column['digits'] is None:
    return str(value)
  return f'{value:,.{column["digits"]}f}'


def table(record: dict, keys: list[str] | None = None, where: dict[str, str] | None = None) -> str:
  """The Markdown table of a record, and a line on how it came about.

  Args:
    record: as read from its file.
    keys: columns, in this order; None: all.
    where: {key: text} that rows must have.

  Raises:
    ValueError: there is no such column, or no such row.
  """
  known = {column['key']: column for column in record['columns']}
  keys = list(known) if keys is None else keys
  if wrong := [key for key in keys if key not in known]:
    raise ValueError(f'{record["name"]} has no column {wrong[0]!r}; it has {", ".join(known)}')
  rows = [
    row
    for row in record['rows']
    if all(str(row.get(key)) == text for key, text in (where or {}).items())
  ]
  if not rows:
    raise ValueError(f'{record["name"]} has no row with {where}')
  heading = lambda column: column['heading'] + (f', {column["unit"]}' if column['unit'] else '')
  lines = [[heading(known[key]) for key in keys], ['---'] * len(keys)]
  lines += [[_cell(known[key], row[key]) for key in keys] for row in rows]
  load = ' to '.join(f'{each:g}' for each in record['load'])
  about = (
    f'`{record["command"]}`, commit {record["commit"]}, {record["date"]}, '
    f'{record["machine"]["cores"]} cores of '
    f'{record["machine"]["processor"]}, load {load}, JAX {record["versions"].get("jax", "?")}'
  )
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + f'\n\n{about}.\n'


def read_record(name: str, folder: pathlib.Path = FIGURES) -> dict:
  """A record.

  Raises:
    ValueError: there is none, or the file is of another form.
  """
  try:
    record = json.loads((folder / f'{name}.json').read_text(encoding='utf8'))
  except (OSError, ValueError) as error:
    raise ValueError(f'there are no figures {name!r}: {error}') from None
  if not isinstance(record, dict) or record.get('format') != FORMAT:
    raise ValueError(f'{name}.json is not of the form {FORMAT!r}')
  return record


def filled(text: str, folder: pathlib.Path = FIGURES) -> str:
  """A page with its tables as the figures have them; ValueError as of `table` and `read_record`."""

  def block(match: re.Match) -> str:
    asked, _, condition = match['asked'].partition(' where ')
    name, _, keys = asked.strip().partition(' ')
    where = dict(part.split('=', 1) for part in condition.split()) if condition else None
    made = table(read_record(name, folder), keys.split(',') if keys else None, where)
    return f'{match[1]}\n{made}\n{match[3]}'

  return _BLOCK.sub(block, text)


def pages() -> list[pathlib.Path]:
  """Pages of the documentation that have such a table."""
  found = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
  return [
    path
    for path in found
    if '_build' not in path.parts and _BLOCK.search(path.read_text(encoding='utf8'))
  ]


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--check', action='store_true', help='write nothing, exit with 1 where a page differs'
  )
  args = parser.parse_args()
  status = 0
  for path in pages():
    text = path.read_text(encoding='utf8')
    made = filled(text)
    if made == text:
      continue
    print(f'{path.relative_to(ROOT)}: {"differs from its figures" if args.check else "written"}')
    status |= args.check
    if not args.check:
      write_text(path, made)
  return status


if __name__ == '__main__':
  sys.exit(main())
