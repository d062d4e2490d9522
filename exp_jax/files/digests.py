"""SHA-256 of files and of arrays, in hexadecimal; nothing is held in memory twice."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO

from exp_jax.errors import UserError

if TYPE_CHECKING:
  import numpy as np


def stream_digest(stream: BinaryIO) -> str:
  """64 hex digits of what an open file holds from where it stands; OSError where it cannot be
  read."""
  return hashlib.file_digest(stream, 'sha256').hexdigest()


def file_digest(path: str | os.PathLike) -> str:
  """64 hex digits of a file, or of all files below a folder and their names, in the order of their
  names.

  Raises:
    UserError: there is no such file.
  """
  path = pathlib.Path(path)
  try:
    if not path.is_dir():
      with open(path, 'rb') as stream:
        return stream_digest(stream)
    found = hashlib.sha256()
    for file in sorted(p for p in path.rglob('*') if p.is_file()):
      found.update(str(file.relative_to(path)).encode())
      with open(file, 'rb') as stream:
        while block := stream.read(2**20):
          found.update(block)
    return found.hexdigest()
  except FileNotFoundError:
    raise UserError(f'no such file: {path}') from None


def arrays_digest(arrays: 'Iterable[np.ndarray]', *, about: str = '') -> str:
  """64 hex digits of the numbers of arrays, one array after the other, and of a text that stands
  before them.

  Shapes and types are not part of it: where they matter, `about` tells them. A clip [T, H, W, C] is
  its frames, and is digested frame by frame, so that no second copy of it is made.
  """
  found = hashlib.sha256(about.encode())
  for array in arrays:
    found.update(array.tobytes())
  return found.hexdigest()


def key_of(*parts) -> str:
  """24 hex digits of all that a piece of work depends on; `parts` are ready for JSON."""
  return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


class RememberedDigests:
  """SHA-256 of files, remembered in a file by size and time of change, so that a restart reads
  nothing twice.

  Args:
    path: where they are remembered, a JSON object a line, paths by their digests; it is made with
      the first one.
  """

  def __init__(self, path: pathlib.Path):
    self._path, self._known = path, {}
    if path.is_file():
      for line in path.read_text(errors='replace').splitlines():
        with contextlib.suppress(
          ValueError, KeyError, TypeError
        ):  # a line that was cut off by a kill
          entry = json.loads(line)
          self._known[entry['path'], entry['size'], entry['time']] = entry['sha256']

  def __call__(self, path: pathlib.Path) -> str:
    """UserError if the file is missing or empty."""
    try:
      stat = path.stat()
    except OSError as error:
      raise UserError(f'{str(path)!r} cannot be read ({error.strerror})') from None
    if stat.st_size == 0:
      raise UserError(f'{str(path)!r} is empty (0 bytes); record or export it again')
    entry = key_of(str(path.absolute())), stat.st_size, stat.st_mtime_ns
    if entry not in self._known:
      self._known[entry] = file_digest(path)
      self._path.parent.mkdir(parents=True, exist_ok=True)
      with open(self._path, 'a') as stream:
        stream.write(
          '\n'
          + json.dumps(dict(path=entry[0], size=entry[1], time=entry[2], sha256=self._known[entry]))
        )
    return self._known[entry]
