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

A window record holds codes of a window of N frames (F latent frames) with R references, and no
video; `encode` leaves them:

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

from collections.abc import Iterable

import numpy as np

from exp_jax.data.synthetic import SyntheticClips
from exp_jax.errors import UserError
from exp_jax.files.array_records import ArrayRecords, DamagedRecord, write_packed
from exp_jax.files.record_bytes import pack, unpack

PROMPT = (
  'prompt.npz'  # beside the records: embeddings of the prompts, by `convert.wan_towers prompts`
)
STRINGS = ('clip_id', 'subject_id')
CLIP_DIMS = dict(video=4, normals=4, matte=3, reference=3, reference_normals=3)
WINDOW_DIMS = dict(normals=4, valid=3, references=4, references_normals=4)
OPTIONAL = ('valid', 'turns', 'extras', 'extra_names', 'offsets')
OF_CLIPS = ('previews', 'preview_references')
OF_WINDOWS = (
  'window',
  'latents',
  'references_turns',
  'references_latents',
  'references_clip',
  'preview_latents',
  'weights',
)


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
      raise ValueError(
        f'{key!r} is {value.dtype} with {value.ndim} axes, not uint8 with {dims[key]}'
      )
    if key not in known:
      raise ValueError(f'the record has an unknown key {key!r}')
  for key, shape in _shapes(record).items():
    if key in record and record[key].shape != shape:
      raise ValueError(
        f'{key!r} has shape {record[key].shape}, the {"window" if is_window(record) else "video"} '
        f'asks for {shape}'
      )


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
    return shapes | dict(
      matte=(T, H, W), reference=(H, W, 3), reference_normals=(H, W, 3), valid=(T, H, W)
    )
  (F, h, w, C), R = record['latents'].shape, len(record['references'])
  given = (R, h, w, C) if record['references_latents'].ndim == 4 else (R, F, h, w, C)
  return shapes | dict(
    window=(4,),
    references=(R, H, W, 3),
    references_normals=(R, H, W, 3),
    references_turns=(R, 3),
    references_latents=given,
    preview_latents=(R, F, h, w, C),
    valid=(F, h, w),
  )


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


class PortraitClips(ArrayRecords):
  """Random access to the records of ArrayRecord files; see `ArrayRecords` for `path` and errors."""

  def __init__(self, path: str):
    super().__init__(
      path,
      f'no records at {path!r}: make them with `python -m exp_jax.prepare` and set '
      'config.data.path',
    )

  def __getitem__(self, index: int) -> dict:
    data = self.packed(index)
    try:
      return from_bytes(data)
    except ValueError as error:
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
