"""ArrayRecord files of records that are bytes: written whole or not at all, read by number."""

import glob
import os
from collections.abc import Iterable

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.atomic import replacing


class DamagedRecord(UserError):
  """One record cannot be used; the message names it. Training skips and counts such records."""


def write_packed(path, packed: Iterable[bytes], *, compress: bool = False) -> int:
  """Writes an ArrayRecord file of records that are bytes already, and returns their number.

  The file appears under its name when it is complete; see `files.atomic`.

  Args:
    compress: entries that `record_bytes` packed are compressed already; others gain by it.
  """
  from array_record.python.array_record_module import ArrayRecordWriter

  count = 0
  with replacing(path) as partial:
    writer = ArrayRecordWriter(str(partial), 'group_size:1' + ('' if compress else ',uncompressed'))
    try:
      for data in packed:
        writer.write(data)
        count += 1
    finally:
      writer.close()
    if not partial.stat().st_size:
      raise OSError(f'{path} could not be written')
  return count


class ArrayRecords:
  """Random access to the bytes of the records of ArrayRecord files; threads read side by side.

  Args:
    path: a file, a folder of `*.array_record` files, or a glob pattern; files are taken in sorted
      order.
    complaint: the sentence where there are none, with the remedy.

  Raises:
    UserError: there are none, or one cannot be read.
  """

  def __init__(self, path: str, complaint: str):
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    pattern = os.path.join(path, '*.array_record') if os.path.isdir(path) else path
    self.files = sorted(glob.glob(pattern))
    if not self.files:
      raise UserError(complaint)
    self._sources = []
    for file in self.files:
      try:
        self._sources.append(ArrayRecordDataSource([file]))
        len(self._sources[-1])
      except Exception as error:
        raise UserError(f'{file} is not a readable ArrayRecord file: {error}') from error
    self._starts = np.cumsum([0] + [len(s) for s in self._sources])

  @property
  def fingerprint(self) -> str:
    """Names, sizes and record counts of the files, not their folder: a copy elsewhere is the same
    data."""
    return repr(
      [(os.path.basename(f), os.path.getsize(f), len(s)) for f, s in zip(self.files, self._sources)]
    )

  def __len__(self):
    return int(self._starts[-1])

  def place(self, index: int) -> tuple[str, int]:
    """The file of a record and its number in it."""
    part, local = self._find(index)
    return self.files[part], local

  def _find(self, index: int) -> tuple[int, int]:
    part = int(np.searchsorted(self._starts, index, side='right')) - 1
    return part, int(index - self._starts[part])

  def packed(self, index: int) -> bytes:
    """The bytes of a record, as they lie on disk; DamagedRecord, with file and number, if they
    cannot be read."""
    part, local = self._find(index)
    try:
      return self._sources[part][local]
    except Exception as error:
      raise DamagedRecord(f'record {local} of {self.files[part]} is damaged: {error}') from error
