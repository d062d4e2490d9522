"""A glTF 2.0 file in one binary piece: JSON and a buffer whose pieces are named by accessors.

Source: Khronos, glTF 2.0 specification, sections 3.6 (buffers, accessors) and 4.4 (GLB).
"""

import json
import struct

import numpy as np

FLOAT, UNSIGNED_INT, UNSIGNED_SHORT = 5126, 5125, 5123
_COMPONENTS = {
  np.dtype('float32'): FLOAT,
  np.dtype('uint32'): UNSIGNED_INT,
  np.dtype('uint16'): UNSIGNED_SHORT,
}
_TYPES = {(): 'SCALAR', (2,): 'VEC2', (3,): 'VEC3', (4,): 'VEC4', (4, 4): 'MAT4'}
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963


class Buffer:
  """Collects arrays and images; hands out the numbers by which the JSON refers to them."""

  def __init__(self):
    self._bytes = bytearray()
    self.views: list[dict] = []
    self.accessors: list[dict] = []
    self.images: list[dict] = []

  def _view(self, content: bytes, **more) -> int:
    self._bytes += b'\0' * (-len(self._bytes) % 4)
    self.views.append(
      {'buffer': 0, 'byteOffset': len(self._bytes), 'byteLength': len(content)} | more
    )
    self._bytes += content
    return len(self.views) - 1

  def add(
    self, values: np.ndarray, *, bounds: bool = False, indices: bool = False, vertices: bool = False
  ) -> int:
    """The number of an accessor of float32, uint32 or uint16 values [N, ...].

    Args:
      bounds: least and largest value are given, as positions and times need.
      indices: of triangles.
      vertices: an attribute of vertices.
    """
    values = np.ascontiguousarray(values)
    target = (
      {'target': _ELEMENT_BUFFER} if indices else {'target': _ARRAY_BUFFER} if vertices else {}
    )
    accessor = {
      'bufferView': self._view(values.tobytes(), **target),
      'componentType': _COMPONENTS[values.dtype],
      'count': len(values),
      'type': _TYPES[values.shape[1:]],
    }
    if bounds:
      flat = values.reshape(len(values), -1)
      accessor |= {'min': flat.min(0).tolist(), 'max': flat.max(0).tolist()}
    self.accessors.append(accessor)
    return len(self.accessors) - 1

  def add_image(self, png: bytes, name: str) -> int:
    """The number of an image."""
    self.images.append({'bufferView': self._view(png), 'mimeType': 'image/png', 'name': name})
    return len(self.images) - 1

  def finish(self, tree: dict) -> bytes:
    """The file's bytes: `tree` with buffers, accessors and images filled in."""
    content = bytes(self._bytes) + b'\0' * (-len(self._bytes) % 4)
    tree = tree | {
      'bufferViews': self.views,
      'accessors': self.accessors,
      'buffers': [{'byteLength': len(content)}],
    }
    if self.images:
      tree['images'] = self.images
    text = json.dumps(tree, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 4)
    chunks = (
      struct.pack('<II', len(text), 0x4E4F534A)
      + text
      + struct.pack('<II', len(content), 0x004E4942)
      + content
    )
    return struct.pack('<III', 0x46546C67, 2, 12 + len(chunks)) + chunks
