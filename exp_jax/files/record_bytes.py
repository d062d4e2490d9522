"""A record of arrays and strings as bytes: small, safe to read from strangers, and read by several
threads side by side.

  8 bytes   magic
  4 bytes   length of the header, little endian
  header    JSON: [{name, dtype, shape, rows, size}, ...], a string has dtype 'str'
  payload   the arrays one after the other, each a Zstandard frame of `size` bytes with a checksum

Images (uint8 of three axes or more) are stored as differences between neighbouring rows, modulo 256
(`rows` names the axis): what is smooth becomes small numbers, and the sum that undoes it runs over
whole rows. Nothing is evaluated, nothing is a pickle.
"""

import json
import math
import struct

import numpy as np
import zstandard

MAGIC = b'exprec\x00\x04'
_LEVEL = 1  # higher ones gain a twelfth of the size for ten times the seconds
_LARGEST = 4 << 30  # bytes of one array
_TYPES = ('uint8', 'int32', 'int64', 'float16', 'float32')


def _row_axis(array: np.ndarray) -> int | None:
  """The axis of image rows: [..., H, W, C] with few channels, else [..., H, W]; None for what is no
  image."""
  if array.dtype != np.uint8 or array.ndim < 3 or not array.size:
    return None
  return array.ndim - 3 if array.shape[-1] <= 16 else array.ndim - 2


def _differences(array: np.ndarray, axis: int) -> np.ndarray:
  first, rest = (
    (slice(None),) * axis + (slice(1, None),),
    (slice(None),) * axis + (slice(None, -1),),
  )
  out = array.copy()
  out[first] -= array[rest]
  return out


def _sums(array: np.ndarray, axis: int) -> None:
  """Undoes `_differences` in place."""
  rows = np.moveaxis(array, axis, 0)
  for row in range(1, len(rows)):
    rows[row] += rows[row - 1]


def pack(record: dict) -> bytes:
  """Strings and arrays of the types uint8, int32, int64, float16, float32, as bytes; the same bytes
  for the same record.

  Raises:
    ValueError: an array of another type.
  """
  compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True)
  entries, frames = [], []
  for name, value in record.items():
    if isinstance(value, str):
      data, dtype, shape, axis = value.encode(), 'str', [len(value.encode())], None
    else:
      array = np.ascontiguousarray(value)
      if array.dtype.name not in _TYPES:
        raise ValueError(f'{name!r} is {array.dtype}; records hold {", ".join(_TYPES)} and strings')
      axis, dtype, shape = _row_axis(array), array.dtype.name, list(np.shape(value))
      data = (array if axis is None else _differences(array, axis)).tobytes()
    frames.append(compressor.compress(data))
    entries.append(dict(name=name, dtype=dtype, shape=shape, rows=axis, size=len(frames[-1])))
  header = json.dumps(entries, separators=(',', ':')).encode()
  return b''.join([MAGIC, struct.pack('<I', len(header)), header, *frames])


def _entries(data: bytes) -> tuple[list[dict], int]:
  """The header's entries, checked, and where the payload begins."""
  if data[: len(MAGIC)] != MAGIC:
    raise ValueError('these bytes are no record of this version: prepare or encode the clips again')
  begin = len(MAGIC) + 4
  (length,) = struct.unpack('<I', data[len(MAGIC) : begin].ljust(4, b'\0'))
  try:
    entries = json.loads(data[begin : begin + length])
    if type(entries) is not list:
      raise ValueError('its header is damaged')
    for entry in entries:
      shape, size, axis = entry['shape'], entry['size'], entry['rows']
      whole = [n for n in (*shape, size) if type(n) is not int or n < 0]
      if (
        whole
        or entry['dtype'] not in (*_TYPES, 'str')
        or type(entry['name']) is not str
        or not (axis is None or type(axis) is int and 0 <= axis < len(shape))
      ):
        raise ValueError('its header is damaged')
      if (
        math.prod(shape) * np.dtype('u1' if entry['dtype'] == 'str' else entry['dtype']).itemsize
        > _LARGEST
      ):
        raise ValueError(f'{entry["name"]!r} would take more than {_LARGEST >> 30} GB')
  except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
    raise ValueError(f'its header is damaged ({error})') from None
  if begin + length + sum(entry['size'] for entry in entries) != len(data):
    raise ValueError('it is cut off, or bytes were added')
  return entries, begin + length


def unpack(data: bytes, names: tuple[str, ...] | None = None) -> dict:
  """The record again, or of it only what `names` names.

  Raises:
    ValueError: the bytes are no record, or damaged.
  """
  entries, place = _entries(data)
  view, record = memoryview(data), {}
  for entry in entries:
    frame, name = view[place : place + entry['size']], entry['name']
    place += entry['size']
    if names is not None and name not in names:
      continue
    text = entry['dtype'] == 'str'
    array = np.empty(entry['shape'], np.uint8 if text else entry['dtype'])
    try:
      with zstandard.ZstdDecompressor().stream_reader(frame) as reader:
        filled = reader.readinto(memoryview(array.reshape(-1)).cast('B')) if array.size else 0
        if filled != array.nbytes or reader.read(1):  # to the end, where the checksum is
          raise ValueError(f'{name!r} does not have the length that its header gives')
    except zstandard.ZstdError as error:
      raise ValueError(f'{name!r} is damaged ({error})') from None
    if entry['rows'] is not None:
      _sums(array, entry['rows'])
    record[name] = array.tobytes().decode(errors='replace') if text else array
  return record
