"""Writes the reference pages that follow from the program: one page of each group of commands, one
of each public package.

`python -m exp_jax --help` lists the commands in groups; each command's own --help is its entry. A
command that fails to print its help stops the build. That takes two minutes, so it is done only
when the program has changed since.

  python docs/reference.py docs/_generated     # the same without Sphinx
"""

import concurrent.futures
import importlib
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ('heads', 'rendering', 'geometry', 'metrics')  # whose __init__ is public API
_WIDTH = '100'  # columns of a help text
_AT_ONCE = 2  # most of a help text's two seconds is the import of JAX, on one core


def help_text(*command: str) -> str:
  """What `python -m exp_jax [command] [subcommand] --help` prints.

  Args:
    command: the command's name, then subcommands; nothing for the list of all commands.

  Raises:
    RuntimeError: it ends with another status than 0, or prints nothing.
  """
  done = subprocess.run(
    [sys.executable, '-m', 'exp_jax', *command, '--help'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'COLUMNS': _WIDTH, 'PYTHONPATH': str(ROOT)},
  )
  if done.returncode or not done.stdout.strip():
    raise RuntimeError(
      f'{" ".join(done.args)} ended with status {done.returncode}: {done.stderr[-500:]}'
    )
  return done.stdout.replace(str(ROOT) + os.sep, '')


def command_groups() -> dict[str, dict[str, str]]:
  """{heading: {command: summary}} as `python -m exp_jax --help` lists them."""
  groups: dict[str, dict[str, str]] = {}
  for line in help_text().splitlines():
    if heading := re.fullmatch(r'([A-Z][\w ]*):', line):
      entries = groups.setdefault(heading[1], {})
    elif groups and (entry := re.fullmatch(r'  (\S+)\s+(.+)', line)):
      entries[entry[1]] = entry[2]
  return groups


def subcommands(text: str) -> tuple[str, ...]:
  """The subcommands that a help text offers: argparse's first {a,b,c} among its positional
  arguments."""
  found = re.search(r'^positional arguments:\n  \{([\w,-]+)\}', text, re.MULTILINE)
  return tuple(found[1].split(',')) if found else ()


def _entry(command: str) -> str:
  text = help_text(command)
  parts = [f'## {command}\n\n```text\n{text.rstrip()}\n```\n']
  for name in subcommands(text):
    own = help_text(command, name)
    if own == text:  # {a,b} was the choice of an argument, no subcommand
      break
    parts.append(f'### {command} {name}\n\n```text\n{own.rstrip()}\n```\n')
  return '\n'.join(parts)


def _file_name(heading: str) -> str:
  return heading.lower().replace(' ', '-')


def _command_pages() -> dict[str, str]:
  groups = command_groups()
  with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
    entries = dict(
      zip(
        (c for names in groups.values() for c in names),
        pool.map(_entry, (c for n in groups.values() for c in n)),
      )
    )
  pages = {
    f'commands-{_file_name(heading)}.md': f'# Commands: {heading}\n\n'
    + '\n'.join(entries[name] for name in names)
    for heading, names in groups.items()
  }
  rows = [
    f'| [`{name}`](commands-{_file_name(heading)}.md) | {summary} |'
    for heading, names in groups.items()
    for name, summary in names.items()
  ]
  listed = '\n'.join(page.removesuffix('.md') for page in pages)
  pages['commands.md'] = '\n'.join(
    [
      '# Commands',
      '',
      'Each is `exp-jax COMMAND` after an installation, and `python -m exp_jax COMMAND` in a '
      'checkout.',
      '',
      '| command | what it does |',
      '|---|---|',
      *rows,
      '',
      '```{toctree}',
      ':hidden:',
      '',
      listed,
      '```',
      '',
    ]
  )
  return pages


def _api_page(package: str) -> str:
  """Every name of the package's __all__, in its order, by autodoc."""
  module = importlib.import_module(f'exp_jax.{package}')
  lines = [
    f'# {module.__name__}',
    '',
    '```{eval-rst}',
    f'.. automodule:: {module.__name__}',
    '   :members:',
    '   :imported-members:',
    '',
  ]
  # a constant that comes from another file is no member to autodoc
  for name in (name for name in module.__all__ if not callable(getattr(module, name))):
    comment = _comment_of(name, pathlib.Path(module.__file__).parent)
    lines += [f'.. py:data:: {name}', f'   :module: {module.__name__}', '', f'   {comment}', '']
  return '\n'.join([*lines, '```', ''])


def _comment_of(name: str, folder: pathlib.Path) -> str:
  """The lines of `#: ` before the constant's definition in a file of the folder, as one."""
  for file in sorted(folder.glob('*.py')):
    if found := re.search(rf'((?:^#: .*\n)+)^{name} = ', file.read_text(), re.MULTILINE):
      return ' '.join(line.removeprefix('#: ') for line in found[1].splitlines())
  raise RuntimeError(f'{name} has no comment "#: ..." where it is defined in {folder.name}')


def options_page() -> str:
  """A table of every option of every system, from its dataclass."""
  from exp_jax import catalog
  from exp_jax.performance.options import described

  lines = [
    '# Options',
    '',
    'Fields of `Options` and `LoadOptions` of each system, which are also flags of `exp-jax '
    'animate`.',
    '',
  ]
  for name, system in catalog.SYSTEMS.items():
    for kind in (system.LoadOptions, system.Options):
      lines += [
        f'## {name}: {kind.__name__}',
        '',
        '| option | type | default | range | what it does |',
        '|---|---|---|---|---|',
      ]
      for each in described(kind):
        bounds = ', '.join(map(str, each.choices)) or ', '.join(
          f'{word} {value:g}'
          for word, value in (('from', each.low), ('to', each.high))
          if value is not None
        )
        cells = (
          f'`{each.name}`',
          f'{each.form + " of " if each.form != "one" else ""}{each.kind.__name__}',
          f'`{each.default}`',
          f'{bounds} {each.unit}'.strip(),
          each.help,
        )
        lines.append('| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |')
      lines.append('')
  return '\n'.join(lines)


def _is_current(folder: pathlib.Path) -> bool:
  """Whether the pages were written after the last change of the program and of this file."""
  pages = list(folder.glob('*.md'))
  sources = [pathlib.Path(__file__), *(ROOT / 'exp_jax').rglob('*.py')]
  return bool(pages) and min(p.stat().st_mtime for p in pages) > max(
    p.stat().st_mtime for p in sources
  )


def write_pages(folder: pathlib.Path) -> None:
  """Writes the commands' pages and the public packages' pages, unless the program is older than the
  pages.

  Args:
    folder: where they go; created, and freed of pages that are no longer generated.

  Raises:
    RuntimeError: a command does not print its help.
  """
  if _is_current(folder):
    return
  pages = (
    _command_pages()
    | {'options.md': options_page()}
    | {f'api-{package}.md': _api_page(package) for package in PACKAGES}
  )
  folder.mkdir(parents=True, exist_ok=True)
  for old in set(folder.glob('*.md')) - {folder / name for name in pages}:
    old.unlink()
  for name, text in pages.items():
    (folder / name).write_text(text)


if __name__ == '__main__':
  write_pages(pathlib.Path(sys.argv[1]))
