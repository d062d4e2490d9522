"""What is seen of one face in one clip: the record that every estimator fills and every fitter
reads.

Letters: T frames, H x W pixels. Points are in MediaPipe's numbering whoever found them; a point
that an estimator does not have gets trust 0. Directions (normals, gaze) have x to the right of the
picture, y up and z towards the viewer, as `fitting.offsets.targets.Targets` wants them.

`Observation` itself is strict. `make_observation` takes what estimators really return, NaN
included, repairs it, and says in `warnings` what it did; the file is a plain npz, version 2, and
version 1 still loads.
"""

import dataclasses
import json
import os
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files import npz

VERSION = 2
NUM_POINTS = 478
_SHAPES = {  # of what may be absent
  'matte': 'THW',
  'trust': 'TK',
  'normals': 'THW3',
  'normal_weights': 'THW',
  'depth': 'THW',
  'depth_weights': 'THW',
  'gaze': 'T23',
}
# others float32
_STORED = {
  'matte': np.uint8,
  'normals': np.float16,
  'normal_weights': np.float16,
  'depth_weights': np.float16,
}


@dataclasses.dataclass(frozen=True)
class Observation:
  """What was seen of one face over T frames of H x W pixels; all numbers finite.

  points: [T, 478, 2] float32 pixels (x, y), MediaPipe's numbering; 468-477 are the irises. The
    top-left pixel has its centre at (0.5, 0.5).
  found: [T] bool, False where no face was seen (its points repeat the nearest seen frame).
  matte: [T, H, W] uint8 person coverage, or None.
  estimator: name and version of what found the points, for the record.
  trust: [T, 478] in 0..1, how far each point is believed; None: all alike.
  normals: [T, H, W, 3] float16, unit or zero; see the top of the file for their frame.
  normal_weights: [T, H, W] float16 in 0..1; there exactly when normals are.
  depth: [T, H, W] float32; grows AWAY from the camera (near is small), known per frame up to a
    positive scale and a shift.
  depth_weights: [T, H, W] float16 in 0..1; there exactly when depth is.
  gaze: [T, 2, 3] unit directions in which the person's left and right eye look.
  provenance: part ('points', 'matte', 'normals', ...) -> {'estimator', 'licence', 'digest'}, the
    digest being the sha256 of the weights, or '' where there are none.
  warnings: sentences about what was repaired or is doubtful.
  """

  points: np.ndarray
  found: np.ndarray
  matte: np.ndarray | None
  image_size: tuple[int, int]
  estimator: str
  trust: np.ndarray | None = None
  normals: np.ndarray | None = None
  normal_weights: np.ndarray | None = None
  depth: np.ndarray | None = None
  depth_weights: np.ndarray | None = None
  gaze: np.ndarray | None = None
  provenance: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
  warnings: tuple[str, ...] = ()

  def __post_init__(self):
    if self.points.ndim != 3 or self.points.shape[1:] != (NUM_POINTS, 2):
      raise UserError(
        f'landmarks must be [T, 478, 2], got {list(self.points.shape)}; use MediaPipe numbering'
      )
    if not np.isfinite(self.points).all():
      raise UserError(
        'landmarks hold NaN or infinite values; mark such frames as not found instead'
      )
    if self.found.shape != self.points.shape[:1]:
      raise UserError(f'found must be [{len(self.points)}], got {list(self.found.shape)}')
    sizes = dict(zip('TKHW23', (len(self.points), NUM_POINTS, *self.image_size, 2, 3)))
    for name, axes in _SHAPES.items():
      value, wanted = getattr(self, name), tuple(sizes[axis] for axis in axes)
      if value is None:
        continue
      if value.shape != wanted:
        raise UserError(
          f'{name} must be {list(wanted)} to go with the landmarks and the picture, got '
          f'{list(value.shape)}'
        )
      if value.dtype.kind == 'f' and not np.isfinite(value).all():
        raise UserError(f'{name} holds NaN or infinite values; give such places weight 0 instead')
    for name, weights in (('normals', 'normal_weights'), ('depth', 'depth_weights')):
      if (getattr(self, name) is None) != (getattr(self, weights) is None):
        raise UserError(f'{name} and {weights} come together; give both or neither')


def make_observation(
  points: np.ndarray,
  *,
  image_size: tuple[int, int],
  estimator: str,
  name: str,
  found: np.ndarray | None = None,
  trust: np.ndarray | None = None,
  matte: np.ndarray | None = None,
  normals: np.ndarray | None = None,
  normal_weights: np.ndarray | None = None,
  depth: np.ndarray | None = None,
  depth_weights: np.ndarray | None = None,
  gaze: np.ndarray | None = None,
  provenance: dict[str, dict[str, str]] | None = None,
  warnings: tuple[str, ...] = (),
) -> Observation:
  """An Observation from what estimators return, NaN included; repairs are listed in `warnings`.

  A frame with NaN in a point that is trusted counts as not found. Pixels with NaN get weight 0. A
  matte that is empty everywhere is dropped.

  Args:
    points: [T, 478, 2] pixels. found: [T]. trust: [T, 478].
    matte: [T, H, W] uint8, or float in 0..1. normals: [T, H, W, 3] of any length, zero where
      unknown.
    depth: [T, H, W], growing away from the camera.
    normal_weights, depth_weights: [T, H, W] in 0..1; None: 1 where the map is finite (a normal: not
      zero), times the matte if there is one.
    name: what the clip is called in messages.

  Raises:
    UserError: wrong shapes, or no face in any frame.
  """
  notes = list(warnings)
  points = np.array(points, np.float32)
  if points.ndim != 3 or points.shape[1:] != (NUM_POINTS, 2):
    raise UserError(
      f'{name}: landmarks must be [T, 478, 2], got {list(points.shape)}; use MediaPipe numbering'
    )
  count = len(points)
  found = np.ones(count, bool) if found is None else np.array(found, bool)
  if found.shape != (count,):
    raise UserError(f'{name}: found must be [{count}], got {list(found.shape)}')
  trust = _clean_trust(trust, count, name)
  bad = ~np.isfinite(points).all(-1)
  broken = (bad & (trust > 0 if trust is not None else True)).any(-1)
  if (broken & found).any():
    notes.append(
      f'{name}: landmarks of {(broken & found).sum()} of {count} frames hold NaN; '
      'those frames count as not found'
    )
  found &= ~broken
  if not found.any():
    raise UserError(f'no face found in {name}; use a picture where one face is clearly visible')
  points = _filled(points, found)
  if matte is not None:
    matte, notes = _clean_matte(np.asarray(matte), name, notes)
  size = (count, *(int(n) for n in image_size))
  maps = {}
  for key, values, weights in (
    ('normals', normals, normal_weights),
    ('depth', depth, depth_weights),
  ):
    maps |= _clean_map(key, values, weights, matte, size, name, notes)
  if gaze is not None:
    gaze = np.nan_to_num(np.asarray(gaze, np.float32))
  return Observation(
    points=points,
    found=found,
    matte=matte,
    image_size=tuple(int(n) for n in image_size),
    estimator=estimator,
    trust=trust,
    gaze=gaze,
    provenance=dict(provenance or {}),
    warnings=tuple(dict.fromkeys(notes)),
    **maps,
  )


def _clean_trust(trust: np.ndarray | None, count: int, name: str) -> np.ndarray | None:
  """[T, 478] in 0..1, what is not a number counting as 0."""
  if trust is None:
    return None
  trust = np.array(trust, np.float32)
  if trust.shape != (count, NUM_POINTS):
    raise UserError(f'{name}: trust must be [{count}, 478], got {list(trust.shape)}')
  return np.clip(np.nan_to_num(trust, nan=0.0), 0, 1)


def _filled(points: np.ndarray, found: np.ndarray) -> np.ndarray:
  """Points of frames without a face repeat the nearest with one; NaN of untrusted points, the
  mean."""
  seen = np.flatnonzero(found)
  points = points[seen[np.abs(np.arange(len(points))[:, None] - seen[None]).argmin(1)]]
  bad = ~np.isfinite(points).all(-1)  # [T, K]
  good = (~bad).astype(np.float32)[..., None]
  total = np.sum(np.where(bad[..., None], 0, points), 1, keepdims=True)
  mean = total / np.maximum(good.sum(1, keepdims=True), 1)
  return np.where(bad[..., None], mean, points).astype(np.float32)


def _clean_matte(matte, name, notes):
  """uint8 matte without NaN, or None if there is nobody in it."""
  if matte.dtype.kind == 'f':
    if not np.isfinite(matte).all():
      notes.append(f'{name}: the matte holds NaN; it counts as background there')
    matte = np.round(255 * np.clip(np.nan_to_num(matte, nan=0.0), 0, 1))
  matte = matte.astype(np.uint8)
  empty = ~matte.reshape(len(matte), -1).any(1)
  if empty.all():
    return None, [*notes, f'{name}: the matte is empty in all frames and is not used']
  if empty.any():
    notes.append(f'{name}: the matte is empty in {empty.sum()} of {len(matte)} frames')
  return matte, notes


def _clean_map(key, values, weights, matte, size, name, notes):
  """One map and its weights; whatever is not finite gets weight 0 and a sentence in `notes`."""
  weight_key = 'normal_weights' if key == 'normals' else 'depth_weights'
  if values is None:
    if weights is not None:
      raise UserError(f'{name}: there are {weight_key} without {key}; give both or neither')
    return {}
  values, shape = np.asarray(values, np.float32), (*size, 3) if key == 'normals' else size
  for what, found, wanted in ((key, values, shape), (weight_key, weights, size)):
    if found is not None and np.shape(found) != wanted:
      raise UserError(f'{name}: {what} must be {list(wanted)}, got {list(np.shape(found))}')
  pixels = values if key == 'normals' else values[..., None]
  finite = np.isfinite(pixels).all(-1)
  if not finite.all():
    notes.append(f'{name}: {(~finite).sum()} pixels of the {key} hold NaN and get weight 0')
  pixels = np.where(finite[..., None], pixels, 0)
  if key == 'normals':
    length = np.linalg.norm(pixels, axis=-1)
    finite &= length > 1e-3
    pixels = (pixels / np.where(finite, length, 1)[..., None]).astype(np.float16)
  if weights is None:
    weights = np.ones(size, np.float32)
    if matte is not None and matte.shape == size:
      weights = matte / np.float32(255)
  weights = np.clip(np.nan_to_num(np.asarray(weights, np.float32)), 0, 1) * finite
  return {
    key: pixels if key == 'normals' else pixels[..., 0],
    weight_key: weights.astype(np.float16),
  }


def save_observation(path: str | os.PathLike, observation: Observation) -> None:
  """Writes an .npz (no pickle), atomically."""
  arrays = dict(
    version=VERSION,
    points=observation.points.astype(np.float32),
    found=observation.found,
    image_size=np.array(observation.image_size),
    estimator=np.array(observation.estimator),
    provenance=np.array(json.dumps(observation.provenance)),
    warnings=np.array(json.dumps(observation.warnings)),
  )
  for name in _SHAPES:
    if (value := getattr(observation, name)) is not None:
      arrays[name] = value.astype(_STORED.get(name, np.float32))
  npz.write_npz(path, arrays)


def load_observation(path: str | os.PathLike) -> Observation:
  """Reads what `save_observation` wrote; UserError if it is missing, foreign or damaged."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'observation {str(path)!r} does not exist')
  damaged = UserError(f'{str(path)!r} is no observation file or is damaged; observe the clip again')
  try:
    data = npz.read_npz(path, most_bytes=npz.LONG_CLIPS)
    version = int(data['version'])
  except (KeyError, ValueError, TypeError):
    raise damaged from None
  if version not in (1, VERSION):
    raise UserError(
      f'observation {str(path)!r} has version {version}, this program reads 1 to {VERSION}; '
      'observe the clip again'
    )
  try:
    text = {k: json.loads(str(data[k])) for k in ('provenance', 'warnings') if k in data}
    return Observation(
      points=data['points'],
      found=data['found'],
      estimator=str(data['estimator']),
      image_size=tuple(int(x) for x in data['image_size']),
      provenance=text.get('provenance', {}),
      warnings=tuple(text.get('warnings', ())),
      **{name: data.get(name) for name in _SHAPES},
    )
  except UserError:
    raise
  except (KeyError, ValueError, TypeError):
    raise damaged from None
