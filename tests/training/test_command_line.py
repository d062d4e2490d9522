"""Command lines with a config: both forms of absl's flags, the nearest key, and what a config file
may do wrong."""

import pathlib
import re
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from exp_jax.commands import command_line
from exp_jax.errors import ArgumentParser, UserError, check_place

CONFIG = """
import ml_collections
def get_config(mode=''):
  c = ml_collections.ConfigDict(dict(size=512, data=dict(path='here', count=3, ready=True)))
  if mode == 'bucket':
    c.data.path = 'gs://bucket/clips'
  elif mode == 'smoke':
    c.size = 64
  elif mode:
    raise ValueError(f'unknown mode {mode!r}')
  return c.lock()
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'a.py'
  path.write_text(CONFIG)
  return path


@pytest.fixture
def parse(file, monkeypatch):
  """parse_with_config on flags of its own, the config file as the default."""
  own = flags.FlagValues()
  config_flags.DEFINE_config_file('config', None, 'config', flag_values=own)
  flags.DEFINE_multi_string('input', [], 'input', short_name='i', flag_values=own)
  monkeypatch.setattr(command_line.flags, 'FLAGS', own)

  def parse(*arguments):
    # where config_flags looks for overrides
    monkeypatch.setattr(sys, 'argv', ['program', *arguments])
    command_line.parse_with_config(['program', *arguments], default=str(file))
    return own

  return parse


@pytest.mark.parametrize(
  'words, expected',
  [
    ('--config.data.ready=False', False),
    ('--noconfig.data.ready', False),
    ('--config.data.ready', True),
  ],
)
def test_booleans_are_what_they_say(parse, words, expected):
  assert parse(words).config.data.ready is expected


@pytest.mark.parametrize(
  'place', ('gs://bucket/run', 's3://bucket', 'hdfs://host/run', pathlib.Path('gs://bucket/run'))
)
def test_addresses_are_no_paths(place):
  with pytest.raises(UserError, match='is an address'):
    check_place(place)
  parser = ArgumentParser()
  parser.add_argument('-o', type=pathlib.Path, nargs='+')
  with pytest.raises(UserError, match='is an address'):
    parser.parse_args(['-o', 'here', str(place)])


@pytest.mark.parametrize(
  'place',
  (
    'out/run',
    '/mnt/bucket/run',
    'C:/run',
    'a: note',
    'see https://a.org for more',
    7,
    None,
    b'gs://a',
  ),
)
def test_paths_and_texts_are_no_addresses(place):
  check_place(place)


def test_keys_are_dotted_and_complete():
  config = ConfigDict(dict(a=1, b=dict(c=2, d=dict(e=3))))
  assert sorted(command_line.keys_of(config)) == ['a', 'b', 'b.c', 'b.d', 'b.d.e']


@pytest.mark.parametrize('form', [('--config={}',), ('--config', '{}'), ('-config={}',)])
def test_both_forms_name_the_config(parse, file, form):
  found = parse(*(f.format(f'{file}:smoke') for f in form), '--config.data.count=7', '-i', 'a')
  assert (found.config.size, found.config.data.count, found.input) == (64, 7, ['a'])


@pytest.mark.parametrize(
  'form',
  [('--config=vae.py:smoke',), ('--config', 'configs/vae.py:smoke'), ('-config=vae.py:smoke',)],
)
def test_a_config_of_the_package_is_read_wherever_one_is(parse, tmp_path, monkeypatch, form):
  monkeypatch.chdir(tmp_path)
  found = parse(*form, '--config.seed=7')
  assert (
    found.config.task == 'expportrait/vae'
    and found.config.seed == 7
    and found.config.total_steps < 10
  )


def test_without_a_name_the_default_is_taken(parse):
  found = parse('--config.size', '128')
  assert found.config.size == 128 and found.config.data.count == 3


@pytest.mark.parametrize(
  'arguments, words',
  [
    (('--config=nowhere.py',), "no config file 'nowhere.py'"),
    (('--config', 'nowhere.py'), "no config file 'nowhere.py'"),
    (('--config',), "no config file ''"),
    (('--config={}:fast',), "unknown mode 'fast'"),
    (('--config.sise=3',), "no key 'sise'; did you mean 'size'?"),
    (('--config.sise', '3'), "no key 'sise'; did you mean 'size'?"),
    (('-config.data.cuont=3',), "did you mean 'data.count'?"),
    (
      ('--config={}:smoke', '--config.wings=2'),
      'it has data, data.count, data.path, data.ready, size',
    ),
    (('--config.size=big',), 'bad command line'),
    (('-i', 'a', 'stray'), "unexpected argument 'stray'"),
    (
      ('--config.data.ready', 'False'),
      "unexpected argument 'False'; write --config.data.ready=False",
    ),
    (('--config.data.path=gs://bucket/clips',), 'is an address'),
    (('--config.data.path', 's3://bucket/clips'), 'is an address'),
    (('--config={}:bucket',), 'is an address'),
    (('--colour=red',), "'colour'"),
  ],
)
def test_mistakes_are_one_sentence(parse, file, arguments, words):
  with pytest.raises(UserError) as caught:
    parse(*(a.format(file) for a in arguments))
  assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'text, words',
  [
    ('these are words', 'invalid syntax'),
    ('size = 3', 'no get_config'),
    ('import nowhere_at_all', 'nowhere_at_all'),
    ('def get_config(mode=""):\n  return 1 / 0', 'division by zero'),
  ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, text, words):
  path = tmp_path / 'b.py'
  path.write_text(text)
  with pytest.raises(UserError, match=f'b.py: .*{words}'):
    command_line.check_config_arguments([f'--config={path}'])


def test_no_config_at_all_is_refused():
  with pytest.raises(UserError, match='say which config'):
    command_line.check_config_arguments(['program'])


@pytest.mark.parametrize('word', ['--help', '-h', '--helpfull'])
def test_help_ends_with_zero_whatever_else_is_wrong(parse, word, capsys):
  with pytest.raises(SystemExit) as ended:
    parse(word, '--config=nowhere.py')
  assert ended.value.code == 0 and capsys.readouterr().out


def test_every_config_of_the_project_passes_with_every_mode():
  for path in sorted((pathlib.Path(__file__).parents[2] / 'configs').glob('*.py')):
    asked = [line for line in path.read_text().splitlines() if re.search(r'\bmode (==|in) ', line)]
    modes = sorted({mode for line in asked for mode in re.findall(r"'(\w+)'", line)})
    assert 'smoke' in modes, path.name
    for mode in ('', *(f':{mode}' for mode in modes)):
      command_line.check_config_arguments([f'--config={path}{mode}'])
