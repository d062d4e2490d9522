"""Locks between processes, which end with their process however it ends.

They are `flock`s on small files. File systems without it (Lustre without its option, some NFS and
FUSE mounts) and Windows have none: then nothing is locked, and a warning says so.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

from exp_jax.errors import UserError

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def try_lock(handle: int) -> bool | None:
  """Locks an open file or folder for this process.

  Returns:
    True: it is ours until the descriptor is closed. False: another descriptor has it. None: there
      are no locks here.
  """
  try:
    import fcntl
  except ImportError:
    return None
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True
  except OSError as error:
    return False if error.errno in _HELD else None


def is_still(handle: int, path: str | os.PathLike) -> bool:
  """Whether a path still names the open file: not if somebody has renamed or removed it
  meanwhile."""
  try:
    return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
  except OSError:
    return False


def _warn(words: str) -> None:
  print(f'warning: {words}', file=sys.stderr, flush=True)


@contextlib.contextmanager
def only_one(
  output: str | os.PathLike, *, folder: bool, warn: Callable[[str], None] = _warn
) -> Iterator[None]:
  """Holds the right to write an output; it is given back at the end of the block, or with the
  process.

  Args:
    output: a file or folder that need not exist; the folder that it lies in is made.
    folder: whether it is a folder that several runs could fill: the lock lies inside. Else it lies
      beside, as a hidden file.
    warn: called where there are no locks.

  Raises:
    UserError: another process has that right now.
  """
  output = pathlib.Path(output)
  place = output if folder else output.parent
  place.mkdir(parents=True, exist_ok=True)
  mark = hashlib.sha256(os.fsencode(output.name)).hexdigest()[:8]
  path = place / ('.lock' if folder else f'.{mark}.lock')
  while True:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    locked = try_lock(handle)
    if locked and not is_still(
      handle, path
    ):  # its last owner took it away between the two lines above
      os.close(handle)
      continue
    break
  try:
    if locked is False:
      raise UserError(f'another run writes {str(output)!r}: wait for it, or choose another output')
    if locked is None:
      warn(
        f'the file system of {str(place)!r} has no locks: do not start a second run with this '
        'output'
      )
    yield
  finally:
    if locked is not False:
      path.unlink(missing_ok=True)
    os.close(handle)
