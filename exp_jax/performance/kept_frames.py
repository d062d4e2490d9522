"""Frames that were drawn before an interruption: the same command goes on after them.

FOLDER/<key>/<first>.frames   a few frames, the first of which has that number: 32 bytes of SHA-256, and a record
                              (`files.record_bytes`) of `frames`, uint8 [n, H, W, 3], lossless

The key tells all that the pixels depend on, so that frames of two settings never meet in one film.
Letters: T frames.
"""

import contextlib
import dataclasses
import hashlib
import pathlib
import shutil
import struct
from collections.abc import Callable, Iterator

import numpy as np

from exp_jax.errors import is_full_disk
from exp_jax.files.atomic import remove_folder, replacing
from exp_jax.files.digests import key_of
from exp_jax.files.record_bytes import pack, unpack
from exp_jax.media.foreign.limits import setting

MAX_KEPT_MB = 4_000
_ROOM = 1 << 30  # bytes of the disk that are left to the result
_STEP = 4  # a part's frames are a multiple: painters on accelerators draw so many at once
_PART_BYTES = 16 << 20
_DIGEST = hashlib.sha256().digest_size


class KeptFrames:
  """The frames of one result, kept in parts while they are drawn.

  Attributes:
    known: how many frames were there already; set by `over`.
  """

  def __init__(self, folder: pathlib.Path, key: str, warn: Callable[[str], None]):
    """Of a result.

    Args:
      folder: of kept frames; those of other keys there are removed, since only one result is under
        way.
      key: of `content_key`.
      warn: called where nothing more can be kept.

    Raises:
      UserError: EXP_JAX_MAX_KEPT_MB is no number.
    """
    self._folder, self._warn, self.known = folder / key, warn, 0
    self._room = setting('EXP_JAX_MAX_KEPT_MB', MAX_KEPT_MB, 10**9) * 10**6
    for other in folder.iterdir() if folder.is_dir() else ():
      if other.name != key and other.is_dir():
        remove_folder(other)

  def over(self, count: int, draw: Callable[[int], Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """Yields `count` frames, uint8 [H, W, 3]: those that are kept, then what `draw` gives.

    Args:
      draw: is given the number of the frame to begin with.
    """
    first = 0
    while first < count and (part := self._read(first)) is not None:
      self._room -= self._path(first).stat().st_size
      yield from part[: count - first]
      first += len(part)
    self.known = first = min(first, count)
    if first == count:
      return
    waiting = []
    for frame in draw(first):
      yield frame
      waiting.append(frame)
      if len(waiting) == _at_once(frame):
        self._keep(first, waiting)
        first, waiting = first + len(waiting), []

  def forget(self) -> None:
    """Removes them: the result is there."""
    remove_folder(self._folder)

  def _path(self, first: int) -> pathlib.Path:
    return self._folder / f'{first:08d}.frames'

  def _read(self, first: int) -> np.ndarray | None:
    with contextlib.suppress(OSError):
      return read_part(self._path(first))
    return None

  def _keep(self, first: int, frames: list[np.ndarray]) -> None:
    if self._room <= 0:
      return
    content = pack({'frames': np.stack(frames)})
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      fits = self._room - len(content) > 0
      if fits and shutil.disk_usage(self._folder).free > _ROOM + len(content):
        with replacing(self._path(first)) as partial:
          partial.write_bytes(hashlib.sha256(content).digest() + content)
        self._room -= len(content)
        return
    except OSError as error:
      if not is_full_disk(error):
        raise
    self._room = 0
    self._warn(
      f'frames are kept for an interruption up to number {first}; there is no room for more, or '
      'EXP_JAX_MAX_KEPT_MB forbids it'
    )


def _at_once(frame: np.ndarray) -> int:
  return _STEP * max(1, min(4, _PART_BYTES // (_STEP * frame.nbytes)))


def read_part(path: pathlib.Path) -> np.ndarray | None:
  """Frames uint8 [n, H, W, 3] of a file; None where it is damaged. OSError: it cannot be read."""
  content = path.read_bytes()
  if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
    return None
  try:
    frames = unpack(content[_DIGEST:]).get('frames')
  except (ValueError, struct.error):
    return None
  whole = getattr(frames, 'dtype', None) == np.uint8 and frames.ndim == 4 and len(frames)
  return frames if whole else None


def content_key(*parts) -> str:
  """24 hex digits of arrays, records of arrays, and of what is ready for JSON.

  The versions of this program, of JAX and the kind of device are part of it: another one may round
  otherwise.
  """
  import jax

  from exp_jax import __version__

  found = hashlib.sha256()
  for each in map(_described, parts):
    found.update(each)
  return key_of(found.hexdigest(), __version__, jax.__version__, jax.devices()[0].device_kind)


def _described(value) -> bytes:
  if hasattr(value, 'dtype') and hasattr(value, 'shape'):
    array = np.ascontiguousarray(value)
    head = f'{array.dtype.str}{array.shape}'.encode()
    return hashlib.sha256(head + array.tobytes()).digest()
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = dataclasses.fields(value)
    return _described([[field.name, getattr(value, field.name)] for field in fields])
  if isinstance(value, dict):
    return _described([[str(name), value[name]] for name in sorted(value, key=str)])
  if isinstance(value, (list, tuple)):
    return hashlib.sha256(b'[' + b''.join(map(_described, value))).digest()
  if value is None or isinstance(value, (str, int, float, bool, pathlib.PurePath)):
    return hashlib.sha256(f'{type(value).__name__} {value!r}'.encode()).digest()
  raise TypeError(f'{type(value).__qualname__} has no digest')
