"""Numeric npz files, read without pickle and written whole or not at all.

A file comes from anywhere: what it declares (sizes in the zip's table, shapes in the arrays' headers) is checked
against what is there before a byte is allocated, so that a small file cannot fill the memory.
"""

import ast
import math
import os
import pathlib
import struct
import zipfile
import zlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.atomic import replacing

MOST_BYTES = 2**31  # of all arrays of a file together; the largest body model has a quarter of that
_UNCHECKED_BYTES = 2**26  # members up to here may compress as well as they like
_MOST_RATIO = 200  # larger ones no better than this: masks do, a bomb of zeros reaches 1000
_KINDS = 'biufSU'


def array_header(stream, where: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
  """Reads the head of an npy stream: shape, column order, dtype, and bytes of the header.

  Nothing of the array's size is allocated, and no more than 10 kB of header is read.

  Raises:
    UserError: naming `where`; not an npy header, or an element type other than numbers, text and objects.
  """
  start = stream.read(8)
  if start[:6] != b'\x93NUMPY' or start[6:] not in (b'\x01\x00', b'\x02\x00', b'\x03\x00'):
    raise UserError(f'{where} is not a numpy array')
  kind = '<H' if start[6] == 1 else '<I'
  size = stream.read(struct.calcsize(kind))
  if len(size) < struct.calcsize(kind) or (length := struct.unpack(kind, size)[0]) > 10_000:
    raise UserError(f'{where} has a damaged numpy header')
  text = stream.read(length)
  try:
    fields = ast.literal_eval(text.decode('utf-8' if start[6] == 3 else 'latin1').strip())
    shape, order, dtype = fields['shape'], fields['fortran_order'], np.dtype(str(fields['descr']))
    if len(text) != length or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
      raise ValueError('shape')
  except (ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError, AttributeError):
    raise UserError(f'{where} has a damaged numpy header, or elements of many parts') from None
  if dtype.kind not in _KINDS + 'O':
    raise UserError(f'{where} holds elements of type {dtype}, not numbers')
  return tuple(shape), bool(order), dtype, 8 + len(size) + length


def _array(stream, held: int, where: str) -> np.ndarray:
  """One array of an npy stream of `held` bytes, once its header agrees with that."""
  shape, by_column, dtype, length = array_header(stream, where)
  if dtype.kind == 'O':
    raise UserError(f'{where} holds pickled objects, which are not read')
  size = math.prod(shape) * dtype.itemsize
  if length + size != held:
    raise UserError(f'{where} claims {size} bytes and holds {held - length}')
  if not size:
    return np.zeros(shape, dtype)
  content = bytearray(size)
  view, filled = memoryview(content), 0
  while filled < size:
    if not (step := stream.readinto(view[filled : filled + 2**20])):
      raise UserError(f'{where} is truncated')
    filled += step
  stream.read(1)  # the end, where a zip compares its check sum
  return np.frombuffer(content, dtype).reshape(shape, order='F' if by_column else 'C')


def read_npy(path: str | os.PathLike) -> np.ndarray:
  """The array of an npy file; the same promises and errors as `read_npz`."""
  try:
    with open(path, 'rb') as stream:
      return _array(stream, os.fstat(stream.fileno()).st_size, str(path))
  except (FileNotFoundError, IsADirectoryError):
    raise UserError(f'no such file: {path}') from None


def read_npz(path: str | os.PathLike, wanted: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
  """The arrays of an npz file that are in `wanted`, or all of them; others are not even opened.

  Raises:
    UserError: the file is missing, is not an npz, is truncated, holds pickled objects, or an array claims a size
      that the file cannot hold.
  """
  path = pathlib.Path(path)
  try:
    total = path.stat().st_size
    with open(path, 'rb') as stream:
      if stream.read(6) == b'\x93NUMPY':
        raise UserError(f'{path} is a single array, not an npz file')
    with zipfile.ZipFile(path) as archive:
      members = {i.filename.removesuffix('.npy'): i for i in archive.infolist() if i.filename.endswith('.npy')}
      members = {k: i for k, i in members.items() if wanted is None or k in wanted}
      for key, info in members.items():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
          raise UserError(f'{path}: {key} is encrypted or compressed in a way that numpy does not write')
        if info.compress_size > total or info.file_size > max(_UNCHECKED_BYTES, _MOST_RATIO * info.compress_size):
          raise UserError(f'{path}: {key} claims {info.file_size} bytes, more than the file can honestly hold')
      if sum(info.file_size for info in members.values()) > MOST_BYTES:
        raise UserError(f'{path}: its arrays claim more than {MOST_BYTES >> 30} GB')
      arrays = {}
      for key, info in members.items():
        with archive.open(info) as stream:
          arrays[key] = _array(stream, info.file_size, f'{path}: {key}')
      return arrays
  except FileNotFoundError:
    raise UserError(f'no such file: {path}') from None
  except IsADirectoryError:
    raise UserError(f'{path} is a folder, an npz file is needed') from None
  except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, NotImplementedError,
          RuntimeError, struct.error, MemoryError) as error:  # fmt: skip
    if isinstance(error, UserError):
      raise
    raise UserError(
      f'{path} cannot be read: it is damaged or not an npz file ({type(error).__name__}: {error})'
    ) from None


def write_npz(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
  """Writes a compressed npz, whole or not at all."""
  for key, value in arrays.items():
    if np.asarray(value).dtype.hasobject:
      raise ValueError(f'{key} is an array of objects, which npz would pickle')
  with replacing(path) as partial, open(partial, 'wb') as stream:
    np.savez_compressed(stream, **arrays)
