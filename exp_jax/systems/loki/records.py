"""What Loki trains on: clips with driver maps of the same person's own motion, made by `exp_jax loki.prepare`.

| record | array | meaning |
|---|---|---|
| video | uint8 [T, S, S, 3] | frames |
| matte | uint8 [T, S, S] | 255 on the person, for measures alone; the map's mask where none was given |
| places, deformation | float16 [T, S, S, 3] | P and D / sigma of controls/driver_map.py |
| depth | float16 [T, S, S] | relative depth, for the 'ndc' ablation |
| mask | uint8 [T, S, S] | 255 where the head is seen |
| vector | float32 [T, D] | coefficients, for the 'vector' ablation |
| latents | float16 [T, h, w, C] | optional: codes of the frames |
| weights, clip_id, subject_id | str | digest of the autoencoder or '', where the clip comes from |

Letters: T frames of a clip, N of a window, S pixels, D coefficients.
"""

import dataclasses
import json
import pathlib

import numpy as np

from exp_jax.controls.driver_map import driver_maps
from exp_jax.controls.head_motion import head_motion, vectors_of
from exp_jax.controls.maps import own_motion
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.files import record_bytes
from exp_jax.files.array_records import ArrayRecords, DamagedRecord
from exp_jax.heads.deformation import LOCAL
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject
from exp_jax.heads.subject_squares import crops_of
from exp_jax.media.squares import Crop
from exp_jax.systems.loki.framing import boxes_of, cameras_of

SETTINGS = 'settings.json'   # beside the records
DIMS = {'video': 4, 'matte': 3, 'places': 4, 'depth': 3, 'deformation': 4, 'mask': 3, 'vector': 2}


def vector_of(head: HeadModel, subject: Subject, motion: Motion) -> np.ndarray:
  """float32 [T, D] coefficients of a motion on a person: expression, jaw and eyes, rotation and place of the head, shape.

  The published ablation lacks place and shape, which makes it unfair wherever the crop is fixed or the person another.
  """
  moved = head_motion(head, _with_motion(subject, motion))
  local = [head.joint_turns(motion.pose, name) for name in LOCAL]
  shape = np.broadcast_to(subject.shape, (len(motion.expression), len(subject.shape)))
  return np.concatenate([motion.expression, *local, vectors_of(moved.rotation), moved.place, shape], -1).astype(np.float32)


def _with_motion(subject: Subject, motion: Motion) -> Subject:
  return dataclasses.replace(subject, expression=motion.expression, pose=motion.pose, translation=motion.translation,
                             source_crop=None)


def vector_length(data) -> int:
  """D of a config's `data.vector`, which only the 'vector' ablation needs."""
  return int(data.get('vector', 0))


def make_record(frames: np.ndarray, subject: Subject, head: HeadModel, surface, *, size: int, crop: str,
                matte: np.ndarray | None = None, codec=None, weights: str = '') -> dict:  # fmt: skip
  """One clip with its fitted head as a record.

  Args:
    frames: uint8 [T, H, W, 3] of the film.
    surface: of `driver_surface(head)`.
    crop: 'square', the fit's; 'clip', one box about all heads of the clip; 'frame', one about each, as published.
    matte: uint8 [T, H, W] of the film.
    codec: encodes the frames, or None.
    weights: digest of the codec's weights.

  Raises:
    UserError: clip and subject do not fit.
  """
  if len(frames) != subject.num_frames:
    raise UserError(f'the clip has {len(frames)} frames, its subject {subject.num_frames}; fit it again')
  if matte is not None and (matte.dtype != np.uint8 or matte.shape != frames.shape[:3]):
    raise UserError(f'its matte is {matte.dtype} {matte.shape}, not uint8 {frames.shape[:3]}')
  squares = crops_of(subject, size, len(frames), frames.shape[1:3])
  motion = own_motion(subject)
  boxes = boxes_of(head, subject, motion, crop)
  cuts = [_of_film(square, box, subject.image_size[0], size) for square, box in zip(squares, boxes)]
  maps = driver_maps(head, surface, subject, motion, size=size, cameras=cameras_of(subject, boxes, size))
  video = np.stack([cut.cut(frame) for cut, frame in zip(cuts, frames)])
  record = dict(video=video, places=maps.places, depth=maps.depth, deformation=maps.deformation, mask=maps.mask,
                matte=maps.mask if matte is None else np.stack([cut.cut(frame) for cut, frame in zip(cuts, matte)]),
                vector=vector_of(head, subject, motion), weights=weights, clip_id=subject.subject_id, subject_id=subject.subject_id)
  if codec is not None:
    codes = [np.asarray(codec.encode(frame[None, None].astype(np.float32) / 127.5 - 1.0))[0] for frame in video]
    record['latents'] = np.concatenate(codes).astype(np.float16)
  return record


def _of_film(square: Crop, box: Crop, pixels: int, size: int) -> Crop:
  """A box in pixels of a fit's square as one of the film."""
  scale = square.side / pixels
  return Crop(square.left + scale * box.left, square.top + scale * box.top, scale * box.side, size)


class LokiRecords(ArrayRecords):
  """Random access to records; see `ArrayRecords` for `path` and errors."""

  def __init__(self, path: str):
    super().__init__(path, f'no records at {path!r}: make them with `python -m exp_jax loki.prepare`, and set config.data.path')

  def __getitem__(self, index: int) -> dict:
    file, local = self.place(index)
    where = f'record {local} of {file}'
    try:
      record = record_bytes.unpack(self.packed(index))
    except ValueError as error:
      raise DamagedRecord(f'{where} is damaged: {error}') from error
    check_record(record, where)
    return record


def check_record(record: dict, where: str) -> None:
  """DamagedRecord naming what is missing, of another form, or not finite."""
  for key, rank in DIMS.items():
    if key not in record or record[key].ndim != rank or len(record[key]) != len(record['video']):
      raise DamagedRecord(f'{where} has no {key!r} of {rank} axes for each frame; make the records again')
    if record[key].dtype.kind == 'f' and not np.isfinite(record[key]).all():
      raise DamagedRecord(f'{where}: {key} holds NaN or infinite numbers')


class SyntheticRecords:
  """Spheres that turn and shift, with exact maps, by number, for smoke runs: 4 frames of S pixels."""

  def __init__(self, size: int, count: int = 8, vector: int = 6):
    self.size, self.count, self.vector, self.fingerprint = size, count, vector, repr((size, count, vector))

  def __len__(self):
    return self.count

  def __getitem__(self, index: int) -> dict:
    rng, S = np.random.default_rng([23, int(index)]), self.size
    y, x = np.mgrid[:S, :S] * 2 / S - 1 + 1 / S
    colors, ground = rng.uniform(0, 255, (2, 3)), rng.uniform(0, 255, 3)
    frames = []
    for _ in range(4):
      (dx, dy), turn, moved = rng.uniform(-0.2, 0.2, 2), rng.uniform(-0.6, 0.6), rng.uniform(-1, 1, 3)
      px, py = x - dx, -(y - dy)
      inside = px**2 + py**2 < 0.4
      pz = np.sqrt(np.where(inside, 0.4 - px**2 - py**2, 0))
      own = np.stack([np.cos(turn) * px - np.sin(turn) * pz, py, np.sin(turn) * px + np.cos(turn) * pz], -1) * inside[..., None]
      image = np.where(inside[..., None], np.where(own[..., :1] > 0, colors[0], colors[1]), ground)
      frames.append(dict(video=image.astype(np.uint8), places=own.astype(np.float16), depth=(-0.1 * pz).astype(np.float16),
                         deformation=(moved * inside[..., None]).astype(np.float16), mask=np.uint8(255) * inside,
                         matte=np.uint8(255) * inside, vector=np.resize([turn, dx, dy, *moved], self.vector).astype(np.float32)))
    stacked = {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}
    return stacked | dict(weights='', clip_id=f'sphere_{index}', subject_id=f'sphere_{index}')


def open_records(config, path: str):
  """The source of a config's `data` section: 'loki_clips' at `path`, or 'synthetic_spheres'."""
  data = config.data
  if data.name == 'synthetic_spheres':
    return SyntheticRecords(data.size, vector=max(vector_length(data), 1))
  if data.name != 'loki_clips':
    raise UserError(f"config.data.name is {data.name!r}; choose 'loki_clips' or 'synthetic_spheres'")
  if data.mirror and (data.latents or config.condition.map == 'vector'):
    raise UserError('config.data.mirror turns pixels and maps, not stored latents and not coefficients: set it to False')
  source = LokiRecords(path)
  note = pathlib.Path(source.files[0]).parent / SETTINGS
  if note.is_file() and (made := json.loads(note.read_text()).get('crop')) != data.crop:
    raise UserError(f'the records at {path} were cropped by {made!r}, config.data.crop says {data.crop!r}: set it to that')
  return source


class Windows:
  """(record, rng) -> an example: N frames, `data.stride` apart, and a reference drawn from the whole clip.

  A mirrored example has its pictures and maps turned, and the x of P and D negated: the head model is alike on both sides.
  """

  def __init__(self, config, keys: tuple[str, ...]):
    self.data, self.keys = config.data, keys
    if self.data.stride < 1 or self.data.num_frames < 1:
      raise UserError(f'config.data.stride and num_frames must be at least 1, got {self.data.stride} and {self.data.num_frames}')

  def __call__(self, record: dict, rng: np.random.Generator) -> dict:
    data, T, name = self.data, len(record['video']), record['clip_id']
    span = data.stride * (data.num_frames - 1) + 1
    if T < span:
      raise UserError(f'clip {name} has {T} frames, windows of {data.num_frames} frames {data.stride} apart need {span}: set '
                      'config.data.num_frames or stride')
    if record['video'].shape[1:3] != (data.size, data.size):
      raise UserError(f'clip {name} is {record["video"].shape[2]}x{record["video"].shape[1]}, config.data.size says {data.size}')
    first, reference = int(rng.integers(T - span + 1)), int(rng.integers(T))
    chosen = slice(first, first + span, data.stride)
    example = {'reference': record['video'][reference]}
    if 'latents' in self.keys:
      if 'latents' not in record:
        raise UserError(f'clip {name} holds no latents: prepare it with --vae, or set config.data.latents=False')
      example['reference_latents'] = record['latents'][reference]
    example |= {key: record[key][chosen] for key in self.keys if key not in ('reference', 'reference_latents')}
    if 'vector' in self.keys and example['vector'].shape[-1] != vector_length(data):
      raise UserError(f'clip {name} has vectors of {example["vector"].shape[-1]} numbers: set config.data.vector to that')
    example = {key: example[key] for key in self.keys}
    return mirrored(example) if data.mirror and rng.random() < 0.5 else example


_ROW_AXIS_END = {'video': 2, 'matte': 1, 'places': 2, 'depth': 1, 'deformation': 2, 'mask': 1, 'reference': 2}


def mirrored(example: dict) -> dict:
  """The example as a mirror shows it."""
  out = {}
  for key, value in example.items():
    value = np.flip(value, axis=-_ROW_AXIS_END[key])
    out[key] = value * np.array([-1, 1, 1], value.dtype) if key in ('places', 'deformation') else value
  return {key: np.ascontiguousarray(value) for key, value in out.items()}
