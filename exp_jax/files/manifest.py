"""Digest manifests: what a directory held when it was finished, checked before anything is
believed.

  DIR/manifest.json   size and SHA-256 of every file, written after all of them
  DIR/commit.json     SHA-256 of the manifest, written last: the mark of completion

Orbax restores flipped bits without a word, and so do safetensors; here every byte is covered, the
manifest by the mark and the mark by its own form, which leaves no byte free.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

from exp_jax.errors import UserError
from exp_jax.files import atomic
from exp_jax.files.digests import stream_digest

MANIFEST, COMMIT = 'manifest.json', 'commit.json'
_READERS = 8  # hashlib lets go of the interpreter, so that files are digested side by side


class Damaged(UserError):
  """Stored data is not as it was written. The message names the file."""


def _size_and_digest(path: pathlib.Path) -> tuple[int, str]:
  """Of a file that is first brought to the disk."""
  with open(path, 'rb') as file:
    os.fsync(file.fileno())
    value = stream_digest(file)
    return file.tell(), value


def _mark(manifest: bytes) -> str:
  return json.dumps({'manifest_sha256': hashlib.sha256(manifest).hexdigest()}) + '\n'


def write_manifest(directory: pathlib.Path, *, without: tuple[str, ...] = ()) -> None:
  """Writes the manifest of every file below `directory` (but names in `without`), then the mark.

  Files may be added beside them later."""
  paths = [
    p
    for p in sorted(directory.rglob('*'))
    if p.is_file() and p.name not in (MANIFEST, COMMIT, *without) and not atomic.is_partial(p)
  ]
  with ThreadPoolExecutor(_READERS) as pool:
    found = list(pool.map(_size_and_digest, paths))
  files = {str(p.relative_to(directory)): pair for p, pair in zip(paths, found)}
  text = json.dumps({'files': files}, indent=1) + '\n'
  atomic.write_text(directory / MANIFEST, text)
  atomic.write_text(directory / COMMIT, _mark(text.encode()))


@contextlib.contextmanager
def new_folder(output: str | os.PathLike):
  """Yields a temporary folder that takes the place of `output`, with a manifest of digests, if the
  block succeeds.

  Raises:
    UserError: if `output` exists.
  """
  output = pathlib.Path(output)
  output.parent.mkdir(parents=True, exist_ok=True)
  with atomic.new_folder(output) as partial:
    yield partial
    write_manifest(partial)


def seal(directory: str | os.PathLike) -> str:
  """The SHA-256 of the manifest, which stands for every byte of a verified directory."""
  return json.loads((pathlib.Path(directory) / COMMIT).read_text())['manifest_sha256']


def is_sealed(directory: pathlib.Path) -> bool:
  """Whether the mark is there; what it promises is not checked here."""
  return (directory / COMMIT).is_file()


def problem(directory: pathlib.Path, *, sizes_only: bool = False) -> str | None:
  """What is wrong with a directory, in words that name the file, or None if every byte is as it was
  written.

  `sizes_only` looks at no content but the manifest's: cheap, and blind to flipped bits.
  """
  try:
    manifest = (directory / MANIFEST).read_bytes()
    mark = (directory / COMMIT).read_bytes()
  except FileNotFoundError as error:
    return f'{pathlib.Path(error.filename).name} is missing, as of a save that was never finished'
  except OSError as error:
    return f'{pathlib.Path(error.filename).name} cannot be read ({error.strerror})'
  if mark != _mark(manifest).encode():
    return f'{MANIFEST} or {COMMIT} is damaged (they do not belong together)'
  files = json.loads(manifest)['files']  # its digest was right: so is its form

  def wrong(name: str, check) -> str | None:
    try:
      return check(directory / name, *files[name])
    except FileNotFoundError:
      return f'{name} is missing'
    except OSError as error:
      return f'{name} cannot be read ({error.strerror})'

  def size_differs(path, size, _):
    found = path.stat().st_size
    return (
      f'{path.relative_to(directory)} is damaged ({found} bytes instead of {size})'
      if found != size
      else None
    )

  def digest_differs(path, _, expected):
    with open(path, 'rb') as file:
      found = stream_digest(file)
    return (
      f'{path.relative_to(directory)} is damaged (its SHA-256 does not match)'
      if found != expected
      else None
    )

  for check in (size_differs,) if sizes_only else (size_differs, digest_differs):
    with ThreadPoolExecutor(_READERS) as pool:
      found = next(filter(None, pool.map(functools.partial(wrong, check=check), files)), None)
    if found:
      return found
  return None
