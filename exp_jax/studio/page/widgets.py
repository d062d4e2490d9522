"""Widgets of gradio for the options of an engine, made from their declaration; and back to what a
client would send."""

import pathlib

import gradio as gr

from exp_jax.performance.options import Described
from exp_jax.studio.refusals import Refused

_AS_DECLARED = 'default'
_YES_NO = (_AS_DECLARED, 'yes', 'no')
_WIDEST = 100  # a range up to which a slider is of use


def has_widget(each: Described) -> bool:
  """Whether the page has a widget for an option: not where a dict of files is asked for, which the
  HTTP interface takes."""
  return not (each.kind is pathlib.Path and each.form != 'one')


def widget(each: Described):
  """The widget of one option, its label the option's name, its help below."""
  low, high = each.low, each.high
  bounds = (
    f'{low:g} to {high:g}'
    if None not in (low, high)
    else f'at least {low:g}'
    if low is not None
    else f'at most {high:g}'
    if high is not None
    else ''
  )
  notes = f' ({bounds} {each.unit})'.replace(' )', ')') if bounds else ''
  words = dict(
    label=each.name.replace('_', ' '), info=each.help + notes, elem_id=f'option_{each.name}'
  )
  if each.kind is pathlib.Path:
    return gr.File(label=f'{words["label"]}: {each.help}', elem_id=words['elem_id'], height=90)
  if each.form == 'tuple':
    return gr.Textbox(' '.join(f'{v:g}' for v in each.default), **words)
  if each.form == 'dict':
    names = f'; names: {", ".join(each.names)}' if each.names else ''
    return gr.Textbox(
      '', placeholder=each.metavar or 'NAME=VALUE', **words | {'info': f'{each.help}{names}'}
    )
  if each.choices:
    choices = [str(choice) for choice in each.choices]
    return gr.Dropdown(
      [_AS_DECLARED, *choices] if each.optional else choices,
      value=_AS_DECLARED if each.default is None else str(each.default),
      **words,
    )
  if each.kind is bool:
    return (
      gr.Dropdown(list(_YES_NO), value=_AS_DECLARED, **words)
      if each.optional
      else gr.Checkbox(each.default, **words)
    )
  if each.kind in (int, float) and each.optional:  # a number's own widget knows no empty value
    return gr.Textbox('', placeholder=_AS_DECLARED, **words)
  if each.kind in (int, float):
    if None not in (each.low, each.high) and 1e-3 < each.high - each.low <= _WIDEST:
      return gr.Slider(
        each.low, each.high, value=each.default, step=1 if each.kind is int else 0.01, **words
      )
    return gr.Number(each.default, precision=0 if each.kind is int else None, **words)
  return gr.Textbox('' if each.default is None else str(each.default), **words)


def value_of(each: Described, shown):
  """What a client sends for an option, of what its widget shows; None where that is what is
  declared. A file stays a path.

  Raises:
    Refused: text that is no such list or set of numbers.
  """
  if shown in (None, '', _AS_DECLARED):
    return None
  if each.kind is pathlib.Path:
    return shown
  if each.form == 'tuple':
    value = tuple(_number(each, text) for text in shown.replace(',', ' ').split())
  elif each.form == 'dict':
    value = numbers_by_name(shown, f'--{each.name}')
  elif each.choices:
    value = next((choice for choice in each.choices if str(choice) == shown), shown)
  elif each.kind is bool:
    value = {'yes': True, 'no': False}.get(shown, shown) if each.optional else bool(shown)
  elif each.kind in (int, float) and isinstance(shown, str):
    value = _number(each, shown)
  elif each.kind is int and isinstance(shown, float) and shown.is_integer():
    value = int(shown)
  else:
    value = shown
  return None if value == each.default else value


def _number(each: Described, text: str):
  try:
    return each.kind(text)
  except ValueError:
    raise Refused(f'--{each.name} takes numbers, got {text!r}') from None


def numbers_by_name(text: str, what: str) -> dict[str, float]:
  """{name: number} of 'NAME=VALUE NAME=VALUE'.

  Raises:
    Refused: text of another form; `what` names it.
  """
  found = {}
  for part in text.replace(',', ' ').split():
    name, equals, number = part.partition('=')
    if not equals:
      raise Refused(f'{what} takes NAME=VALUE, got {part!r}')
    try:
      found[name] = float(number)
    except ValueError:
      raise Refused(f'{what} takes numbers, got {number!r}') from None
  return found
