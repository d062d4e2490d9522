"""Files and folders that appear under their name only when they are complete, and vanish from it at once.

Whatever is under way lies beside its place under a short name of the form `.XXXXXXXX.partial`, so that a name of 255 bytes
works too. After a failure nothing is left of it; only a kill leaves it behind, see `is_partial`.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from exp_jax.errors import UserError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary file beside `path`, same suffix, that takes its place if the block succeeds.

  After a failure an older file under that name stays as it was.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  suffix = path.suffix if len(os.fsencode(path.suffix)) < 20 else ''
  handle, name = tempfile.mkstemp(dir=path.parent, prefix='.', suffix=f'.partial{suffix}')
  os.close(handle)
  partial = pathlib.Path(name)
  try:
    yield partial
    with open(partial, 'rb') as stream:
      os.fsync(stream.fileno())
    partial.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner may read
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a UTF-8 file, whole or not at all."""
  with replacing(path) as partial:
    partial.write_text(text, encoding='utf8')


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary folder beside `path` that takes its place if the block succeeds.

  Raises:
    UserError: `path` exists.
    FileNotFoundError: there is no folder that it could lie in.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise UserError(f'{path} exists already: choose another name or move it away')
  partial = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix='.', suffix='.partial'))
  try:
    yield partial
    partial.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner may enter
    os.replace(partial, path)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def remove_folder(path: pathlib.Path) -> None:
  """Takes a folder away, if there is one: its name is free at once, also after a kill halfway."""
  if path.exists():
    aside = path.with_name(f'.{path.name[:100]}.partial')  # a rename to a fixed name works on a full disk too
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def is_partial(path: pathlib.Path) -> bool:
  """Whether the name is one of something unfinished: somebody is at work on it, or was killed."""
  return path.name.startswith('.') and '.partial' in path.name


def _umask() -> int:
  umask = os.umask(0)
  os.umask(umask)
  return umask
