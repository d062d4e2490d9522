"""The table of what users expect: 32 rows, each with a test that exists or a command, and a count
that is true."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / 'docs' / 'results' / 'users.md').read_text(encoding='utf8')
ROWS = re.findall(r'^\| (\d+) \| (.*?) \| (.*?) \| (.*?) \|$', TEXT, re.MULTILINE)
TESTS = sorted(set(re.findall(r'`(tests/[\w/]+\.py)(?:::(\w+))?', TEXT)))


def test_all_rows_are_there_and_each_is_shown_by_something():
  assert [int(number) for number, *_ in ROWS] == list(range(1, 33))
  for _, what, there, shown in ROWS:
    assert re.match('yes|in part|no', there) and re.search('`|\\]\\(', shown), what


def test_the_count_is_true():
  count = {
    word: sum(there.startswith(word) for _, _, there, _ in ROWS)
    for word in ('yes', 'in part', 'no')
  }
  missing = 'none' if not count['no'] else count['no']
  assert f'{count["yes"]} yes, {count["in part"]} in part, {missing} missing.' in TEXT, count


@pytest.mark.parametrize('path, name', TESTS)
def test_every_test_exists(path, name):
  tree = ast.parse((ROOT / path).read_text(encoding='utf8'))
  names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
  assert not name or name in names
