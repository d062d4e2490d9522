"""Outputs that appear under their name only when they are complete."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary name beside `path`, same suffix, that takes its place if the block succeeds.

  The temporary name is short, so that a name of 255 bytes works too. After a failure nothing is left, and an older file
  under that name stays as it was.
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
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(partial, 0o666 & ~umask)  # mkstemp makes files that only their owner may read
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
