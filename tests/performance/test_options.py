"""Options declared once: flags, checks and the record say the same."""

import argparse
import dataclasses
import pathlib

import pytest

from exp_jax import catalog
from exp_jax.errors import ArgumentParser, UserError
from exp_jax.performance.options import add_flags, check, described, from_flags, option, record


@dataclasses.dataclass(frozen=True)
class Example:
  steps: int = option(8, 'of the grid', low=1, high=100)
  strength: float | None = option(None, 'how much', low=0, unit='metres')
  mode: str = option('a', 'which', choices=('a', 'b'))
  quiet: bool = option(False, 'say less')
  seam: bool | None = option(None, 'close it')
  box: tuple[float, float] = option((1.0, 2.0), 'of the crop', metavar='X Y')
  weights: dict[str, float] = option({}, 'of parts', low=0, high=1, names=('eyes', 'lips'))
  files: dict[int, pathlib.Path] = option({}, 'one each')
  where: pathlib.Path | None = option(None, 'a file')

  def __post_init__(self):
    check(self)


def parsed(*words, options=Example):
  parser = ArgumentParser()
  add_flags(parser, options)
  return parser.parse_args(words)


def test_flags_that_are_not_given_leave_nothing():
  assert vars(parsed()) == {} and from_flags(Example, parsed()) == Example()


def test_every_form_of_a_flag():
  given = parsed(
    '--steps',
    '3',
    '--strength',
    '0.5',
    '--mode',
    'b',
    '--quiet',
    '--no-seam',
    '--box',
    '3',
    '4',
    '--weights',
    'eyes=0.5',
    'lips=1',
    '--files',
    '2=a.mp4',
    '--where',
    'x',
  )
  assert from_flags(Example, given) == Example(
    3,
    0.5,
    'b',
    True,
    False,
    (3.0, 4.0),
    {'eyes': 0.5, 'lips': 1.0},
    {2: pathlib.Path('a.mp4')},
    pathlib.Path('x'),
  )


@pytest.mark.parametrize(
  'given, words',
  [
    ({'steps': 0}, r'--steps must be in 1\.\.100, got 0'),
    ({'steps': 2.5}, 'whole number'),
    ({'steps': True}, 'whole number'),
    ({'steps': None}, 'must be a value'),
    ({'strength': -1.0}, 'at least 0 metres'),
    ({'strength': float('nan')}, 'finite'),
    ({'mode': 'c'}, 'must be one of a, b'),
    ({'mode': 3}, 'text'),
    ({'quiet': 'yes'}, 'true or false'),
    ({'box': (1.0,)}, 'takes 2 numbers'),
    ({'weights': {'nose': 1.0}}, "no 'nose'"),
    ({'weights': {'eyes': 2.0}}, 'eyes must be in'),
    ({'files': {'one': pathlib.Path('a')}}, 'whole numbers'),
  ],
)
def test_values_that_cannot_be_are_named(given, words):
  with pytest.raises(UserError, match=words):
    Example(**given)


@pytest.mark.parametrize(
  'words',
  [
    ('--weights', 'nose=1'),
    ('--weights', 'eyes'),
    ('--weights', 'eyes=x'),
    ('--files', 'a=b'),
    ('--steps', 'x'),
    ('--mode', 'c'),
  ],
)
def test_flags_that_cannot_be_are_refused(words):
  with pytest.raises(UserError, match=words[0]):
    parsed(*words)


def test_a_record_tells_no_path():
  made = record(Example(where=pathlib.Path('/secret'), box=(3.0, 4.0)))
  assert (
    'where' not in made
    and made['box'] == [3.0, 4.0]
    and made['strength'] is None
    and made['steps'] == 8
  )


@pytest.mark.parametrize('system', catalog.SYSTEMS.values(), ids=tuple(catalog.SYSTEMS))
def test_every_option_of_every_system_can_be_described_and_parsed(system):
  """What a widget, a table and a flag need is there, and the default passes its own check."""
  for kind in (system.Options, system.LoadOptions):
    for each in described(kind):
      assert each.help and each.help[0] not in ' ' and not each.help.endswith('.'), each
      assert each.kind in (bool, int, float, str, pathlib.Path)
      if each.choices and each.default is not None:
        assert each.default in each.choices
    parser = argparse.ArgumentParser()
    add_flags(parser, kind)
    assert parser.format_help() and from_flags(kind, parser.parse_args([])) == kind()
