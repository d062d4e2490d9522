"""A FLAME model file that you have been licensed to use, as a head of this program.

  python -m exp_jax.convert.flame generic_model.pkl -o assets/heads/flame.npz \\
    --landmarks flame_static_embedding.pkl --contour flame_dynamic_embedding.npy --masks
    FLAME_masks.pkl

Takes FLAME 2020 (generic_model.pkl), 2023 (flame2023.pkl) and 2023 without a jaw that turns
(flame2023_no_jaw.pkl, which opens the mouth by its expressions). --landmarks may also be the
landmark_embedding.npy of DECA-style trackers, which holds the contour too, or
mediapipe_landmark_embedding.npz. All pickles are read without running anything in them. FLAME ends
at the neck. --eyelids l_eyelid.npy r_eyelid.npy, the blendshapes that metrical-tracker, SMIRK and
Pixel3DMM bring, become two more expressions, eyeBlinkLeft and eyeBlinkRight. The 2020 and 2023
expression bases differ; coefficients of
one mean nothing to the other: move them with exp_jax.convert.transfer_coefficients.
With --landmarks the 478 points of MediaPipe, which fitting needs, are carried over from the default
head by shape, where that is set up (exp_jax/convert/heads/landmark_transfer.py). The edition of
2023 that may be used commercially ("Open") has the same form.
"""

import argparse
import pathlib

import numpy as np

from exp_jax.convert.foreign import pickles
from exp_jax.convert.heads import body_models, landmark_transfer
from exp_jax.convert.smplx import read_model
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files import npz
from exp_jax.files.digests import file_digest
from exp_jax.heads.head_files import save_head
from exp_jax.heads.model import HeadModel

LICENSE = 'FLAME model licence (flame.is.tue.mpg.de); see there which version allows what'
# FLAME's own names are root and neck; what they do is turn the neck and the head
JOINTS = {0: 'neck', 1: 'head', 2: 'jaw', 3: 'left_eye', 4: 'right_eye'}
# expressions of a head with the eyelids of trackers, in their order
EYELIDS = 'eyeBlinkLeft', 'eyeBlinkRight'
_WITHOUT_JAW = {0: 'neck', 1: 'head', 2: 'left_eye', 3: 'right_eye'}


def read_landmarks(path) -> tuple[tuple, tuple | None]:
  """Names, faces [K], weights [K, 3], and the contour as rows [79, 17], [79, 17, 3] where the file
  has one."""
  if str(path).endswith('.npz'):
    return body_models.mediapipe_landmarks(path), None
  table = pickles.read_pickle(path)
  if 'lmk_face_idx' in table:
    return body_models.ibug_landmarks(table, 'lmk_face_idx', 'lmk_b_coords', path), None
  if 'static_lmk_faces_idx' not in table:
    raise UserError(
      f'{path} has neither lmk_face_idx nor static_lmk_faces_idx; is it a landmark file of FLAME?'
    )
  static = body_models.ibug_landmarks(table, 'static_lmk_faces_idx', 'static_lmk_bary_coords', path)
  if 'dynamic_lmk_faces_idx' not in table:
    return static, None
  rows = body_models.embedding(table, 'dynamic_lmk_faces_idx', 'dynamic_lmk_bary_coords', 2, path)
  return static, body_models.contour_rows(*rows, path)


def read_contour(path) -> tuple[np.ndarray, np.ndarray]:
  """flame_dynamic_embedding.npy: faces [79, 17] and weights [79, 17, 3] in the order of yaw."""
  table = pickles.read_pickle(path)
  rows = body_models.embedding(table, 'lmk_face_idx', 'lmk_b_coords', 2, path)
  return body_models.contour_rows(*rows, path)


def convert(
  path,
  *,
  landmarks=None,
  contour=None,
  masks=None,
  num_shape: int = 300,
  num_expression: int = 100,
  dtype=np.float32,
) -> HeadModel:
  """FLAME -> HeadModel; its second joint, which turns the head, is called head, the root neck.

  The contour follows the head joint, neck included, as in the trackers that brought it; package
  smplx 0.1.28 looks at the root alone (`head.replace(contour_joint=0)`).

  Args:
    path: generic_model.pkl, flame2023.pkl or an npz of the same entries.
    landmarks: see `read_landmarks`, or None.
    contour: see `read_contour`, or None.
    masks: FLAME_masks.pkl, or None to guess regions.
    dtype: float32, or float64 where jax_enable_x64 is on.
  """
  data = read_model(path)
  columns = body_models.numbers(data, 'shapedirs', 3, path).shape[2]
  joints = body_models.numbers(data, 'weights', 2, path).shape[1]
  if columns < 400 or joints not in (4, 5):
    raise UserError(
      f'{path}: {joints} joints and {columns} columns of shapedirs, FLAME 2020 and 2023 have 5 (or '
      '4, without a jaw) and 400'
    )
  points = rows = None
  if landmarks is not None:
    points, rows = read_landmarks(landmarks)
  if contour is not None:
    rows = read_contour(contour)
  regions = None
  if masks is not None:
    count = len(body_models.numbers(data, 'v_template', 2, path))
    regions = body_models.flame_masks(pickles.read_pickle(masks), count, masks)
  return body_models.convert(
    data,
    joints=JOINTS if joints == 5 else _WITHOUT_JAW,
    shape=slice(0, min(num_shape, 300)),
    expression=slice(300, 300 + min(num_expression, 100)),
    source=path,
    origin=f'{pathlib.Path(path).name} sha256:{file_digest(path)}',
    name='flame',
    license=LICENSE,
    landmarks=points,
    region_landmarks=None if points is None or str(landmarks).endswith('.npz') else points,
    contour=rows,
    contour_joint='head',
    masks=regions,
    cut=False,
    dtype=dtype,
  )


def with_eyelids(head: HeadModel, left, right) -> HeadModel:
  """The head with two more expressions, `EYELIDS`, that close the upper lids.

  They act in the rest pose. SMIRK adds them after posing, which differs where the head is turned by
  more than a little.

  Args:
    head: FLAME, not cut.
    left: npy [V, 3], metres that the left lid's vertices move when it closes; of V vertices as the
      head has.
    right: the same of the right eye.
  """
  moves = []
  for path in (left, right):
    moves.append(npz.read_npy(path).astype(np.float64))
    if moves[-1].shape != head.template.shape or not np.isfinite(moves[-1]).all():
      raise UserError(
        f'{path} has shape {list(moves[-1].shape)}, eyelids of this head are finite numbers of '
        'shape '
        f'{list(head.template.shape)}'
      )
  more = lambda basis, columns: np.concatenate([basis, columns.astype(basis.dtype)], -1)
  basis, joints = np.asarray(head.expression_basis), np.asarray(head.joint_expression)
  return head.replace(
    expression_basis=more(basis, np.stack(moves, -1)),
    joint_expression=more(joints, np.zeros((*joints.shape[:2], 2))),
    expression_names=(*head.expression_names, *EYELIDS),
  )


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('model', help='generic_model.pkl, flame2023.pkl, flame2023_no_jaw.pkl, or an npz')
  add('-o', '--output', required=True, help='the head to write, .npz')
  add(
    '--landmarks',
    help='flame_static_embedding.pkl, landmark_embedding.npy or mediapipe_landmark_embedding.npz',
  )
  add('--contour', help='flame_dynamic_embedding.npy')
  add('--masks', help='FLAME_masks.pkl: regions in place of a guess')
  add(
    '--eyelids',
    nargs=2,
    metavar=('LEFT', 'RIGHT'),
    help='l_eyelid.npy and r_eyelid.npy of a tracker',
  )
  landmark_transfer.add_flag(parser)
  options = parser.parse_args(argv)
  head = convert(
    options.model, landmarks=options.landmarks, contour=options.contour, masks=options.masks
  )
  if options.eyelids:
    head = with_eyelids(head, *options.eyelids)
  head = landmark_transfer.carried(head, options.mediapipe)
  save_head(options.output, head)
  print(body_models.summary(options.output, head))


if __name__ == '__main__':
  main()
