"""Reading arrays out of foreign pickle files without running anything that is written in them.

Body models come as pickles of numpy arrays, scipy matrices and objects of the long-dead chumpy;
files of torch hold tensors, see `torch_files`. A pickle is a program. Here it runs on the
interpreter that is written in Python, cut down:

  - the names it may use are a short list; what they make are inert records, from which arrays are
    built below, never numpy's own objects, whose __setstate__ believes any size;
  - keys are text or numbers, so that no hash of nested tuples is ever taken;
  - operations are counted, copies are charged to a budget, and the whole file is in memory before
    it starts, so that neither a claimed length nor a memo number nor a flood of empty sets can fill
    the memory.
"""

import contextlib
import math
import pickle

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import shown

_MOST_OPERATIONS = 500_000  # SMPL-X and FLAME files have a few thousand
# not there: classes by number, old instances, frozen sets, buffers out of band
_OPCODES = (
  'MARK STOP POP POP_MARK DUP FLOAT INT BININT BININT1 LONG BININT2 NONE REDUCE STRING BINSTRING '
  'SHORT_BINSTRING UNICODE BINUNICODE APPEND BUILD GLOBAL DICT EMPTY_DICT APPENDS GET BINGET '
  'LONG_BINGET LIST '
  'EMPTY_LIST PUT BINPUT LONG_BINPUT SETITEM TUPLE EMPTY_TUPLE SETITEMS BINFLOAT PROTO NEWOBJ '
  'TUPLE1 TUPLE2 '
  'TUPLE3 NEWTRUE NEWFALSE LONG1 LONG4 BINBYTES SHORT_BINBYTES SHORT_BINUNICODE BINUNICODE8 '
  'BINBYTES8 '
  'STACK_GLOBAL MEMOIZE FRAME EMPTY_SET ADDITEMS BINPERSID BYTEARRAY8'
).split()


class Refused(pickle.UnpicklingError):
  """What the file asks for is not done; the message says what it was."""


class Inert:
  """Whatever a foreign object kept: the arguments of its making and its state, nothing that
  runs."""

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


class Array(Inert):
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
  return (
    np.frombuffer(content, kind).reshape(shape, order=order) if count else np.zeros(shape, kind)
  )


class _FromBuffer(Array):
  def real(self):
    content, kind, shape, order = self.args
    return _filled(content, kind, shape, 'F' if order == 'F' else 'C')


class _Scalar(Inert):
  def real(self):
    kind, content = self.args
    return _filled(content, kind, (), 'C')[()]


class Named(Inert):
  """A foreign class that is only named, never made."""


def _reconstructor(cls, base, state):
  if not (isinstance(cls, type) and issubclass(cls, Inert)) or state is not None:
    raise Refused(f'an object of {type(cls).__name__} may not be rebuilt')
  return cls()


def _reconstruct(subtype, shape, kind):
  if subtype is not Array:
    raise Refused('an array of a foreign type')
  return Array()


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
  'numpy': {'ndarray': Array, 'dtype': _Dtype},
  'numpy.core.multiarray': _MULTIARRAY,
  'numpy._core.multiarray': _MULTIARRAY,
  'numpy.core.numeric': {'_frombuffer': _FromBuffer},
  'numpy._core.numeric': {'_frombuffer': _FromBuffer},
  'collections': {'OrderedDict': _dictionary},
  'builtins': _BUILTINS,
  '__builtin__': _BUILTINS,
  'copyreg': _COPYREG,
  'copy_reg': _COPYREG,
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
  """See the top of the file.

  The one in C allocates what a memo number or a length claims; this one cannot.
  """

  def __init__(self, stream, size: int):
    super().__init__(stream, encoding='latin1')
    plain = pickle._Unpickler.dispatch
    self.dispatch = _Counted({c: plain[c] for c in (getattr(pickle, name)[0] for name in _OPCODES)})
    for name, guarded in (
      ('SETITEM', _set_item),
      ('SETITEMS', _set_items),
      ('DICT', _dict),
      ('ADDITEMS', _add),
      ('BUILD', _build),
      ('BYTEARRAY8', _bytes),
    ):
      self.dispatch[getattr(pickle, name)[0]] = guarded
    self.budget = size + 2**20  # characters that may be copied; `size` is that of the pickle

  def find_class(self, module, name):
    if module == '_codecs' and name == 'encode':
      return self.encode
    if found := _ALLOWED.get(module, {}).get(name):
      return found
    if module.split('.')[0] == 'chumpy' or module.startswith('scipy.sparse'):
      return Inert
    raise Refused(f'it asks for {shown(module, 80)}.{shown(name, 80)}')

  def encode(self, text, encoding='latin1'):
    if encoding not in ('latin1', 'latin-1') or not isinstance(text, str):
      raise Refused('an encoding other than latin1')
    self.budget -= len(text)
    if self.budget < 0:
      raise Refused('it copies more than it holds')
    return text.encode('latin1')

  def persistent_load(self, pid):
    raise Refused('an object kept elsewhere')


def _plain_keys(keys):
  if not all(
    isinstance(key, (str, bytes, int, float)) or isinstance(key, type) and issubclass(key, Inert)
    for key in keys
  ):
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
  # what is there, not what is claimed
  reader.append(reader.read(int.from_bytes(reader.read(8), 'little')))


def _build(reader):
  state = reader.stack.pop()
  if type(reader.stack[-1]) is dict:
    # attributes of an ordered dictionary, such as the versions that torch notes in every state_dict
    return
  if not isinstance(reader.stack[-1], Inert):
    raise Refused(f'state for a {type(reader.stack[-1]).__name__}')
  reader.stack[-1].__setstate__(state)


@contextlib.contextmanager
def refusing(path, what: str):
  """Turns whatever reading a damaged or hostile file raises into one sentence that begins with its
  path."""
  try:
    yield
  except UserError as error:
    raise UserError(
      str(error) if str(error).startswith(str(path)) else f'{path}: {error}'
    ) from None
  except Refused as error:
    raise UserError(f'{path} is refused as {what}: {shown(error)}') from None
  except Exception as error:  # a damaged pickle or zip can raise anything
    raise UserError(
      f'{path} is refused as {what}: {type(error).__name__}: {shown(error)}'
    ) from None
