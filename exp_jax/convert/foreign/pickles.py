"""Dictionaries of arrays in foreign pickle files: body models, landmark embeddings, regions.

Nothing in a file is run: see `pickle_reader`. What it holds of numpy, scipy, chumpy and torch
becomes numpy arrays.
"""

import io
import math
import os

import numpy as np

from exp_jax.convert.foreign.pickle_reader import Array, Inert, Refused, refusing
from exp_jax.convert.foreign.torch_files import TorchReader
from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import refuse_stand_ins, shown
from exp_jax.files.npz import MOST_BYTES, array_header

_MOST_DENSE = 2**28  # bytes of all sparse matrices of a file, made dense


def read_pickle(
  path: str | os.PathLike, wanted: tuple[str, ...] | None = None
) -> dict[str, object]:
  """The dictionary in a pickle file, or in an npy file that holds one pickled dictionary.

  Arrays, scipy matrices (dense), chumpy arrays and torch tensors become numpy arrays, read-only;
  text and numbers stay; lists become arrays where they hold plain numbers. Entries not in `wanted`
  are left out.

  Raises:
    UserError: no such file, not a pickle, not a dictionary, or it wants to run something.
  """
  try:
    if os.path.getsize(path) > MOST_BYTES:
      raise UserError(f'{path} is larger than {MOST_BYTES >> 30} GB')
    with open(path, 'rb') as stream:
      content = stream.read()
  except (FileNotFoundError, IsADirectoryError):
    raise UserError(f'no such file: {path}') from None
  refuse_stand_ins(path)
  start = 0
  if content.startswith(b'\x93NUMPY'):
    shape, _, kind, start = array_header(io.BytesIO(content), str(path))
    if kind.kind != 'O' or math.prod(shape) != 1:
      raise UserError(f'{path} is an array of {kind}, a dictionary of arrays was expected')
  with refusing(path, 'a pickle of arrays'):
    pickled = content[start:] if start else content
    found = TorchReader(io.BytesIO(pickled), len(pickled)).load()
    found = found.real()[0] if isinstance(found, Array) and start else found
    if not isinstance(found, dict):
      raise Refused(f'it holds a {type(found).__name__}, not a dictionary of arrays')
    made, left = {}, [_MOST_DENSE]
    for key, value in found.items():
      if wanted is None or key in wanted:
        made[str(key)] = plain(value, shown(key, 80), left)
    return made


def plain(value: object, where: str, left: list[int], depth: int = 0) -> object:
  """What an inert record stands for; `left` is the budget of bytes for sparse matrices."""
  if (
    isinstance(value, (list, tuple)) and value and all(type(v) in (int, float, bool) for v in value)
  ):
    return np.array(value)
  if not isinstance(value, Inert):
    return None if isinstance(value, (list, tuple, dict, set)) else value
  if depth > 8:
    raise Refused(f'{where} is nested more than eight deep')
  if hasattr(value, 'real'):
    return value.real()
  part = lambda key: np.asarray(plain(value.state.get(key), f'{where}.{key}', left, depth + 1))
  if 'x' in value.state:  # chumpy.ch.Ch
    return part('x')
  if {'a', 'idxs'} <= set(value.state):  # chumpy.reordering.Select: chosen entries of another array
    source, chosen = part('a').ravel(), part('idxs')
    if (
      chosen.dtype.kind not in 'iu'
      or chosen.size
      and not (0 <= chosen.min() and chosen.max() < source.size)
    ):
      raise UserError(f'{where} selects entries that do not exist')
    return source[chosen].reshape(value.state.get('preferred_shape') or chosen.shape)
  if {'data', 'indices', 'indptr'} <= set(value.state):
    shape = value.state.get('_shape', value.state.get('shape'))
    return _compressed(part('data'), part('indices'), part('indptr'), shape, where, left)
  return None


def _compressed(data, indices, pointers, shape, where: str, left: list[int]) -> np.ndarray:
  """A compressed sparse matrix, rows or columns told apart by the length of its pointers."""
  rows, columns = (int(n) for n in shape)
  by_column = len(pointers) == columns + 1
  outer, inner = (columns, rows) if by_column else (rows, columns)
  counts = (
    np.diff(pointers.astype(np.int64))
    if pointers.dtype.kind in 'iu' and pointers.ndim == 1
    else None
  )
  if (
    counts is None
    or indices.dtype.kind not in 'iu'
    or data.ndim != 1
    or min(rows, columns) < 0
    or len(pointers) != outer + 1
    or (counts < 0).any()
    or pointers[0] != 0
    or pointers[-1] != len(data)
    or indices.shape != data.shape
    or (len(indices) and not 0 <= indices.min() <= indices.max() < inner)
  ):
    raise UserError(f'{where} is not a well-formed sparse matrix')
  left[0] -= 8 * rows * columns
  if left[0] < 0:
    raise UserError(f'{where} is a sparse matrix of {rows} x {columns}, too large to be made dense')
  matrix = np.zeros((outer, inner))
  np.add.at(matrix, (np.repeat(np.arange(outer), counts), indices), data)
  return matrix.T if by_column else matrix
