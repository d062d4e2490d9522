"""Writes face recognition networks in dlib's format, for files with weights of our choice; dlib
itself loads them (`resnet_v1`)."""

import math
import struct

import numpy as np

from exp_jax.networks.metric import dlib_face


def integer(value: int) -> bytes:
  """How many bytes, with 0x80 for a negative number, then those bytes, the lowest first."""
  size = max(1, -(-abs(value).bit_length() // 8))
  return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, 'little')


def number(value: float) -> bytes:
  """Mantissa and exponent of 2."""
  mantissa, exponent = math.frexp(np.float32(value))
  return integer(int(mantissa * 2**24)) + integer(exponent - 24)


def text(value: str) -> bytes:
  return integer(len(value)) + value.encode()


def integers(*values: int) -> bytes:
  return b''.join(map(integer, values))


def tensor(values=()) -> bytes:
  """Of four lengths; without values an empty one."""
  values = np.asarray(values, '<f4') if len(values) else np.zeros((0, 0, 0, 0), '<f4')
  return integers(2, *values.shape) + values.tobytes()


def shapes(variant: str) -> dict[str, tuple[int, ...]]:
  """{name: shape} of all weights, as the reader names them."""
  width, kernel, _ = dlib_face.STEM
  found, before = {'conv.weight': (width, 3, kernel, kernel)}, width
  for s, (width, count, _) in enumerate(dlib_face.VARIANTS[variant]):
    for i in range(count):
      found[f'stage{s}_{i}.conv1.weight'], found[f'stage{s}_{i}.conv2.weight'] = (
        (width, before, 3, 3),
        (width, width, 3, 3),
      )
      before = max(before, width)
  for name, shape in list(found.items()):
    found |= {name.replace('weight', part): shape[:1] for part in ('bias', 'scale', 'shift')}
  return found | {'fc.weight': (before, dlib_face.FEATURES)}


def _folded_pair(weights, name: str, stride: int) -> list[bytes]:
  """A convolution and the affine layer behind it."""
  kernel, bias, scale, shift = (
    weights[f'{name}.{part}'] for part in ('weight', 'bias', 'scale', 'shift')
  )
  out, into, size, _ = kernel.shape
  padding = size // 2 if stride == 1 else 0
  column = lambda *parts: np.concatenate([np.ravel(part) for part in parts])[:, None, None, None]
  return [
    text('con_4')
    + tensor(column(kernel, bias))
    + integers(out, size, size, stride, stride, padding, padding)
    + integers(1, out, into, size, size)
    + integers(1, 1, out, 1, 1)
    + b''.join(map(number, (1, 1, 1, 0))),
    text('affine_') + tensor(column(scale, shift)) + 2 * integers(1, 1, out, 1, 1) + integer(0),
  ]


def dlib_bytes(weights: dict[str, np.ndarray], variant: str) -> bytes:
  """The file of a network of `dlib_face.VARIANTS` whose arrays are `shapes(variant)`."""
  pool = lambda kind, window, stride: (
    text(f'{kind}_pool_2') + integers(window, window, stride, stride, 0, 0)
  )
  relu, tag = text('relu_'), None
  layers = [*_folded_pair(weights, 'conv', dlib_face.STEM[2]), relu, pool('max', 3, 2)]
  for s, (_, count, halves) in enumerate(dlib_face.VARIANTS[variant]):
    for i in range(count):
      down = halves and i == 0
      layers += [
        tag,
        *_folded_pair(weights, f'stage{s}_{i}.conv1', 2 if down else 1),
        relu,
        *_folded_pair(weights, f'stage{s}_{i}.conv2', 1),
      ]
      layers += [tag, tag, pool('avg', 2, 2)] if down else []
      layers += [text('add_prev_'), relu]
  into, out = weights['fc.weight'].shape
  layers += [
    pool('avg', 0, 1),
    text('fc_2')
    + integers(out, into)
    + tensor(weights['fc.weight'][:, :, None, None])
    + integers(1, into, out, 1, 1)
    + integers(1, 0, 0, 0, 0)
    + integer(1)
    + b''.join(map(number, (1, 1, 1, 0))),
  ]
  versions = [integer(1 if layer is tag else 2) for layer in layers]
  versions[0] = integer(3)
  head = (
    integer(1) + text('loss_metric_2') + number(0.04) + number(0.6) + b''.join(reversed(versions))
  )
  source = (
    text('input_rgb_image_sized')
    + b''.join(map(number, dlib_face.MEAN))
    + integers(dlib_face.SIZE, dlib_face.SIZE)
  )
  body = [layer + b'110' + 3 * tensor() for layer in layers if layer is not tag]
  body[0] += integer(1)
  return head + source + b''.join(body)


def floats(values) -> bytes:
  """As they lie in a tensor, to find them in a file."""
  return struct.pack(f'<{np.size(values)}f', *np.ravel(values))
