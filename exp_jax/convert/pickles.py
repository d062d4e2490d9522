"""Reading arrays out of foreign pickle files without running anything that is written in them.

Body models come as pickles of numpy arrays, scipy matrices and objects of the long-dead chumpy. A
pickle
may call any function; here the names it may use are a short list, scipy and chumpy objects become
inert
records of their state, and everything else is refused by name.
"""

import os
import pickle

import numpy as np

from exp_jax.errors import UserError


class Inert:
  """Whatever a foreign class kept: its constructor's arguments and its state, nothing that runs."""

  def __init__(self, *args):
    self.args, self.state = args, {}

  def __setstate__(self, state):
    self.state = state if isinstance(state, dict) else {'state': state}


def _reconstructor(cls, base, state):
  if not (isinstance(cls, type) and issubclass(cls, Inert)) or state is not None:
    raise pickle.UnpicklingError(f'an object of {cls!r} may not be rebuilt')
  return cls()


def _encode(text, encoding='latin1'):
  if encoding not in ('latin1', 'latin-1') or not isinstance(text, str):
    raise pickle.UnpicklingError(f'encoding {encoding!r} is not allowed')
  return text.encode('latin1')


def _reconstruct(subtype, shape, kind):
  if subtype is not np.ndarray or shape != (0,) or kind not in (b'b', 'b'):
    raise pickle.UnpicklingError(f'an array of type {subtype!r} may not be rebuilt')
  # numpy's __setstate__ gives it size and content
  return np.ndarray.__new__(np.ndarray, shape, 'b')


def _scalar(dtype, content=None):
  if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(content, bytes):
    raise pickle.UnpicklingError('a scalar of objects may not be rebuilt')
  return np.frombuffer(content, dtype, 1)[0]


_ALLOWED = {
  ('numpy', 'ndarray'): np.ndarray,
  ('numpy', 'dtype'): np.dtype,
  ('collections', 'OrderedDict'): dict,
  ('_codecs', 'encode'): _encode,
}
_ALLOWED |= {(module, 'object'): Inert for module in ('builtins', '__builtin__')}
_ALLOWED |= {(module, 'bytes'): lambda: b'' for module in ('builtins', '__builtin__')}
_ALLOWED |= {(module, 'set'): set for module in ('builtins', '__builtin__')}
_ALLOWED |= {(module, '_reconstructor'): _reconstructor for module in ('copyreg', 'copy_reg')}
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
  _ALLOWED |= {(_module, '_reconstruct'): _reconstruct, (_module, 'scalar'): _scalar}


class _Reader(pickle.Unpickler):
  def find_class(self, module, name):
    if (module, name) in _ALLOWED:
      return _ALLOWED[module, name]
    if module.split('.')[0] == 'chumpy' or module.startswith('scipy.sparse'):
      return Inert
    raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def read_pickle(path: str | os.PathLike) -> dict[str, object]:
  """The dictionary in a pickle file; numpy arrays as they are, scipy matrices and chumpy arrays
  dense.

  Raises:
    UserError: no such file, not a pickle, not a dictionary, or it wants to run something.
  """
  try:
    with open(path, 'rb') as stream:
      found = _Reader(stream, encoding='latin1').load()
  except (FileNotFoundError, IsADirectoryError):
    raise UserError(f'no such file: {path}') from None
  except Exception as error:  # a hostile or damaged pickle can raise anything
    raise UserError(f'{path} is refused as a pickle of arrays: {error}') from None
  if not isinstance(found, dict):
    raise UserError(f'{path} holds a {type(found).__name__}, a dictionary of arrays was expected')
  return {str(key): dense(value, f'{path}: {key}') for key, value in found.items()}


def dense(value: object, where: str) -> object:
  """An Inert scipy matrix or chumpy array as a numpy array; other values unchanged."""
  if not isinstance(value, Inert):
    return value
  state = value.state
  if 'x' in state:  # chumpy.ch.Ch
    return dense(state['x'], where)
  if {'a', 'idxs'} <= set(state):  # chumpy.reordering.Select: chosen entries of another array
    source, chosen = np.asarray(dense(state['a'], where)).ravel(), np.asarray(state['idxs'])
    if chosen.size and not (0 <= chosen.min() and chosen.max() < source.size):
      raise UserError(f'{where} selects entries that do not exist')
    return source[chosen].reshape(state.get('preferred_shape') or chosen.shape)
  if {'data', 'indices', 'indptr'} <= set(state):
    return _compressed(state, where)
  return value


def _compressed(state: dict, where: str) -> np.ndarray:
  """A compressed sparse matrix, rows or columns told apart by the length of its pointers."""
  data, indices, pointers = (np.asarray(state[k]) for k in ('data', 'indices', 'indptr'))
  rows, columns = (int(n) for n in state.get('_shape', state.get('shape', (0, 0))))
  by_column = len(pointers) == columns + 1
  outer, inner = (columns, rows) if by_column else (rows, columns)
  counts = np.diff(pointers)
  if (
    len(pointers) != outer + 1
    or (counts < 0).any()
    or pointers[0] != 0
    or pointers[-1] != len(data)
    or len(indices) != len(data)
    or (len(indices) and not 0 <= indices.min() <= indices.max() < inner)
    or rows * columns > 2**28
  ):
    raise UserError(f'{where} is not a well-formed sparse matrix')
  matrix = np.zeros((outer, inner))
  np.add.at(matrix, (np.repeat(np.arange(outer), counts), indices), data)
  return matrix.T if by_column else matrix
