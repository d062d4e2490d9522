"""A FLAME model file that you have been licensed to use, as a head of this program.

  python -m exp_jax.convert.flame generic_model.pkl -o assets/heads/flame.npz --landmarks
  flame_static_embedding.pkl

The pickle is read without running anything in it. FLAME ends at the neck. The 2020 and 2023
expression
bases differ; coefficients of one mean nothing to the other.
"""

import argparse

from exp_jax.convert import body_models, pickles
from exp_jax.convert.smplx import read_model
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.heads.model import HeadModel, save_head

LICENSE = 'FLAME model licence (flame.is.tue.mpg.de); see there which version allows what'
# FLAME's own names are root and neck; what they do is turn the neck and the head
JOINTS = {0: 'neck', 1: 'head', 2: 'jaw', 3: 'left_eye', 4: 'right_eye'}


def convert(path, *, landmarks=None, num_shape: int = 300, num_expression: int = 100) -> HeadModel:
  """FLAME -> HeadModel; its second joint, which turns the head, is called head, the root neck.

  Args:
    path: generic_model.pkl, flame2023.pkl or an npz of the same entries.
    landmarks: flame_static_embedding.pkl (`lmk_face_idx`, `lmk_b_coords`), or None.
  """
  data = read_model(path)
  columns = body_models.numbers(data, 'shapedirs', 3, path).shape[2]
  if columns < 400:
    raise UserError(f'{path}: shapedirs has {columns} columns, FLAME 2020 and 2023 have 400')
  found = None
  if landmarks is not None:
    table = pickles.read_pickle(landmarks)
    ids = body_models.numbers(table, 'lmk_face_idx', 1, landmarks)
    names = tuple(str(k) for k in range(17, 17 + len(ids)))
    found = names, ids, body_models.numbers(table, 'lmk_b_coords', 2, landmarks)

  return body_models.convert(
    data,
    joints=JOINTS,
    shape=slice(0, min(num_shape, 300)),
    expression=slice(300, 300 + min(num_expression, 100)),
    source=path,
    name='flame',
    license=LICENSE,
    landmarks=found,
    cut=False,
  )


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('model', help='generic_model.pkl, flame2023.pkl, or an npz')
  parser.add_argument('-o', '--output', required=True, help='the head to write, .npz')
  parser.add_argument('--landmarks', help='flame_static_embedding.pkl')
  options = parser.parse_args(argv)
  head = convert(options.model, landmarks=options.landmarks)
  save_head(options.output, head)
  print(
    f'{options.output}: {len(head.template)} vertices, {len(head.faces)} triangles; {head.license}'
  )


if __name__ == '__main__':
  main()
