"""Files and folders that appear under their name only when they are complete, and vanish from it at
once.

Whatever is under way lies beside its place under a short name of the form `.XXXXXXXX.partial`, so
that a name of 255 bytes works too. After a failure nothing is left of it. A kill leaves it behind;
as the name follows from the final one and its writer holds a lock on it, the next writer of the
same file or folder sees that nobody is at work on it, and takes its place.
"""

import contextlib
import hashlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator

from exp_jax.errors import UserError
from exp_jax.files.locks import is_still, try_lock

_TRIES = 100


def _names(path: pathlib.Path, ending: str) -> Iterator[pathlib.Path]:
  """Names beside a path for what is under way: first the one that follows from its name, then
  random ones."""
  yield path.with_name(f'.{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}{ending}')
  for _ in range(_TRIES):
    yield path.with_name(f'.{secrets.token_hex(4)}{ending}')


def _open_partial(path: pathlib.Path, ending: str) -> tuple[int, pathlib.Path]:
  """A new or abandoned file beside `path`, empty, locked where there are locks; with the rights
  that are usual."""
  for partial in _names(path, ending):
    there = partial.exists()
    try:
      handle = os.open(partial, os.O_RDWR | os.O_CREAT | getattr(os, 'O_NOFOLLOW', 0), 0o666)
    except (PermissionError, IsADirectoryError):
      if not there:
        raise
      continue  # somebody else's
    locked = try_lock(handle)
    if (locked or locked is None and not there) and is_still(handle, partial):
      os.ftruncate(handle, 0)
      return handle, partial
    os.close(handle)
  raise UserError(
    f'too many unfinished files lie beside {str(path)!r}: delete those that begin with a dot'
  )


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary file beside `path`, same suffix, that takes its place if the block succeeds.

  After a failure an older file under that name stays as it was.

  Raises:
    UserError: a folder has that name.
    OSError: nothing can be written there, also where the name is too long; it is raised before the
      block is entered.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.is_dir():
    raise UserError(f'{str(path)!r} is a folder: give the name of a file')
  with contextlib.suppress(FileNotFoundError):
    os.lstat(path)  # names that are too long, before the work and not after it
  suffix = path.suffix if len(os.fsencode(path.suffix)) < 20 else ''
  handle, partial = _open_partial(path, f'.partial{suffix}')
  try:
    yield partial
    with open(partial, 'rb') as stream:
      os.fsync(stream.fileno())
    os.replace(partial, path)
  finally:
    if is_still(handle, partial):  # after the rename the name may be another writer's
      partial.unlink(missing_ok=True)
    os.close(handle)


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
  handle, partial = _make_partial(path)
  try:
    yield partial
    os.replace(partial, path)
  finally:
    if handle is None or is_still(handle, partial):
      shutil.rmtree(partial, ignore_errors=True)
    if handle is not None:
      os.close(handle)


def _make_partial(path: pathlib.Path) -> tuple[int | None, pathlib.Path]:
  """A new or abandoned folder beside `path`, empty, locked where there are locks; with the rights
  that are usual."""
  for partial in _names(path, '.partial'):
    there = partial.exists()
    try:
      if not there:
        partial.mkdir()
      handle = os.open(partial, os.O_RDONLY) if hasattr(os, 'O_DIRECTORY') else None
    except (FileExistsError, PermissionError):
      if not there and not partial.exists():
        raise
      continue  # somebody else's, or another process was faster
    locked = None if handle is None else try_lock(handle)
    if (
      (locked or locked is None and not there)
      and (handle is None or is_still(handle, partial))
      and partial.is_dir()
    ):
      for left in partial.iterdir():
        shutil.rmtree(
          left, ignore_errors=True
        ) if left.is_dir() and not left.is_symlink() else left.unlink()
      return handle, partial
    if handle is not None:
      os.close(handle)
  raise UserError(
    f'too many unfinished folders lie beside {str(path)!r}: delete those that begin with a dot'
  )


def check_room(folder: pathlib.Path, size: int) -> None:
  """Raises UserError where `size` bytes do not fit on the disk of a folder that exists; what cannot
  be asked is let through."""
  try:
    free = shutil.disk_usage(folder).free
  except OSError:
    return
  if free < size:
    raise UserError(
      f'the disk is full at {str(folder)!r}: {free / 1e6:.2f} MB are free, {size / 1e6:.2f} MB are '
      'needed; make room '
      'or choose another output, then run the same command again'
    )


def remove_folder(path: pathlib.Path) -> None:
  """Takes a folder away, if there is one: its name is free at once, also after a kill halfway."""
  if path.exists():
    # a rename to a fixed name works on a full disk too
    aside = path.with_name(f'.{path.name[:100]}.partial')
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def is_partial(path: pathlib.Path) -> bool:
  """Whether the name is one of something unfinished: somebody is at work on it, or was killed."""
  return path.name.startswith('.') and '.partial' in path.name
