"""Training records: their keys, their form on disk, and random-access sources of them.

A clip record holds pixels; `prepare` leaves them, and `previews` and `encode` read them:

| key | array | meaning |
|---|---|---|
| video | uint8 [T, H, W, 3] | frames, RGB |
| normals | uint8 [T, H, W, 3] | driving maps: normals n / 2 + 1/2 (y up, z to the viewer), else 0 |
| matte | uint8 [T, H, W] | the head, 255 inside |
| reference, reference_normals | uint8 [H, W, 3] | a portrait of the same person and its control map |
| clip_id, subject_id | str | where it comes from; splits are by subject |
| valid | uint8 [T, H, W] | optional: 255 where the film shows something, 0 where the crop had to invent pixels |
| turns | float32 [T, 3] | optional: rotation of the head in the camera, rotation vectors, radians |
| extras, extra_names | uint8 [T, H, W, E], str | optional: further control channels and their names, separated by commas |
| offsets | str | optional: of the head behind the maps: 'full', 'static', 'transferred' or 'none' (the linear model alone) |
| previews, preview_references | uint8 [K, T, H, W, 3], int32 [K] | optional: textured previews, each drawn from that frame |

A window record holds codes of a window of N frames (F latent frames) with R references, and no video; `encode` leaves them:

| key | array | meaning |
|---|---|---|
| window | int32 [4] | first frame in the clip, stride, largest stride that was drawn from, latent frames encoded before it |
| normals, extras | uint8 [N, H, W, 3], [N, H, W, E] | driving maps |
| latents | float16 [F, h, w, C] | codes of the frames |
| valid | uint8 [F, h, w] | 255 where all pixels behind a code are real |
| turns, references_turns | float32 [N, 3], [R, 3] | optional: rotations of the head |
| references, references_normals | uint8 [R, H, W, 3] | other frames of the clip and their control maps |
| references_latents | float16 [R, h, w, C] or [R, F, h, w, C] | codes of the image, or of the image followed by blank video |
| references_clip | float16 [R, 257, 1280] | optional: their CLIP tokens |
| preview_latents | float16 [R, N, h, w, C] | optional: codes of the textured previews drawn from the references |
| weights | str | optional: JSON, digests of the networks that made the codes |

On disk a record is one entry of an ArrayRecord file, as `record_bytes` packs it.
"""

import glob
import os
from collections.abc import Iterable

import numpy as np

from exp_jax.data.synthetic import SyntheticClips
from exp_jax.errors import UserError
from exp_jax.files.atomic import replacing
from exp_jax.files.record_bytes import pack, unpack


class DamagedRecord(UserError):
  """One record cannot be used; the message names it. Training skips and counts such records."""


PROMPT = 'prompt.npz'   # beside the records: embeddings of the prompts, by `convert.wan_towers prompts`
STRINGS = ('clip_id', 'subject_id')
CLIP_DIMS = dict(video=4, normals=4, matte=3, reference=3, reference_normals=3)
WINDOW_DIMS = dict(normals=4, valid=3, references=4, references_normals=4)
OPTIONAL = ('valid', 'turns', 'extras', 'extra_names', 'offsets')
OF_CLIPS = ('previews', 'preview_references')
OF_WINDOWS = ('window', 'latents', 'references_turns', 'references_latents', 'references_clip', 'preview_latents', 'weights')


def is_window(record: dict) -> bool:
  """Whether it holds codes of a window, not the pixels of a clip."""
  return 'window' in record


def check_record(record: dict) -> None:
  """Raises ValueError naming the first key that is missing, unknown or of another form."""
  dims = WINDOW_DIMS if is_window(record) else CLIP_DIMS
  needed = ('latents', 'references_latents') if is_window(record) else ()
  for key in (*dims, *STRINGS, *needed):
    if key not in record:
      raise ValueError(f'the record lacks {key!r}')
  known = (*dims, *STRINGS, *OPTIONAL, *(OF_WINDOWS if is_window(record) else OF_CLIPS))
  for key, value in record.items():
    if key in dims and (value.dtype != np.uint8 or value.ndim != dims[key]):
      raise ValueError(f'{key!r} is {value.dtype} with {value.ndim} axes, not uint8 with {dims[key]}')
    if key not in known:
      raise ValueError(f'the record has an unknown key {key!r}')
  for key, shape in _shapes(record).items():
    if key in record and record[key].shape != shape:
      raise ValueError(f'{key!r} has shape {record[key].shape}, the {"window" if is_window(record) else "video"} asks for {shape}')


def _shapes(record: dict) -> dict:
  """The shapes that a record's leading array asks of the others."""
  T, H, W, _ = record['normals'].shape if is_window(record) else record['video'].shape
  names = record.get('extra_names', '')
  shapes = dict(normals=(T, H, W, 3), turns=(T, 3))
  if 'extras' in record:
    shapes |= dict(extras=(T, H, W, record['extras'].shape[-1]))
    if not names:
      raise ValueError("'extras' come without 'extra_names'")
  if not is_window(record):
    return shapes | dict(matte=(T, H, W), reference=(H, W, 3), reference_normals=(H, W, 3), valid=(T, H, W))
  (F, h, w, C), R = record['latents'].shape, len(record['references'])
  given = (R, h, w, C) if record['references_latents'].ndim == 4 else (R, F, h, w, C)
  return shapes | dict(window=(4,), references=(R, H, W, 3), references_normals=(R, H, W, 3), references_turns=(R, 3),
                       references_latents=given, preview_latents=(R, F, h, w, C), valid=(F, h, w))


def to_bytes(record: dict) -> bytes:
  """A checked record as bytes."""
  check_record(record)
  return pack(record)


def from_bytes(data: bytes) -> dict:
  """The record again; ValueError if the bytes are not one."""
  record = unpack(data)
  check_record(record)
  return record


def write_records(path, records: Iterable[dict]) -> int:
  """Writes an ArrayRecord file atomically and returns the number of records; see `write_packed`."""
  return write_packed(path, (to_bytes(record) for record in records))


def write_packed(path, packed: Iterable[bytes], *, compress: bool = False) -> int:
  """The same of records that are bytes already.

  The file appears under its name when it is complete; see `files.atomic`.

  Args:
    compress: entries that `record_bytes` packed are compressed already; others gain by it.
  """
  from array_record.python.array_record_module import ArrayRecordWriter
  count = 0
  with replacing(path) as partial:
    writer = ArrayRecordWriter(str(partial), 'group_size:1' + ('' if compress else ',uncompressed'))
    try:
      for data in packed:
        writer.write(data)
        count += 1
    finally:
      writer.close()
    if not partial.stat().st_size:
      raise OSError(f'{path} could not be written')
  return count


class PortraitClips:
  """Random access to the records of ArrayRecord files; threads read side by side.

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

  def place(self, index: int) -> tuple[str, int]:
    """The file of a record and its number in it."""
    part, local = self._find(index)
    return self.files[part], local

  def _find(self, index: int) -> tuple[int, int]:
    part = int(np.searchsorted(self._starts, index, side='right')) - 1
    return part, int(index - self._starts[part])

  def packed(self, index: int) -> bytes:
    """The bytes of a record, as they lie on disk."""
    part, local = self._find(index)
    try:
      return self._sources[part][local]
    except Exception as error:
      raise DamagedRecord(f'record {local} of {self.files[part]} is damaged: {error}') from error

  def __getitem__(self, index):
    try:
      return from_bytes(self.packed(index))
    except ValueError as error:
      if isinstance(error, UserError):
        raise
      file, local = self.place(index)
      raise DamagedRecord(f'record {local} of {file} is damaged: {error}') from error


def open_source(name: str, *, path: str, num_frames: int, height: int, width: int):
  """A source by name: 'synthetic_clips' (needs no files) or 'portrait_clips' (ArrayRecord at
  `path`)."""
  if name == 'synthetic_clips':
    return SyntheticClips(num_frames, height, width)
  if name == 'portrait_clips':
    return PortraitClips(path)
  raise UserError(f"unknown data source {name!r}, choose 'portrait_clips' or 'synthetic_clips'")
