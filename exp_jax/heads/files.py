"""Numeric npz files, read without pickle and written whole or not at all."""

import contextlib
import os
import pathlib
import tempfile
import zipfile
import zlib

import numpy as np

from exp_jax.errors import UserError


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """All arrays of an npz file.

  Raises:
    UserError: the file is missing, is not an npz, is truncated, or holds pickled objects.
  """
  path = pathlib.Path(path)
  try:
    with np.load(path, allow_pickle=False) as found:
      if not isinstance(found, np.lib.npyio.NpzFile):
        raise UserError(f'{path} is a single array, not an npz file')
      return {key: found[key] for key in found.files}
  except FileNotFoundError:
    raise UserError(f'no such file: {path}') from None
  except IsADirectoryError:
    raise UserError(f'{path} is a folder, an npz file is needed') from None
  except (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    NotImplementedError,
    SyntaxError,
  ) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(
      f'{path} cannot be read: it is damaged, not an npz file, or holds pickled objects '
      f'({type(error).__name__}: {error})'
    ) from None


@contextlib.contextmanager
def whole_or_absent(path: str | os.PathLike):
  """Yields the name of a temporary file beside `path` that takes its place if the block succeeds.

  After a crash or on a full disk the old file is left, or none, never half of one.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(
    dir=path.parent, prefix=f'.{path.stem}.', suffix=f'.tmp{path.suffix}'
  )
  os.close(handle)
  try:
    yield temporary
    with open(temporary, 'rb') as stream:
      os.fsync(stream.fileno())
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner may read
    os.replace(temporary, path)
  except BaseException:
    pathlib.Path(temporary).unlink(missing_ok=True)
    raise


def write_npz(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
  """Writes a compressed npz, whole or not at all."""
  for key, value in arrays.items():
    if np.asarray(value).dtype.hasobject:
      raise ValueError(f'{key} is an array of objects, which npz would pickle')
  with whole_or_absent(path) as temporary, open(temporary, 'wb') as stream:
    np.savez_compressed(stream, **arrays)
