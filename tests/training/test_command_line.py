"""Command lines with a config: both forms of absl's flags, the nearest key, and what a config file may do wrong."""

import pathlib
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from exp_jax.commands import command_line
from exp_jax.errors import UserError

CONFIG = """
import ml_collections
def get_config(mode=''):
  c = ml_collections.ConfigDict(dict(size=512, data=dict(path='here', count=3)))
  if mode == 'smoke':
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
    monkeypatch.setattr(sys, 'argv', ['program', *arguments])       # where config_flags looks for overrides
    rest = command_line.parse_with_config(['program', *arguments], default=str(file))
    return own, rest[1:]

  return parse


def test_keys_are_dotted_and_complete():
  config = ConfigDict(dict(a=1, b=dict(c=2, d=dict(e=3))))
  assert sorted(command_line.keys_of(config)) == ['a', 'b', 'b.c', 'b.d', 'b.d.e']


@pytest.mark.parametrize('form', [('--config={}',), ('--config', '{}'), ('-config={}',)])
def test_both_forms_name_the_config(parse, file, form):
  found, rest = parse(*(f.format(f'{file}:smoke') for f in form), '--config.data.count=7', '-i', 'a', 'b')
  assert (found.config.size, found.config.data.count, found.input, rest) == (64, 7, ['a'], ['b'])


@pytest.mark.parametrize('form', [('--config=vae.py:smoke',), ('--config', 'configs/vae.py:smoke'), ('-config=vae.py:smoke',)])
def test_a_config_of_the_package_is_read_wherever_one_is(parse, tmp_path, monkeypatch, form):
  monkeypatch.chdir(tmp_path)
  found, _ = parse(*form, '--config.seed=7')
  assert found.config.task == 'expportrait/vae' and found.config.seed == 7 and found.config.total_steps < 10


def test_without_a_name_the_default_is_taken(parse):
  found, _ = parse('--config.size', '128')
  assert found.config.size == 128 and found.config.data.count == 3


@pytest.mark.parametrize('arguments, words', [
  (('--config=nowhere.py',), "no config file 'nowhere.py'"),
  (('--config', 'nowhere.py'), "no config file 'nowhere.py'"),
  (('--config',), "no config file ''"),
  (('--config={}:fast',), "unknown mode 'fast'"),
  (('--config.sise=3',), "no key 'sise'; did you mean 'size'?"),
  (('--config.sise', '3'), "no key 'sise'; did you mean 'size'?"),
  (('-config.data.cuont=3',), "did you mean 'data.count'?"),
  (('--config={}:smoke', '--config.wings=2'), 'it has data, data.count, data.path, size'),
  (('--config.size=big',), 'bad command line'),
  (('--colour=red',), "'colour'")])
def test_mistakes_are_one_sentence(parse, file, arguments, words):
  with pytest.raises(UserError) as caught:
    parse(*(a.format(file) for a in arguments))
  assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('text, words', [
  ('these are words', 'invalid syntax'), ('size = 3', 'no get_config'), ('import nowhere_at_all', 'nowhere_at_all'),
  ('def get_config(mode=""):\n  return 1 / 0', 'division by zero')])
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
    for mode in ('', ':smoke'):
      command_line.check_config_arguments([f'--config={path}{mode}'])
