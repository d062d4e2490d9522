"""Turns what FLAME trackers left into subject files of this program.

  python -m exp_jax.convert.subjects tracked_flame_params_30.npz --kind vhap --head flame.npz -o subjects/
  python -m exp_jax.convert.subjects output/actor/checkpoint --kind metrical --head flame.npz -o subjects/

A folder is one person in one clip (its files in the order of their names); so are the files
of --kind pixel3dmm, metrical, smirk and deca that are named together; each VHAP file is a clip.
Of --kind vhap also the folder that VHAP exports and GaussianAvatars reads, with flame_param/*.npz
and transforms.json. A clip that fails is named, the others are converted. Eyelids of a tracker are
kept where the head has them (exp_jax.convert.flame --eyelids). The head is your FLAME, made by
exp_jax.convert.flame, in the version (2020 or 2023) that the tracker used: coefficients of one mean
nothing to the other, and nothing in the files tells which it was.
"""

import argparse
import json
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.convert.flame import EYELIDS
from exp_jax.convert.subject_files import flame_param, subjects_formats
from exp_jax.convert.subject_files.subjects_formats import Tracked
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly, item_failure, one_line
from exp_jax.heads.densify import densify, lift
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadModel, head_digest
from exp_jax.heads.personalized import Subject, save_subject

JOINTS = ('neck', 'head', 'jaw', 'left_eye', 'right_eye')  # FLAME's root, neck, jaw and eyes
KINDS = ('vhap', 'metrical', 'pixel3dmm', 'smirk', 'deca')
_PATTERNS = {'vhap': '*.npz', 'metrical': '*.frame', 'pixel3dmm': '*.frame'}
_SAME = 1e-3  # relative change of the focal length below which it counts as constant


def read_tracked(
  paths: list[pathlib.Path], kind: str, *, distance: float = 10.0, **camera
) -> Tracked:
  """The files of one clip, by the reader of their kind.

  Args:
    paths: of the clip, in order.
    kind: one of `KINDS`.
    distance: see `subjects_formats.read_regressor`.
    **camera: camera, focal and size of `flame_param.read_flame_param`.

  Raises:
    UserError: see subjects_formats and flame_param.
  """
  if kind == 'vhap' and paths[0].parent.name == flame_param.FOLDER:
    return flame_param.read_flame_param(paths, **camera)
  if given := [name for name, value in camera.items() if value is not None]:
    raise UserError(
      f'--{given[0].replace("size", "image_size")} is for folders of flame_param; '
      f'{str(paths[0])!r} is none'
    )
  if kind in ('smirk', 'deca'):
    return subjects_formats.read_regressor(paths, kind, distance=distance)
  readers = {
    'vhap': subjects_formats.read_vhap,
    'metrical': subjects_formats.read_metrical,
    'pixel3dmm': subjects_formats.read_pixel3dmm,
  }
  return readers[kind](paths)


def to_subject(
  tracked: Tracked,
  head: HeadModel,
  *,
  subject_id: str,
  kind: str,
  fps: float = 25.0,
  levels: int = 0,
) -> Subject:
  """The record as a subject of `head`.

  FLAME turns about its root joint j and then the camera acts: C (R (u - j) + j + t) + c. Ours is
  the same with root rotation C R and translation C (j + t) + c - j. One camera serves the clip:
  where focal length or centre change, the head is moved so that it is seen at the same place and
  size.

  Raises:
    UserError: `head` is not FLAME, has fewer coefficients than are used, or offsets do not fit it.
  """
  if head.joint_names != JOINTS:
    raise UserError(
      f'the head {head.name!r} has joints {head.joint_names}, trackers use those of FLAME '
      f'{JOINTS}; convert FLAME by exp_jax.convert.flame'
    )
  notes = list(tracked.warnings)
  sizes = head.shape_basis.shape[-1], head.expression_basis.shape[-1]
  shape = _padded(tracked.shape[None], sizes[0], 'shape', subject_id)[0]
  expression = _padded(tracked.expression, sizes[1], 'expression', subject_id)
  count = len(expression)
  notes += _with_eyelids(expression, tracked.eyelids, head)
  # [T, 3]
  root = (
    np.asarray(head.joint_template[0], np.float64)
    + np.asarray(head.joint_shape[0], np.float64) @ shape
    + expression @ np.asarray(head.joint_expression[0], np.float64).T
  )
  turn = tracked.camera_rotation @ tracked.rotations[:, 0]
  place = np.einsum('tij,tj->ti', tracked.camera_rotation, root + tracked.translation)
  place = place + tracked.camera_translation
  if (place[:, 2] >= 0).any():
    raise UserError(
      f'{subject_id}: the head is behind the camera in {(place[:, 2] >= 0).sum()} of {count} '
      'frames; is it the right --kind?'
    )
  focal, center = np.median(tracked.focal, axis=0), np.median(tracked.center, axis=0)
  if np.abs(tracked.focal / focal - 1).max() > _SAME or np.ptp(tracked.center, axis=0).max() > 0.5:
    notes.append(
      'the camera changes over the clip; one camera is kept and the head is moved instead, which '
      'keeps its place and size but not its perspective'
    )
  place = _seen_by_one_camera(place, tracked, focal, center)
  rotations = tracked.rotations.copy()
  rotations[:, 0] = turn
  dense = densify(head, levels)
  static, moving, dynamic = _lifted(tracked, dense, head, count, subject_id)
  if tracked.offsets is not None or tracked.dynamic_offsets is not None:
    notes.append('joints of the tracker follow its vertex offsets, ours do not')
  number = lambda value: np.asarray(value, np.float32)
  return Subject(
    subject_id=subject_id,
    head_name=head.name,
    head_digest=head_digest(head),
    levels=levels,
    image_size=tracked.image_size,
    fps=float(fps),
    shape=number(shape),
    expression=number(expression),
    pose=number(Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_rotvec().reshape(count, 5, 3)),
    translation=number(place - root),
    focal=number(focal),
    center=number(center),
    times=number(
      (np.arange(count) if tracked.steps is None else tracked.steps - tracked.steps[0]) / fps
    ),
    static_offsets=number(static),
    dynamic_vertices=moving.astype(np.int32),
    dynamic_offsets=number(dynamic),
    source_crop=None if tracked.source_crop is None else number(tracked.source_crop),
    report=json.dumps({'imported_from': kind, 'frames': count, 'warnings': notes}),
  )


def _seen_by_one_camera(place: np.ndarray, tracked: Tracked, focal, center) -> np.ndarray:
  """[T, 3] where the head is for a camera that stays as it is, at the same place and size."""
  scale = focal[0] / tracked.focal[:, 0]
  shift = (tracked.center - center) * np.array([-1, 1])
  place = place * np.array([1, 1, 0]) + place[:, 2:] * scale[:, None] * np.array([0, 0, 1])
  place[:, :2] += shift * place[:, 2:] / focal
  return place


def _lifted(tracked: Tracked, dense, head: HeadModel, count: int, subject_id: str):
  """Offsets of the tracker's vertices on the dense mesh: static [N, 3], moving vertices [M],
  dynamic [T, M, 3]."""
  size = head.template.shape[0]
  for name, values in (('static', tracked.offsets), ('dynamic', tracked.dynamic_offsets)):
    if values is not None and values.shape[-2] < size:
      raise UserError(
        f'{subject_id}: {name} offsets are of {values.shape[-2]} vertices, the head has {size}'
      )
  on_dense = lambda values: np.asarray(lift(dense, jnp.asarray(values[:size], jnp.float32)))
  static, moving = np.zeros((len(dense.coarse_ids), 3)), np.zeros(0, int)
  dynamic = np.zeros((count, 0, 3))
  if tracked.offsets is not None:
    static = on_dense(tracked.offsets)
  if tracked.dynamic_offsets is not None:
    moving = np.arange(len(static))
    dynamic = np.stack([on_dense(each) for each in tracked.dynamic_offsets])
  return static, moving, dynamic


def _with_eyelids(expression: np.ndarray, eyelids: np.ndarray | None, head: HeadModel) -> list[str]:
  """Puts [T, 2] lids into the two columns of `expression` that the head has for them; returns what
  there is to say."""
  if eyelids is None:
    return []
  names = list(head.expression_names)
  if not set(EYELIDS) <= set(names):
    return [
      'eyelid parameters are left out, because the head has no eyelids: blinks are lost. Convert '
      'FLAME with --eyelids '
      'l_eyelid.npy r_eyelid.npy of the tracker to keep them'
    ]
  for side, name in enumerate(EYELIDS):
    expression[:, names.index(name)] += eyelids[:, side]
  return []


def _padded(values, size, what, subject_id):
  """[T, n] -> [T, size]: zeros added; numbers that the head cannot hold must be zero."""
  if values.shape[1] > size and np.abs(values[:, size:]).max() > 0:
    raise UserError(
      f'{subject_id} uses {values.shape[1]} {what} coefficients, the head has {size}; convert '
      'FLAME with all of them'
    )
  found = np.zeros((len(values), size))
  found[:, : values.shape[1]] = values[:, :size]
  return found


def _clips(paths: list[pathlib.Path], kind: str) -> dict[str, list[pathlib.Path]]:
  """Subject id -> its files."""
  clips, loose = {}, []
  for path in paths:
    inside = path if path.name == flame_param.FOLDER else path / flame_param.FOLDER
    if path.is_dir() and kind == 'vhap' and inside.is_dir():
      if not (found := sorted(inside.glob('*.npz'))):
        raise UserError(f'{str(inside)!r} has no *.npz files')
      clips[inside.resolve().parent.name] = found
    elif path.is_dir():
      patterns = [_PATTERNS[kind]] if kind in _PATTERNS else ['*.npz', '*.pkl', '*.pt']
      found = sorted(p for pattern in patterns for p in path.glob(pattern))
      if not found:
        raise UserError(f'{path} has no {" or ".join(patterns)} files')
      clips[path.resolve().name if path.name != 'checkpoint' else path.resolve().parent.name] = (
        found
      )
    elif kind == 'vhap':
      clips[path.stem if not path.stem.startswith('tracked') else path.resolve().parent.name] = [
        path
      ]
    else:
      loose.append(path)
  if loose:
    clips[loose[0].stem if len(loose) == 1 else loose[0].resolve().parent.name] = loose
  return clips


@exits_cleanly
def main(argv=None):
  """See the top of this file."""
  parser = ArgumentParser(
    prog='python -m exp_jax.convert.subjects',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    'files', nargs='+', type=pathlib.Path, help="the tracker's files or folders of them"
  )
  parser.add_argument('--kind', required=True, choices=KINDS, help='which tracker wrote them')
  parser.add_argument('--head', required=True, help='FLAME as a head of this program, .npz')
  parser.add_argument(
    '-o', '--output', required=True, type=pathlib.Path, help='folder of subject files'
  )
  parser.add_argument('--name', help='subject id, where there is one clip (default: from the path)')
  parser.add_argument(
    '--fps', type=float, default=25.0, help='frames per second of the clip (default 25)'
  )
  parser.add_argument('--levels', type=int, default=0, help='subdivisions of the mesh (default 0)')
  parser.add_argument(
    '--distance',
    type=float,
    default=10.0,
    help='metres to the pinhole that replaces an orthographic camera (default 10)',
  )
  parser.add_argument(
    '--camera',
    type=int,
    help='camera_index of a flame_param folder (default: the one that the face looks into)',
  )
  parser.add_argument(
    '--focal', type=float, help='pixels, of a flame_param folder without transforms.json'
  )
  parser.add_argument(
    '--image_size',
    type=int,
    nargs=2,
    metavar=('HEIGHT', 'WIDTH'),
    help='size of its pictures, with --focal',
  )
  options = parser.parse_args(argv)
  if not options.fps > 0 or not 0 <= options.levels <= 4 or not 0.5 <= options.distance <= 1000:
    raise UserError('--fps must be above 0, --levels in 0..4, --distance in 0.5..1000 metres')
  if (
    options.focal is not None
    and not options.focal > 0
    or options.image_size
    and min(options.image_size) < 1
  ):
    raise UserError('--focal and --image_size must be positive, in pixels')
  if options.image_size and options.focal is None:
    raise UserError('--image_size goes with --focal')
  head = load_head(options.head)
  clips = _clips(options.files, options.kind)
  if options.name and len(clips) > 1:
    raise UserError(f'--name is for one clip, {len(clips)} were given: {", ".join(clips)}')
  camera = dict(
    camera=options.camera,
    focal=options.focal,
    size=options.image_size and tuple(options.image_size),
  )
  failed = 0
  for name, paths in clips.items():
    name = options.name or name
    try:
      tracked = read_tracked(paths, options.kind, distance=options.distance, **camera)
      subject = to_subject(
        tracked, head, subject_id=name, kind=options.kind, fps=options.fps, levels=options.levels
      )
      save_subject(options.output / f'{name}.npz', subject)
    except Exception as error:  # the clip's failure, whatever a reader raises; the others go on
      failed += 1
      print(f'error: {item_failure(name, error)}', file=sys.stderr)
      continue
    print(f'{one_line(options.output / name)}.npz: {subject.num_frames} frames')
    for note in json.loads(subject.report)['warnings']:
      print(f'  note: {one_line(note)}')
  if failed:
    sys.exit(2)


if __name__ == '__main__':
  main()
