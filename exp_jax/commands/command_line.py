"""Command lines with an ml_collections config: every mistake becomes one sentence before anything
is started."""

import difflib
import re
import runpy
import sys

from absl import app, flags

from exp_jax.errors import UserError, check_place
from exp_jax.files.resources import config_file

_HELP = ('-h', '-help', '--help', '-helpshort', '--helpshort', '-helpfull', '--helpfull', '-?')


def keys_of(config, prefix=''):
  """Dotted names of all entries of a ConfigDict, sections included."""
  for key, value in config.items():
    yield prefix + key
    if hasattr(value, 'items'):
      yield from keys_of(value, f'{prefix}{key}.')


def leaves_of(config, prefix=''):
  """(dotted name, value) of all entries of a ConfigDict that are no sections."""
  for key, value in config.items():
    if hasattr(value, 'items'):
      yield from leaves_of(value, f'{prefix}{key}.')
    else:
      yield prefix + key, value


def config_argument(argv: list[str]) -> str | None:
  """FILE[:mode] of --config=FILE or --config FILE, the last one as in absl; None if there is
  none."""
  named = None
  for i, argument in enumerate(argv):
    if found := re.match(r'--?config(?:=(.*))?$', argument):
      named = found[1] if found[1] is not None else ''.join(argv[i + 1 : i + 2])
  return named


def with_found_config(argv: list[str]) -> list[str]:
  """`argv` with the config's file found: one that is not there by that name is one of the package's
  own.

  Raises:
    UserError: no config is named, or there is no such file.
  """
  named = config_argument(argv)
  if named is None:
    raise UserError('say which config: --config=configs/NAME.py[:mode]')
  file, colon, mode = named.partition(':')
  found = f'{config_file(file)}{colon}{mode}'
  changed = list(argv)
  for i, argument in enumerate(argv):
    if argument in (f'--config={named}', f'-config={named}'):
      changed[i] = f'--config={found}'
    elif argument in ('--config', '-config') and argv[i + 1 : i + 2] == [named]:
      changed[i + 1] = found
  return changed


def check_config_arguments(argv: list[str]) -> None:
  """Refuses a missing config file, an unknown mode and unknown --config.keys, naming the nearest
  match."""
  named = config_argument(argv)
  if named is None:
    raise UserError('say which config: --config=configs/NAME.py[:mode]')
  file, _, mode = named.partition(':')
  found = config_file(file)
  try:
    config = runpy.run_path(str(found))['get_config'](*[mode] if mode else [])
    known = sorted(keys_of(config))
  except (
    Exception
  ) as error:  # a config is the user's program: whatever it raises is about that file
    words = (
      'it defines no get_config'
      if str(error) == "'get_config'"
      else str(error) or type(error).__name__
    )
    raise UserError(f'{file}: {words}') from error
  for key in re.findall(r'^--?config\.([^=\n]+)', '\n'.join(argv), re.MULTILINE):
    if key not in known:
      near = difflib.get_close_matches(key, known, 1, 0.5)
      hint = f'did you mean {near[0]!r}?' if near else f'it has {", ".join(known)}'
      raise UserError(f'{file} has no key {key!r}; {hint}')


def parse_with_config(argv: list[str], *, default: str | None = None) -> list[str]:
  """absl flags with the checks above; unknown flags and bad values are UserErrors too. --help ends
  with status 0.

  `default` is the config where none is named. It must not be the flag's own default: that one is
  read when the flag is defined, overrides included, before anything here could speak of their
  mistakes.
  """
  if any(argument in _HELP for argument in argv[1:]):
    app.usage(shorthelp=True, writeto_stdout=True)
    sys.exit(0)
  if default is not None and config_argument(argv) is None:
    argv = [argv[0], f'--config={default}', *argv[1:]]
  argv = with_found_config(argv)
  check_config_arguments(argv)
  check_places(argv)
  try:
    rest = flags.FLAGS(argv)
  except (flags.Error, TypeError, ValueError, AttributeError, KeyError, OSError) as error:
    raise UserError(f'bad command line: {str(error).splitlines()[0]}') from error
  if len(rest) > 1:
    before = next((word for word, after in zip(argv[1:], argv[2:]) if after == rest[1]), '')
    hint = f'; write {before}={rest[1]}' if before.startswith('-') and '=' not in before else ''
    raise UserError(f'unexpected argument {rest[1]!r}{hint}')
  for _, value in leaves_of(flags.FLAGS.config):
    check_place(value)
  return rest


def check_places(argv: list[str]) -> None:
  """Refuses addresses such as gs://bucket/run in a command line."""
  for argument in argv[1:]:
    check_place(
      argument.split('=', 1)[1] if argument.startswith('-') and '=' in argument else argument
    )
