"""What FLAME trackers leave, read into one record. Each function says what its format is.

Camera frame of the record: that of subject files, x right, y up, z towards the viewer, the camera
at the origin. An OpenCV camera frame turns into it by diag(1, -1, -1), an OpenGL one is it. A point
(X, Y, Z) is at pixel (cx - fx X / Z, cy + fy Y / Z), pixels having their centres at halves.

Eyelid blendshapes are no part of FLAME, but a head can have them
(`exp_jax.convert.flame --eyelids`); their coefficients are kept for it. Textures of trackers are
dropped.
"""

import dataclasses
import pathlib

import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.convert.subject_files.subjects_torch import read_torch
from exp_jax.errors import UserError
from exp_jax.files import npz


@dataclasses.dataclass
class Tracked:
  """One person in one clip, FLAME's own parameters; float64.

  shape: [S]. expression: [T, E]. rotations: [T, 5, 3, 3] of root, neck, jaw, left and right eye.
  translation: [T, 3] metres, after posing. camera_rotation: [T, 3, 3] and camera_translation: [T,
  3], of
  posed points into the camera frame above. focal, center: [T, 2] pixels. image_size: (height,
  width).
  offsets: [V', 3] in the rest pose, or None. dynamic_offsets: [T, V', 3] or None. source_crop: [T,
  3, 3] or
  None, source pixels to these. eyelids: [T, 2] how far the left and the right upper lid are closed,
  0..1, or None.
  steps: [T] increasing numbers of the frames in the clip, or None: 0, 1, 2 and so on. warnings:
  what was left out or is not certain.
  """

  shape: np.ndarray
  expression: np.ndarray
  rotations: np.ndarray
  translation: np.ndarray
  camera_rotation: np.ndarray
  camera_translation: np.ndarray
  focal: np.ndarray
  center: np.ndarray
  image_size: tuple[int, int]
  offsets: np.ndarray | None = None
  dynamic_offsets: np.ndarray | None = None
  source_crop: np.ndarray | None = None
  eyelids: np.ndarray | None = None
  steps: np.ndarray | None = None
  warnings: tuple[str, ...] = ()


def numbers(data: dict, key: str, shape: tuple, where) -> np.ndarray:
  """data[key] as float64 of a shape; -1 in `shape` is free, and leading axes of length 1 may be
  more or fewer.

  Raises:
    UserError: it is missing, not numbers, of another shape, or not finite.
  """
  if key not in data:
    raise UserError(
      f'{where}: the entry {key!r} is missing (it has {sorted(map(str, data))}); is it '
      'the right --kind?'
    )
  try:
    value = np.asarray(data[key], np.float64)
  except (TypeError, ValueError):
    raise UserError(f'{where}: {key} is not an array of numbers') from None
  while value.ndim > len(shape) and value.shape[0] == 1:
    value = value[0]
  while value.ndim < len(shape):
    value = value[None]
  if any(w not in (-1, n) for w, n in zip(shape, value.shape)) or value.ndim != len(shape):
    raise UserError(f'{where}: {key} has shape {np.shape(data[key])}, {shape} was expected')
  if not np.isfinite(value).all():
    raise UserError(f'{where}: {key} holds NaN or infinite numbers')
  return value


def from_axis_angle(vectors: np.ndarray) -> np.ndarray:
  """[..., 3] -> [..., 3, 3]."""
  return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*vectors.shape[:-1], 3, 3)


def from_two_rows(six: np.ndarray) -> np.ndarray:
  """[..., 6] -> [..., 3, 3]: the first two rows, made orthonormal.

  Source: Zhou et al. 2019, eq. 15.
  """
  first, second = six[..., :3], six[..., 3:]
  first = first / np.linalg.norm(first, axis=-1, keepdims=True)
  second = second - np.sum(first * second, -1, keepdims=True) * first
  second = second / np.linalg.norm(second, axis=-1, keepdims=True)
  return np.stack([first, second, np.cross(first, second)], -2)


def read_vhap(paths: list[pathlib.Path]) -> Tracked:
  """VHAP's tracked_flame_params_N.npz, one clip.

  rotation, translation, neck_pose, jaw_pose [T, 3] and eyes_pose [T, 6] axis-angle, shape [S], expr
  [T, E], focal_length [1] in units of the longer side, image_size (height, width), static_offset
  [1, V', 3] and dynamic_offset [T, V', 3] if used (V' may have teeth after FLAME's vertices). The
  camera of an uncalibrated clip is OpenGL's at distance 1 m, its centre that of the picture.
  Calibrated clips keep theirs elsewhere.
  """
  if len(paths) != 1:
    raise UserError(f'VHAP keeps a clip in one file, {len(paths)} were given for one subject')
  where, data = paths[0], npz.read_npz(paths[0])
  get = lambda key, *shape: numbers(data, key, shape, where)
  expression = get('expr', -1, -1)
  count = len(expression)
  if 'focal_length' not in data:
    raise UserError(
      f'{where} has no focal_length: it was tracked with calibrated cameras, which VHAP '
      'keeps elsewhere; add focal_length (in units of the longer side) to the file'
    )
  eyes = get('eyes_pose', count, 6)
  pose = np.stack(
    [
      get('rotation', count, 3),
      get('neck_pose', count, 3),
      get('jaw_pose', count, 3),
      eyes[:, :3],
      eyes[:, 3:],
    ],
    1,
  )
  height, width = (int(n) for n in get('image_size', 2))
  moving = get('dynamic_offset', count, -1, 3) if 'dynamic_offset' in data else None
  return Tracked(
    shape=get('shape', -1),
    expression=expression,
    rotations=from_axis_angle(pose),
    translation=get('translation', count, 3),
    camera_rotation=np.tile(np.eye(3), (count, 1, 1)),
    camera_translation=np.tile([0.0, 0, -1], (count, 1)),
    image_size=(height, width),
    focal=np.full((count, 2), get('focal_length', 1)[0] * max(height, width)),
    center=np.tile([width / 2, height / 2], (count, 1)),
    dynamic_offsets=moving,
    offsets=get('static_offset', -1, 3) if 'static_offset' in data else None,
  )


def read_metrical(paths: list[pathlib.Path]) -> Tracked:
  """metrical-tracker's .frame files, one a frame, by torch.save.

  flame: exp [1, E], shape [1, S], jaw [1, 6], eyes [1, 12] as two matrix rows each, eyelids.
  camera: R [1, 6],
  t [1, 3], fl [1, 1], pp [1, 2] of PyTorch3D: points go row-wise X R + t to x left, y up, z
  forward; fl and pp are in units of half the shorter side. img_size (height, width). The head does
  not turn, the camera does. The `opencv` entry repeats the camera and is not needed.
  """
  frames = [(p, read_torch(p)) for p in paths]
  rows = []
  for where, data in frames:
    flame, camera = _part(data, 'flame', where), _part(data, 'camera', where)
    height, width = (float(n) for n in numbers(data, 'img_size', (2,), where))
    half = min(height, width) / 2
    rotation = from_two_rows(numbers(camera, 'R', (6,), where))
    left_up = np.diag([-1.0, 1, -1])  # x left, y up, z forward -> x right, y up, z back
    rows.append(
      dict(
        shape=numbers(flame, 'shape', (-1,), where),
        expression=numbers(flame, 'exp', (-1,), where),
        rotations=_rows_pose(flame, None, where),
        camera_rotation=left_up @ rotation.T,
        camera_translation=left_up @ numbers(camera, 't', (3,), where),
        focal=np.full(2, numbers(camera, 'fl', (1,), where)[0] * half),
        center=np.array([width, height]) / 2 - half * numbers(camera, 'pp', (2,), where),
        image_size=(int(height), int(width)),
        **_eyelids(flame, where),
      )
    )
  return _joined(rows)


def read_pixel3dmm(paths: list[pathlib.Path]) -> Tracked:
  """Pixel3DMM's .frame files, one a frame, by torch.save.

  flame: exp, shape, jaw, neck [1, 6], eyes [1, 12], and the pose of the head R_rotation_matrix [1,
  3, 3] (or R
  [1, 6]) and t [1, 3], applied after FLAME. camera: R_base_0 [1, 3, 3], t_base_0 [1, 3], OpenGL
  world to camera; fl [1, 1] in units of the size, pp [1, 2]. img_size. The centre follows the
  tracker's own projection of landmarks; whether its pixels have their centres at halves is not
  verified (up to half a pixel).
  """
  frames = [(p, read_torch(p)) for p in paths]
  rows = []
  for where, data in frames:
    flame, camera = _part(data, 'flame', where), _part(data, 'camera', where)
    height, width = (float(n) for n in numbers(data, 'img_size', (2,), where))
    size, shift = height, numbers(camera, 'pp', (2,), where)
    base = numbers(camera, 'R_base_0', (3, 3), where)
    if 'R_rotation_matrix' in flame:
      turn = numbers(flame, 'R_rotation_matrix', (3, 3), where)
    else:
      turn = from_two_rows(numbers(flame, 'R', (6,), where))
    center = size / 2 + shift * (size / 2 + 0.5) + np.array([-0.5, 0.5])
    rows.append(
      dict(
        shape=numbers(flame, 'shape', (-1,), where),
        expression=numbers(flame, 'exp', (-1,), where),
        rotations=_rows_pose(flame, 'neck', where),
        camera_rotation=base @ turn,
        camera_translation=base @ numbers(flame, 't', (3,), where)
        + numbers(camera, 't_base_0', (3,), where),
        focal=np.full(2, numbers(camera, 'fl', (1,), where)[0] * size),
        center=center,
        image_size=(int(height), int(width)),
        **_eyelids(flame, where),
      )
    )
  return _joined(rows)


_REGRESSORS = {  # key of the record -> key in the file
  'smirk': dict(
    shape='shape_params',
    expression='expression_params',
    pose='pose_params',
    jaw='jaw_params',
    cam='cam',
  ),
  'deca': dict(shape='shape', expression='exp', pose='pose', jaw=None, cam='cam'),
}


def read_regressor(
  paths: list[pathlib.Path], kind: str, *, distance: float = 10.0, size: int = 224
) -> Tracked:
  """Parameters of SMIRK or DECA, of one file a frame or stacked [T, ...]; npz, pickle, or
  torch.save.

  SMIRK: shape_params, expression_params, pose_params [T, 3], jaw_params [T, 3], cam [T, 3]. DECA:
  shape, exp, pose [T, 6] (root, jaw), cam. All axis-angle. cam is (s, tx, ty) of an orthographic
  camera: a point is at s (X + tx), s (Y + ty), y up, in -1..1 of a crop of `size` pixels. `tform`
  [T, 3, 3], source pixels to crop, is kept if it is there, image_size too.

  A pinhole about `distance` metres away, in each frame where it gives the same size with one focal
  length for all, replaces that camera; what is d metres nearer to it than the origin of FLAME is
  larger by the factor distance / (distance - d).
  """
  names, rows, scales = _REGRESSORS[kind], [], []
  for where in paths:
    data = npz.read_npz(where) if where.suffix.lower() == '.npz' else read_torch(where)
    get = lambda key, *shape, data=data, where=where: numbers(data, key, shape, where)
    expression = get(names['expression'], -1, -1)
    count = len(expression)
    pose = get(names['pose'], count, 3 if names['jaw'] else 6)
    root, jaw = (pose, get(names['jaw'], count, 3)) if names['jaw'] else (pose[:, :3], pose[:, 3:])
    still = np.zeros((count, 3))
    cam = get(names['cam'], count, 3)
    if (cam[:, 0] <= 0).any():
      raise UserError(f'{where}: {names["cam"]} has a scale that is not positive')
    pixels = int(get('image_size', -1)[0]) if 'image_size' in data else size
    lids = get('eyelid_params', count, 2) if 'eyelid_params' in data else None
    shape = get(names['shape'], -1, -1)
    rows += [
      dict(
        shape=shape[min(t, len(shape) - 1)],
        expression=expression[t],
        rotations=from_axis_angle(np.stack([root[t], still[t], jaw[t], still[t], still[t]])),
        camera_rotation=np.eye(3),
        camera_translation=np.array([cam[t, 1], cam[t, 2], 0]),
        center=np.full(2, pixels / 2),
        image_size=(pixels, pixels),
        **({} if lids is None else {'eyelids': lids[t]}),
        **({'source_crop': get('tform', -1, 3, 3)[t]} if 'tform' in data else {}),
      )
      for t in range(count)
    ]
    scales += [cam[t, 0] * pixels / 2 for t in range(count)]
  if not rows:
    raise UserError(f'{paths[0]} holds no frames')
  focal = np.median(scales) * distance
  for row, scale in zip(rows, scales):
    row['focal'] = np.full(2, focal)
    row['camera_translation'][2] = -focal / scale
  notes = (f'an orthographic camera was replaced by a pinhole about {distance:g} m away',)
  return _joined(rows, notes)


def _part(data, key, where) -> dict:
  """A dictionary inside the file."""
  if not isinstance(data.get(key), dict):
    raise UserError(
      f'{where}: the part {key!r} is missing (it has {sorted(map(str, data))}); is it the '
      'right --kind?'
    )
  return data[key]


def _rows_pose(flame, neck, where):
  """[5, 3, 3]: root at rest, neck, jaw, eyes, from two rows each."""
  eyes = numbers(flame, 'eyes', (12,), where)
  turn = np.eye(3) if neck is None else from_two_rows(numbers(flame, neck, (6,), where))
  jaw = from_two_rows(numbers(flame, 'jaw', (6,), where))
  return np.stack([np.eye(3), turn, jaw, from_two_rows(eyes[:6]), from_two_rows(eyes[6:])])


def _eyelids(flame: dict, where) -> dict[str, np.ndarray]:
  """The lids of one frame, [2], where the file has them."""
  return {'eyelids': numbers(flame, 'eyelids', (2,), where)} if 'eyelids' in flame else {}


def _joined(rows: list[dict], notes: tuple[str, ...] = ()) -> Tracked:
  """One record of all frames; the shape is the mean, the picture size must not change."""
  if len({row['image_size'] for row in rows}) > 1:
    raise UserError(
      'the frames have pictures of different sizes; give the files of one clip at a time'
    )
  for key in ('shape', 'expression'):
    if len({row[key].shape for row in rows}) > 1:
      raise UserError(
        f'the frames have {key} of different lengths; give the files of one clip at a time'
      )
  shapes = np.stack([row['shape'] for row in rows])
  if np.ptp(shapes, axis=0).max() > 1e-4:
    notes = (*notes, 'shape differs between the frames, its mean is used')
  with_lids = sum('eyelids' in row for row in rows)
  if 0 < with_lids < len(rows):
    notes = (
      *notes,
      f'{len(rows) - with_lids} of {len(rows)} frames have no eyelid parameters; open lids are '
      'assumed there',
    )
  stack = lambda key: np.stack([row[key] for row in rows])
  return Tracked(
    shape=shapes.mean(0),
    expression=stack('expression'),
    rotations=stack('rotations'),
    translation=np.zeros((len(rows), 3)),
    camera_rotation=stack('camera_rotation'),
    camera_translation=stack('camera_translation'),
    focal=stack('focal'),
    center=stack('center'),
    image_size=rows[0]['image_size'],
    warnings=notes,
    eyelids=np.stack([row.get('eyelids', np.zeros(2)) for row in rows]) if with_lids else None,
    source_crop=stack('source_crop') if all('source_crop' in row for row in rows) else None,
  )
