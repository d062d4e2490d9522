"""Safetensors files, read one tensor (or one slice of it) at a time and written piece by piece.

  8 bytes, little endian: n        length of the header
  n bytes of JSON                  {name: {dtype, shape, data_offsets: [begin, end]}, '__metadata__': {text: text}}
  data                             C order, little endian, offsets counted from the end of the header

A file may be larger than the memory: nothing is read before it is asked for, and a file is written
by handing over pieces in any order (a stacked leaf, layer after layer). Headers are believed only
as far as the file's size proves them. As in the reference implementation, the tensors must fill the
data without a hole, an overlap or a byte left over.

Source: the format's own description (safetensors 0.4 and later).
"""

import itertools
import json
import math
import operator
import os
import pathlib
from collections.abc import Iterable

import ml_dtypes
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import (
  all_finite,
  check_name,
  parse_json,
  refuse_stand_ins,
  shown,
)

DTYPES = {
  'F64': np.dtype('<f8'),
  'F32': np.dtype('<f4'),
  'F16': np.dtype('<f2'),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'I64': np.dtype('<i8'),
  'I32': np.dtype('<i4'),
  'U8': np.dtype('u1'),
  'BOOL': np.dtype('?'),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MOST_HEADER = 100 * 2**20  # the limit of the reference implementation


class SafetensorsFile:
  """An open file: `names`, `shape(name)`, `dtype(name)`, `read(name)`, `metadata`.

  Close it, or use `with`.

  Raises:
    UserError: if the file is missing, no safetensors file, truncated, or of a type we do not
      compute with.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    if not self.path.is_file():
      raise UserError(f'{path} {"is no file" if self.path.exists() else "does not exist"}')
    self._file = os.open(self.path, os.O_RDONLY)
    try:
      self.metadata, self._entries, self._start = _header(self._file, self.path)
    except BaseException:
      os.close(self._file)
      raise

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def close(self) -> None:
    """Gives the descriptor back; reading is over."""
    os.close(self._file)

  @property
  def names(self) -> list[str]:
    """Names of all tensors, in the order of the data."""
    return list(self._entries)

  def shape(self, name: str) -> tuple[int, ...]:
    """The shape of a tensor; KeyError if there is none of that name."""
    return self._entries[name][1]

  def dtype(self, name: str) -> np.dtype:
    """The numpy (or ml_dtypes) type of a tensor."""
    return self._entries[name][0]

  def read(self, name: str) -> np.ndarray:
    """A tensor, in memory of its own."""
    dtype, shape, begin, end = self._entries[name]
    return np.frombuffer(self._bytes(begin, end - begin), dtype).reshape(shape)

  def read_row(self, name: str, row: int) -> np.ndarray:
    """tensor[row] along the first axis, without reading the others."""
    dtype, shape, begin, end = self._entries[name]
    size = (end - begin) // shape[0]
    return np.frombuffer(self._bytes(begin + row * size, size), dtype).reshape(shape[1:])

  def mapped(self, name: str) -> np.ndarray:
    """A tensor mapped from the disk, read-only: slices of it are read when they are used."""
    dtype, shape, begin, end = self._entries[name]
    if begin == end:
      return np.zeros(shape, dtype)
    raw = np.memmap(self.path, np.uint8, 'r', self._start + begin, (end - begin,))
    return raw.view(dtype).reshape(shape)

  def _bytes(self, begin, size):
    buffer, done = bytearray(size), 0
    view = memoryview(buffer)
    while done < size:
      count = os.preadv(self._file, [view[done:]], self._start + begin + done)
      if count == 0:
        raise UserError(f'{self.path} ended while it was read: it is truncated or was changed')
      done += count
    return buffer


def _header(file, path):
  """(metadata, {name: (dtype, shape, begin, end)} in the order of the data, where the data
  begin)."""
  refuse_stand_ins(path)
  size, first = os.fstat(file).st_size, os.pread(file, 9, 0)
  length = int.from_bytes(first[:8], 'little')
  if (
    len(first) < 9
    or first[8:] not in (b'{', b' ', b'\n', b'\t', b'\r')
    or not 2 <= length <= min(_MOST_HEADER, size - 8)
  ):
    kind = ', but one of torch.save: name it .pth' if first[:2] == b'PK' else ', or it is truncated'
    raise UserError(f'{path} is not a safetensors file{kind}')
  start = 8 + length
  header = parse_json(os.pread(file, length, 8), f'the safetensors header of {path}')
  metadata = header.pop('__metadata__', None) or {}
  if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
    raise UserError(f'{path} has a damaged safetensors header: its metadata are not all text')
  entries = {
    check_name(name, path): _entry(name, value, size - start, path)
    for name, value in header.items()
  }
  entries, at = dict(sorted(entries.items(), key=lambda item: item[1][2:])), 0
  for name, (*_, begin, end) in entries.items():
    if begin != at:
      raise UserError(
        f'{path} is damaged: {name} begins at byte {begin}, the tensor before it ends at byte {at}'
      )
    at = end
  if at != size - start:
    raise UserError(f'{path} is damaged: {size - start - at} bytes at its end belong to no tensor')
  return metadata, entries, start


def _entry(name, value, held, path):
  """(dtype, shape, begin, end) of one entry of a header, checked by itself."""
  try:
    kind, shape, (begin, end) = value['dtype'], tuple(value['shape']), value['data_offsets']
    whole = len(shape) <= 32 and all(
      type(n) is int and 0 <= n < 2**63 for n in (*shape, begin, end)
    )
    # as the reference counts
    whole = whole and all(n < 2**61 for n in itertools.accumulate(shape, operator.mul, initial=1))
  except (ValueError, TypeError, KeyError):
    whole = False
  if not whole or not isinstance(kind, str):
    raise UserError(f'{path} has a damaged safetensors header: the entry of {name} is none')
  if kind not in DTYPES:
    raise UserError(
      f'{path}: {name} has the quantized type {shown(kind, 20)}; fp8 and int8 files are not '
      'converted, '
      'take the bf16, fp16 or fp32 one'
    )
  if end - begin != math.prod(shape) * DTYPES[kind].itemsize or end > held:
    raise UserError(f'{path} is truncated or damaged: {name} should end at byte {end} of {held}')
  return DTYPES[kind], shape, begin, end


class SafetensorsWriter:
  """Writes a file whose tensors are known by shape and type, in any order, by rows or whole.

  Entries are laid out as the reference implementation does (wide types first, then by name), so
  that equal content gives equal files. The file has its final size from the start; `close` checks
  that all of it was written.
  """

  def __init__(
    self,
    path,
    entries: dict[str, tuple[tuple[int, ...], np.dtype]],
    metadata: dict[str, str] | None = None,
  ):
    self.path, self._left, self._entries, offset = pathlib.Path(path), {}, {}, 0
    for name in sorted(entries, key=lambda n: (-np.dtype(entries[n][1]).itemsize, n)):
      shape, dtype = entries[name]
      size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
      self._entries[name] = (np.dtype(dtype), tuple(shape), offset, offset + size)
      self._left[name] = size
      offset += size
    header = {'__metadata__': metadata} if metadata else {}
    header |= {
      n: {'dtype': NAMES[d], 'shape': list(s), 'data_offsets': [b, e]}
      for n, (d, s, b, e) in self._entries.items()
    }
    text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
    text += b' ' * (-len(text) % 8)
    self._start = 8 + len(text)
    self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
      self._put(len(text).to_bytes(8, 'little') + text, 0)
      os.ftruncate(self._file, self._start + offset)
    except BaseException:
      os.close(self._file)
      raise

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    if kind is None:
      self.close()
    else:
      os.close(self._file)

  def write(self, name: str, value: np.ndarray, row: int | None = None) -> None:
    """A whole tensor, or its `row` along the first axis; cast to the entry's type.

    Raises:
      ValueError: if the shape is another one, or the place was written before (as far as sizes
        tell).
    """
    dtype, shape, begin, end = self._entries[name]
    expected = shape if row is None else shape[1:]
    if value.shape != expected:
      raise ValueError(f'{name} has shape {value.shape}, expected {expected}')
    data = np.ascontiguousarray(value, dtype).reshape(-1).view(np.uint8)
    if self._left[name] < data.size:
      raise ValueError(f'{name} was written twice')
    self._put(memoryview(data), self._start + begin + (row or 0) * data.size)
    self._left[name] -= data.size

  def close(self) -> None:
    """Flushes to the disk.

    Raises:
      ValueError: if a part of a tensor was never written; it is named.
    """
    os.fsync(self._file)
    os.close(self._file)
    missing = [name for name, left in self._left.items() if left]
    if missing:
      raise ValueError(f'{self.path}: never filled: {missing}')

  def _put(self, data, offset):
    data, done = memoryview(data), 0
    while done < len(data):
      done += os.pwrite(self._file, data[done:], offset + done)


def write_safetensors(
  path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
  """A whole dictionary at once; see `SafetensorsWriter`."""
  entries = {name: (np.shape(value), np.asarray(value).dtype) for name, value in arrays.items()}
  with SafetensorsWriter(path, entries, metadata) as writer:
    for name, value in arrays.items():
      writer.write(name, np.asarray(value))


def first_not_finite(path: str | os.PathLike) -> str | None:
  """The name of the first tensor with NaN or infinite numbers, or None; read piece by piece.

  UserError as of the file.
  """
  with SafetensorsFile(path) as file:
    return next((name for name in file.names if not all_finite(file.mapped(name))), None)


def nested(flat: Iterable[tuple[str, object]]) -> dict:
  """Pairs ('a.b.c', value) -> {'a': {'b': {'c': value}}}."""
  tree = {}
  for name, value in flat:
    *path, leaf = name.split('.')
    node = tree
    for part in path:
      node = node.setdefault(part, {})
    node[leaf] = value
  return tree


def flattened(tree: dict, prefix: str = '') -> dict[str, object]:
  """The inverse of `nested`, names in the order of the tree."""
  flat = {}
  for key, value in tree.items():
    name = f'{prefix}{key}'
    flat |= flattened(value, f'{name}.') if isinstance(value, dict) else {name: value}
  return flat
