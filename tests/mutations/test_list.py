"""The list of mutations fits the code that it breaks, and a run that says nothing is not taken for
a kill. Nothing slow is run."""

import dataclasses

import pytest
from mutation import Mutation, copied, mistakes, run_tests
from mutation_list import MUTATIONS

SMALL = Mutation(
  'small', 'exp_jax/small.py', 'x + y', 'x - y', 'tests/test_small.py', 'sum is a difference'
)


def test_every_mutation_fits_the_tree():
  """After a change of a mutated line its text in `mutation_list.py` is to be brought up to date,
  with the same meaning."""
  assert not mistakes(MUTATIONS)


@pytest.fixture
def project(tmp_path):
  """A project of one module and two tests, one that looks and one that does not."""
  for name in ('exp_jax', 'tests'):
    (tmp_path / name).mkdir()
  (tmp_path / 'exp_jax' / '__init__.py').write_text('')
  (tmp_path / 'exp_jax' / 'small.py').write_text('def add(x, y):\n  return x + y\n')
  (tmp_path / 'tests' / 'test_small.py').write_text(
    'from exp_jax.small import add\n\n\ndef test_sum():\n  assert add(2, 3) == 5\n'
  )
  (tmp_path / 'tests' / 'test_blind.py').write_text(
    'import exp_jax.small\n\n\ndef test_nothing():\n  assert exp_jax.small\n'
  )
  (tmp_path / 'tests' / 'test_broken.py').write_text('import nowhere\n')
  (tmp_path / 'tests' / 'test_fixture.py').write_text(
    'import pytest\n\n\n@pytest.fixture\ndef gone():\n  assert 0\n\n\ndef test_it(gone):\n  pass\n'
  )
  (tmp_path / 'pyproject.toml').write_text(
    '[tool.pytest.ini_options]\npythonpath = ["."]\naddopts = "--import-mode=importlib"\n'
    'markers = ["slow: slow", "long: long"]\n'
  )
  return tmp_path


@pytest.mark.parametrize(
  'change, words',
  [
    (dict(old='x * y'), 'stands 0 times'),
    (dict(file='exp_jax/none.py'), 'stands 0 times'),
    (dict(old='x'), 'stands 2 times'),
    (dict(new='x + y'), 'nothing is changed'),
    (dict(tests='tests/none.py'), 'does not exist'),
    (dict(tests='tests/test_small.py::test_none'), 'has no test_none'),
  ],
)
def test_a_stale_list_is_told(project, change, words):
  assert not mistakes([SMALL], project)
  found = mistakes([dataclasses.replace(SMALL, **change)], project)
  assert len(found) == 1 and words in found[0] and found[0].startswith('small: ')
  assert 'used twice' in mistakes([SMALL, SMALL], project)[0]


def test_killed_survived_and_error_are_told_apart_and_the_tree_stays_as_it_is(project, tmp_path):
  run = lambda tests, mutation=SMALL: run_tests(
    mutation, (tests,), cache=tmp_path / 'cache', limit=60, root=project
  )
  killed = run('tests/test_small.py')
  assert killed.status == 'killed' and killed.test == 'tests/test_small.py::test_sum'
  assert run('tests/test_small.py', None).status == 'survived'
  assert run('tests/test_blind.py').status == 'survived'
  assert run('tests/test_broken.py').status == 'error', (
    'a test that cannot be imported notices nothing'
  )
  assert run('tests/test_fixture.py').status == 'error', 'nor does one whose fixture fails'
  assert 'x + y' in (project / 'exp_jax' / 'small.py').read_text()
  with (
    pytest.raises(ValueError, match='not once'),
    copied(dataclasses.replace(SMALL, old='x'), project),
  ):
    pass
