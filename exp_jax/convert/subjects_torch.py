"""Dictionaries of arrays that torch.save wrote, read without torch and without running anything.

Both formats are known: the zip (since 1.6: <name>/data.pkl and <name>/data/<key>) and the legacy one (a run
of pickles, then the storages). The pickles go through the allow-list reader of `pickles`, with inert stand-ins
for tensors and their storages on top; every view is checked against its storage before it is made.
"""

import io
import os
import pathlib
import struct
import zipfile

import numpy as np

from exp_jax.convert import pickles
from exp_jax.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a legacy file
_LIMIT = 2**30  # bytes of one file, unpacked; a tracked frame has some hundred kilobytes
_DTYPES = {
  'FloatStorage': np.float32, 'DoubleStorage': np.float64, 'HalfStorage': np.float16,
  'LongStorage': np.int64, 'IntStorage': np.int32, 'ShortStorage': np.int16, 'CharStorage': np.int8,
  'ByteStorage': np.uint8, 'BoolStorage': np.bool_}  # fmt: skip


class _Stored:
  """Numbers of a tensor, filled in before (zip) or after (legacy) the tensor is made."""

  def __init__(self, values: np.ndarray):
    self.values = values


class _Kind(pickles.Named):
  """A class of storages, named by the file."""

  dtype = np.dtype(np.uint8)


class _View(pickles.Inert):
  """A tensor: storage, offset, size, stride; refused if it leaves its storage."""

  def real(self):
    storage, offset, size, stride = (*self.args, None, None, None, None)[:4]
    if isinstance(storage, _Bytes):
      storage = storage.real()
    if not isinstance(storage, _Stored) or not isinstance(size, tuple) or len(size) != len(stride):
      raise pickles.Refused('a tensor without numbers')
    numbers = [int(n) for n in (offset, *size, *stride)]
    last = numbers[0] + sum((n - 1) * s for n, s in zip(numbers[1 : 1 + len(size)], numbers[1 + len(size) :]))
    if min(numbers) < 0 or (0 not in size and last >= len(storage.values)):
      raise pickles.Refused('a tensor that reaches beyond its numbers')
    values, step = storage.values[numbers[0] :], storage.values.itemsize
    return np.lib.stride_tricks.as_strided(values, size, [s * step for s in stride], writeable=False)


class _Bytes(pickles.Inert):
  """A storage in a plain pickle: a file of torch.save within the file."""

  def real(self):
    found = _read_pickles(self.args[0]) if self.args and isinstance(self.args[0], bytes) else None
    if not isinstance(found, _Stored):
      raise pickles.Refused('a part that is no tensor storage')
    return found


def _parameter(data, *_):
  return data


class _TorchReader(pickles.Reader):
  """The allow-list reader plus tensors; `storage_of` gives the numbers of a persistent id."""

  def __init__(self, stream, storage_of):
    super().__init__(stream)
    self._storage_of = storage_of

  def find_class(self, module, name):
    if module == 'torch' and name in _DTYPES:
      return type(name, (_Kind,), {'dtype': np.dtype(_DTYPES[name])})
    ours = {('torch._utils', '_rebuild_tensor_v2'): _View, ('torch._utils', '_rebuild_parameter'): _parameter,
            ('torch.storage', '_load_from_bytes'): _Bytes}  # fmt: skip
    return ours.get((module, name)) or super().find_class(module, name)

  def persistent_load(self, pid):
    if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == 'storage' and isinstance(pid[1], type)
            and issubclass(pid[1], _Kind) and isinstance(pid[4], int) and 0 <= pid[4] <= _LIMIT):
      raise pickles.Refused('a reference that is no tensor storage')
    return self._storage_of(str(pid[2]), pid[1].dtype, pid[4])


def read_torch(path: str | os.PathLike) -> dict[str, object]:
  """The dictionary in a file of torch.save, or in a plain pickle of arrays; tensors become numpy arrays.

  Raises:
    UserError: no such file, damaged, not a dictionary, or it wants to run something.
  """
  path = pathlib.Path(path)
  try:
    if path.stat().st_size > _LIMIT:
      raise UserError(f'{path} is larger than a gigabyte; files of one frame or clip are expected')
    content = path.read_bytes()
  except (FileNotFoundError, IsADirectoryError):
    raise UserError(f'no such file: {path}') from None
  try:
    found = _read_zip(content) if content[:2] == b'PK' else _read_pickles(content)
  except UserError:
    raise
  except Exception as error:  # a hostile or damaged file can raise anything
    raise UserError(f'{path} is refused as a file of arrays: {error}') from None
  if not isinstance(found, dict):
    raise UserError(f'{path} holds a {type(found).__name__}, a dictionary of arrays was expected')
  try:
    return _tidy(found, str(path), [_LIMIT])
  except UserError:
    raise
  except Exception as error:
    raise UserError(f'{path} is refused as a file of arrays: {error}') from None


def _read_zip(content: bytes):
  """The object in the zip format."""
  with zipfile.ZipFile(io.BytesIO(content)) as bundle:
    if sum(info.file_size for info in bundle.infolist()) > _LIMIT:
      raise ValueError('it unpacks to more than a gigabyte')
    names = bundle.namelist()
    index = next((n for n in names if n.endswith('/data.pkl') or n == 'data.pkl'), None)
    if index is None:
      raise ValueError('a zip without data.pkl')
    folder = index[: -len('data.pkl')]
    order = folder + 'byteorder'
    if order in names and bundle.read(order) != b'little':
      raise ValueError('numbers of another byte order')

    def storage_of(key, dtype, count):
      return _Stored(np.frombuffer(bundle.read(f'{folder}data/{key}'), dtype, count))

    return _TorchReader(io.BytesIO(bundle.read(index)), storage_of).load()


def _read_pickles(content: bytes):
  """The object in the legacy format, or in a plain pickle."""
  stream, storages = io.BytesIO(content), {}

  def storage_of(key, dtype, count):
    if key not in storages:
      if count * dtype.itemsize > len(content):
        raise ValueError('more numbers than the file has')
      storages[key] = _Stored(np.zeros(count, dtype))
    return storages[key]

  load = lambda: _TorchReader(stream, storage_of).load()
  found = load()
  if found != _MAGIC:
    return found
  load(), load()  # protocol and machine
  found = load()
  for key in load():
    values = storages[str(key)].values
    (count,) = struct.unpack('<q', stream.read(8))
    if count != len(values):
      raise ValueError('numbers that do not go with their tensor')
    values[:] = np.frombuffer(stream.read(count * values.itemsize), values.dtype, count)
  return found


def _tidy(value, where, left):
  """Nested dictionaries with string keys and numpy arrays."""
  if isinstance(value, dict):
    return {str(k): _tidy(v, f'{where}: {k}', left) for k, v in value.items()}
  return pickles.plain(value, where, left)
