"""Pictures and clips in a zip archive.

An archive comes from anywhere, so its table of contents is read and judged before anything is
unpacked. Files get names of our own below the folder that they are unpacked into; nothing that the
archive says decides on a place on the disk.

Format: PKWARE, .ZIP File Format Specification (APPNOTE), sec. 4.
"""

import dataclasses
import os
import pathlib
import shutil
import stat
import zipfile
import zlib

from exp_jax.errors import UserError, one_line
from exp_jax.files.atomic import check_room
from exp_jax.media.foreign.limits import setting

MAX_FILES = 10_000
MAX_ARCHIVE_MB = 20_000
_MOST_RATIO = 100  # of unpacked to packed; films and photographs are packed already
_UNCHECKED = 256 << 20  # bytes that an archive of any length may unpack to
_MOST_TABLE = 1 << 24  # bytes of the table of contents
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclasses.dataclass(frozen=True)
class Packed:
  """A file in an archive.

  Attributes:
    name: as the archive has it, folders included.
    info: its entry in the table of contents.
  """

  name: str
  info: zipfile.ZipInfo


def packed_files(
  archive: pathlib.Path, suffixes: tuple[str, ...]
) -> tuple[list[Packed], list[str]]:
  """The files of an archive whose names end in `suffixes`, in the order of their names, and the
  names of those that are passed over. Nothing is unpacked.

  Hidden files and what macOS adds (__MACOSX) are passed over.

  Raises:
    UserError: it is no zip archive, damaged, or encrypted; an entry is a link, or has a place
      outside of the archive; or it holds or claims too much.
  """
  try:
    # the only way to bound the table before all of it is taken apart
    with open(archive, 'rb') as stream:
      end = zipfile._EndRecData(stream)
    if end and end[5] > _MOST_TABLE:
      raise UserError(f'{str(archive)!r} holds too many files: pack them into several archives')
    with zipfile.ZipFile(archive) as opened:
      entries = [info for info in opened.infolist() if not info.is_dir()]
  except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(
      f'{str(archive)!r} is no zip archive, or a damaged one; pack or fetch it again'
    ) from None
  taken, passed = [], []
  for info in entries:
    _check_entry(archive, info)
    parts = info.filename.replace('\\', '/').split('/')
    hidden = any(part.startswith('.') or part == '__MACOSX' for part in parts)
    fits = not hidden and pathlib.PurePosixPath(info.filename).suffix.lower() in suffixes
    (taken if fits else passed).append(info)
  _check_amount(archive, taken)
  names = [info.filename for info in taken]
  if len(set(names)) < len(names):
    twice = one_line(next(name for name in names if names.count(name) > 1))[:80]
    raise UserError(f'{str(archive)!r} holds {twice!r} twice; pack it again')
  taken.sort(key=lambda info: info.filename)
  return [Packed(info.filename, info) for info in taken], [info.filename for info in passed]


def _check_entry(archive: pathlib.Path, info: zipfile.ZipInfo) -> None:
  name = one_line(info.filename)[:80]
  parts = info.filename.replace('\\', '/').split('/')
  if info.filename.startswith(('/', '\\')) or '..' in parts or parts[0].endswith(':'):
    raise UserError(
      f'{str(archive)!r} holds {name!r}, a place outside of the archive; unpack nothing of it, and '
      'pack the pictures again'
    )
  kind = stat.S_IFMT(info.external_attr >> 16)
  if kind not in (0, stat.S_IFREG):
    raise UserError(
      f'{str(archive)!r} holds {name!r}, which is a link or a device and no file; pack what it leads to'
    )
  if info.flag_bits & 1:
    raise UserError(f'{str(archive)!r} is encrypted; unpack it and give the folder')


def _check_amount(archive: pathlib.Path, taken: list[zipfile.ZipInfo]) -> None:
  if len(taken) > MAX_FILES:
    raise UserError(
      f'{str(archive)!r} holds {len(taken):,} pictures and clips, more than the limit of '
      f'{MAX_FILES:,}; pack them into several archives'
    )
  total, length = sum(info.file_size for info in taken), os.path.getsize(archive)
  if total > max(_UNCHECKED, _MOST_RATIO * length):
    raise UserError(
      f'{str(archive)!r} has {length:,} bytes and claims to unpack to {total:,}; no pictures and '
      'clips do that: unpack it and give the folder, if you trust it'
    )
  most = setting('EXP_JAX_MAX_ARCHIVE_MB', MAX_ARCHIVE_MB, 10**9) * 10**6
  if total > most:
    raise UserError(
      f'{str(archive)!r} unpacks to {total:,} bytes, more than the limit of {most:,}; give the '
      'unpacked folder, or set EXP_JAX_MAX_ARCHIVE_MB'
    )


def unpack(
  archive: pathlib.Path, files: list[Packed], folder: pathlib.Path
) -> list[pathlib.Path | str]:
  """Unpacks files of an archive, each into a numbered folder of its own, which keeps its name.

  Args:
    folder: is made; what lies there already is left as it is.

  Returns:
    For each file its path, or what is wrong with it.

  Raises:
    UserError: the disk has no room for them.
  """
  folder.mkdir(parents=True, exist_ok=True)
  check_room(folder, sum(each.info.file_size for each in files))
  found = []
  with zipfile.ZipFile(archive) as opened:
    for number, each in enumerate(files):
      path = folder / f'{number:05d}' / _safe(each.name)
      path.parent.mkdir()
      try:
        _write(opened, each.info, path)
        found.append(path)
      except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError):
        path.unlink(missing_ok=True)
        found.append(f'{one_line(each.name)!r} is damaged in the archive; pack it again')
  return found


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: pathlib.Path) -> None:
  if info.compress_type not in _PACKINGS:
    raise ValueError(f'packed by method {info.compress_type}')
  with opened.open(info) as packed, open(path, 'xb') as stream:
    shutil.copyfileobj(packed, stream, 1 << 20)  # gives no more bytes than the table says
  if path.stat().st_size != info.file_size:
    raise ValueError('shorter than the table of contents says')


def _safe(name: str) -> str:
  """A name for a file on any disk: the last part of an entry's name, of 150 bytes at most."""
  plain = name.replace('\\', '/').rsplit('/', 1)[-1]
  plain = ''.join(c if c.isprintable() and c not in '<>:"|?*' else '_' for c in plain)
  stem, suffix = os.path.splitext(plain)
  return os.fsencode(stem)[:150].decode(errors='ignore') + suffix
