"""Files of torch.save, read without torch and without running anything: the one reader of .pth,
.pt, .bin and .ckpt.

| format | what is in the file |
|---|---|
| zip, torch 1.6 and later | NAME/data.pkl, and the numbers of each storage in NAME/data/KEY, stored uncompressed |
| old | pickles of a magic number, the protocol, the machine, the object and the keys; a count and numbers for each key |
| plain pickle | the object itself; the numbers of each tensor are again such a file, inside the pickle |

The pickles run on the allow-list reader of `pickle_reader`. Tensors stay records until they are
asked for, so that a file may be larger than the memory. Every offset, size and stride is checked
against its storage, every storage against
the table of the zip or the file's length: nothing that is read can be larger than the file. What
trainers keep beside the weights (optimizers, settings, callbacks) becomes inert records.

Source: torch/serialization.py and torch/_utils.py of torch 2.13.
"""

import io
import math
import mmap
import os
import pathlib
import struct
import zipfile
from collections.abc import Callable

import ml_dtypes
import numpy as np

from exp_jax.convert.foreign.pickle_reader import Inert, Named, Reader, Refused, refusing
from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import refuse_stand_ins

WHAT = 'a file of torch.save'
_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the old format
# bytes of data.pkl; those of the largest published models have less than one megabyte
_MOST_PICKLE = 2**24
_MOST_TABLE = 2**23  # bytes of a zip's directory
_MOST_REPEATED = 2**16  # elements of a tensor that shows the numbers of its storage more than once
KINDS = {
  'FloatStorage': np.dtype('<f4'),
  'DoubleStorage': np.dtype('<f8'),
  'HalfStorage': np.dtype('<f2'),
  'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
  'LongStorage': np.dtype('<i8'),
  'IntStorage': np.dtype('<i4'),
  'ShortStorage': np.dtype('<i2'),
  'CharStorage': np.dtype('i1'),
  'ByteStorage': np.dtype('u1'),
  'BoolStorage': np.dtype('?'),
}
# What trainers put beside the weights. Its classes are stood for by inert records; nothing in them
# is looked at.
_TRAINERS = (
  'pytorch_lightning',
  'lightning',
  'lightning_fabric',
  'omegaconf',
  'argparse',
  'pathlib',
  'typing',
  'datetime',
)


class Storage:
  """Numbers of one or more tensors.

  Attributes:
    kind: their numpy (or ml_dtypes) type.
    count: how many there are.
    bytes_of: (first byte, number of bytes) -> buffer; reads them now.
  """

  def __init__(self, kind: np.dtype, count: int, bytes_of: Callable[[int, int], bytes]):
    self.kind, self.count, self.bytes_of = kind, count, bytes_of

  def numbers(self, first: int, count: int) -> np.ndarray:
    """[count] numbers from index `first`, read now."""
    data = self.bytes_of(first * self.kind.itemsize, count * self.kind.itemsize)
    if len(data) < count * self.kind.itemsize:
      raise Refused('it is truncated: a tensor has too few numbers')
    return np.frombuffer(data, self.kind, count)


class Tensor(Inert):
  """torch's _rebuild_tensor_v2(storage, offset, shape, strides, ...), checked, nothing read.

  Attributes:
    shape: tuple of sizes.
    kind: numpy type of the elements.
  """

  def __init__(self, *args):
    super().__init__()
    if len(args) < 4:
      raise Refused('a tensor without storage, offset, shape and strides')
    storage, offset, shape, strides = args[:4]
    if (
      not isinstance(storage, Storage)
      or not isinstance(shape, (tuple, list))
      or not isinstance(strides, (tuple, list))
    ):
      raise Refused('a tensor without numbers, shape or strides')
    if (
      len(shape) != len(strides)
      or len(shape) > 32
      or not all(type(n) is int and 0 <= n < 2**48 for n in (offset, *shape, *strides))
    ):
      raise Refused('a tensor of impossible shape, strides or offset')
    self.shape, self.kind = tuple(shape), storage.kind
    self._storage, self._offset, self._strides = storage, offset, tuple(strides)
    count = math.prod(self.shape)
    self._span = 1 + sum((n - 1) * s for n, s in zip(shape, strides)) if count else 0
    if offset + self._span > storage.count:
      raise Refused('a tensor that reaches beyond its numbers')
    if count > max(self._span, _MOST_REPEATED):
      raise Refused(f'a tensor of {count} elements that repeats {self._span} numbers')

  def real(self) -> np.ndarray:
    """The tensor, read now, read-only."""
    values = self._storage.numbers(self._offset, self._span)
    steps = [s * self.kind.itemsize for s in self._strides]
    return np.lib.stride_tricks.as_strided(values, self.shape, steps, writeable=False)


class _Kind(Named):
  """A class of storages, named by the file."""

  dtype = np.dtype(np.uint8)


def _parameter(data, *_):
  return data


def _size(values=()):
  return tuple(values)


def _default_dictionary(*_):
  return {}


_NAMES = {
  ('torch._utils', '_rebuild_tensor_v2'): Tensor,
  ('torch._utils', '_rebuild_parameter'): _parameter,
  ('torch._utils', '_rebuild_parameter_with_state'): _parameter,
  ('torch', 'Size'): _size,
  ('torch', 'device'): Inert,
  ('collections', 'defaultdict'): _default_dictionary,
}
_PLAIN_TYPES = ('dict', 'list', 'tuple', 'int', 'float', 'str', 'bool')


class TorchReader(Reader):
  """The allow-list reader with torch's tensors.

  `storage_of` (key, kind, count) gives what a persistent id stands for; `inside` says that the
  pickle is itself the numbers of a tensor in another one, in which no third one is read.
  """

  def __init__(
    self,
    stream,
    size: int,
    storage_of: Callable[[str, np.dtype, int], Storage] | None = None,
    *,
    inside: bool = False,
  ):
    super().__init__(stream, size)
    self._storage_of, self._inside, self._known = storage_of, inside, {}

  def find_class(self, module, name):
    if module == 'torch' and name in KINDS:
      return type(name, (_Kind,), {'dtype': KINDS[name]})
    if (module, name) in _NAMES:
      return _NAMES[module, name]
    if (module, name) == ('torch.storage', '_load_from_bytes') and not self._inside:
      return self.storage
    if module.split('.')[0] in _TRAINERS or (
      module in ('builtins', '__builtin__') and name in _PLAIN_TYPES
    ):
      return type('Inert', (Inert,), {})
    return super().find_class(module, name)

  def storage(self, content=None, *_) -> Storage:
    """The numbers of a tensor in a plain pickle: a whole file of torch.save, as bytes.

    Each is read once.
    """
    if not isinstance(content, bytes):
      raise Refused('a tensor without numbers')
    if id(content) not in self._known:
      self.budget -= len(content)
      found = (
        _old_or_plain(io.BytesIO(content), len(content), inside=True) if self.budget >= 0 else None
      )
      if not isinstance(found, Storage):
        raise Refused('a part that is no storage of a tensor')
      # the bytes stay, so that no other object gets their id
      self._known[id(content)] = content, found
    return self._known[id(content)][1]

  def persistent_load(self, pid):
    if not (
      self._storage_of
      and isinstance(pid, tuple)
      and len(pid) >= 5
      and pid[0] == 'storage'
      and isinstance(pid[1], type)
      and issubclass(pid[1], _Kind)
      and type(pid[4]) is int
      and 0 <= pid[4] < 2**48
      and isinstance(pid[2], (str, int))
      and (len(pid) == 5 or pid[5] is None)
    ):
      raise Refused('a reference that is no storage of a tensor')
    return self._storage_of(str(pid[2]), pid[1].dtype, pid[4])


def _old_or_plain(stream, size: int, *, inside: bool = False):
  """The object of an old file or of a plain pickle; `stream` is a BytesIO or a map of the file."""
  storages, places = {}, {}

  def bytes_of(key, first, count):
    if key not in places:
      raise Refused('a tensor whose numbers are missing')
    stream.seek(places[key] + first)
    return stream.read(count)

  def storage_of(key, kind, count):
    if count * kind.itemsize > size:
      raise Refused('a tensor with more numbers than the file has')
    found = storages.setdefault(key, Storage(kind, count, lambda first, n: bytes_of(key, first, n)))
    if (found.kind, found.count) != (kind, count):
      raise Refused('a storage of two types or sizes')
    return found

  load = lambda: TorchReader(stream, size, storage_of, inside=inside).load()
  found = load()
  if found != _MAGIC:
    if storages:
      raise Refused('a tensor whose numbers are missing')
    return found
  load(), load()  # protocol and machine
  found = load()
  keys = load()
  if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
    raise Refused('storages that do not go with its tensors')
  for key in map(str, keys):
    (count,) = struct.unpack('<q', stream.read(8))
    places[key], end = (
      stream.tell(),
      stream.tell() + storages[key].count * storages[key].kind.itemsize,
    )
    if count != storages[key].count or end > size:
      raise Refused('it is truncated, or numbers do not go with their tensor')
    stream.seek(end)
  return found


class TorchFile:
  """An open file of torch.save.

  Attributes:
    tree: what it holds: nested dictionaries of `Tensor`s and whatever lies beside them.

  Raises:
    UserError: no such file, another kind of file, damaged, or it wants to run something.
  """

  def __init__(self, path: str | os.PathLike):
    self.path, self._zip, self._map = pathlib.Path(path), None, None
    refuse_stand_ins(path)
    with refusing(path, WHAT), open(path, 'rb') as file:
      size, first = os.fstat(file.fileno()).st_size, file.read(4)
      if first == b'PK\x03\x04':
        self.tree = self._from_zip(file, size)
      elif first[:1] not in (b'\x80', b'(', b'}', b'c'):
        raise UserError(f'{path} is not a torch checkpoint: it is neither a zip nor a pickle')
      else:
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.tree = _old_or_plain(self._map, size)

  def _from_zip(self, file, size):
    # the only way to bound the directory before all of it is taken apart
    end = zipfile._EndRecData(file)
    if not end or end[5] > _MOST_TABLE:
      raise Refused('it is truncated' if not end else f'a directory of {end[5]} bytes')
    self._zip = zipfile.ZipFile(self.path)
    entries = {info.filename: info for info in self._zip.infolist()}
    if any(info.flag_bits & 1 for info in entries.values()):
      raise Refused('it is encrypted')
    if any(info.compress_type or info.file_size != info.compress_size for info in entries.values()):
      raise Refused(
        'its numbers are compressed, which torch.save never does: unpack it and save it again with '
        'torch'
      )
    if (
      len(entries) < len(self._zip.infolist())
      or sum(info.file_size for info in entries.values()) > size
    ):
      raise Refused('its table of contents claims more than the file holds, or the same part twice')
    inside = [name for name in entries if name == 'data.pkl' or name.endswith('/data.pkl')]
    if any('/code/' in name for name in entries):
      raise UserError(
        f'{self.path} is a TorchScript program, of which nothing is run; give a state dictionary '
        '(.pth, .pt) or '
        '.safetensors with the weights of the same network'
      )
    if len(inside) != 1 or entries[inside[0]].file_size > _MOST_PICKLE:
      raise Refused('a zip without one data.pkl, or with one that is too large')
    root = inside[0][: -len('data.pkl')]
    order = entries.get(f'{root}byteorder')
    if order and (order.file_size > 16 or self._zip.read(order) != b'little'):
      raise Refused('numbers in another order of bytes')

    def storage_of(key, kind, count):
      entry = entries.get(f'{root}data/{key}')
      if entry is None or entry.file_size < count * kind.itemsize:
        raise Refused('a tensor whose numbers are missing, or fewer than it claims')
      return Storage(kind, count, lambda first, n: self._part(entry, first, n))

    return TorchReader(
      io.BytesIO(self._zip.read(inside[0])), entries[inside[0]].file_size, storage_of
    ).load()

  def _part(self, entry, first, count):
    """`count` bytes of an entry from byte `first`; the checksum is compared where they reach its
    end."""
    with self._zip.open(entry) as stream:
      while first:
        skipped = len(stream.read(min(first, 2**20)))
        if not skipped:
          return b''
        first -= skipped
      return stream.read(count)

  def read(self, tensor: Tensor, name: str) -> np.ndarray:
    """One tensor, read now.

    Raises:
      UserError: its numbers are damaged; `name` is named.
    """
    with refusing(f'{self.path}: {name}', 'a tensor'):
      return tensor.real()

  def close(self) -> None:
    """Gives the file back; reading is over."""
    if self._zip is not None:
      self._zip.close()
    if self._map is not None:
      self._map.close()
