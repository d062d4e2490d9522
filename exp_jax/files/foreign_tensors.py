"""What every file of weights from others goes through before it is believed: names, JSON, and what
it really is.

Downloads go wrong in a few well-known ways: a git-lfs pointer instead of the file, a page that asks
for a login, an empty file. Such a file is recognised by its first bytes, whatever its name says. Text out
of a file may hold escape sequences that move a terminal's cursor or forge a line of output, so it
is spelled out before it is shown.
"""

import json
import os
import pathlib

import numpy as np

from exp_jax.errors import UserError, one_line

_MOST_NAME = 512  # characters of a tensor's name; published ones have less than 100
_MOST_JSON = 2**24  # bytes; the index of a sharded model has some hundred kilobytes
_STAND_INS = (  # first bytes without white space, in lower case -> what the file is
  (
    b'version https://git-lfs',
    'a git-lfs pointer, not the file itself: fetch it with `git lfs pull`',
  ),
  (b'/annex/objects/', 'a git-annex pointer, not the file itself: fetch it with `git annex get`'),
  (b'<!doctype html', 'a web page: download the file itself (log in or accept its terms first)'),
  (b'<html', 'a web page: download the file itself (log in or accept its terms first)'),
  (b'<?xml', 'an XML answer of a server: download the file again'),
  (b'{"error', 'the error message of a server: download the file again'),
  (b'entry not found', 'the error message of a server: download the file again'),
  (b'invalid username', 'the error message of a server: log in and download the file again'),
  (
    b'access to model',
    'the error message of a server: accept its terms and download the file again',
  ),
  (b'gguf', 'a quantized GGUF file: convert from the bf16, fp16 or fp32 safetensors of the model'),
  (b'\x1f\x8b', 'compressed with gzip: unpack it first'),
  (b'bzh', 'compressed with bzip2: unpack it first'),
  (b'\xfd7zxz', 'compressed with xz: unpack it first'),
  (b'7z\xbc\xaf', 'a 7z archive: unpack it first'),
  (b'rar!', 'a RAR archive: unpack it first'),
  (b'\x89hdf', 'an HDF5 file, which is not read: save the weights as .safetensors'),
)


def shown(text: object, most: int = 200) -> str:
  """Text from inside a file, fit for a terminal: on one line, escape and control characters spelled
  out, cut at `most`."""
  text = one_line(str(text)[: most + 1])
  return text if len(text) <= most else f'{text[:most]}...'


def check_name(name: object, path) -> str:
  """A tensor's name, if it is one.

  Raises:
    UserError: no text, empty, overlong, or with characters that cannot be printed.
  """
  if not isinstance(name, str) or not 0 < len(name) <= _MOST_NAME or not name.isprintable():
    raise UserError(
      f'{path} has a tensor with an impossible name, {shown(repr(name), 80)}: the file is damaged '
      'or was '
      'made to mislead'
    )
  return name


def refuse_stand_ins(path: str | os.PathLike) -> None:
  """Says what a file is that only bears the name of a file of weights.

  Raises:
    UserError: no such file, a folder, an empty file, a pointer, a page, an archive.
  """
  if os.path.isdir(path):
    raise UserError(f'{path} is a folder, a file was expected')
  try:
    with open(path, 'rb') as file:
      first = file.read(256)
  except FileNotFoundError:
    raise UserError(f'{path} does not exist') from None
  if not first:
    raise UserError(f'{path} is empty: its download did not begin, or was interrupted')
  start = first.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
  for mark, meaning in _STAND_INS:
    if start.startswith(mark):
      raise UserError(f'{path} is {meaning}')
  if len(first) == 256 and not any(first):
    raise UserError(f'{path} begins with zeros: its download was interrupted, fetch it again')


def parse_json(content: bytes | str, where: object) -> object:
  """JSON from others, of any depth, without twice the same key in one object.

  Raises:
    UserError: not JSON, nested too deeply, too large, or a key is there twice; `where` names the
      file.
  """

  def unique(pairs):
    table = dict(pairs)
    if len(table) < len(pairs):
      seen = set()
      double = next(key for key, _ in pairs if key in seen or seen.add(key))
      raise UserError(f'{where} has {shown(double, 80)!r} twice: it is damaged, fetch it again')
    return table

  if len(content) > _MOST_JSON:
    raise UserError(
      f'{where} has more than {_MOST_JSON >> 20} MB of JSON, which no description of weights needs'
    )
  try:
    return json.loads(
      content if isinstance(content, str) else content.decode(), object_pairs_hook=unique
    )
  except UserError:
    raise
  except RecursionError:
    raise UserError(
      f'{where} is nested too deeply to be a description of weights: it is damaged'
    ) from None
  except ValueError as error:  # bytes that are no text, too
    raise UserError(f'{where} is damaged, it is no JSON: {shown(error, 80)}') from None


def read_json(path: str | os.PathLike) -> dict:
  """The object in a JSON file; UserError if there is no such file, or it holds anything else, see
  `parse_json`."""
  path = pathlib.Path(path)
  try:
    if path.stat().st_size > _MOST_JSON:
      raise UserError(
        f'{path} is larger than {_MOST_JSON >> 20} MB, which no description of weights needs'
      )
    content = path.read_bytes()
  except FileNotFoundError:
    raise UserError(f'{path} does not exist') from None
  except IsADirectoryError:
    raise UserError(f'{path} is a folder, a file was expected') from None
  found = parse_json(content, path)
  if not isinstance(found, dict):
    raise UserError(f'{path} is damaged: it holds no JSON object')
  return found


def all_finite(value: np.ndarray) -> bool:
  """Whether no number is NaN or infinite; any type, in pieces, so that no second array of its size
  is made."""
  value = np.asarray(value)
  if value.dtype.kind in 'biuSU':
    return True
  flat = value.reshape(-1) if value.flags.c_contiguous else value.T.reshape(-1)
  return all(bool(np.isfinite(flat[i : i + 2**22]).all()) for i in range(0, flat.size, 2**22))


def check_finite(value: np.ndarray, name: str, where: object) -> np.ndarray:
  """The array, if all of its numbers are finite.

  Raises:
    UserError: it holds NaN or infinite numbers; `name` and `where` are named, with the first place.
  """
  if not all_finite(value):
    wrong = np.argwhere(~np.isfinite(np.asarray(value)))
    place = tuple(int(n) for n in wrong[0])
    raise UserError(
      f'{where}: {name} holds NaN or infinite numbers ({len(wrong)}, the first at {place}): '
      'the file is damaged, or its training had failed; take another one'
    )
  return value
