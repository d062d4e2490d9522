"""VHAP's export, which is also what the data sets of GaussianAvatars hold: one npz of FLAME a
frame, and the cameras in JSON.

  DIR/flame_param/*.npz          rotation, translation, neck_pose, jaw_pose [1, 3], eyes_pose [1, 6], expr [1, E], shape [S] of one
                                 time step; static_offset [1, V', 3] and dynamic_offset [1, V', 3]
                                 where they are used
  DIR/transforms.json            or transforms_train.json, _val, _test together: for each picture timestep_index, camera_index,
                                 flame_param_path, transform_matrix [4, 4] from camera to world
                                 (OpenGL: x right, y up, z back), and fl_x, fl_y, cx, cy, w, h in
                                   pixels, of the picture or of all; camera_angle_x instead of fl_x

V' may have teeth after FLAME's vertices. Where several cameras film, the one that the face looks
into most is taken.
Source: the exporters of VHAP and the readers of GaussianAvatars, as their documentation describes
the files.
"""

import math
import pathlib

import numpy as np

from exp_jax.convert.subject_files.subjects_formats import Tracked, from_axis_angle, numbers
from exp_jax.errors import UserError
from exp_jax.files import npz
from exp_jax.files.foreign_tensors import read_json

FOLDER = 'flame_param'
_TABLES = (
  ('transforms.json',),
  ('transforms_train.json', 'transforms_val.json', 'transforms_test.json'),
)


def _pictures(folder: pathlib.Path) -> tuple[list[dict], pathlib.Path | None]:
  """The entries of all pictures, each with what its file says of all, and one of the files; none
  where there is no file."""
  for names in _TABLES:
    paths = [folder / name for name in names if (folder / name).is_file()]
    entries = []
    for path in paths:
      table = read_json(path)
      frames = table.get('frames')
      if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f'{path}: frames is not a list of pictures')
      shared = {name: value for name, value in table.items() if name != 'frames'}
      entries += [shared | frame for frame in frames]
    if entries:
      return entries, paths[0]
  return [], None


def _whole(entry: dict, name: str, where) -> int:
  """A whole number of an entry, 0 where it has none."""
  value = entry.get(name, 0)
  if (
    isinstance(value, bool)
    or not isinstance(value, (int, float))
    or not math.isfinite(value)
    or value != int(value)
  ):
    raise UserError(f'{where}: {name} is not a whole number')
  return int(value)


def _camera(entry: dict, where) -> dict[str, np.ndarray]:
  """rotation [3, 3] and translation [3] into the camera frame of `Tracked`; focal, center [2]
  pixels; size (height, width)."""
  one = lambda name: float(numbers(entry, name, (1,), where)[0])
  pose = numbers(entry, 'transform_matrix', (4, 4), where)
  turn = pose[:3, :3]
  if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
    raise UserError(f'{where}: a transform_matrix is not a rotation and a translation')
  width, height = _whole(entry, 'w', where), _whole(entry, 'h', where)
  if min(width, height) < 1:
    raise UserError(f'{where}: w and h, the size of the pictures in pixels, are missing')
  if 'fl_x' in entry:
    focal = [one('fl_x'), one('fl_y' if 'fl_y' in entry else 'fl_x')]
  else:
    angle = one('camera_angle_x')
    if not 0 < angle < math.pi:
      raise UserError(f'{where}: camera_angle_x is {angle:g}, it must be in 0..3.14 radians')
    focal = [width / 2 / math.tan(angle / 2)] * 2
  center = [one('cx') if 'cx' in entry else width / 2, one('cy') if 'cy' in entry else height / 2]
  return dict(
    camera_rotation=turn.T,
    camera_translation=-turn.T @ pose[:3, 3],
    focal=np.array(focal),
    center=np.array(center),
    image_size=(height, width),
  )


def _chosen(
  entries: list[dict], wanted: int | None, steps: dict, where
) -> tuple[dict[str, dict], int, list[int]]:
  """{name of a step's file: camera} of one of the cameras; its index, and those of all."""
  cameras: dict[int, dict[str, dict]] = {}
  for at, entry in enumerate(entries):
    named = entry.get('flame_param_path')
    name = (
      pathlib.PurePosixPath(named.replace('\\', '/')).name
      if isinstance(named, str)
      else (f'{_whole(entry, "timestep_index", where):05d}.npz')
    )
    if name in steps:
      cameras.setdefault(_whole(entry, 'camera_index', where), {})[name] = _camera(
        entry, f'{where}: picture {at}'
      )
  if not cameras:
    raise UserError(f'{where} speaks of none of the files in {FOLDER}')
  if wanted is not None:
    if wanted not in cameras:
      raise UserError(
        f'{where} has no camera {wanted}; it has {", ".join(map(str, sorted(cameras)))}'
      )
    return cameras[wanted], wanted, sorted(cameras)

  def frontal(index):
    """Cosine between where the face looks and where the camera is, in the first step that it saw;
    more steps go first."""
    name, camera = min(cameras[index].items())
    turn = from_axis_angle(np.stack([steps[name]['rotation'], steps[name]['neck_pose']]))
    return len(cameras[index]), float((camera['camera_rotation'] @ turn[0] @ turn[1])[2, 2])

  best = max(sorted(cameras), key=frontal)
  return cameras[best], best, sorted(cameras)


def _step(path: pathlib.Path) -> dict[str, np.ndarray]:
  """What a file of one time step holds, checked."""
  data = npz.read_npz(path)
  found = {
    name: numbers(data, name, (size,), path)
    for name, size in (
      ('rotation', 3),
      ('translation', 3),
      ('neck_pose', 3),
      ('jaw_pose', 3),
      ('eyes_pose', 6),
    )
  }
  found |= {
    'expr': numbers(data, 'expr', (-1,), path),
    'shape': numbers(data, 'shape', (-1,), path),
  }
  return found | {
    name: numbers(data, name, (-1, 3), path)
    for name in ('static_offset', 'dynamic_offset')
    if name in data
  }


def read_flame_param(
  paths: list[pathlib.Path],
  *,
  camera: int | None = None,
  focal: float | None = None,
  size: tuple[int, int] | None = None,
) -> Tracked:
  """One person in one clip.

  Args:
    paths: DIR/flame_param/*.npz in the order of time.
    camera: its camera_index; None: the one that the face looks into.
    focal: pixels, where DIR has no transforms: the camera is then that of an uncalibrated clip, 1 m
      in front of the origin.
    size: (height, width) of the pictures, with `focal`.

  Raises:
    UserError: a file is damaged, files do not go together, there is no such camera, or neither
      transforms nor `focal`.
  """
  folder = paths[0].parent.parent
  steps = {path.name: _step(path) for path in paths}
  entries, where = _pictures(folder)
  notes = ()
  if focal is not None:
    if size is None:
      raise UserError('--focal needs --image_size HEIGHT WIDTH, the size of the pictures in pixels')
    alone = dict(
      camera_rotation=np.eye(3),
      camera_translation=np.array([0.0, 0, -1]),
      focal=np.full(2, float(focal)),
      center=np.array([size[1] / 2, size[0] / 2]),
      image_size=size,
    )
    seen = dict.fromkeys(steps, alone)
  elif not entries:
    raise UserError(
      f'{folder} has neither transforms.json nor transforms_train.json, where the camera stands; '
      'put it there, or give '
      '--focal and --image_size in pixels'
    )
  else:
    seen, index, known = _chosen(entries, camera, steps, where)
    if len(known) > 1:
      notes += (f'of cameras {", ".join(map(str, known))}, camera {index} is used',)
    if missing := len(steps) - len(seen):
      notes += (
        f'{missing} of {len(steps)} frames have no picture of this camera and are left out',
      )
  names = [name for name in steps if name in seen]
  _check_one_clip(paths[0].parent, where, [steps[name] for name in names], seen.values())
  of_steps = lambda key: np.stack([steps[name][key] for name in names])
  of_camera = lambda key: np.stack([seen[name][key] for name in names])
  shapes, eyes = of_steps('shape'), of_steps('eyes_pose')
  if np.ptp(shapes, axis=0).max(initial=0) > 1e-4:
    notes += ('shape differs between the frames, its mean is used',)
  pose = np.stack(
    [of_steps('rotation'), of_steps('neck_pose'), of_steps('jaw_pose'), eyes[:, :3], eyes[:, 3:]], 1
  )
  static, dynamic = (
    _offsets([steps[name].get(key) for name in names], key, paths[0].parent)
    for key in ('static_offset', 'dynamic_offset')
  )
  if static is not None and np.ptp(static, axis=0).max(initial=0) > 1e-6:
    notes += ('static_offset differs between the frames, its mean is used',)
  return Tracked(
    shape=shapes.mean(0),
    expression=of_steps('expr'),
    rotations=from_axis_angle(pose),
    translation=of_steps('translation'),
    camera_rotation=of_camera('camera_rotation'),
    camera_translation=of_camera('camera_translation'),
    focal=of_camera('focal'),
    center=of_camera('center'),
    image_size=seen[names[0]]['image_size'],
    offsets=None if static is None else static.mean(0),
    dynamic_offsets=dynamic,
    steps=np.array([_number(name, at) for at, name in enumerate(names)]),
    warnings=notes,
  )


def _check_one_clip(folder: pathlib.Path, where, steps: list[dict], seen) -> None:
  """UserError where frames or their pictures are of different sizes."""
  for key in ('shape', 'expr'):
    if len({step[key].shape for step in steps}) > 1:
      raise UserError(
        f'{folder}: the frames have {key} of different lengths; give one clip at a time'
      )
  if len({each['image_size'] for each in seen}) > 1:
    raise UserError(f'{where}: the pictures are of different sizes; give one clip at a time')


def _offsets(found: list, key: str, where) -> np.ndarray | None:
  """[T, V', 3] where all frames have them, None where none has; UserError where some do or sizes
  differ."""
  if all(each is None for each in found):
    return None
  if any(each is None for each in found) or len({each.shape for each in found}) > 1:
    raise UserError(f'{where}: {key} is of different vertices in some frames, or missing there')
  return np.stack(found)


def _number(name: str, otherwise: int) -> int:
  """The time step in a file's name, such as 12 of 00012.npz."""
  stem = pathlib.PurePath(name).stem
  return int(stem) if stem.isascii() and stem.isdecimal() and len(stem) < 10 else otherwise
