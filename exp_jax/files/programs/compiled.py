"""Compiled programs that outlive their process, so that a command compiles once and not at every
start.

JAX's persistent compilation cache, in `.compiled` of the home (see `resources`), a folder for each
kind of machine and version. A program from there is run as it is, so that the folder is its owner's
alone, and every entry has a digest beside it: what has none, as after a kill, or another one is
removed before JAX looks. EXP_JAX_COMPILED names another folder, or 'none'. Where JAX's own
JAX_COMPILATION_CACHE_DIR is set it stands, and nothing here is done.
"""

import atexit
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import stat
import sys

from exp_jax.files.digests import file_digest
from exp_jax.files.resources import home

FOLDER, NONE = '.compiled', 'none'
LARGEST = 1 << 30  # bytes of all entries; the oldest go first
_ENTRY, TRACED, _DIGEST = '-cache', '-traced', '.sha256'  # TRACED: see `files.programs.traced`
_OURS = 'JAX_COMPILATION_CACHE_DIR'
_OFF = ('0', 'false', 'no', 'off')


def keep_compiled() -> pathlib.Path | None:
  """Makes JAX keep what it compiles, in this process and in those that it starts.

  Returns:
    The folder; None where a choice of the user stands, where nothing can be written, or where the
    folder is not the user's alone.
  """
  named = os.environ.get('EXP_JAX_COMPILED', '')
  if (
    named == NONE
    or os.environ.get(_OURS)
    or os.environ.get('JAX_ENABLE_COMPILATION_CACHE', '').lower() in _OFF
  ):
    return None
  try:
    root = pathlib.Path(named).expanduser().absolute() if named else home() / FOLDER
    folder = _own_folder(root / _machine())
    if folder is None:
      return None
    remove_unverified(folder)
    remove_oldest(root)
  except (
    OSError,
    RuntimeError,
    ValueError,
  ):  # a home that is full, read-only or not there costs time and nothing else
    return None
  os.environ |= {
    _OURS: str(folder),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'EXP_JAX_TRACED': str(folder),
  }
  if 'jax' in sys.modules:  # it has read its environment
    sys.modules['jax'].config.update('jax_compilation_cache_dir', str(folder))
    sys.modules['jax'].config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  atexit.register(seal, folder)
  return folder


def _machine() -> str:
  """A name for what compiled programs depend on beside the program: a home may be shared by
  machines."""
  try:
    flags = next(
      (line for line in open('/proc/cpuinfo') if line.startswith(('flags', 'Features'))), ''
    )
  except OSError:
    flags = platform.processor()
  parts = [platform.system(), platform.machine(), flags, os.environ.get('XLA_FLAGS', '')]
  for package in ('jax', 'jaxlib'):
    try:
      parts.append(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
      parts.append('')
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]


def _own_folder(folder: pathlib.Path) -> pathlib.Path | None:
  """The folder, made if need be; None if it is somebody else's, a link, or open to others."""
  for each in (folder.parent, folder):
    each.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = each.lstat()
    if (
      not stat.S_ISDIR(found.st_mode)
      or hasattr(os, 'getuid')
      and (found.st_uid != os.getuid() or found.st_mode & 0o077)
    ):
      return None
  return folder


def digest_beside(entry: pathlib.Path) -> pathlib.Path:
  """The file that holds the digest of an entry."""
  return entry.with_name(entry.name + _DIGEST)


def remove_unverified(folder: pathlib.Path) -> None:
  """Removes every entry whose bytes are not those of its digest, and digests without an entry."""
  for entry in folder.glob(f'*{_ENTRY}'):
    beside = digest_beside(entry)
    try:
      if beside.read_text() == file_digest(entry):
        continue
    except (OSError, ValueError):  # another process was quicker, or it is no digest
      pass
    entry.unlink(missing_ok=True)
    beside.unlink(missing_ok=True)
  for beside in folder.glob(f'*{_ENTRY}{_DIGEST}'):
    if not beside.with_name(beside.name.removesuffix(_DIGEST)).exists():
      beside.unlink(missing_ok=True)


def remove_oldest(root: pathlib.Path, largest: int = LARGEST) -> None:
  """Removes the oldest entries of all folders of `root` until they are at most `largest` bytes
  together."""
  total = 0
  for entry in sorted(
    (*root.glob(f'*/*{_ENTRY}'), *root.glob(f'*/*{TRACED}')),
    key=lambda path: path.stat().st_mtime,
    reverse=True,
  ):
    total += entry.stat().st_size
    if total > largest:
      entry.unlink(missing_ok=True)
      digest_beside(entry).unlink(missing_ok=True)


def seal(folder: pathlib.Path) -> None:
  """Puts a digest beside every entry that has none."""
  try:
    for entry in folder.glob(f'*{_ENTRY}'):
      beside = digest_beside(entry)
      if not beside.exists():
        beside.write_text(file_digest(entry))
  except (OSError, ValueError):  # what is not sealed is compiled again
    pass
