"""What Loki trains on: clips with driver maps of the same person's own motion, made by
`exp_jax loki.prepare`.

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

import numpy as np

from exp_jax.controls.driver_map import DriverSurface, driver_maps
from exp_jax.controls.framing import cameras_of
from exp_jax.controls.head_motion import head_motion, vectors_of
from exp_jax.controls.map_records import MapRecords, check_window, clip_record, cut_clip, window_of
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.heads.deformation import LOCAL
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject

DIMS = {'video': 4, 'matte': 3, 'places': 4, 'depth': 3, 'deformation': 4, 'mask': 3, 'vector': 2}


def vector_of(head: HeadModel, subject: Subject, motion: Motion) -> np.ndarray:
  """float32 [T, D] coefficients of a motion on a person: expression, jaw and eyes, rotation and
  place of the head, shape.

  The published ablation lacks place and shape, which makes it unfair wherever the crop is fixed or
  the person another.
  """
  moved = head_motion(head, _with_motion(subject, motion))
  local = [head.joint_turns(motion.pose, name) for name in LOCAL]
  shape = np.broadcast_to(subject.shape, (len(motion.expression), len(subject.shape)))
  return np.concatenate(
    [motion.expression, *local, vectors_of(moved.rotation), moved.place, shape], -1
  ).astype(np.float32)


def _with_motion(subject: Subject, motion: Motion) -> Subject:
  return dataclasses.replace(
    subject,
    expression=motion.expression,
    pose=motion.pose,
    translation=motion.translation,
    source_crop=None,
  )


def vector_length(data) -> int:
  """D of a config's `data.vector`, which only the 'vector' ablation needs."""
  return int(data.get('vector', 0))


def make_record(
  frames: np.ndarray,
  subject: Subject,
  head: HeadModel,
  surface: DriverSurface,
  *,
  size: int,
  crop: str,
  matte: np.ndarray | None = None,
  codec=None,
  weights: str = '',
) -> dict:
  """One clip with its fitted head as a record.

  Args:
    frames: uint8 [T, H, W, 3] of the film.
    surface: of `driver_surface(head)`.
    crop: as of `cut_clip`. matte, codec, weights: as of `clip_record`.

  Raises:
    UserError: clip and subject do not fit.
  """
  clip = cut_clip(frames, subject, head, size=size, crop=crop)
  maps = driver_maps(
    head, surface, subject, clip.motion, size=size, cameras=cameras_of(subject, clip.boxes, size)
  )
  found = dict(
    places=maps.places,
    depth=maps.depth,
    deformation=maps.deformation,
    mask=maps.mask,
    vector=vector_of(head, subject, clip.motion),
  )
  return clip_record(clip, found, matte=matte, codec=codec, weights=weights)


class LokiRecords(MapRecords):
  """`MapRecords` of Loki."""

  def __init__(self, path: str):
    super().__init__(path, DIMS, 'loki.prepare')


class SyntheticRecords:
  """Spheres that turn and shift, with exact maps, by number, for smoke runs: 4 frames of S
  pixels."""

  def __init__(self, size: int, count: int = 8, vector: int = 6):
    self.size, self.count, self.vector, self.fingerprint = (
      size,
      count,
      vector,
      repr((size, count, vector)),
    )

  def __len__(self):
    return self.count

  def __getitem__(self, index: int) -> dict:
    rng, S = np.random.default_rng([23, int(index)]), self.size
    y, x = np.mgrid[:S, :S] * 2 / S - 1 + 1 / S
    colors, ground = rng.uniform(0, 255, (2, 3)), rng.uniform(0, 255, 3)
    frames = []
    for _ in range(4):
      (dx, dy), turn, moved = (
        rng.uniform(-0.2, 0.2, 2),
        rng.uniform(-0.6, 0.6),
        rng.uniform(-1, 1, 3),
      )
      px, py = x - dx, -(y - dy)
      inside = px**2 + py**2 < 0.4
      pz = np.sqrt(np.where(inside, 0.4 - px**2 - py**2, 0))
      own = (
        np.stack(
          [np.cos(turn) * px - np.sin(turn) * pz, py, np.sin(turn) * px + np.cos(turn) * pz], -1
        )
        * inside[..., None]
      )
      image = np.where(inside[..., None], np.where(own[..., :1] > 0, colors[0], colors[1]), ground)
      frames.append(
        dict(
          video=image.astype(np.uint8),
          places=own.astype(np.float16),
          depth=(-0.1 * pz).astype(np.float16),
          deformation=(moved * inside[..., None]).astype(np.float16),
          mask=np.uint8(255) * inside,
          matte=np.uint8(255) * inside,
          vector=np.resize([turn, dx, dy, *moved], self.vector).astype(np.float32),
        )
      )
    stacked = {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}
    return stacked | dict(weights='', clip_id=f'sphere_{index}', subject_id=f'sphere_{index}')


def open_records(config, path: str):
  """The source of a config's `data` section: 'loki_clips' at `path`, or 'synthetic_spheres'."""
  data = config.data
  if data.name == 'synthetic_spheres':
    return SyntheticRecords(data.size, vector=max(vector_length(data), 1))
  if data.name != 'loki_clips':
    raise UserError(
      f"config.data.name is {data.name!r}; choose 'loki_clips' or 'synthetic_spheres'"
    )
  if data.mirror and (data.latents or config.condition.map == 'vector'):
    raise UserError(
      'config.data.mirror turns pixels and maps, not stored latents and not coefficients: set it '
      'to False'
    )
  source = LokiRecords(path)
  if (note := source.made_with()) is not None and (made := note.get('crop')) != data.crop:
    raise UserError(
      f'the records at {path} were cropped by {made!r}, config.data.crop says {data.crop!r}: set '
      'it to that'
    )
  return source


class Windows:
  """(record, rng) -> an example: N frames, `data.stride` apart, and a reference drawn from the
  whole clip.

  A mirrored example has its pictures and maps turned, and the x of P and D negated: the head model
  is alike on both sides.
  """

  def __init__(self, config, keys: tuple[str, ...]):
    self.data, self.keys = config.data, keys
    check_window(config.data)

  def __call__(self, record: dict, rng: np.random.Generator) -> dict:
    data, name, chosen = self.data, record['clip_id'], window_of(record, rng, self.data)
    reference = int(rng.integers(len(record['video'])))
    example = {'reference': record['video'][reference]}
    if 'latents' in self.keys:
      example['reference_latents'] = record['latents'][reference]
    example |= {
      key: record[key][chosen] for key in self.keys if key not in ('reference', 'reference_latents')
    }
    if 'vector' in self.keys and example['vector'].shape[-1] != vector_length(data):
      raise UserError(
        f'clip {name} has vectors of {example["vector"].shape[-1]} numbers: set config.data.vector '
        'to that'
      )
    example = {key: example[key] for key in self.keys}
    return mirrored(example) if data.mirror and rng.random() < 0.5 else example


_ROW_AXIS_END = {
  'video': 2,
  'matte': 1,
  'places': 2,
  'depth': 1,
  'deformation': 2,
  'mask': 1,
  'reference': 2,
}


def mirrored(example: dict) -> dict:
  """The example as a mirror shows it."""
  out = {}
  for key, value in example.items():
    value = np.flip(value, axis=-_ROW_AXIS_END[key])
    out[key] = (
      value * np.array([-1, 1, 1], value.dtype) if key in ('places', 'deformation') else value
    )
  return {key: np.ascontiguousarray(value) for key, value in out.items()}
