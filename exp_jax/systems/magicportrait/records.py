"""What MagicPortrait trains on: clips with guidance maps of the same person's own motion, made by
`exp_jax magicportrait.prepare`.

| record | array | meaning |
|---|---|---|
| video, matte, latents, weights, clip_id, subject_id | | see controls/map_records.py |
| depth, landmarks | uint8 [T, S, S] | maps, see `maps.py` |
| normals, render | uint8 [T, S, S, 3] | maps |
| mask | uint8 [T, S, S] | 255 where the head is seen |

An example of the first stage is one frame, and another one of the same clip that speaks for the
person; of the second it is a window.

Letters: T frames of a clip, N of an example, S pixels.
"""

import dataclasses

import numpy as np

from exp_jax.controls.framing import cameras_of
from exp_jax.controls.map_records import MapRecords, check_window, clip_record, cut_clip, window_of
from exp_jax.errors import UserError
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject
from exp_jax.media.images import resize
from exp_jax.rendering import Topology
from exp_jax.systems.magicportrait.maps import MAPS, Conventions, appearance_of, guidance_maps
from exp_jax.systems.magicportrait.texture import HeadTexture

DIMS = {'video': 4, 'matte': 3, 'depth': 3, 'normals': 4, 'render': 4, 'landmarks': 3, 'mask': 3}
MARGIN = 0.4  # of the box about the head: the published crop spans about 1.7 times the head
_PICTURES = ('video', 'matte', *MAPS)


def make_record(
  frames: np.ndarray,
  subject: Subject,
  head: HeadModel,
  surface: Topology,
  conventions: Conventions,
  *,
  size: int,
  crop: str,
  texture: HeadTexture | None = None,
  matte: np.ndarray | None = None,
  codec=None,
  weights: str = '',
) -> dict:
  """One clip with its fitted head as a record.

  Args:
    frames: uint8 [T, H, W, 3] of the film.
    surface: of `guidance_surface(head)`.
    crop: as of `cut_clip`. matte, codec, weights: as of `clip_record`.
    texture: of subjects without an albedo of their own.

  Raises:
    UserError: clip and subject do not fit.
  """
  clip = cut_clip(frames, subject, head, size=size, crop=crop, margin=MARGIN)
  maps = guidance_maps(
    head,
    surface,
    subject,
    clip.motion,
    size=size,
    conventions=conventions,
    appearance=appearance_of(head, subject, conventions, texture),
    cameras=cameras_of(subject, clip.boxes, size),
  )
  return clip_record(clip, vars(maps), matte=matte, codec=codec, weights=weights)


class MagicRecords(MapRecords):
  """`MapRecords` of MagicPortrait."""

  def __init__(self, path: str):
    super().__init__(path, DIMS, 'magicportrait.prepare')


class SyntheticRecords:
  """Spheres that turn and shift, with exact maps, by number, for smoke runs: 4 frames of S
  pixels."""

  def __init__(self, size: int, count: int = 8):
    self.size, self.count, self.fingerprint = size, count, repr((size, count))

  def __len__(self):
    return self.count

  def __getitem__(self, index: int) -> dict:
    rng, S = np.random.default_rng([29, int(index)]), self.size
    y, x = np.mgrid[:S, :S] * 2 / S - 1 + 1 / S
    colors, ground = rng.uniform(0, 255, (2, 3)), rng.uniform(0, 255, 3)
    frames = []
    for _ in range(4):
      (dx, dy), turn = rng.uniform(-0.2, 0.2, 2), rng.uniform(-0.6, 0.6)
      px, py = x - dx, -(y - dy)
      inside = px**2 + py**2 < 0.4
      pz = np.sqrt(np.where(inside, 0.4 - px**2 - py**2, 0)) / 0.4**0.5
      left = np.cos(turn) * px - np.sin(turn) * pz > 0
      image = np.where(inside[..., None], np.where(left[..., None], colors[0], colors[1]), ground)
      normals = np.clip(np.stack([px, py, pz], -1), 0, 1) * inside[..., None]
      render = image * (0.3 + 0.7 * pz[..., None]) * inside[..., None]
      dot = (np.abs(px) < 0.1) & (np.abs(py) < 0.1)
      frames.append(
        dict(
          video=image,
          depth=255 * pz * inside,
          normals=255 * normals,
          render=render,
          landmarks=255 * dot,
          mask=255 * inside,
          matte=255 * inside,
        )
      )
    stacked = {
      key: np.stack([frame[key] for frame in frames]).astype(np.uint8) for key in frames[0]
    }
    return stacked | dict(weights='', clip_id=f'sphere_{index}', subject_id=f'sphere_{index}')


def conventions_of(data) -> Conventions:
  """How the maps of a config's `data` are drawn.

  Raises:
    UserError: an unknown choice.
  """
  return Conventions(**dict(data.maps))


def open_records(config, path: str):
  """The source of a config's `data` section: 'magicportrait_clips' at `path`, or
  'synthetic_spheres'.

  Raises:
    UserError: an unknown source, settings that the records were not made with, or that stored
      latents or maps do not allow.
  """
  data, wanted = config.data, conventions_of(config.data)
  if not 0.5 <= data.zoom <= 1:
    raise UserError(
      f'config.data.zoom is the least share of a picture that is shown, 0.5 to 1, got {data.zoom}'
    )
  if data.name == 'synthetic_spheres':
    return SyntheticRecords(data.size)
  if data.name != 'magicportrait_clips':
    raise UserError(
      f"config.data.name is {data.name!r}; choose 'magicportrait_clips' or 'synthetic_spheres'"
    )
  if data.latents and (data.mirror or data.zoom < 1):
    raise UserError(
      'config.data.mirror and zoom change pixels and maps, not stored latents: set them to False '
      'and 1'
    )
  if data.mirror and wanted.normals == 'clamped':
    raise UserError(
      'config.data.mirror needs normals of both signs, which clamped ones have lost: make the '
      'records with --normals '
      'signed, or set it to False'
    )
  source = MagicRecords(path)
  if (note := source.made_with()) is not None:
    for name, value in {'crop': data.crop, **dataclasses.asdict(wanted)}.items():
      if note.get(name) != value:
        key = name if name == 'crop' else f'maps.{name}'
        raise UserError(
          f'the records at {path} were made with {name} {note.get(name)!r}, config.data.{key} says '
          f'{value!r}: set it '
          'to that'
        )
  return source


class Windows:
  """(record, rng) -> an example: N frames, `data.stride` apart, and a reference drawn from the
  whole clip.

  The reference is at least `data.apart` frames away from the middle of the window where the clip
  allows it. A mirrored example has its pictures and maps turned, and the x of normals negated. With
  `data.zoom` below 1 a square of at least that share is cut out of all frames and of the reference
  alike, and brought back to size.
  """

  def __init__(self, config, keys: tuple[str, ...]):
    self.data, self.keys = config.data, keys
    check_window(config.data)

  def __call__(self, record: dict, rng: np.random.Generator) -> dict:
    data, chosen, T = self.data, window_of(record, rng, self.data), len(record['video'])
    middle = (chosen.start + chosen.stop - 1) / 2
    far = np.flatnonzero(np.abs(np.arange(T) - middle) >= data.apart)
    reference = int(rng.choice(far)) if len(far) else int(rng.integers(T))
    found = {'reference': record['video'][reference]}
    if 'reference_latents' in self.keys:
      found['reference_latents'] = record['latents'][reference]
    found |= {
      key: record[key][chosen] for key in self.keys if key not in ('reference', 'reference_latents')
    }
    found = {key: found[key] for key in self.keys}
    if data.zoom < 1:
      found = zoomed(found, rng, data.zoom)
    return mirrored(found) if data.mirror and rng.random() < 0.5 else found


def zoomed(example: dict, rng: np.random.Generator, least: float) -> dict:
  """One square of at least `least` of the side, cut out of every picture and map, brought back to
  size."""
  S = example['reference'].shape[0]
  side = int(np.ceil(S * rng.uniform(least, 1)))
  top, left = (int(rng.integers(S - side + 1)) for _ in range(2))

  def cut(frame):
    return resize(np.ascontiguousarray(frame[top : top + side, left : left + side]), (S, S))

  return {
    key: cut(value) if key == 'reference' else np.stack([cut(frame) for frame in value])
    for key, value in example.items()
  }


def mirrored(example: dict) -> dict:
  """The example as a mirror shows it; normals are 'signed'."""
  out = {}
  for key, value in example.items():
    value = np.flip(value, axis=1 if key == 'reference' else 2)
    if key == 'normals':
      seen = value.any(-1)
      value = np.stack([np.where(seen, 255 - value[..., 0], 0), value[..., 1], value[..., 2]], -1)
    out[key] = value
  return {key: np.ascontiguousarray(value) for key, value in out.items()}
