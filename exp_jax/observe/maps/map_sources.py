"""Runs map networks over a clip and puts what they say into an Observation."""

import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.array_cache import cached_arrays, content_key
from exp_jax.files.digests import arrays_digest
from exp_jax.files.resources import package_file
from exp_jax.observe.maps.face_maps import FaceMapEstimator
from exp_jax.observe.maps.onnx_networks import (
  MapEstimator,
  calibrate_signs,
  guess_signs,
  load_map_estimator,
)
from exp_jax.observe.observation import Observation, make_observation

EMBEDDED, NONE = 'embedded', 'none'
_SURE = 0.1  # of `guess_signs`; faces of actors give 0.12 (bowed) to 0.5


def open_map_estimators(names: str = EMBEDDED) -> tuple[MapEstimator | FaceMapEstimator, ...]:
  """The networks that see normals, depth and matte.

  Args:
    names: 'embedded' for the network that ships with the package, 'none', or networks separated by
      commas, the first choice first: ONNX files (`observe.maps.onnx_networks`) and folders of
        exports of task 'estimator/face_maps'.

  Raises:
    UserError: nothing named, or as of `load_map_estimator` and `FaceMapEstimator`.
  """
  chosen = [name.strip() for name in names.split(',') if name.strip()]
  if not chosen:
    raise UserError(
      f"no networks named: say '{EMBEDDED}', '{NONE}', or ONNX files and folders of exports, "
      'separated by commas'
    )
  if NONE in chosen:
    if len(chosen) > 1:
      raise UserError(f'networks {names!r}: {NONE!r} goes with no other')
    return ()
  return tuple(_opened(name) for name in chosen)


def _opened(name: str) -> MapEstimator | FaceMapEstimator:
  if name == EMBEDDED:
    return FaceMapEstimator(package_file('embedded', 'face_maps'))
  return FaceMapEstimator(name) if pathlib.Path(name).is_dir() else load_map_estimator(name)


def observe_maps(
  frames: np.ndarray,
  observation: Observation,
  estimators: list[MapEstimator | FaceMapEstimator],
  *,
  name: str,
  rendered: np.ndarray | None = None,
  signs: tuple[int, int, int] | None = None,
  cache: pathlib.Path | None = None,
  progress=lambda x: x,
) -> Observation:
  """The observation with normals, depth and matte of the networks, in its own frame.

  Of several networks that give the same part the first wins. A foreground becomes the matte and the
  weights; MoGe-2's mask only weights, because it also takes in the background.

  Args:
    frames: [T, H, W, 3] uint8 RGB, those that `observation` speaks of; crops of the head
      (`crop_observation`) give the networks more pixels of it, and take less memory.
    rendered: [T, H, W, 3] normals of a fitted head, zero elsewhere: the axes' signs are found by
      them.
    signs: of the networks' x, y, z; None: found from `rendered`, or else from the maps themselves.
    cache: folder of results by content hash. progress: wraps the frame iterator, such as tqdm.

  Raises:
    UserError: frames and observation differ in size, or a network gives something unexpected.
  """
  if frames.shape[:3] != (len(observation.points), *observation.image_size):
    raise UserError(
      f'{name}: {len(frames)} frames of {frames.shape[1]} x {frames.shape[2]} do not go with an '
      f'observation of {len(observation.points)} frames of {observation.image_size}'
    )
  maps, provenance, notes = {}, dict(observation.provenance), list(observation.warnings)
  for estimator in estimators:
    found = _maps_of(estimator, frames, observation.points, cache, progress)
    credit = {'estimator': estimator.name, 'licence': estimator.licence, 'digest': estimator.digest}
    if 'normals' in found and 'normals' not in maps and estimator.signs:
      signs = signs or estimator.signs
    for part in sorted(set(found) - set(maps)):
      maps[part] = found[part]
      provenance['matte' if part == 'foreground' else part] = credit
  provenance.pop('weights', None)
  matte = observation.matte
  if 'foreground' in maps:
    matte = np.round(255 * np.asarray(maps['foreground'], np.float32)).astype(np.uint8)
  weights = maps.get('weights')
  if 'foreground' in maps or weights is None:
    weights = None  # the matte, by make_observation
  elif matte is not None:
    weights = weights * (matte / np.float32(255))
  normals = maps.get('normals')
  if normals is not None:
    normals, more = _oriented(
      np.asarray(normals, np.float32), weights, matte, observation, rendered, signs, name
    )
    notes += more
  keep = lambda part, old: maps.get(part) if part in maps else old
  return make_observation(
    observation.points,
    image_size=observation.image_size,
    estimator=observation.estimator,
    name=name,
    found=observation.found,
    trust=observation.trust,
    gaze=observation.gaze,
    matte=matte,
    normals=observation.normals if normals is None else normals,
    normal_weights=observation.normal_weights if normals is None else weights,
    depth=keep('depth', observation.depth),
    depth_weights=weights if 'depth' in maps else observation.depth_weights,
    provenance=provenance,
    warnings=tuple(notes),
  )


def _maps_of(
  estimator: MapEstimator | FaceMapEstimator,
  frames: np.ndarray,
  points: np.ndarray,
  cache: pathlib.Path | None,
  progress,
) -> dict[str, np.ndarray]:
  """What one network gives of every frame, {part: [T, ...]}; from the cache where it is there."""
  by_points = estimator.kind == FaceMapEstimator.kind
  key = content_key(
    frames,
    estimator=estimator.kind,
    digest=estimator.digest,
    num_tokens=estimator.num_tokens,
    **({'points': arrays_digest(points)} if by_points else {}),
  )

  def compute():
    # narrowed frame by frame: a clip of maps is large
    kind = lambda part: np.float32 if part == 'depth' else np.float16
    each = [
      {part: value.astype(kind(part)) for part, value in estimator(image, own).items()}
      for image, own in zip(progress(frames), points)
    ]
    return {part: np.stack([one[part] for one in each]) for part in each[0]}

  return cached_arrays(cache, key, compute)


def _oriented(normals, weights, matte, observation, rendered, signs, name):
  """Normals in the frame of an Observation, and sentences about how sure that is."""
  notes = []
  if signs is None:
    believed = (
      weights
      if weights is not None
      else (np.ones(normals.shape[:3], np.float32) if matte is None else matte / np.float32(255))
    )
    believed = believed * np.isfinite(normals).all(-1) * observation.found[:, None, None]
    clean = np.nan_to_num(normals)
    if rendered is not None:
      signs = calibrate_signs(clean, rendered, believed)
    else:
      signs, sure = guess_signs(clean, believed, observation.points[:, :468])
      if sure < _SURE:
        notes.append(
          f'{name}: in which sense the axes of the normals point is not clear from the maps '
          f'({sure:.2f} of 1); signs {signs} were taken'
        )
  return normals * np.asarray(signs, np.float32), notes
