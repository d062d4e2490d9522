"""Digest manifests: what a directory held when it was finished, checked before anything is believed.

Orbax restores flipped bits without a word; a manifest of SHA-256 digests, written last and atomically, is
both the proof of content and the mark of completion: a directory without one was never finished.
"""

import hashlib
import json
import os
import pathlib

MANIFEST = 'manifest.json'


def digest(path: pathlib.Path) -> str:
  """SHA-256 of a file, read in pieces."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def write_atomically(path: pathlib.Path, text: str) -> None:
  """The whole text or nothing: a temporary neighbour, flushed to the disk, then renamed."""
  temporary = path.with_name(path.name + f'.{os.getpid()}.tmp')
  with open(temporary, 'w') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def write_manifest(directory: pathlib.Path) -> None:
  """Digests every file below `directory` into its manifest."""
  files = {str(p.relative_to(directory)): digest(p) for p in sorted(directory.rglob('*'))
           if p.is_file() and p.name != MANIFEST and not p.name.endswith('.tmp')}
  write_atomically(directory / MANIFEST, json.dumps({'sha256': files}, indent=1) + '\n')


def problem(directory: pathlib.Path) -> str | None:
  """What is wrong with a directory, in words, or None if every file is as it was written."""
  try:
    files = json.loads((directory / MANIFEST).read_text())['sha256']
  except FileNotFoundError:
    return 'it was never finished (no manifest)'
  except (ValueError, KeyError, TypeError, OSError):
    return f'{MANIFEST} is damaged'
  for name, expected in files.items():
    path = directory / name
    if not path.is_file():
      return f'{name} is missing'
    if digest(path) != expected:
      return f'{name} is damaged (its SHA-256 does not match)'
  return None
