"""Lists of paths as text files: a path a line, or a table with a header.

Paths are relative to the folder of the list. Blank lines, and lines that begin with #, are passed
over.
"""

import csv
import os
import pathlib

from exp_jax.errors import UserError
from exp_jax.files.names import existing

_MOST_BYTES = 1 << 24


def list_text(path: str | os.PathLike) -> str:
  """The text of a list, without the mark that some editors put before it.

  Raises:
    UserError: it is not UTF-8 text, or longer than 16 MB.
  """
  with open(path, 'rb') as stream:
    content = stream.read(_MOST_BYTES + 1)
  if len(content) > _MOST_BYTES:
    raise UserError(f'{str(path)!r} is longer than {_MOST_BYTES >> 20} MB: split the list')
  try:
    if b'\0' in content:
      raise ValueError('a zero byte')
    return content.decode('utf-8-sig')
  except ValueError:
    raise UserError(
      f'{str(path)!r} is not a text file: save the list as plain text in UTF-8'
    ) from None


def listed_lines(path: str | os.PathLike) -> list[str]:
  """The lines of a list that say something, without blanks at their ends. Errors as of
  `list_text`."""
  lines = (line.strip() for line in list_text(path).replace('\r', '\n').split('\n'))
  return [line for line in lines if line and not line.startswith('#')]


def listed_rows(path: str | os.PathLike, columns: tuple[str, ...]) -> list[list[str]]:
  """The rows of a table whose header names `columns`, in any order, parted by commas or tabs.

  Returns:
    The cells of each row in the order of `columns`; of a row that has another number of cells, its
    text as its only cell.

  Raises:
    UserError: as of `list_text`; or the header is another.
  """
  lines = listed_lines(path)
  mark = '\t' if lines and '\t' in lines[0] else ','
  rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark)]
  header = [name.lower() for name in rows[0]] if rows else []
  if sorted(header) != sorted(columns):
    raise UserError(
      f'the first line of {str(path)!r} must name the columns {" and ".join(columns)}, parted by a '
      f'comma or a tab; it is {(lines or [""])[0][:80]!r}'
    )
  places = [header.index(name) for name in columns]
  return [
    [row[place] for place in places] if len(row) == len(columns) else [mark.join(row)]
    for row in rows[1:]
  ]


def listed_path(path: str | os.PathLike, entry: str) -> pathlib.Path:
  """The file that an entry of the list `path` names, in whichever form its accents are written."""
  return existing(pathlib.Path(path).parent / entry)
