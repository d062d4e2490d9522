"""What a client asks for, checked as the command line checks it, with the command line's own
sentences.

Options come as JSON values under the names of the option dataclasses. An option that names a file
takes the id of an upload.
"""

import argparse
import difflib
import pathlib
from collections.abc import Callable

from exp_jax import catalog
from exp_jax.commands.animate import ENGINES, check_engine
from exp_jax.performance.options import Described, described, from_flags
from exp_jax.studio.refusals import Refused

KINDS = ('animate', 'portrait', 'fit')
LONGEST_PREVIEW = 10.0  # seconds


def options_of(engine: str) -> tuple[Described, ...]:
  """The options that a client may set for an engine, in the order of declaration.

  Raises:
    Refused: there is no such engine.
  """
  every = described(catalog.SYSTEMS[_known(engine)].Options)
  return tuple(each for each in every if not (engine == 'proxy' and each.needs == 'generator'))


def _known(engine: str) -> str:
  if engine not in ENGINES:
    raise Refused(f'there is no engine {engine!r}; choose from {", ".join(ENGINES)}')
  return ENGINES[engine]


def checked_options(engine: str, given: dict, upload_path: Callable[[str], pathlib.Path]):
  """The engine's options dataclass with what a client gave.

  Args:
    engine: one of ENGINES.
    given: {name: JSON value}; None stands for what is declared.
    upload_path: the file of an upload's id.

  Raises:
    UserError: an option that is not there, belongs to another engine, or has a value that it cannot
      have.
  """
  system = catalog.SYSTEMS[_known(engine)]
  every = {
    each.name
    for other in catalog.SYSTEMS.values()
    for each in (*described(other.LoadOptions), *described(other.Options))
  }
  own = {each.name: each for each in described(system.Options)}
  loads = {each.name for each in described(system.LoadOptions)} | {'export'}
  values = {}
  for name, value in given.items():
    if name in loads and name not in own:
      raise Refused(f'--{name} is chosen when the server is started, see exp-jax serve --help')
    if name not in every:
      near = difflib.get_close_matches(name, own, 1, 0.5)
      raise Refused(
        f'there is no option {name!r}; '
        + (f'did you mean {near[0]!r}?' if near else f'it has {", ".join(own)}')
      )
    if value is not None:
      values[name] = _as_declared(own[name], value, upload_path) if name in own else value
  namespace = argparse.Namespace(engine=engine, export=None, **values)
  check_engine(namespace)
  return from_flags(system.Options, namespace)


def _as_declared(each: Described, value, upload_path):
  """A JSON value as the dataclass has it: files by their ids, dicts of faces by whole numbers."""
  is_file = each.kind is pathlib.Path
  if each.form == 'dict':
    if not isinstance(value, dict):
      raise Refused(f'--{each.name} must be an object of names and values, got {value!r}')
    if not each.names and not all(str(key).isdecimal() for key in value):
      raise Refused(f'--{each.name} takes whole numbers as names, got {", ".join(map(str, value))}')
    return {
      key if each.names else int(key): upload_path(v) if is_file else v for key, v in value.items()
    }
  if each.form == 'tuple':
    if not isinstance(value, (list, tuple)):
      raise Refused(f'--{each.name} takes {len(each.default)} numbers, got {value!r}')
    return tuple(value)
  if isinstance(value, (list, dict)):
    raise Refused(f'--{each.name} must be one value, got {value!r}')
  if each.kind is int and isinstance(value, float) and value.is_integer():
    return int(value)
  return upload_path(value) if is_file else value


def as_json(each: Described) -> dict:
  """One option for a client that draws a widget of it."""
  kind = 'file' if each.kind is pathlib.Path else each.kind.__name__
  default = None if each.kind is pathlib.Path and each.form == 'one' else each.default
  return {
    'name': each.name,
    'kind': kind,
    'form': each.form,
    'optional': each.optional,
    'default': list(default) if isinstance(default, tuple) else default,
    'low': each.low,
    'high': each.high,
    'unit': each.unit,
    'choices': list(each.choices),
    'names': list(each.names),
    'help': each.help,
  }


def check_kind(kind: str) -> None:
  """Raises Refused for a job of another kind than `KINDS`."""
  if kind not in KINDS:
    raise Refused(f'there is no job of kind {kind!r}; choose from {", ".join(KINDS)}')


def check_preview(kind: str, seconds: float) -> None:
  """Raises Refused for a preview of another length than 0 to 10 seconds, or of a job that has no video."""
  if not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST_PREVIEW:
    raise Refused(f'preview must be in 0..{LONGEST_PREVIEW:g} seconds, got {seconds!r}')
  if seconds and kind != 'animate':
    raise Refused(f"preview belongs to jobs of kind 'animate', and this one is of kind {kind!r}")
