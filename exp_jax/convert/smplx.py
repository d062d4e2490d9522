"""Head and shoulders of a SMPL-X model file that you have been licensed to use.

  python -m exp_jax.convert.smplx SMPLX_NEUTRAL_2020.npz -o assets/heads/smplx.npz

Reads the .npz (numeric entries only) or the .pkl (through a reader that runs nothing), of 2019 (10
shape and 10 expression directions) or 2020 (300 and 100). The landmarks are iBUG 17-67 with the
contour 0-16, or MediaPipe's with --landmarks; regions are guessed from joints and landmarks, or
taken from FLAME's masks with --masks and --flame-ids. Hands stay as in the template, flat (the mean
hand pose is not added). The result falls under the
licence of the file: research only, not to be passed on.

Fitting needs MediaPipe's 478 points: they are carried over from the default head by shape, where
that is set up (exp_jax/convert/heads/landmark_transfer.py).

--dense also writes the subdivided template with its operator, normals and Laplacian, by PyTorch3D
where that is installed and by sparse matrices where it is not, in the same order
(exp_jax/convert/heads/pytorch3d_check.py).
"""

import argparse
import pathlib

import numpy as np

from exp_jax.convert.foreign import pickles
from exp_jax.convert.heads import body_models, landmark_transfer, pytorch3d_check
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.digests import file_digest
from exp_jax.files.npz import read_npy, read_npz, write_npz
from exp_jax.heads.head_files import save_head
from exp_jax.heads.model import HeadModel

LICENSE = 'SMPL-X model licence (smpl-x.is.tue.mpg.de): non-commercial research, no redistribution'
_FINGERS = [
  f'{finger}{k}' for finger in ('index', 'middle', 'pinky', 'ring', 'thumb') for k in (1, 2, 3)
]
ALL_JOINTS = dict(
  enumerate(
    'pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine '
    'left_foot right_foot '
    'neck left_collar right_collar head left_shoulder right_shoulder left_elbow right_elbow '
    'left_wrist right_wrist '
    'jaw left_eye right_eye'.split()
    + [f'{side}_{name}' for side in ('left', 'right') for name in _FINGERS]
  )
)
JOINTS = {k: ALL_JOINTS[k] for k in (9, 12, 15, 22, 23, 24, 13, 14, 16, 17)}
_ENTRIES = (
  'v_template',
  'f',
  'shapedirs',
  'posedirs',
  'J_regressor',
  'weights',
  'kintree_table',
  'lmk_faces_idx',
  'lmk_bary_coords',
  'dynamic_lmk_faces_idx',
  'dynamic_lmk_bary_coords',
)


def read_model(path) -> dict[str, np.ndarray]:
  """The entries we need of an npz or a pkl; members that are pickled objects are never touched."""
  return (pickles.read_pickle if str(path).endswith('.pkl') else read_npz)(path, _ENTRIES)


def convert(
  path,
  *,
  num_shape: int = 100,
  num_expression: int = 100,
  whole: bool = False,
  landmarks=None,
  masks=None,
  flame_ids=None,
  dtype=np.float32,
) -> HeadModel:
  """SMPL-X -> HeadModel with 10 joints, or with all 55 and all vertices if `whole`.

  Args:
    path: SMPLX_*.npz or .pkl.
    landmarks: mediapipe_landmark_embedding.npz of SMPL-X; None: iBUG 17-67 of the model file.
    masks: FLAME_masks.pkl. flame_ids: SMPL-X__FLAME_vertex_ids.npy. Both or neither.
    dtype: float32, or float64 where jax_enable_x64 is on.

  Raises:
    UserError: an array is missing, misshapen, not finite, or does not fit the others.
  """
  data = read_model(path)
  columns = body_models.numbers(data, 'shapedirs', 3, path).shape[2]
  start = 300 if columns >= 400 else 10  # old files hold 10 shape and 10 expression columns
  if columns < 20:
    raise UserError(
      f'{path}: shapedirs has {columns} columns, SMPL-X has 20 or 400; a file of SMPL or SMPL-H?'
    )
  joints = body_models.numbers(data, 'weights', 2, path).shape[1]
  if joints != len(ALL_JOINTS):
    raise UserError(f'{path}: {joints} joints, SMPL-X has {len(ALL_JOINTS)}')
  ibug = contour = regions = None
  if 'lmk_faces_idx' in data:
    ibug = body_models.ibug_landmarks(data, 'lmk_faces_idx', 'lmk_bary_coords', path)
  if 'dynamic_lmk_faces_idx' in data:
    table = body_models.embedding(data, 'dynamic_lmk_faces_idx', 'dynamic_lmk_bary_coords', 2, path)
    contour = body_models.contour_rows(*table, path)
  if (masks is None) != (flame_ids is None):
    raise UserError(
      '--masks FLAME_masks.pkl and --flame-ids SMPL-X__FLAME_vertex_ids.npy are needed together'
    )
  if masks is not None:
    ids = vertex_ids(flame_ids, len(data['v_template']))
    on_flame = body_models.flame_masks(pickles.read_pickle(masks), len(ids), masks)
    regions = {
      name: np.isin(np.arange(len(data['v_template'])), ids[mask])
      for name, mask in on_flame.items()
    }
  return body_models.convert(
    data,
    joints=ALL_JOINTS if whole else JOINTS,
    shape=slice(0, min(num_shape, start)),
    expression=slice(start, min(start + num_expression, columns, start + 100)),
    source=path,
    origin=f'{pathlib.Path(path).name} sha256:{file_digest(path)}',
    name='smplx',
    license=LICENSE,
    landmarks=ibug if landmarks is None else body_models.mediapipe_landmarks(landmarks),
    region_landmarks=ibug,
    contour=contour,
    masks=regions,
    cut=not whole,
    dtype=dtype,
  )


def vertex_ids(path, count: int) -> np.ndarray:
  """SMPL-X__FLAME_vertex_ids.npy: for each vertex of FLAME the id [N] of the same vertex of
  SMPL-X."""
  ids = body_models.numbers({'it': read_npy(path)}, 'it', 1, path, integer=True)
  if not 0 <= ids.min() <= ids.max() < count or len(np.unique(ids)) < len(ids):
    raise UserError(f'{path} does not list distinct vertices in 0..{count - 1}')
  return ids


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('model', help='SMPLX_*.npz or .pkl')
  add('-o', '--output', required=True, help='the head to write, .npz')
  add('--shape', type=int, default=100, help='identity directions (default 100)')
  add('--expression', type=int, default=100, help='expression directions (default 100)')
  add('--whole', action='store_true', help='keep the whole body and all 55 joints')
  add('--landmarks', help='mediapipe_landmark_embedding.npz for SMPL-X, in place of iBUG')
  add('--masks', help='FLAME_masks.pkl, with --flame-ids: regions in place of a guess')
  add('--flame-ids', help='SMPL-X__FLAME_vertex_ids.npy')
  add(
    '--dense',
    type=int,
    default=0,
    metavar='LEVELS',
    help='also write <output>_dense.npz, split so many times',
  )
  landmark_transfer.add_flag(parser)
  options = parser.parse_args(argv)
  if min(options.shape, options.expression) < 1 or not 0 <= options.dense <= 4:
    raise UserError('--shape and --expression are at least 1, --dense lies in 0..4')
  head = convert(
    options.model,
    num_shape=options.shape,
    num_expression=options.expression,
    whole=options.whole,
    landmarks=options.landmarks,
    masks=options.masks,
    flame_ids=options.flame_ids,
  )
  head = landmark_transfer.carried(head, options.mediapipe)
  save_head(options.output, head)
  print(body_models.summary(options.output, head))
  if options.dense:
    asset = pytorch3d_check.dense_asset(head, options.dense)
    path = pathlib.Path(options.output).with_suffix('')
    path = path.with_name(f'{path.name}_dense.npz')
    write_npz(path, asset)
    print(
      f'{path}: {len(asset["vertices"])} vertices, {len(asset["faces"])} triangles, subdivided by '
      f'{asset["implementation"]}'
    )


if __name__ == '__main__':
  main()
