"""Numeric npz files, read without pickle and written whole or not at all.

A file comes from anywhere: what it declares (sizes in the zip's table, shapes in the arrays'
headers) is checked against what is there before a byte is allocated, so that a small file cannot
fill the memory.
"""

import io
import math
import os
import re
import struct
import zipfile
import zlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.atomic import replacing
from exp_jax.files.foreign_tensors import refuse_stand_ins, shown

MOST_BYTES = 2**31  # of all arrays of a file together; the largest body model has a quarter of that
LONG_CLIPS = 2**36  # of files with maps of every frame: three minutes of normals at 1920 x 1080
_UNCHECKED_BYTES = 2**26  # members up to here may compress as well as they like
_MOST_RATIO = 200  # larger ones no better than this: masks do, a bomb of zeros reaches 1000
_KINDS = 'biufSU'
# A header is the text of a dictionary. It is matched, not evaluated: beside other threads CPython's
# parser ends in a SystemError (AST constructor recursion depth mismatch) now and then, and a whole
# file would count as damaged.
_FIELD = (
  r"""["'](\w+)["']\s*:\s*('[^']*'|"[^"]*"|True|False|\(\s*(?:[0-9]+\s*,\s*)*(?:[0-9]+\s*)?\))"""
)
_HEADER = re.compile(rf'\s*\{{\s*(?:{_FIELD}\s*(?:,\s*)?)*\}}\s*')


def array_header(stream, where: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
  """Reads the head of an npy stream: shape, column order, dtype, and bytes of the header.

  Nothing of the array's size is allocated, and no more than 10 kB of header is read.

  Raises:
    UserError: naming `where`; not an npy header, or an element type other than numbers, text and
      objects.
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
    words = text.decode('utf-8' if start[6] == 3 else 'latin1')
    if len(text) != length or not _HEADER.fullmatch(words):
      raise ValueError('no header of numpy')
    fields = dict(re.findall(_FIELD, words))
    shape = tuple(map(int, re.findall('[0-9]+', fields['shape'])))
    order, dtype = (
      {'True': True, 'False': False}[fields['fortran_order']],
      np.dtype(fields['descr'][1:-1]),
    )
    if len(shape) > 32 or fields['shape'][0] != '(':
      raise ValueError('shape')
  except (ValueError, TypeError, KeyError, SyntaxError):
    raise UserError(f'{where} has a damaged numpy header, or elements of many parts') from None
  if dtype.kind not in _KINDS + 'O':
    raise UserError(f'{where} holds elements of type {dtype}, not numbers')
  return shape, order, dtype, 8 + len(size) + length


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


def _archive(stream, path) -> zipfile.ZipFile:
  if stream.read(6) == b'\x93NUMPY':
    raise UserError(f'{path} is a single array, not an npz file')
  return zipfile.ZipFile(stream)


def read_npz(
  path: str | os.PathLike | bytes,
  wanted: tuple[str, ...] | None = None,
  *,
  most_bytes: int = MOST_BYTES,
) -> dict[str, np.ndarray]:
  """The arrays of an npz file, or of the bytes of one, that are in `wanted`, or all of them; others
  are not even opened.

  Args:
    most_bytes: of all arrays together.

  Raises:
    UserError: the file is missing, is not an npz, is truncated, holds pickled objects, or an array
      claims a size that the file cannot hold.
  """
  try:
    stream = io.BytesIO(path) if isinstance(path, bytes) else open(path, 'rb')
    path = 'the npz' if isinstance(path, bytes) else path
    with stream, _archive(stream, path) as archive:
      total = stream.seek(0, os.SEEK_END)
      entries = [i for i in archive.infolist() if i.filename.endswith('.npy')]
      members = {i.filename.removesuffix('.npy'): i for i in entries}
      if len(members) < len(entries):
        double = next(
          key
          for key, info in members.items()
          if info is not next(i for i in entries if i.filename == info.filename)
        )
        raise UserError(
          f'{path} has {shown(double, 80)!r} twice: it is damaged, fetch or make it again'
        )
      members = {k: i for k, i in members.items() if wanted is None or k in wanted}
      for key, info in members.items():
        if (
          info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1
        ):
          raise UserError(
            f'{path}: {key} is encrypted or compressed in a way that numpy does not write'
          )
        if info.compress_size > total or info.file_size > max(
          _UNCHECKED_BYTES, _MOST_RATIO * info.compress_size
        ):
          raise UserError(
            f'{path}: {key} claims {info.file_size} bytes, more than the file can honestly hold'
          )
      if sum(info.file_size for info in members.values()) > most_bytes:
        raise UserError(f'{path}: its arrays claim more than {most_bytes >> 30} GB')
      arrays = {}
      for key, info in members.items():
        with archive.open(info) as member:
          arrays[key] = _array(member, info.file_size, f'{path}: {key}')
      return arrays
  except FileNotFoundError:
    raise UserError(f'no such file: {path}') from None
  except IsADirectoryError:
    raise UserError(f'{path} is a folder, an npz file is needed') from None
  except (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    MemoryError,
  ) as error:
    if isinstance(error, UserError):
      raise
    if isinstance(error, zipfile.BadZipFile) and os.path.exists(path):
      refuse_stand_ins(path)
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
