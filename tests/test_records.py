"""Figures of benchmarks: one form, and tables in the documentation that are made of it and of
nothing else."""

import json
import subprocess
import sys

import pytest

from benchmarks import record
from benchmarks.record import Column, filled, read_record, table, write_record

COLUMNS = [Column('case', 'case'), Column('ms', 'a frame', 'ms', 1), Column('frames', 'frames')]
ROWS = [
  {'case': 'small', 'ms': 1.26, 'frames': 3, 'extra': 7.0},
  {'case': 'large', 'ms': 1234.0, 'frames': None},
]
PAGE = 'before\n<!-- figures: made -->\nold\n<!-- end of figures -->\nafter\n'


@pytest.fixture
def made(tmp_path):
  return json.loads(
    write_record('made', COLUMNS, ROWS, load=(0.1, 0.25), folder=tmp_path).read_text()
  )


def test_a_record_says_how_its_figures_came_about(made):
  assert made['rows'] == ROWS and made['format'] == record.FORMAT and made['load'] == [0.1, 0.25]
  assert made['machine']['cores'] >= 1 and made['versions'].keys() >= {'python', 'jax', 'numpy'}
  assert made['command'].startswith('python ') and str(record.ROOT) not in json.dumps(made)
  assert made['commit'] and made['date'].endswith('UTC')


def test_a_table_has_units_digits_and_gaps(made):
  lines = table(made).splitlines()
  assert lines[:4] == [
    '| case | a frame, ms | frames |',
    '| --- | --- | --- |',
    '| small | 1.3 | 3 |',
    '| large | 1,234.0 |  |',
  ]
  assert made['commit'] in lines[-1] and 'load 0.1 to 0.25' in lines[-1]
  assert table(made, ['frames', 'case'], {'case': 'small'}).splitlines()[2] == '| 3 | small |'


def test_a_page_is_filled_and_stays_as_it_is_then(made, tmp_path):
  page = filled(PAGE, tmp_path)
  assert (
    page.startswith('before\n')
    and page.endswith('after\n')
    and 'old' not in page
    and '| small | 1.3 | 3 |' in page
  )
  assert filled(page, tmp_path) == page
  part = filled(PAGE.replace('figures: made', 'figures: made ms where case=large'), tmp_path)
  assert '| 1,234.0 |' in part and 'small' not in part


@pytest.mark.parametrize('asked', ['none', 'made nothing', 'made ms where case=huge'])
def test_what_is_not_there_is_refused(made, tmp_path, asked):
  with pytest.raises(ValueError, match='no figures|no column|no row'):
    filled(PAGE.replace('figures: made', f'figures: {asked}'), tmp_path)


@pytest.mark.parametrize(
  'row', [{'case': 'x', 'ms': 1.0}, {'case': 'x', 'ms': float('nan'), 'frames': 1}]
)
def test_rows_that_are_none_are_refused(tmp_path, row):
  with pytest.raises(ValueError):
    write_record('made', COLUMNS, [row], load=(0, 0), folder=tmp_path)
  assert not list(tmp_path.iterdir())


def test_another_file_is_no_record(tmp_path):
  (tmp_path / 'made.json').write_text('{"rows": []}')
  with pytest.raises(ValueError, match='not of the form'):
    read_record('made', tmp_path)


def test_pages_are_what_their_figures_say():
  """After a new run of a benchmark: python benchmarks/record.py."""
  done = subprocess.run(
    [sys.executable, 'benchmarks/record.py', '--check'],
    cwd=record.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, f'{done.stdout}{done.stderr}run python benchmarks/record.py'
  assert record.pages(), 'some page has a table'


def test_every_record_is_shown_on_a_page():
  shown = ''.join(path.read_text() for path in record.pages())
  for path in sorted(record.FIGURES.glob('*.json')):
    assert f'<!-- figures: {path.stem}' in shown, path.name
    assert read_record(path.stem)['name'] == path.stem
