"""Reading arrays out of foreign pickle files without running anything that is written in them.

Body models come as pickles of numpy arrays, scipy matrices, objects of the long-dead chumpy and, in landmark
files, torch tensors. A pickle is a program. Here it runs on the interpreter that is written in Python, cut down:

  - the names it may use are a short list; what they make are inert records, from which arrays are built below,
    never numpy's own objects, whose __setstate__ believes any size;
  - keys are text or numbers, so that no hash of nested tuples is ever taken;
  - operations are counted, copies are charged to a budget, and the whole file is in memory before it starts, so
    that neither a claimed length nor a memo number nor a flood of empty sets can fill the memory.
"""

import io
import math
import os
import pickle

import numpy as np

from exp_jax.errors import UserError
from exp_jax.heads.files import MOST_BYTES, array_header

_MOST_OPERATIONS = 500_000  # SMPL-X and FLAME files have a few thousand
_MOST_DENSE = 2**28  # bytes of all sparse matrices of a file, made dense
_OPCODES = (
  'MARK STOP POP POP_MARK DUP FLOAT INT BININT BININT1 LONG BININT2 NONE REDUCE STRING BINSTRING '
  'SHORT_BINSTRING UNICODE BINUNICODE APPEND BUILD GLOBAL DICT EMPTY_DICT APPENDS GET BINGET LONG_BINGET LIST '
  'EMPTY_LIST PUT BINPUT LONG_BINPUT SETITEM TUPLE EMPTY_TUPLE SETITEMS BINFLOAT PROTO NEWOBJ TUPLE1 TUPLE2 '
  'TUPLE3 NEWTRUE NEWFALSE LONG1 LONG4 BINBYTES SHORT_BINBYTES SHORT_BINUNICODE BINUNICODE8 BINBYTES8 '
  'STACK_GLOBAL MEMOIZE FRAME EMPTY_SET ADDITEMS BINPERSID BYTEARRAY8'
).split()  # not there: classes by number, old instances, frozen sets, buffers out of band


class Refused(pickle.UnpicklingError):
  """What the file asks for is not done; the message says what it was."""


class Inert:
  """Whatever a foreign object kept: the arguments of its making and its state, nothing that runs."""

  def __init__(self, *args):
    self.args, self.state = args, {}

  def __setstate__(self, state):
    self.state = state if isinstance(state, dict) else {'state': state}


class _Dtype(Inert):
  """numpy.dtype by its name and byte order; numbers, text and objects only."""

  def real(self) -> np.dtype:
    name, state = (self.args or ('',))[0], self.state.get('state')
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else '='
    if not (isinstance(name, str) and len(name) < 12 and order in ('<', '>', '|', '=')):
      raise Refused('an unknown element type')
    kind = np.dtype(name.strip('<>|='))
    if kind.kind not in 'biufSUO':
      raise Refused(f'an array of {kind}')
    return kind if order in '|=' else kind.newbyteorder(order)


class _Array(Inert):
  """numpy.ndarray, built from its state once the state agrees with itself."""

  def real(self):
    state = self.state.get('state')
    if not (isinstance(state, tuple) and len(state) in (4, 5)):
      raise Refused('an array without a state')
    shape, kind, by_column, content = state[-4:]
    return _filled(content, kind, shape, 'F' if by_column else 'C')


def _filled(content, kind, shape, order):
  """An array of a buffer, or a plain list where its elements are objects."""
  if not (isinstance(kind, _Dtype) and isinstance(shape, tuple) and len(shape) <= 32):
    raise Refused('an array of unknown shape or element type')
  if not all(type(n) is int and n >= 0 for n in shape):
    raise Refused(f'an array of shape {shape}')
  kind, count = kind.real(), math.prod(shape)
  if kind.kind == 'O':
    if not isinstance(content, list) or len(content) != count:
      raise Refused(f'an array of {count} objects that are not there')
    return content
  if isinstance(content, str):
    content = content.encode('latin1')  # Python 2 wrote bytes as text
  if not isinstance(content, bytes) or len(content) != count * kind.itemsize:
    raise Refused(f'an array that claims {count * kind.itemsize} bytes and does not hold them')
  return np.frombuffer(content, kind).reshape(shape, order=order) if count else np.zeros(shape, kind)


class _FromBuffer(_Array):
  def real(self):
    content, kind, shape, order = self.args
    return _filled(content, kind, shape, 'F' if order == 'F' else 'C')


class _Scalar(Inert):
  def real(self):
    kind, content = self.args
    return _filled(content, kind, (), 'C')[()]


class _Tensor(Inert):
  """torch's tensor: storage, offset, shape, strides."""

  def real(self):
    storage, offset, shape, strides = self.args[:4]
    values = storage.real() if isinstance(storage, _Storage) else None
    shape, strides = tuple(shape), tuple(strides)
    plain = tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))
    if values is None or strides != plain or not 0 <= offset <= len(values) - math.prod(shape):
      raise Refused('a tensor that does not fit its storage')
    return values[offset : offset + math.prod(shape)].reshape(shape)


class _Storage(Inert):
  """torch's storage inside a pickle: itself a file of five pickles and the numbers (torch.save, old format)."""

  def real(self):
    if len(self.args) != 1 or not isinstance(self.args[0], bytes):
      raise Refused('a tensor without numbers')
    stream = io.BytesIO(self.args[0])
    made = [Reader(stream).load() for _ in range(5)]
    if made[0] != 0x1950A86A20F9469CFC6C or not isinstance(made[3], _Persistent):
      raise Refused('a tensor in an unknown format')
    kind = _STORAGES.get(made[3].name)
    count = int.from_bytes(stream.read(8), 'little')
    content = stream.read()
    if kind is None or count * np.dtype(kind).itemsize != len(content):
      raise Refused('a tensor whose numbers are of an unknown kind or missing')
    return np.frombuffer(content, kind)


class _Persistent:
  def __init__(self, name):
    self.name = name


class Named(Inert):
  """A foreign class that is only named, never made."""


_STORAGES = {'FloatStorage': '<f4', 'DoubleStorage': '<f8', 'LongStorage': '<i8', 'IntStorage': '<i4'}


def _reconstructor(cls, base, state):
  if not (isinstance(cls, type) and issubclass(cls, Inert)) or state is not None:
    raise Refused(f'an object of {type(cls).__name__} may not be rebuilt')
  return cls()


def _reconstruct(subtype, shape, kind):
  if subtype is not _Array:
    raise Refused('an array of a foreign type')
  return _Array()


def _empty_bytes():
  return b''


def _dictionary(pairs=()):
  _plain_keys([key for key, _ in pairs])
  return dict(pairs)


def _set(items=()):
  _plain_keys(items)
  return set(items)


_BUILTINS = {'object': Inert, 'bytes': _empty_bytes, 'set': _set}
_COPYREG = {'_reconstructor': _reconstructor}
_MULTIARRAY = {'_reconstruct': _reconstruct, 'scalar': _Scalar}
_ALLOWED = {
  'numpy': {'ndarray': _Array, 'dtype': _Dtype},
  'numpy.core.multiarray': _MULTIARRAY,
  'numpy._core.multiarray': _MULTIARRAY,
  'numpy.core.numeric': {'_frombuffer': _FromBuffer},
  'numpy._core.numeric': {'_frombuffer': _FromBuffer},
  'collections': {'OrderedDict': _dictionary},
  'builtins': _BUILTINS,
  '__builtin__': _BUILTINS,
  'copyreg': _COPYREG,
  'copy_reg': _COPYREG,
  'torch._utils': {'_rebuild_tensor_v2': _Tensor},
  'torch.storage': {'_load_from_bytes': _Storage},
}


class _Counted(dict):
  """The table of operations, which stops after too many of them."""

  left = _MOST_OPERATIONS

  def __missing__(self, code):
    raise Refused(f'operation {code} is not one that arrays need')

  def __getitem__(self, code):
    self.left -= 1
    if self.left < 0:
      raise Refused(f'it has more than {_MOST_OPERATIONS} operations')
    return super().__getitem__(code)


class Reader(pickle._Unpickler):
  """See the top of the file. The one in C allocates what a memo number or a length claims; this one cannot."""

  def __init__(self, stream):
    super().__init__(stream, encoding='latin1')
    plain = pickle._Unpickler.dispatch
    self.dispatch = _Counted({c: plain[c] for c in (getattr(pickle, name)[0] for name in _OPCODES)})
    for name, guarded in (('SETITEM', _set_item), ('SETITEMS', _set_items), ('DICT', _dict), ('ADDITEMS', _add),
                          ('BUILD', _build), ('BYTEARRAY8', _bytes)):  # fmt: skip
      self.dispatch[getattr(pickle, name)[0]] = guarded
    self.budget = len(stream.getvalue()) + 2**20

  def find_class(self, module, name):
    if module == '_codecs' and name == 'encode':
      return self.encode
    if found := _ALLOWED.get(module, {}).get(name):
      return found
    if module.split('.')[0] == 'chumpy' or module.startswith('scipy.sparse'):
      return Inert
    if module == 'torch' and name in _STORAGES:
      return type(name, (Named,), {})
    raise Refused(f'it asks for {module[:80]}.{name[:80]}')

  def encode(self, text, encoding='latin1'):
    if encoding not in ('latin1', 'latin-1') or not isinstance(text, str):
      raise Refused('an encoding other than latin1')
    self.budget -= len(text)
    if self.budget < 0:
      raise Refused('it copies more than it holds')
    return text.encode('latin1')

  def persistent_load(self, pid):
    if isinstance(pid, tuple) and len(pid) > 1 and isinstance(pid[1], type) and issubclass(pid[1], Named):
      return _Persistent(pid[1].__name__)
    raise Refused('an object kept elsewhere')


def _plain_keys(keys):
  if not all(isinstance(key, (str, bytes, int, float)) for key in keys):
    raise Refused('keys that are neither text nor numbers')


def _set_item(reader):
  _plain_keys(reader.stack[-2:-1])
  pickle._Unpickler.load_setitem(reader)


def _set_items(reader):
  _plain_keys(reader.stack[::2])
  pickle._Unpickler.load_setitems(reader)


def _dict(reader):
  _plain_keys(reader.stack[::2])
  pickle._Unpickler.load_dict(reader)


def _add(reader):
  _plain_keys(reader.stack)
  pickle._Unpickler.load_additems(reader)


def _bytes(reader):
  reader.append(reader.read(int.from_bytes(reader.read(8), 'little')))  # what is there, not what is claimed


def _build(reader):
  state = reader.stack.pop()
  if type(reader.stack[-1]) is dict and isinstance(state, dict):
    return  # attributes of an ordered dictionary, such as the versions that torch notes in every state_dict
  if not isinstance(reader.stack[-1], Inert):
    raise Refused(f'state for a {type(reader.stack[-1]).__name__}')
  reader.stack[-1].__setstate__(state)


def read_pickle(path: str | os.PathLike, wanted: tuple[str, ...] | None = None) -> dict[str, object]:
  """The dictionary in a pickle file, or in an npy file that holds one pickled dictionary.

  Arrays, scipy matrices (dense), chumpy arrays and torch tensors become numpy arrays, read-only; text and numbers
  stay; lists become arrays where they hold plain numbers. Entries not in `wanted` are left out.

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
  start = 0
  if content.startswith(b'\x93NUMPY'):
    shape, _, kind, start = array_header(io.BytesIO(content), str(path))
    if kind.kind != 'O' or math.prod(shape) != 1:
      raise UserError(f'{path} is an array of {kind}, a dictionary of arrays was expected')
  try:
    found = Reader(io.BytesIO(content[start:] if start else content)).load()
    found = found.real()[0] if isinstance(found, _Array) and start else found
    if not isinstance(found, dict):
      raise Refused(f'it holds a {type(found).__name__}, not a dictionary of arrays')
    made, left = {}, [_MOST_DENSE]
    for key, value in found.items():
      if wanted is None or key in wanted:
        made[str(key)] = plain(value, str(key), left)
    return made
  except UserError as error:
    raise UserError(f'{path}: {error}') from None
  except Refused as error:
    raise UserError(f'{path} is refused as a pickle of arrays: {error}') from None
  except Exception as error:  # a damaged pickle can raise anything
    raise UserError(f'{path} is refused as a pickle of arrays: {type(error).__name__}: {str(error)[:200]}') from None


def plain(value: object, where: str, left: list[int], depth: int = 0) -> object:
  """What an inert record stands for; `left` is the budget of bytes for sparse matrices."""
  if isinstance(value, (list, tuple)) and value and all(type(v) in (int, float, bool) for v in value):
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
    if chosen.dtype.kind not in 'iu' or chosen.size and not (0 <= chosen.min() and chosen.max() < source.size):
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
  counts = np.diff(pointers.astype(np.int64)) if pointers.dtype.kind in 'iu' and pointers.ndim == 1 else None
  if (
    counts is None or indices.dtype.kind not in 'iu' or data.ndim != 1 or min(rows, columns) < 0
    or len(pointers) != outer + 1
    or (counts < 0).any()
    or pointers[0] != 0
    or pointers[-1] != len(data)
    or indices.shape != data.shape
    or (len(indices) and not 0 <= indices.min() <= indices.max() < inner)
  ):  # fmt: skip
    raise UserError(f'{where} is not a well-formed sparse matrix')
  left[0] -= 8 * rows * columns
  if left[0] < 0:
    raise UserError(f'{where} is a sparse matrix of {rows} x {columns}, too large to be made dense')
  matrix = np.zeros((outer, inner))
  np.add.at(matrix, (np.repeat(np.arange(outer), counts), indices), data)
  return matrix.T if by_column else matrix
