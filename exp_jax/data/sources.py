"""Training records: their keys, their form on disk, and random-access sources of them.

| key | array | meaning |
|---|---|---|
| video | uint8 [T, H, W, 3] | frames, RGB |
| normals | uint8 [T, H, W, 3] | driving maps: normals n / 2 + 1/2 (y up, z to the viewer), else 0 |
| matte | uint8 [T, H, W] | the head, 255 inside |
| reference | uint8 [H, W, 3] | a portrait of the same person |
| reference_normals | uint8 [H, W, 3] | its control map |
| clip_id, subject_id | str | where it comes from; splits are by subject |
| latents, reference_latents | float16 [F, h, w, C], [h, w, C] or [F, h, w, C] | optional codes of a VAE |
| previews, preview_references | uint8 [K, T, H, W, 3], int32 [K] | optional: textured previews, each drawn from that frame |
| preview_latents | float16 [K, F, h, w, C] | their codes |
| extras, clip | uint8 [T, H, W, E], float16 [257, 1280] | optional further control channels, CLIP tokens of the reference |

On disk a record is the bytes of an uncompressed npz (pickles refused) in an ArrayRecord file.
"""

import glob
import io
import os
import pathlib
import threading
import zipfile
from collections.abc import Iterable

import numpy as np

from exp_jax.data.synthetic import SyntheticClips
from exp_jax.errors import UserError


class DamagedRecord(UserError):
  """One record cannot be used; the message names it. Training skips and counts such records."""


NUM_DIMS = dict(video=4, normals=4, matte=3, reference=3, reference_normals=3)
STRINGS = ('clip_id', 'subject_id')
_ONE_READER, _ATTEMPTS = threading.Lock(), 5
OPTIONAL = ('latents', 'reference_latents', 'previews', 'preview_references', 'preview_latents',
            'extras', 'clip')


def check_record(record: dict) -> None:
  """Raises ValueError naming the first key that is missing, unknown or of another form."""
  for key in (*NUM_DIMS, *STRINGS):
    if key not in record:
      raise ValueError(f'the record lacks {key!r}')
  for key, value in record.items():
    if key in NUM_DIMS:
      if value.dtype != np.uint8 or value.ndim != NUM_DIMS[key]:
        raise ValueError(f'{key!r} is {value.dtype} with {value.ndim} axes, '
                         f'not uint8 with {NUM_DIMS[key]}')
    elif key not in (*STRINGS, *OPTIONAL):
      raise ValueError(f'the record has an unknown key {key!r}')
  T, H, W, _ = record['video'].shape
  for key, shape in dict(normals=(T, H, W, 3), matte=(T, H, W), reference=(H, W, 3),
                         reference_normals=(H, W, 3)).items():
    if key in record and record[key].shape != shape:
      raise ValueError(f'{key!r} has shape {record[key].shape}, the video asks for {shape}')


def to_bytes(record: dict) -> bytes:
  """A checked record as npz bytes."""
  check_record(record)
  buffer = io.BytesIO()
  np.savez(buffer, **{k: np.asarray(v) for k, v in record.items()})
  return buffer.getvalue()


def from_bytes(data: bytes) -> dict:
  """The record again; ValueError if the bytes are not one.

  One thread at a time: numpy reads array headers by `ast.literal_eval`, and CPython's AST module counts recursion
  for the whole interpreter (gh-106905), so that readers beside each other, or beside a compiling main thread, now
  and then get a SystemError for a sound file. Such a reading is repeated.
  """
  with _ONE_READER:
    for attempt in range(_ATTEMPTS):
      try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
          record = {k: str(arrays[k]) if k in STRINGS else arrays[k] for k in arrays.files}
        break
      except SystemError:
        if attempt == _ATTEMPTS - 1:
          raise
      except (zipfile.BadZipFile, OSError, EOFError, KeyError) as error:
        raise ValueError(str(error)) from error
  check_record(record)
  return record


def write_records(path, records: Iterable[dict]) -> int:
  """Writes an ArrayRecord file atomically and returns the number of records.

  The file appears under its name when it is complete; a killed writer leaves only a `.tmp`
  neighbour.
  """
  from array_record.python.array_record_module import ArrayRecordWriter
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  count = 0
  try:
    writer = ArrayRecordWriter(str(temporary), 'group_size:1')
    for record in records:
      writer.write(to_bytes(record))
      count += 1
    writer.close()
    if not temporary.exists():
      raise OSError(f'{temporary} could not be written')
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
  return count


class PortraitClips:
  """Random access to the records of ArrayRecord files.

  Args:
    path: a file, a folder of `*.array_record` files, or a glob pattern; files are taken in sorted
      order.

  Raises:
    UserError: if there are none.
    DamagedRecord: on access, if a record is damaged: it names file and index.
  """

  def __init__(self, path: str):
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    pattern = os.path.join(path, '*.array_record') if os.path.isdir(path) else path
    self.files = sorted(glob.glob(pattern))
    if not self.files:
      raise UserError(f'no records at {path!r}: make them with `python -m exp_jax.prepare` '
                      'and set config.data.path')
    self._sources = []
    for file in self.files:
      try:
        self._sources.append(ArrayRecordDataSource([file]))
        len(self._sources[-1])
      except Exception as error:
        raise UserError(f'{file} is not a readable ArrayRecord file: {error}') from error
    self._starts = np.cumsum([0] + [len(s) for s in self._sources])

  @property
  def fingerprint(self) -> str:
    """Names, sizes and record counts of the files, not their folder: a copy elsewhere is the same data."""
    return repr([(os.path.basename(f), os.path.getsize(f), len(s)) for f, s in zip(self.files, self._sources)])

  def __len__(self):
    return int(self._starts[-1])

  def __getitem__(self, index):
    part = int(np.searchsorted(self._starts, index, side='right')) - 1
    local = int(index - self._starts[part])
    try:
      return from_bytes(self._sources[part][local])
    except Exception as error:
      raise DamagedRecord(f'record {local} of {self.files[part]} is damaged: {error}') from error


def open_source(name: str, *, path: str, num_frames: int, height: int, width: int):
  """A source by name: 'synthetic_clips' (needs no files) or 'portrait_clips' (ArrayRecord at
  `path`)."""
  if name == 'synthetic_clips':
    return SyntheticClips(num_frames, height, width)
  if name == 'portrait_clips':
    return PortraitClips(path)
  raise UserError(f"unknown data source {name!r}, choose 'portrait_clips' or 'synthetic_clips'")
