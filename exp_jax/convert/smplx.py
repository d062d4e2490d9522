"""Head and shoulders of a SMPL-X model file that you have been licensed to use.

  python -m exp_jax.convert.smplx SMPLX_NEUTRAL_2020.npz -o assets/heads/smplx.npz

Reads the .npz (numeric entries only) or the .pkl (through a reader that runs nothing). The result
falls
under the licence of the file: research only, not to be passed on.
"""

import argparse

import numpy as np

from exp_jax.convert import body_models, pickles
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.heads.model import HeadModel, save_head

LICENSE = 'SMPL-X model licence (smpl-x.is.tue.mpg.de): non-commercial research, no redistribution'
JOINTS = {
  9: 'spine',
  12: 'neck',
  15: 'head',
  22: 'jaw',
  23: 'left_eye',
  24: 'right_eye',
  13: 'left_collar',
  14: 'right_collar',
  16: 'left_shoulder',
  17: 'right_shoulder',
}
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
)


def read_model(path) -> dict[str, np.ndarray]:
  """The entries we need of an npz or a pkl; members that are pickled objects are never touched."""
  if str(path).endswith('.pkl'):
    return pickles.read_pickle(path)
  try:
    with np.load(path, allow_pickle=False) as found:
      if not hasattr(found, 'files'):
        raise UserError(f'{path} is a single array, not a model file')
      return {key: found[key] for key in _ENTRIES if key in found.files}
  except FileNotFoundError:
    raise UserError(f'no such file: {path}') from None
  except UserError:
    raise
  except Exception as error:  # zip, zlib and numpy raise a dozen kinds for damaged files
    raise UserError(f'{path} is not a readable npz or pkl: {error}') from None


def convert(path, *, num_shape: int = 100, num_expression: int = 100) -> HeadModel:
  """SMPL-X -> HeadModel with 10 joints; the landmarks are iBUG 17-67, named by their numbers."""
  data = read_model(path)
  columns = body_models.numbers(data, 'shapedirs', 3, path).shape[2]
  start = 300 if columns >= 400 else 10  # old files hold 10 shape and 10 expression columns
  landmarks = None
  if 'lmk_faces_idx' in data:
    ids = body_models.numbers(data, 'lmk_faces_idx', 1, path)
    names = tuple(str(k) for k in range(17, 17 + len(ids)))
    landmarks = names, ids, body_models.numbers(data, 'lmk_bary_coords', 2, path)
  return body_models.convert(
    data,
    joints=JOINTS,
    shape=slice(0, min(num_shape, start)),
    expression=slice(start, min(start + num_expression, columns)),
    source=path,
    name='smplx',
    license=LICENSE,
    landmarks=landmarks,
  )


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('model', help='SMPLX_*.npz or .pkl')
  parser.add_argument('-o', '--output', required=True, help='the head to write, .npz')
  parser.add_argument('--shape', type=int, default=100, help='identity directions (default 100)')
  parser.add_argument(
    '--expression', type=int, default=100, help='expression directions (default 100)'
  )
  options = parser.parse_args(argv)
  head = convert(options.model, num_shape=options.shape, num_expression=options.expression)
  save_head(options.output, head)
  print(
    f'{options.output}: {len(head.template)} vertices, {len(head.faces)} triangles; {head.license}'
  )


if __name__ == '__main__':
  main()
