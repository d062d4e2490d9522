"""Which head a network was trained on: a small record that travels from the records to the export,
and is checked on loading.

A video model sees maps of one head's surface, an expression transfer the coefficients of one head's
expressions; on another head either gives nonsense that no shape betrays. `head.json` lies beside
the training records (`prepare` writes it, `previews`
and `encode` carry it along) and in every export: the name of the head and its digest
(`heads.head_digest`).
"""

import json
import os
import pathlib

from exp_jax.errors import UserError
from exp_jax.files.atomic import write_text
from exp_jax.heads.model import HeadModel, head_digest

HEAD = 'head.json'


def write_head(folder: str | os.PathLike, head: HeadModel) -> None:
  """Writes the record of `head` into a folder of training records."""
  write_text(pathlib.Path(folder) / HEAD, told_of(head))


def told_of(head: HeadModel) -> str:
  """The record as JSON."""
  return json.dumps({'name': head.name, 'digest': head_digest(head)}, sort_keys=True) + '\n'


def found_beside(records: str | os.PathLike) -> pathlib.Path | None:
  """The record beside training records, which are a folder, a file or a pattern; None where none
  was written."""
  path = pathlib.Path(records)
  found = (path if path.is_dir() else path.parent) / HEAD
  return found if found.is_file() else None


def carry_head(records: str | os.PathLike, output: str | os.PathLike) -> None:
  """Copies the record from beside the records that were read to the folder of those that are made
  of them."""
  if (found := found_beside(records)) is not None:
    write_text(pathlib.Path(output) / HEAD, found.read_text())


def trained_on(path: str | os.PathLike) -> dict | None:
  """name and digest of the head that an export was trained on; None of an export that was made
  before they were recorded.

  Raises:
    UserError: the record is damaged.
  """
  file = pathlib.Path(path) / HEAD
  if not file.is_file():
    return None
  try:
    found = json.loads(file.read_text())
    return {'name': str(found['name']), 'digest': str(found['digest'])}
  except (ValueError, KeyError, TypeError):
    raise UserError(
      f'{file} does not say on which head the export was trained; export it again'
    ) from None


def check_trained_on(
  path: str | os.PathLike, head: HeadModel, *, what: str, otherwise: str
) -> None:
  """UserError unless an export was trained on this head, or does not tell.

  Args:
    path: of the export.
    head: that is loaded.
    what: the export in words, such as 'the video model'.
    otherwise: what else can be done than to load the other head, as the end of a sentence.
  """
  known = trained_on(path)
  if known is not None and known['digest'] != head_digest(head):
    raise UserError(
      f'{what} {str(path)!r} was trained on the head {known["name"]!r} ({known["digest"]}), not on '
      f'{head.name!r} '
      f'({head_digest(head)}): name that head by --head, or {otherwise}'
    )
