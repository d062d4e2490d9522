"""Observations from arrays that the user already has, and from actors whose truth is known.

Foreign normals come in one of two frames: 'viewer' (x right, y up, z to the viewer, ours) or
'opencv' (x right, y down, z away, as actors' maps and most estimators have it). Depth grows away
from the camera unless `near_is_large` is said.
"""

import dataclasses
import os
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files import npz
from exp_jax.observe.observation import NUM_POINTS, Observation, make_observation

_KEYS = (
  'points',
  'landmarks',
  'found',
  'trust',
  'matte',
  'normals',
  'normal_weights',
  'depth',
  'depth_weights',
  'gaze',
)
_PARTS = ('points', 'matte', 'normals', 'depth', 'gaze')  # that have an origin of their own
_FRAMES = {'viewer': (1, 1, 1), 'opencv': (1, -1, -1)}


def read_arrays(
  path: str | os.PathLike,
  *,
  image_size: tuple[int, int],
  name: str,
  frame: str = 'viewer',
  near_is_large: bool = False,
  licence: str = '',
) -> Observation:
  """An Observation from an npz with some of the keys above; `points` or `landmarks` must be there.

  Args:
    path: npz; points [T, 478, 2] pixels, the other arrays as in Observation, other keys are
      ignored.
    frame: of the normals and the gaze, 'viewer' or 'opencv'.
    licence: of the estimator that made them, for the record.

  Raises:
    UserError: no npz, no landmarks, or arrays that do not fit together.
  """
  arrays = npz.read_npz(path)
  found = {key: arrays[key] for key in _KEYS if key in arrays}
  points = found.pop('points', found.pop('landmarks', None))
  if points is None:
    raise UserError(
      f'{path} has no points [T, 478, 2] (it has {sorted(arrays)}); add them in pixels'
    )
  numbers = {key: value for key, value in found.items() if value.dtype.kind not in 'fiub'}
  if numbers or points.dtype.kind not in 'fiu':
    raise UserError(f'{path}: {sorted(numbers) or "points"} are not arrays of numbers')
  if frame not in _FRAMES:
    raise UserError(f'normals are in the frame {frame!r}; it must be one of {sorted(_FRAMES)}')
  for key in ('normals', 'gaze'):
    if key in found:
      found[key] = np.asarray(found[key], np.float32) * np.float32(_FRAMES[frame])
  if near_is_large and 'depth' in found:
    found['depth'] = -np.asarray(found['depth'], np.float32)
  credit = {'estimator': f'arrays of {pathlib.Path(path).name}', 'licence': licence, 'digest': ''}
  return make_observation(
    points,
    image_size=image_size,
    estimator=credit['estimator'],
    name=name,
    provenance={key: credit for key in ('points', *found) if key in _PARTS},
    **found,
  )


def observe_actor(
  *,
  landmarks: np.ndarray,
  landmark_names: tuple[str, ...],
  matte: np.ndarray,
  gaze: np.ndarray | None = None,
  maps: dict[str, np.ndarray] | None = None,
  name: str = 'actor',
) -> Observation:
  """The truth about an actor's clip as an Observation.

  Args:
    landmarks: [T, K, 2] pixels, in the order of `landmark_names`, those of the actor's head; names
      that are MediaPipe numbers are used, others ignored with a count.
    matte: [T, H, W] uint8. gaze: [T, 2, 3] camera frame (x right, y down, z away).
    maps: normals [T, H, W, 3] in the camera frame and depth [T, H, W] in metres, both 0 in the
      background.

  Raises:
    UserError: the head has no landmarks with MediaPipe numbers.
  """
  numbers = {k: int(n) for k, n in enumerate(landmark_names) if n.isdigit() and int(n) < NUM_POINTS}
  if not numbers:
    raise UserError(
      f'{name}: none of the landmarks {landmark_names[:4]}... is a MediaPipe number; '
      'use a head whose landmarks are'
    )
  points = np.full((len(landmarks), NUM_POINTS, 2), np.nan, np.float32)
  trust = np.zeros(points.shape[:2], np.float32)
  points[:, list(numbers.values())] = np.asarray(landmarks)[:, list(numbers)]
  trust[:, list(numbers.values())] = 1
  flip = np.float32(_FRAMES['opencv'])
  maps = maps or {}
  depth = maps.get('depth')
  extra = {}
  if 'normals' in maps:
    extra['normals'] = np.asarray(maps['normals'], np.float32) * flip
  if depth is not None:
    extra['depth'] = np.asarray(depth, np.float32)
    extra['depth_weights'] = (extra['depth'] > 0).astype(np.float32)
  ignored = len(landmark_names) - len(numbers)
  credit = {'estimator': 'synthetic truth', 'licence': 'ours', 'digest': ''}
  return make_observation(
    points,
    trust=None if len(numbers) == NUM_POINTS else trust,
    matte=matte,
    image_size=matte.shape[1:],
    gaze=None if gaze is None else np.asarray(gaze, np.float32) * flip,
    estimator='synthetic',
    name=name,
    provenance={
      key: credit
      for key in ('points', 'matte', 'gaze', *extra)
      if key in _PARTS and (key != 'gaze' or gaze is not None)
    },
    warnings=(f'{name}: {ignored} landmarks without a MediaPipe number are ignored',)
    if ignored
    else (),
    **extra,
  )


def read_actor(
  folder: str | os.PathLike, actor_id: str, landmark_names: tuple[str, ...]
) -> Observation:
  """`observe_actor` of what `python -m exp_jax.actors` left: mattes/<id>.npz of `folder`."""
  path = pathlib.Path(folder) / 'mattes' / f'{actor_id}.npz'
  arrays = npz.read_npz(path)
  if missing := [key for key in ('landmarks', 'matte') if key not in arrays]:
    raise UserError(f'{path} has no {" and no ".join(missing)}; make the actors again')
  maps = {key: arrays[key] for key in ('normals', 'depth') if key in arrays}
  return observe_actor(
    landmarks=arrays['landmarks'],
    landmark_names=landmark_names,
    name=actor_id,
    matte=arrays['matte'],
    gaze=arrays.get('gaze'),
    maps=maps,
  )


def merged(first: Observation, second: Observation) -> Observation:
  """`first` with the parts that it lacks taken from `second`, which speaks of the same frames."""
  if first.image_size != second.image_size or len(first.points) != len(second.points):
    raise UserError(
      f'observations of {len(first.points)} frames of {first.image_size} and of '
      f'{len(second.points)} of {second.image_size} do not go together'
    )
  pairs = (('matte',), ('normals', 'normal_weights'), ('depth', 'depth_weights'), ('gaze',))
  taken = {
    key: getattr(second, key) for pair in pairs if getattr(first, pair[0]) is None for key in pair
  }
  return dataclasses.replace(
    first,
    **taken,
    warnings=tuple(dict.fromkeys(first.warnings + second.warnings)),
    provenance={k: v for k, v in second.provenance.items() if k in taken} | first.provenance,
  )
