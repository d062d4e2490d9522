"""Command lines with an ml_collections config: every mistake becomes one sentence before anything is started."""

import difflib
import os
import pathlib
import re
import runpy

from absl import flags

from exp_jax.errors import UserError

_ROOT = pathlib.Path(__file__).parents[1]


def keys_of(config, prefix=''):
  """Dotted names of all entries of a ConfigDict, sections included."""
  for key, value in config.items():
    yield prefix + key
    if hasattr(value, 'items'):
      yield from keys_of(value, f'{prefix}{key}.')


def check_config_arguments(argv: list[str]) -> None:
  """Refuses a missing config file, an unknown mode and unknown --config.keys, naming the nearest match."""
  named = next((a.split('=', 1)[1] for a in argv if re.match(r'--?config=', a)), None)
  if named is None:
    return
  file, _, mode = named.partition(':')
  if not os.path.isfile(file):
    raise UserError(f'there is no config file {file!r}; see configs/')
  try:
    config = runpy.run_path(file)['get_config'](*[mode] if mode else [])
  except (ValueError, KeyError, SyntaxError) as error:
    raise UserError(f'{file}: {error}') from error
  known = sorted(keys_of(config))
  for key in re.findall(r'^--config\.([^=]+)', '\n'.join(argv), re.MULTILINE):
    if key not in known:
      near = difflib.get_close_matches(key, known, 1, 0.5)
      hint = f'did you mean {near[0]!r}?' if near else f'it has {", ".join(known)}'
      raise UserError(f'{file} has no key {key!r}; {hint}')


def parse_with_config(argv: list[str]) -> list[str]:
  """absl flags with the checks above; unknown flags and bad values are UserErrors too."""
  check_config_arguments(argv)
  try:
    return flags.FLAGS(argv)
  except (flags.Error, TypeError, ValueError, AttributeError, KeyError) as error:
    raise UserError(f'bad command line: {str(error).splitlines()[0]}') from error
