"""The documentation: links lead to files, commands and flags exist, no figure stands on two pages,
pages build without warnings."""

import collections
import dataclasses
import importlib.util
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

from exp_jax.__main__ import module_of
from exp_jax.geometry import Camera
from exp_jax.heads import HeadModel

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted(
  [
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    ROOT / 'CHANGELOG.md',
    *(
      p
      for p in (ROOT / 'docs').rglob('*.md')
      if not {'_build', '_generated'} & set(p.relative_to(ROOT).parts)
    ),
  ]
)
NAMES = [p.relative_to(ROOT).as_posix() for p in PAGES]
# made by a build
GENERATED = 'commands', 'options', 'api-heads', 'api-rendering', 'api-geometry', 'api-metrics'
# absl's flags are global, so these are asked in processes of their own
WITH_ABSL_FLAGS = 'fit', 'train'
COMMAND = re.compile(r'(?:python -m exp_jax[. ]|exp-jax )(?P<name>[a-z][\w.]*)(?P<arguments>.*)')


def _module_of_docs(name: str):
  spec = importlib.util.spec_from_file_location(f'docs_{name}', ROOT / 'docs' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


REFERENCE, DOCSTRINGS = _module_of_docs('reference'), _module_of_docs('docstrings')


def fenced(text: str) -> list[tuple[str, str]]:
  """(language, content) of the fenced blocks of a page."""
  return re.findall(r'^```(\S*)[^\n]*\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


def commands_in(text: str) -> list[tuple[str, str]]:
  """(name, arguments) of every command of this project in shell blocks and in inline code, without
  comments."""
  shell = [content for language, content in fenced(text) if language in ('bash', 'console')]
  lines = [
    line.split(' #')[0] for block in shell for line in block.replace('\\\n', ' ').splitlines()
  ]
  inline = re.findall(
    r'`([^`\n]+)`', re.sub(r'^```.*?^```$', '', text, flags=re.MULTILINE | re.DOTALL)
  )
  found = [COMMAND.search(line) for line in (*lines, *inline)]
  return [(match['name'], match['arguments']) for match in found if match]


ALL_COMMANDS = {name: commands_in(path.read_text()) for name, path in zip(NAMES, PAGES)}
USED = sorted({name for found in ALL_COMMANDS.values() for name, _ in found} - {'X', 'COMMAND'})


@pytest.fixture(scope='module')
def known():
  return {name for names in REFERENCE.command_groups().values() for name in names}


def help_in_process(capsys, name, *subcommands) -> str:
  """The help of a command with argparse."""
  before = sys.argv
  sys.argv = [name, *subcommands, '--help']
  try:
    with pytest.raises(SystemExit) as ended:
      runpy.run_module(f'exp_jax.{module_of(name)}', run_name='__main__')
  finally:
    sys.argv = before
  assert not ended.value.code
  return capsys.readouterr().out


def flags_of(text: str) -> set[str]:
  return set(re.findall(r'(?<![\w-])--[a-z]\w*(?:-\w+)*', text.replace('--[no]', '--')))


def test_the_readme_is_short():
  assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


@pytest.mark.parametrize('name', NAMES)
def test_links_lead_to_files(name):
  path = ROOT / name
  text = re.sub(r'^```.*?^```$', '', path.read_text(), flags=re.MULTILINE | re.DOTALL)
  for target in re.findall(r'\]\(([^)\s]+)\)', text):
    file, _, anchor = target.partition('#')
    if re.match(r'[a-z]+:', target):
      continue
    if file.split('/')[-2:-1] == ['_generated']:
      assert pathlib.Path(file).stem in GENERATED, f'{name} links to {target}, which no build makes'
      continue
    linked = (path.parent / file).resolve() if file else path
    assert linked.is_file(), f'{name} links to {target}, which is not there'
    assert not anchor or anchor in _anchors(linked), (
      f'{name} links to {target}, but there is no such heading'
    )


def _anchors(path: pathlib.Path) -> set[str]:
  """What GitHub and MyST call the headings of a page."""
  headings = re.findall(r'^#+ (.+)$', _whole(path), re.MULTILINE)
  return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


def _whole(path: pathlib.Path) -> str:
  """The text of a page with what it includes; nothing of a picture."""
  if path.suffix != '.md':
    return ''
  text = path.read_text()
  return text + ''.join(
    (path.parent / file).read_text()
    for file in re.findall(r'^```\{include\} (\S+)$', text, re.MULTILINE)
  )


@pytest.mark.parametrize(
  'name', [name for name in NAMES if '{include}' in (ROOT / name).read_text()]
)
def test_included_text_is_there(name):
  text = (ROOT / name).read_text()
  for file, options in re.findall(
    r'^```\{include\} (\S+)\n(.*?)```$', text, re.MULTILINE | re.DOTALL
  ):
    source = (ROOT / name).parent / file
    assert source.is_file(), f'{name} includes {file}'
    for mark in re.findall(r'^:(?:start-after|end-before): (.+)$', options, re.MULTILINE):
      assert source.read_text().count(mark) == 1, f'{file} has no single {mark!r}'


@pytest.mark.parametrize('name', [name for name in NAMES if ALL_COMMANDS[name]])
def test_commands_exist(name, known):
  for command, _ in ALL_COMMANDS[name]:
    assert command in known, f'{name} names exp_jax.{command}, which is no command'


@pytest.mark.filterwarnings('ignore:.*found in sys.modules:RuntimeWarning')
@pytest.mark.parametrize('command', USED)
def test_flags_exist(command, capsys):
  """Every --flag that a page gives to the command stands in the command's help, or in that of the
  subcommand that is named."""
  ask = (
    REFERENCE.help_text
    if command in WITH_ABSL_FLAGS
    else lambda *words: help_in_process(capsys, *words)
  )
  text = ask(command)
  for page, found in ALL_COMMANDS.items():
    for _, arguments in (entry for entry in found if entry[0] == command):
      first = (re.findall(r'^\s+([\w-]+)', arguments) or [''])[0]
      known_flags = flags_of(text) | (
        flags_of(ask(command, first)) if first in REFERENCE.subcommands(text) else set()
      )
      unknown = flags_of(arguments) - known_flags
      assert not unknown, f'{page}: {command} has no {sorted(unknown)}'


def test_no_figure_stands_on_two_pages():
  rows = collections.defaultdict(set)
  for name, path in zip(NAMES, PAGES):
    for line in path.read_text().splitlines():
      if line.startswith('|') and len(re.findall(r'\d[\d.]*', line)) >= 3:
        rows[line].add(name)
  twice = {line: pages for line, pages in rows.items() if len(pages) > 1}
  assert len(rows) > 50 and not twice


def test_subcommands_are_read_off_a_help_text():
  text = 'usage: x [-h] {a,b-c} ...\n\npositional arguments:\n  {a,b-c}\n    a    first\n'
  assert REFERENCE.subcommands(text) == ('a', 'b-c')
  assert REFERENCE.subcommands('usage: x [-h] FILE\n\npositional arguments:\n  FILE  {a,b}\n') == ()


def test_fields_of_a_record_have_their_comments():
  fields = {name: (kind, text) for name, kind, text in DOCSTRINGS.fields_of(Camera)}
  assert list(fields) == [field.name for field in dataclasses.fields(Camera)]
  assert fields['center'] == ('jax.Array', '[..., 2] pixels') and fields['image_size'] == (
    'tuple[int, int]',
    '(height, width)',
  )
  above = {name: text for name, _, text in DOCSTRINGS.fields_of(HeadModel)}['shape_basis']
  assert above.startswith('[V, 3, S] metres per unit')


def test_the_options_page_lists_every_option():
  text = REFERENCE.options_page()
  for name in ('smoothing', 'guidance', 'part_weights', 'source_crop', 'transfer'):
    assert f'| `{name}` |' in text
  assert '| `size` | int | `512` | from 64, to 4096 pixels |' in text


def test_a_command_without_help_stops_the_reference():
  with pytest.raises(RuntimeError, match='no_such_command'):
    REFERENCE.help_text('no_such_command')


@pytest.mark.slow
def test_pages_build_without_a_warning(tmp_path):
  for needed in ('sphinx', 'myst_parser', 'furo'):
    pytest.importorskip(needed)
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'sphinx',
      '-q',
      '-W',
      '--keep-going',
      '-b',
      'html',
      '-d',
      tmp_path / 'doctrees',
      ROOT / 'docs',
      tmp_path / 'html',
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  pages = {p.stem for p in (tmp_path / 'html' / '_generated').iterdir()}
  assert pages >= set(GENERATED)
  for package in REFERENCE.PACKAGES:
    text = (tmp_path / 'html' / '_generated' / f'api-{package}.html').read_text()
    missing = [
      name
      for name in importlib.import_module(f'exp_jax.{package}').__all__
      if f'id="exp_jax.{package}.{name}"' not in text
    ]
    assert not missing, f'exp_jax.{package}: no docstring of {missing}'
