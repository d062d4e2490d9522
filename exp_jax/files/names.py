"""Names of files in the two forms that Unicode has for accented letters: one character, or a letter
and an accent after it.

macOS tools and some archives write the second form, keyboards the first; they look the same, and
file systems tell them apart.
"""

import pathlib
import unicodedata


def normal(name: str) -> str:
  """The composed form (NFC), in which equal names are equal."""
  return unicodedata.normalize('NFC', name)


def existing(path: pathlib.Path) -> pathlib.Path:
  """The file in the folder of `path` that has its name in any form; `path` itself where there is
  none or it is there as it is."""
  if path.exists() or path.name.isascii() or not path.parent.is_dir():
    return path
  return next(
    (other for other in sorted(path.parent.iterdir()) if normal(other.name) == normal(path.name)),
    path,
  )
