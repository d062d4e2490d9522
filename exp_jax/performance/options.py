"""Options of a system, declared once as a frozen dataclass; flags, widgets, checks, the record and
the docs follow from it.

    @dataclasses.dataclass(frozen=True)
    class Options:
      steps: int = option(8, 'steps of the sampler', low=1, high=1000)

A field's type is one of bool, int, float, str, pathlib.Path (each also `| None`), a tuple of
floats, or a dict from names to one of these. Checks run when options are made, so that no other
code need check them.
"""

import argparse
import dataclasses
import math
import pathlib
import types
import typing

from exp_jax.errors import UserError


def option(
  default,
  help: str,
  *,
  low: float | None = None,
  high: float | None = None,
  unit: str = '',
  choices: tuple = (),
  names: tuple[str, ...] = (),
  metavar: str | None = None,
  needs: str = '',
):
  """A field of an options dataclass.

  Args:
    default: its value where none is given.
    help: one sentence; what it does.
    low: least value, if it is a number.
    high: largest value.
    unit: of the number, such as 'seconds'.
    choices: all values there are, if they are few.
    names: keys of a dict; none: whole numbers.
    metavar: what stands for the value in a command's help.
    needs: what must be loaded for this option to act, such as 'generator'; where that is absent the
      option is refused.
  """
  metadata = {
    'help': help,
    'low': low,
    'high': high,
    'unit': unit,
    'choices': choices,
    'names': names,
    'metavar': metavar,
    'needs': needs,
  }
  if isinstance(default, dict):
    return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
  return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Described:
  """One option, for whoever draws a widget or a table of it.

  Attributes:
    name: of the field, and of the flag after '--'.
    kind: bool, int, float, str or pathlib.Path; of the values where it is a tuple or a dict.
    form: 'one', 'tuple' or 'dict'.
    optional: whether None is a value.
    default: as declared.
    low: least value or None.
    high: largest value or None.
    unit: of a number, or ''.
    choices: all values, or ().
    names: keys of a dict, or ().
    help: what it does.
    needs: what must be loaded, or ''.
  """

  name: str
  kind: type
  form: str
  optional: bool
  default: object
  low: float | None
  high: float | None
  unit: str
  choices: tuple
  names: tuple[str, ...]
  help: str
  needs: str
  metavar: str | None


def described(options: type) -> tuple[Described, ...]:
  """The options of a dataclass, in the order of declaration."""
  kinds = typing.get_type_hints(options)
  return tuple(_described(field, kinds[field.name]) for field in dataclasses.fields(options))


def _described(field: dataclasses.Field, kind) -> Described:
  optional = typing.get_origin(kind) in (types.UnionType, typing.Union)
  if optional:
    kind = next(k for k in typing.get_args(kind) if k is not type(None))
  form = {tuple: 'tuple', dict: 'dict'}.get(typing.get_origin(kind), 'one')
  kind = kind if form == 'one' else typing.get_args(kind)[0 if form == 'tuple' else 1]
  default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
  return Described(field.name, kind, form, optional, default, **field.metadata)


def check(options) -> None:
  """Raises UserError for a value that an option cannot have: of another type, out of its range, not
  among its choices."""
  for each in described(type(options)):
    value = getattr(options, each.name)
    if value is None:
      if not each.optional:
        raise UserError(f'--{each.name} must be a value, got None')
      continue
    if each.form == 'one':
      _check_value(each, each.name, value)
    elif each.form == 'tuple':
      if len(value) != len(each.default):
        raise UserError(f'--{each.name} takes {len(each.default)} numbers, got {len(value)}')
      for v in value:
        _check_value(each, each.name, v)
    else:
      for key, v in value.items():
        if each.names and key not in each.names or not each.names and not isinstance(key, int):
          raise UserError(
            f'--{each.name} has no {key!r}; it takes {", ".join(each.names) or "whole numbers"}'
          )
        _check_value(each, f'{each.name} {key}', v)


def _check_value(each: Described, name: str, value) -> None:
  if each.kind in (int, float):
    if (
      isinstance(value, bool)
      or not isinstance(value, (int, float))
      or (each.kind is int and value != int(value))
    ):
      raise UserError(
        f'--{name} must be a {"whole number" if each.kind is int else "number"}, got {value!r}'
      )
    if not math.isfinite(value):
      raise UserError(f'--{name} must be finite, got {value}')
    low, high = each.low, each.high
    if (low is not None and value < low) or (high is not None and value > high):
      allowed = (
        f'at least {low:g}'
        if high is None
        else f'at most {high:g}'
        if low is None
        else f'in {low:g}..{high:g}'
      )
      raise UserError(
        f'--{name} must be {allowed}{f" {each.unit}" if each.unit else ""}, got {value:g}'
      )
  elif each.kind is bool and not isinstance(value, bool):
    raise UserError(f'--{name} must be true or false, got {value!r}')
  elif each.kind is str and not isinstance(value, str):
    raise UserError(f'--{name} must be text, got {value!r}')
  if each.choices and value not in each.choices:
    raise UserError(f'--{name} must be one of {", ".join(map(str, each.choices))}; got {value!r}')


def record(options) -> dict:
  """The options as a record has them: plain values and dicts of them; paths are left out, so that
  it tells nothing of the machine."""
  plain = (str, int, float, bool, type(None), tuple, dict)
  values = {
    each.name: getattr(options, each.name)
    for each in described(type(options))
    if each.kind is not pathlib.Path
  }
  return {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in values.items()
    if isinstance(value, plain)
  }


class _Pairs(argparse.Action):
  """NAME=VALUE ... into a dict."""

  def __init__(self, *args, kind, names, **kwargs):
    self._kind, self._names = kind, names
    super().__init__(*args, nargs='+', **kwargs)

  def __call__(self, parser, namespace, values, option_string=None):
    found = dict(getattr(namespace, self.dest, None) or {})
    for text in values:
      name, equals, value = text.partition('=')
      if (
        not equals
        or (self._names and name not in self._names)
        or (not self._names and not name.isdecimal())
      ):
        raise UserError(
          f'{option_string} takes NAME=VALUE with NAME of '
          f'{", ".join(self._names or ("0", "1", "..."))}; got {text!r}'
        )
      try:
        found[name if self._names else int(name)] = self._kind(value)
      except ValueError:
        raise UserError(f'{option_string} {text}: {value!r} is no number') from None
    setattr(namespace, self.dest, found)


def add_flags(
  group, options: type, *, skip: tuple[str, ...] = (), choices: dict[str, tuple] | None = None
) -> None:
  """Adds a flag per option to an argparse parser or group.

  A flag that is not given leaves nothing in the namespace.

  Args:
    skip: names that the parser has already.
    choices: by name, in place of the declared ones, where several systems have an option with
      different choices.
  """
  for each in described(options):
    if each.name in skip:
      continue
    notes = [f'default {_shown(each.default)}'] if each.default not in (None, False, {}, '') else []
    if each.low is not None or each.high is not None:
      notes.insert(
        0,
        f'{"" if each.low is None else f"{each.low:g}"}..{"" if each.high is None else f"{each.high:g}"}'
        + (f' {each.unit}' if each.unit else ''),
      )
    words = each.help.replace('%', '%%') + (f' ({"; ".join(notes)})' if notes else '')
    given = dict(dest=each.name, default=argparse.SUPPRESS, help=words)
    if each.form == 'dict':
      group.add_argument(
        f'--{each.name}',
        action=_Pairs,
        kind=each.kind,
        names=each.names,
        metavar=each.metavar,
        **given,
      )
    elif each.form == 'tuple':
      names = tuple(each.metavar.split()) if each.metavar else None
      group.add_argument(
        f'--{each.name}', type=each.kind, nargs=len(each.default), metavar=names, **given
      )
    elif each.kind is bool and (each.optional or each.default):
      group.add_argument(f'--{each.name}', action=argparse.BooleanOptionalAction, **given)
    elif each.kind is bool:
      group.add_argument(f'--{each.name}', action='store_true', **given)
    else:
      known = (choices or {}).get(each.name, each.choices)
      group.add_argument(
        f'--{each.name}', type=each.kind, choices=known or None, metavar=each.metavar, **given
      )


def _shown(value) -> str:
  return (
    ' '.join(f'{v:g}' for v in value)
    if isinstance(value, tuple)
    else f'{value:g}'
    if isinstance(value, float)
    else str(value)
  )


def from_flags(options: type, namespace: argparse.Namespace):
  """The options that a command line gave; the rest as declared.

  `check` is the dataclass's own matter.
  """
  names = {field.name for field in dataclasses.fields(options)}
  return options(
    **{
      name: tuple(value) if isinstance(value, list) else value
      for name, value in vars(namespace).items()
      if name in names
    }
  )


NO_FACE = ('hold', 'cut', 'stop')
FACES = 'largest, a number (0 the largest), left, right (in the picture), or X,Y in pixels'
SEVERAL_FACES = f'{FACES}, all, or numbers joined by +'


@dataclasses.dataclass(frozen=True)
class SharedOptions:
  """What every system can be asked for; a system's own options follow these."""

  source_frame: str = option(
    'best',
    "of a clip as portrait: 'best' (facing the camera, at rest) or the number of a frame",
    metavar='N',
  )
  face: str = option('largest', f'whose portrait: {FACES}')
  driving_face: str = option('largest', f'who drives: {FACES}')
  no_face: str = option(
    'hold',
    'driving frames without a face: hold the nearest motion, cut them out, or stop',
    choices=NO_FACE,
  )
  limit: int | None = option(None, 'use only so many frames of the driver', low=1, metavar='N')
  allow_partial: bool = option(False, 'use what can be read of a damaged or truncated clip')
  seed: int = option(0, 'equal seeds make equal videos', low=0)
  provenance: bool = option(
    True,
    'sign the video (C2PA) and mark its frames invisibly, so that it can be recognised as synthetic',
  )

  def __post_init__(self):
    check(self)
    if self.source_frame != 'best' and not self.source_frame.isdecimal():
      raise UserError(f"--source_frame must be 'best' or a number, got {self.source_frame!r}")
