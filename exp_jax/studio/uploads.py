"""Files that clients hand over: streamed to disk under a bound, judged by content, kept for a
stated time.

<folder>/uploads/<id>/about.json        name, what it is, when it goes
<folder>/uploads/<id>/file/<name>       as it came
<folder>/uploads/<id>/preview.png       a small picture of it
"""

import dataclasses
import json
import os
import pathlib
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import AsyncIterator

from exp_jax.errors import UserError, is_full_disk
from exp_jax.files.atomic import is_partial, new_folder, remove_folder, write_text
from exp_jax.studio.child import Child, Died, Silent
from exp_jax.studio.refusals import Refused, TooLarge, TooMany, Unknown, told
from exp_jax.studio.settings import Settings

_ID = re.compile(r'[0-9a-f]{32}')
_LONGEST_NAME = 100  # bytes
_INSPECTION = 120.0  # seconds


def new_id() -> str:
  """A name that cannot be guessed."""
  return secrets.token_hex(16)


def is_id(text: object) -> bool:
  """Whether it has the form of an id; only such text becomes part of a path."""
  return isinstance(text, str) and _ID.fullmatch(text) is not None


def safe_name(name: str) -> str:
  """A file name of a client as one that can do no harm: its last part, printable, without a leading
  dot, at most 100 bytes."""
  last = unicodedata.normalize('NFC', name).replace('\\', '/').rsplit('/', 1)[-1]
  clean = (
    ''.join(c if c.isprintable() and c not in '<>:"|?*' else '_' for c in last).strip().lstrip('.')
    or 'file'
  )
  stem, dot, suffix = clean.rpartition('.')
  if not dot or len(suffix.encode(errors='replace')) > 12:
    stem, dot, suffix = clean, '', ''
  room = _LONGEST_NAME - len((dot + suffix).encode(errors='replace'))
  return stem.encode(errors='replace')[:room].decode(errors='ignore') + dot + suffix


@dataclasses.dataclass(frozen=True)
class Upload:
  """A file that was handed over.

  Attributes:
    id: its name for clients.
    name: of the file, made harmless.
    size: bytes.
    found: what it is, see `worker.inspect`.
    expires: seconds since 1970.
  """

  id: str
  name: str
  size: int
  found: dict
  expires: float


class Uploads:
  """The uploads of a studio.

  Args:
    settings: limits.
    inspector: the process that looks into files.
  """

  def __init__(self, settings: Settings, inspector: Child):
    self._settings, self._inspector = settings, inspector
    self._folder = settings.place / 'uploads'
    self._folder.mkdir(parents=True, exist_ok=True)
    for left in filter(is_partial, self._folder.iterdir()):  # of a server that was killed
      remove_folder(left)

  @property
  def inspector_id(self) -> int | None:
    """The number of the process that looks into files, or None where none runs."""
    return self._inspector.process_id

  async def add(
    self, name: str, chunks: AsyncIterator[bytes], *, declared: int | None = None, in_thread=None
  ) -> Upload:
    """Takes a file in and looks into it.

    Args:
      name: as the client calls it.
      chunks: its bytes.
      declared: how many they are, where the client says so.
      in_thread: runs a function and its arguments in a thread; None: here.

    Raises:
      TooLarge: more bytes than allowed, or a longer clip.
      TooMany: the room for uploads is full.
      UserError: nothing that can be read.
    """
    if declared is not None and declared > self._settings.max_bytes:
      raise self._too_large()
    if sum(1 for _ in self._folder.iterdir()) >= self._settings.uploads:
      raise TooMany(
        f'{self._settings.uploads} uploads lie here, the limit of this server: delete some, or try '
        'again later'
      )
    upload, name = new_id(), safe_name(name)
    with _FullDisk(), new_folder(self._folder / upload) as partial:
      path = partial / 'file' / name
      path.parent.mkdir()
      size = 0
      with open(path, 'wb') as stream:
        async for chunk in chunks:
          size += len(chunk)
          if size > self._settings.max_bytes:
            raise self._too_large()
          stream.write(chunk)
      look = (self.inspected, path, partial / 'preview.png')
      found = await in_thread(*look) if in_thread else look[0](*look[1:])
      made = Upload(upload, name, size, found, time.time() + 3600 * self._settings.keep_hours)
      write_text(partial / 'about.json', json.dumps(dataclasses.asdict(made)))
    return made

  def inspected(self, path: pathlib.Path, preview: pathlib.Path) -> dict:
    """What a file is; another process looks, so that a file that kills its reader kills no server.

    Raises:
      TooLarge: a clip that is longer than allowed.
      UserError: the reader's own sentence.
    """
    inspector = self._inspector
    with inspector.turn:
      try:
        inspector.send({'do': 'inspect', 'path': str(path), 'preview': str(preview)})
        report = inspector.receive(_INSPECTION)
      except (Died, Silent) as error:
        inspector.end()
        how = (
          f'took longer than {_INSPECTION:.0f} s' if isinstance(error, Silent) else f'was {error}'
        )
        raise Refused(
          f'{path.name!r} cannot be read: the process that looked into it {how}; export it again, '
          'or give another '
          'file'
        ) from None
    if report['report'] != 'done':
      raise Refused(report['words'])
    found, limit = report['found'], self._settings
    if found['seconds'] is not None and found['seconds'] > limit.max_seconds:
      raise TooLarge(
        f'{path.name!r} lasts {found["seconds"]:.1f} s, this server takes clips of at most '
        f'{limit.max_seconds:g} s: '
        'cut it first'
      )
    if found['frames'] is not None and found['frames'] > limit.max_frames:
      raise TooLarge(
        f'{path.name!r} has {found["frames"]} frames, this server takes at most '
        f'{limit.max_frames}: cut it first'
      )
    return found

  def get(self, upload: object) -> Upload:
    """What is known of an upload.

    Raises:
      Unknown: there is none.
    """
    try:
      if not is_id(upload):
        raise ValueError
      return Upload(**json.loads((self._folder / upload / 'about.json').read_text(encoding='utf8')))
    except (OSError, ValueError, TypeError):
      raise Unknown(
        f'there is no upload {told(upload)[:40]!r}; it was deleted, or its time is over: upload '
        'the file again'
      ) from None

  def path(self, upload: object) -> pathlib.Path:
    """Its file; Unknown as of `get`."""
    about = self.get(upload)
    return self._folder / about.id / 'file' / about.name

  def preview(self, upload: object) -> pathlib.Path | None:
    """A small picture of it, None of a motion file; Unknown as of `get`."""
    path = self._folder / self.get(upload).id / 'preview.png'
    return path if path.is_file() else None

  def delete(self, upload: object) -> None:
    """Takes it away; Unknown as of `get`."""
    remove_folder(self._folder / self.get(upload).id)

  def sweep(self, now: float) -> int:
    """Deletes those whose time is over, and damaged ones; returns how many."""
    gone = 0
    for folder in list(self._folder.iterdir()):
      if is_partial(folder):
        continue
      try:
        over = self.get(folder.name).expires <= now
      except UserError:
        over = True
      if over:
        remove_folder(folder)
        gone += 1
    return gone

  def _too_large(self) -> TooLarge:
    return TooLarge(
      f'the file is larger than {self._settings.max_megabytes:g} MB, the limit of this server: '
      'make it smaller first'
    )


class _FullDisk:
  """Turns a full disk into a sentence that names no path."""

  def __enter__(self):
    return self

  def __exit__(self, kind, error, trace):
    if isinstance(error, OSError) and is_full_disk(error):
      raise TooMany(
        'the disk of the server is full: delete results or uploads, or try again later'
      ) from None


def link_or_copy(source: pathlib.Path, target: pathlib.Path) -> None:
  """The same file under a second name, by a hard link where the disk has those."""
  try:
    os.link(source, target)
  except OSError:
    shutil.copyfile(source, target)
