"""Files as torch.save writes them, and as it never would, put together by hand: no torch is
needed."""

import io
import pickle
import struct
import zipfile

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
MARK, TUPLE, CALL, DICT, ITEM, PERSISTENT = b'(', b't', b'R', b'}', b's', b'Q'


def number(n) -> bytes:
  return f'I{n}\n'.encode()


def text(words) -> bytes:
  return b'X' + struct.pack('<I', len(words.encode())) + words.encode()


def numbers(values) -> bytes:
  return MARK + b''.join(map(number, values)) + TUPLE


def named(module, name) -> bytes:
  return f'c{module}\n{name}\n'.encode()


def tensor(
  shape,
  *,
  key='0',
  count=6,
  offset=0,
  strides=None,
  kind='FloatStorage',
  function='_rebuild_tensor_v2',
) -> bytes:
  """Operations that leave a tensor on the stack."""
  strides = strides or [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
  storage = (
    MARK
    + text('storage')
    + named('torch', kind)
    + text(key)
    + text('cpu')
    + number(count)
    + TUPLE
    + PERSISTENT
  )
  return (
    named('torch._utils', function)
    + MARK
    + storage
    + number(offset)
    + numbers(shape)
    + numbers(strides)
    + TUPLE
    + CALL
  )


def table(entries: dict[str, bytes]) -> bytes:
  """Operations that leave a dictionary on the stack."""
  return DICT + b''.join(text(name) + value + ITEM for name, value in entries.items())


def whole(operations: bytes) -> bytes:
  return b'\x80\x02' + operations + b'.'


def write_zip(
  path, operations: bytes, storages: dict[str, bytes], *, compression=zipfile.ZIP_STORED, more=()
):
  """The format of torch 1.6 and later."""
  with zipfile.ZipFile(path, 'w', compression) as bundle:
    bundle.writestr('archive/data.pkl', whole(operations))
    for key, content in storages.items():
      bundle.writestr(f'archive/data/{key}', content)
    for name, content in more:
      bundle.writestr(name, content)
  return path


def write_old(path, operations: bytes, storages: dict[str, np.ndarray]):
  """The format before."""
  with open(path, 'wb') as file:
    for value in (MAGIC, 1001, {'little_endian': True}):
      pickle.dump(value, file, 2)
    file.write(whole(operations))
    pickle.dump(list(storages), file, 2)
    for values in storages.values():
      file.write(struct.pack('<q', values.size) + values.tobytes())
  return path


def overlapping(path, operations: bytes, count: int):
  """A zip whose table lists the same numbers `count` times, under other names."""
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, 'w') as bundle:
    bundle.writestr('archive/data.pkl', whole(operations))
    bundle.writestr('archive/data/0', bytes(1000))
    info = bundle.getinfo('archive/data/0')
    for n in range(1, count):
      again = zipfile.ZipInfo(f'archive/data/{n}')
      again.header_offset, again.CRC = info.header_offset, info.CRC
      again.file_size = again.compress_size = info.file_size
      bundle.filelist.append(again)
      bundle.NameToInfo[again.filename] = again
    bundle._didModify = True
  path.write_bytes(stream.getvalue())
  return path
