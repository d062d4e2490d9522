"""Which clips are prepared: a folder, a list file or a TFDS dataset as one list of items, the same
on every host.

  folder    all videos below it; a clip's id is its path without the suffix, '/' as '__'
  .txt      a path a line, relative to the file; blank lines and lines that begin with # are passed over
  .csv      with a header: path, and if wanted clip_id, subject_id, begin, end (seconds)
  .jsonl    the same keys, an object a line
  dataset   a folder that a builder of datasets/ left, with its split; no TensorFlow is needed

An item that cannot be used is kept with the reason, so that a report names it.
"""

import contextlib
import csv
import dataclasses
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.text_lists import list_text, listed_lines, listed_path
from exp_jax.media.foreign.animation import is_animation
from exp_jax.media.formats import CLIP_SUFFIXES, PICTURE_SUFFIXES

_BESIDE = (
  '.json',
  '.jsonl',
  '.txt',
  '.csv',
  '.npz',
  '.npy',
  '.md',
  '.srt',
  '.vtt',
  '.wav',
  '.m4a',
  '.mp3',
  '.sha256',
)
_COLUMNS = ('path', 'clip_id', 'subject_id', 'begin', 'end')


@dataclasses.dataclass(frozen=True)
class Item:
  """A clip to prepare: where it is, whose it is, which part of it; `wrong` says why it cannot be
  used."""

  clip_id: str
  subject_id: str
  name: str  # as the user knows it, for messages and the report
  path: pathlib.Path | None = None
  begin: float = 0.0  # seconds from the first frame
  end: float = math.inf
  wrong: str = ''
  row: int = -1  # of a dataset
  source: object = dataclasses.field(default=None, compare=False)

  @contextlib.contextmanager
  def files(self) -> Iterator[dict[str, pathlib.Path]]:
    """Paths of 'video' and, of a dataset that has them, 'truth' (a subject file) and 'maps' (with a
    matte)."""
    if self.path is not None:
      yield {'video': self.path}
      return
    with tempfile.TemporaryDirectory(prefix='exp_jax_clip_') as folder:
      found = {}
      for key, content in contents(self.source[self.row]).items():
        found[key] = pathlib.Path(folder) / (
          f'clip{_suffix(content)}' if key == 'video' else f'{key}.npz'
        )
        found[key].write_bytes(content)
      yield found


def contents(record: dict) -> dict[str, bytes]:
  """The files of a dataset's record; empty ones count as absent."""
  files = {key: record[key] for key in ('video', 'truth', 'maps') if key in record}
  files = {
    key: value if isinstance(value, bytes) else bytes(np.asarray(value).item())
    for key, value in files.items()
  }
  return {key: value for key, value in files.items() if value}


def _suffix(content: bytes) -> str:
  return {b'\x1aE\xdf\xa3': '.mkv', b'RIFF': '.avi'}.get(content[:4], '.mp4')


def items_of(
  clips: pathlib.Path, *, people: str = 'clip', skip: pathlib.Path | None = None
) -> list[Item]:
  """All clips of a folder or list file, sorted by their ids.

  Args:
    people: 'clip': every clip is another person; 'folder': the first folder below `clips` names the
      person.
    skip: a folder below `clips` that is not looked into (the output).

  Raises:
    UserError: nothing there, two clips of one id, or a list that cannot be read.
  """
  if clips.is_file():
    items = _of_list(clips)
  else:
    items = _of_folder(clips, people, skip) if clips.is_dir() else []
  if not items:
    raise UserError(
      f'no videos in {str(clips)!r}; give a folder of {", ".join(CLIP_SUFFIXES[:5])} files or a '
      'list of them'
    )
  items.sort(key=lambda item: item.clip_id)
  for one, other in zip(items, items[1:]):
    if one.clip_id == other.clip_id:
      raise UserError(
        f'two clips in {str(clips)!r} are called {one.clip_id!r}; rename one of them, or give a '
        'list with a '
        'column clip_id'
      )
  return items


def _of_folder(folder, people, skip):
  items = []
  for path in sorted(folder.rglob('*')):
    inside = path.relative_to(folder)
    if any(part.startswith('.') for part in inside.parts) or not path.is_file():
      continue
    if skip is not None and path.is_relative_to(skip):
      continue
    suffix = path.suffix.lower()
    if suffix in _BESIDE:
      continue
    wrong = _wrong_kind(path)
    clip_id = '__'.join(inside.with_suffix('').parts)
    person = inside.parts[0] if people == 'folder' and len(inside.parts) > 1 else clip_id
    items.append(Item(clip_id, person, os.fspath(inside), path, wrong=wrong))
  # A stranger's file must not take the id of a clip.
  clips = {item.clip_id for item in items if not item.wrong}
  return [
    dataclasses.replace(item, clip_id=item.name) if item.wrong and item.clip_id in clips else item
    for item in items
  ]


def _wrong_kind(path: pathlib.Path) -> str:
  """Why a file is no clip, '' if it is one: by its name, but an animated picture is one by its
  content."""
  suffix = path.suffix.lower()
  if suffix in CLIP_SUFFIXES or (suffix in PICTURE_SUFFIXES and is_animation(path)):
    return ''
  if suffix in PICTURE_SUFFIXES:
    return 'it is a photograph by its name; clips are prepared'
  return f'its suffix {path.suffix!r} is not that of a video; rename it to what it is'


def _of_list(path):
  suffix = path.suffix.lower()
  text = list_text(path)
  if suffix == '.csv':
    reader = csv.DictReader(text.splitlines())
    rows, known = list(reader), reader.fieldnames or []
    if unknown := [name for name in known if name not in _COLUMNS]:
      raise UserError(f'{str(path)!r} has a column {unknown[0]!r}; known are {", ".join(_COLUMNS)}')
  elif suffix == '.jsonl':
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
      if line.strip():
        try:
          rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
          raise UserError(f'{str(path)!r}: line {number} is not a JSON object') from None
        if unknown := [name for name in rows[-1] if name not in _COLUMNS]:
          raise UserError(
            f'{str(path)!r}: line {number} has {unknown[0]!r}; known are {", ".join(_COLUMNS)}'
          )
  elif suffix == '.txt':
    rows = [{'path': line} for line in listed_lines(path)]
  else:
    raise UserError(f'{str(path)!r} is neither a folder nor a list; lists are .txt, .csv or .jsonl')
  items = []
  for number, row in enumerate(rows, 1):
    if not row.get('path'):
      raise UserError(f'{str(path)!r}: entry {number} has no path')
    file = listed_path(path, str(row['path']))
    clip_id = str(
      row.get('clip_id')
      or pathlib.PurePath(str(row['path'])).with_suffix('').as_posix().strip('/').replace('/', '__')
    )
    begin, end, wrong = _span(row)
    wrong = wrong or _wrong_kind(file)
    items.append(
      Item(
        clip_id, str(row.get('subject_id') or clip_id), str(row['path']), file, begin, end, wrong
      )
    )
  return items


def _span(row) -> tuple[float, float, str]:
  """begin, end, and what is wrong with them."""
  try:
    begin = float(row['begin']) if row.get('begin') not in (None, '') else 0.0
    end = float(row['end']) if row.get('end') not in (None, '') else math.inf
  except (TypeError, ValueError):
    return (
      0.0,
      math.inf,
      f'its times {row.get("begin")!r} and {row.get("end")!r} are not numbers of seconds',
    )
  if math.isnan(begin) or math.isnan(end) or begin < 0 or end <= begin:
    return 0.0, math.inf, f'its times {begin} to {end} s are no span of a clip'
  return begin, end, ''


def items_of_dataset(folder: pathlib.Path, split: str) -> list[Item]:
  """All records of a split of a TFDS dataset on disk; the items read their files when they are
  asked.

  Raises:
    UserError: no dataset there, no such split, or one without videos.
  """
  import tensorflow_datasets as tfds

  folders = (
    [info.parent for info in sorted(folder.rglob('dataset_info.json'))] if folder.is_dir() else []
  )
  if not folders:
    raise UserError(
      f'no dataset in {str(folder)!r}; build it with `python datasets/build.py NAME --manual_dir '
      '... --data_dir ...`'
    )
  if len(folders) > 1:
    raise UserError(
      f'{str(folder)!r} holds several datasets '
      f'({", ".join(str(f.relative_to(folder)) for f in folders[:4])}); '
      'name one of them'
    )
  builder = tfds.builder_from_directory(folders[0])
  if split not in builder.info.splits:
    raise UserError(
      f'{str(folder)!r} has no split {split!r}, but {", ".join(sorted(builder.info.splits))}'
    )
  if missing := [
    key for key in ('clip_id', 'subject_id', 'video') if key not in builder.info.features
  ]:
    raise UserError(f'{str(folder)!r} has no {missing[0]!r}; use a builder of datasets/')
  source = builder.as_data_source(split)
  text = lambda value: value.decode() if isinstance(value, bytes) else str(np.asarray(value))
  items = []
  for row in range(len(source)):
    record = source[row]
    clip_id = text(record['clip_id'])
    items.append(Item(clip_id, text(record['subject_id']), clip_id, row=row, source=source))
  return sorted(items, key=lambda item: item.clip_id)


def held_out_people(items: list[Item], count: int) -> set[str]:
  """The last `count` people in sorted order. UserError if that leaves nobody."""
  people = sorted({item.subject_id for item in items})
  if count >= len(people):
    raise UserError(
      f'{len(people)} people in {len(items)} clips cannot spare {count} held-out identities'
    )
  return set(people[len(people) - count :])


def share_of(items: list[Item], shard: int, num_shards: int) -> list[Item]:
  """Every num_shards-th item from number `shard` on. UserError unless 0 <= shard < num_shards."""
  if not 0 <= shard < num_shards:
    raise UserError(
      f'--shard must be in 0..{num_shards - 1} (--num_shards {num_shards}), got {shard}'
    )
  return items[shard::num_shards]
