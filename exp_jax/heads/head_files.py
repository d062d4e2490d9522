"""Head files: a head model in one numeric npz, written, read, or found by its name.

The file is a plain npz without pickled objects; what is read is checked by `make_head`. Letters: K
landmarks.
"""

import os
import pathlib

import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files import resources
from exp_jax.files.npz import read_npz, write_npz
from exp_jax.heads.model import ARRAY_AXES, NAME_LISTS, HeadModel, in_precision, make_head
from exp_jax.heads.procedural import procedural_head

FORMAT = 'exp_jax head 1'
# heads whose landmarks are in a file of the package, heads/<name>_landmarks.npz
_WITH_LANDMARK_TABLE = ('makehuman',)


def save_head(path: str | os.PathLike, head: HeadModel, *, dtype=None) -> None:
  """Writes `head` whole or not at all.

  `dtype` is that of the bases, None for the head's own: float16 keeps 0.1 % and 0.1 micrometre.
  """
  arrays = {}
  for key in ARRAY_AXES:
    if (value := getattr(head, key)) is not None:
      value = np.asarray(value)
      bases = key.endswith('_basis') or key in ('joint_shape', 'joint_expression')
      value = value.astype(dtype) if dtype is not None and bases else value
      # direction by direction: neighbouring vertices move alike, which compresses to two thirds
      arrays[key] = np.asfortranarray(value) if bases else value
  arrays |= {f'region_{k}': np.asarray(v, np.float16) for k, v in head.regions.items()}
  arrays |= {key: np.array(getattr(head, key), dtype=str) for key in NAME_LISTS}
  write_npz(
    path,
    arrays
    | {
      'format': np.array(FORMAT),
      'parents': np.array(head.parents, np.int32),
      'name': np.array(head.name),
      'license': np.array(head.license),
      'source': np.array(head.source),
      'contour_joint': np.array(head.contour_joint, np.int32),
    },
  )


def load_head(path_or_name: str | os.PathLike, *, dtype=np.float32) -> HeadModel:
  """Reads a head: 'procedural', 'makehuman' (fetched by set-up, see exp_jax.files.resources), or
  the path of a head npz.

  A word that is no file, such as 'flame', stands for heads/flame.npz in the folder of assets, where
  converted heads belong.

  `dtype` is that of the record: float32, or float64 where jax_enable_x64 is on. The package's table
  heads/makehuman_landmarks.npz (faces [K], barycentric [K, 3]) replaces the landmarks of the head
  called 'makehuman'.

  Raises:
    UserError: the file is missing, damaged, foreign, its arrays do not fit together, or the table
      is missing.
  """
  if str(path_or_name) == 'procedural':
    return in_precision(procedural_head(), dtype)
  path = pathlib.Path(path_or_name)
  if str(path_or_name) == 'makehuman':
    path = resources.assets() / 'heads' / 'makehuman.npz'
    if not path.exists():
      raise UserError(
        f'the MakeHuman head is not at {path}: run {resources.setup_command()}, or set '
        'EXP_JAX_ASSETS to the '
        'folder that holds heads/makehuman.npz'
      )
  if not path.suffix and str(path) == path.name and not path.exists():
    path = resources.assets() / 'heads' / f'{path.name}.npz'
    if not path.exists():
      raise UserError(
        f'there is no head {str(path_or_name)!r}: no such file, and none at {path}; name the file '
        'of a converted '
        'head (see `exp-jax convert.smplx`, `convert.flame`, `convert.ict`), or makehuman'
      )
  arrays = read_npz(path)
  if str(arrays.pop('format', '')) != FORMAT:
    raise UserError(
      f'{path} is not a head of this program ({FORMAT!r}); convert it with exp_jax.convert'
    )
  try:
    head = make_head(
      arrays,
      {k[len('region_') :]: v for k, v in arrays.items() if k.startswith('region_')},
      parents=arrays['parents'].tolist(),
      name=str(arrays['name']),
      license=str(arrays['license']),
      source=str(arrays.get('source', '')),  # files of earlier versions lack it, and the contour
      contour_joint=int(arrays.get('contour_joint', 0)),
      where=str(path),
      dtype=dtype,
      **{key: arrays[key].tolist() for key in NAME_LISTS},
    )
  except KeyError as error:
    raise UserError(f'{path}: the entry {error} is missing') from None
  except (TypeError, ValueError) as error:  # a name where a list should be, and the like
    if isinstance(error, UserError):
      raise
    raise UserError(f'{path}: an entry is not what it should be ({error})') from None
  if head.name not in _WITH_LANDMARK_TABLE:
    return head
  return with_landmarks(head, resources.package_file('heads', f'{head.name}_landmarks.npz'))


def with_landmarks(head: HeadModel, path: str | os.PathLike) -> HeadModel:
  """`head` with the landmark embedding of an npz file: faces [K], barycentric [K, 3], maybe names
  [K]."""
  found = read_npz(path)
  faces, barycentric = found.get('faces'), found.get('barycentric')
  if (
    faces is None
    or barycentric is None
    or barycentric.shape != (*faces.shape, 3)
    or faces.ndim != 1
    or not np.isfinite(barycentric).all()
    or np.abs(barycentric.sum(1) - 1).max() > 1e-3
    or not (0 <= faces.min() and faces.max() < head.faces.shape[0])
  ):
    raise UserError(
      f'{path}: not a landmark embedding for {head.name} (faces [K], barycentric [K, 3])'
    )
  names = found.get('names', np.arange(len(faces)).astype(str))
  return head.replace(
    landmark_faces=jnp.asarray(faces, jnp.int32),
    landmark_names=tuple(str(n) for n in names),
    landmark_barycentric=jnp.asarray(barycentric, head.template.dtype),
  )
