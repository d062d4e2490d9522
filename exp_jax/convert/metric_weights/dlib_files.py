"""Reading dlib's serialised face recognition network, without dlib: {name: array} of its
convolutions and its last matrix.

  integer   a byte (number of bytes; 0x80: negative), then so many bytes, the lowest first
  number    two integers: mantissa and exponent of 2; exponents 32000 to 32002 are infinities and NaN
  text      an integer, its length, then its bytes
  flag      the character '0' or '1'
  tensor    version 2, four integers (samples, channels, rows, columns), then float32, the lowest byte first
  network   the versions of all layers, the last layer first, then the input, then what each layer keeps, the first layer first

A layer keeps its own fields, three flags, and two or three tensors of training, which are empty in
a file for use. The reader goes through the layers that this network has, and every field must say
what that layer's does: a file of another network, a truncated one or a claimed size that is not
there is one sentence, before anything of that size is allocated. Changed bits inside of weights are
not seen here; the SHA-256 of the download is what sees them.

Source: the formats of dlib 19 (serialize.h, float_details.h, dnn/core.h, dnn/layers.h, tensor.h),
by its documentation.
"""

import math
import pathlib
from collections.abc import Iterator

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.foreign_tensors import shown
from exp_jax.networks.metric import dlib_face

MOST_BYTES = 2**26  # the network has 22 MB
_MOST_TEXT = 64
_EMPTY = (0, 0, 0, 0)


class _Stream:
  """What is left of the bytes of a file; each method takes one thing from it, and a field that must
  have a value is compared."""

  def __init__(self, content: bytes, where: str):
    self._content, self._at, self._where = content, 0, where

  def refuse(self, words: str) -> UserError:
    """The sentence for what cannot be."""
    return UserError(
      f"{self._where} is damaged or not dlib's face recognition network (byte {self._at}: "
      f'{words}): get it again'
    )

  def take(self, count: int, what: str) -> bytes:
    """The next bytes."""
    if count > len(self._content) - self._at:
      raise self.refuse(f'{what} needs {count} bytes, {len(self._content) - self._at} are left')
    self._at += count
    return self._content[self._at - count : self._at]

  def integer(self, what: str, wanted: tuple[int, ...] | None = None) -> int:
    """The next integer, one of `wanted` if that is given."""
    length = self.take(1, what)[0]
    if not 1 <= length & 0x7F <= 8:
      raise self.refuse(f'{what} is an integer of {length & 0x7F} bytes')
    value = int.from_bytes(self.take(length & 0x7F, what), 'little') * (-1 if length & 0x80 else 1)
    if wanted is not None and value not in wanted:
      raise self.refuse(f'{what} is {value}, not {" or ".join(map(str, wanted))}')
    return value

  def integers(self, what: str, wanted: tuple[int, ...]) -> None:
    """As many integers as are wanted, with these values."""
    for value in wanted:
      self.integer(what, (value,))

  def number(self, what: str) -> float:
    """The next number, finite."""
    mantissa, exponent = self.integer(what), self.integer(what)
    if abs(mantissa) >= 2**64 or not -1100 < exponent < 900:
      raise self.refuse(f'{what} is no finite number')
    return math.ldexp(mantissa, exponent)

  def text(self, wanted: tuple[str, ...]) -> str:
    """The next text, one of `wanted`."""
    what = ' or '.join(wanted)
    length = self.integer(what)
    if not 0 <= length <= _MOST_TEXT:
      raise self.refuse(f'a text of {length} bytes where {what} is expected')
    found = self.take(length, what).decode('latin1')
    if found not in wanted:
      raise self.refuse(f'{shown(found, 80)} where {what} is expected')
    return found

  def flag(self, what: str) -> bool:
    """The next flag."""
    found = self.take(1, what)
    if found not in (b'0', b'1'):
      raise self.refuse(f'{what} is neither 0 nor 1')
    return found == b'1'

  def tensor(self, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """The next tensor, of this shape [samples, channels, rows, columns] and finite."""
    self.integer(f'the version of {what}', (2,))
    self.integers(f'a length of {what}', shape)
    found = np.frombuffer(self.take(4 * math.prod(shape), what), '<f4').reshape(shape)
    if not np.isfinite(found).all():
      raise self.refuse(f'{what} holds numbers that are not finite')
    return found

  def alias(self, what: str, shape: tuple[int, ...]) -> None:
    """What a layer notes of the shape of a part of its parameters."""
    self.integer(f'the version of {what}', (1,))
    self.integers(f'a length of {what}', shape)

  def end(self) -> None:
    """Nothing may be left."""
    if self._at != len(self._content):
      raise self.refuse(f'{len(self._content) - self._at} bytes are left over')


def _layers(stages) -> Iterator[tuple]:
  """(kind, name, sizes) from the input on: 'con' (out, in, kernel, stride), 'affine' (channels),
  'pool' (kind, window, stride)."""
  width, kernel, stride = dlib_face.STEM
  yield 'con', 'conv', (width, 3, kernel, stride)
  yield 'affine', 'conv', width
  yield 'relu', '', None
  yield 'pool', '', ('max_pool_2', 3, 2)
  before = width
  for s, (width, count, halving) in enumerate(stages):
    for i in range(count):
      name, halves = f'stage{s}_{i}', halving and not i
      yield 'tag', '', None
      yield 'con', f'{name}.conv1', (width, before, 3, 2 if halves else 1)
      yield 'affine', f'{name}.conv1', width
      yield 'relu', '', None
      yield 'con', f'{name}.conv2', (width, width, 3, 1)
      yield 'affine', f'{name}.conv2', width
      if halves:
        # dlib: tag2, skip1
        yield from (('tag', '', None), ('tag', '', None), ('pool', '', ('avg_pool_2', 2, 2)))
      yield from (('add', '', None), ('relu', '', None))
      before = max(before, width)
  yield 'pool', '', ('avg_pool_2', 0, 1)  # of everything
  yield 'fc', 'fc', (before, dlib_face.FEATURES)


def _convolution(stream: _Stream, name: str, sizes: tuple, found: dict) -> tuple[int, ...]:
  out, into, kernel, stride = sizes
  kind = stream.text(('con_4', 'con_5'))
  shape, padding = (out * into * kernel * kernel + out, 1, 1, 1), kernel // 2 if stride == 1 else 0
  params = stream.tensor(name, shape).ravel()
  stream.integers(f'a size of {name}', (out, kernel, kernel, stride, stride, padding, padding))
  stream.alias(f'the filters of {name}', (out, into, kernel, kernel))
  stream.alias(f'the biases of {name}', (1, out, 1, 1))
  for what in range(4):
    stream.number(f'multiplier {what} of {name}')
  if kind == 'con_5' and not stream.flag(f'the bias of {name}'):
    raise stream.refuse(f'{name} has no bias')
  found[f'{name}.weight'], found[f'{name}.bias'] = (
    params[:-out].reshape(out, into, kernel, kernel),
    params[-out:],
  )
  return shape


def _affine(stream: _Stream, name: str, width: int, found: dict) -> tuple[int, ...]:
  stream.text(('affine_',))
  params = stream.tensor(f'the scales of {name}', (2 * width, 1, 1, 1)).ravel()
  for part in ('scales', 'shifts'):
    stream.alias(f'the {part} of {name}', (1, width, 1, 1))
  stream.integer(f'the mode of {name}', (0,))
  found[f'{name}.scale'], found[f'{name}.shift'] = params[:width], params[width:]
  return _EMPTY


def _matrix(stream: _Stream, name: str, sizes: tuple, found: dict) -> tuple[int, ...]:
  into, out = sizes
  stream.text(('fc_2',))
  stream.integers(f'a size of {name}', (out, into))
  found[f'{name}.weight'] = stream.tensor(name, (into, out, 1, 1)).reshape(into, out)
  stream.alias(f'the weights of {name}', (into, out, 1, 1))
  stream.alias(f'the biases of {name}', _EMPTY)
  stream.integer(f'the bias mode of {name}', (1,))
  for what in range(4):
    stream.number(f'multiplier {what} of {name}')
  return into, out, 1, 1


def _fields(stream: _Stream, kind: str, name: str, sizes, found: dict) -> None:
  """What a layer itself keeps."""
  if kind == 'pool':
    text, window, stride = sizes
    stream.text((text,))
    stream.integers('a size of a pool', (window, window, stride, stride, 0, 0))
  elif kind in ('relu', 'add'):
    stream.text(({'relu': 'relu_', 'add': 'add_prev_'}[kind],))
  else:
    {'con': _convolution, 'affine': _affine, 'fc': _matrix}[kind](stream, name, sizes, found)


def read_dlib_face(
  content: bytes, where: str | pathlib.Path, *, variant: str = 'resnet_v1'
) -> dict[str, np.ndarray]:
  """The network's weights out of the bytes of a file that dlib wrote.

  Args:
    content: of the file.
    where: names it in errors.
    variant: of `dlib_face.VARIANTS`; the file must hold this one.

  Returns:
    {'conv.weight': [32, 3, 7, 7], 'conv.bias', 'conv.scale', 'conv.shift': [32],
    'stage0_0.conv1.weight': ..., 'fc.weight': [256, 128]}, float32; `scale` and `shift` are of the
      affine layer behind a convolution.

  Raises:
    UserError: truncated, of another network, damaged where that can be seen, or larger than 64 MB.
  """
  stream, found = _Stream(content, str(where)), {}
  if len(content) > MOST_BYTES:
    raise stream.refuse(f'it has {len(content)} bytes')
  layers = list(_layers(dlib_face.VARIANTS[variant]))
  stream.integer('the version of the loss', (1,))
  if stream.text(('loss_metric_', 'loss_metric_2')) == 'loss_metric_2':
    stream.number('the margin'), stream.number('the threshold')
  for kind, *_ in reversed(layers[1:]):
    stream.integer('the version of a layer', (1,) if kind == 'tag' else (2,))
  expands = stream.integer('the version of the first layer', (2, 3)) == 3
  stream.text(('input_rgb_image_sized',))
  for colour, mean in zip(('red', 'green', 'blue'), dlib_face.MEAN):
    if abs((value := stream.number(f'the mean of {colour}')) - mean) > 1e-3:
      raise stream.refuse(f'the mean of {colour} is {value}, not {mean}')
  stream.integers('the size of a picture', (dlib_face.SIZE,) * 2)
  for kind, name, sizes in layers:
    if kind == 'tag':
      continue
    _fields(stream, kind, name, sizes, found)
    for what in ('set up', 'stale', 'disabled'):
      stream.flag(f'whether a layer is {what}')
    for what in ('gradient', 'output', 'gradient of the parameters'):
      stream.tensor(f"a layer's {what}", _EMPTY)
    if expands:  # the first layer alone keeps how many pictures an input became
      stream.integer('the number of pictures of an input', (1,))
      expands = False
  stream.end()
  return found
