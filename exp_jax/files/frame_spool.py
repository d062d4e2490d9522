"""Frames of one shape on the disk, so that a film of any length takes the memory of a window."""

import errno
import tempfile

import numpy as np

from exp_jax.errors import UserError


class FrameSpool:
  """Arrays [*shape], written one after the other, read by number; the file has no name and goes
  when it is closed.

  Use it in a `with`.
  """

  def __init__(self, shape: tuple[int, ...], dtype):
    self.shape, self.dtype, self.count = tuple(shape), np.dtype(dtype), 0
    self._bytes = int(np.prod(shape)) * self.dtype.itemsize
    self._file = tempfile.TemporaryFile(prefix='exp_jax_')

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._file.close()

  def append(self, frames: np.ndarray) -> None:
    """Writes [n, *shape].

    Raises:
      ValueError: frames of another shape.
      UserError: the disk is full.
    """
    if frames.shape[1:] != self.shape:
      raise ValueError(f'frames of shape {frames.shape[1:]}, this spool holds {self.shape}')
    try:
      self._file.seek(self.count * self._bytes)
      self._file.write(np.ascontiguousarray(frames, self.dtype).view(np.uint8).data)
      self._file.flush()
    except OSError as error:
      if error.errno != errno.ENOSPC:
        raise
      raise UserError(
        f'no room in {tempfile.gettempdir()} for the guidance of {self.count + len(frames)} frames '
        f'of {self._bytes:,} '
        'bytes: set TMPDIR to a folder on a larger disk, or animate fewer frames (--limit)'
      ) from None
    self.count += len(frames)

  def read(self, numbers: np.ndarray) -> np.ndarray:
    """[n, *shape] of the frames with these numbers.

    Raises:
      IndexError: one was not written.
    """
    if len(numbers) and not 0 <= min(numbers) <= max(numbers) < self.count:
      raise IndexError(f'frames {min(numbers)} to {max(numbers)} of {self.count}')
    found = np.empty((len(numbers), *self.shape), self.dtype)
    for place, number in enumerate(numbers):
      self._file.seek(int(number) * self._bytes)
      found[place] = np.frombuffer(self._file.read(self._bytes), self.dtype).reshape(self.shape)
    return found
