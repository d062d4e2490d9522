"""Records as bytes: what goes in comes out, whoever reads beside, and damage is a ValueError."""

import concurrent.futures

import numpy as np
import pytest

from exp_jax.files.record_bytes import pack, unpack


def some_record(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.integers(0, 256, shape, np.uint8)
  return dict(
    video=draw(3, 5, 7, 3),
    matte=draw(3, 5, 7),
    extras=draw(2, 3, 5, 7, 9),
    one_row=draw(2, 1, 7, 3),
    empty=np.zeros((0, 5, 7, 3), np.uint8),
    latents=rng.normal(size=(2, 3, 4)).astype(np.float16),
    turns=rng.normal(size=(3, 3)).astype(np.float32),
    window=np.array([-3, 1, 2, 0], np.int32),
    number=np.array(7, np.int64),
    clip_id='déjà vu',
    nothing='',
  )


def test_every_array_and_string_comes_back_exactly():
  record = some_record()
  again = unpack(pack(record))
  assert list(again) == list(record)
  for key, value in record.items():
    if isinstance(value, str):
      assert again[key] == value
    else:
      assert again[key].dtype == value.dtype and again[key].shape == value.shape
      np.testing.assert_array_equal(again[key], value)
  strided = np.arange(2 * 8 * 6 * 3, dtype=np.uint8).reshape(2, 8, 6, 3)[:, ::2, ::-1]
  np.testing.assert_array_equal(unpack(pack({'x': strided}))['x'], strided)


def test_a_part_is_read_alone():
  assert list(unpack(pack(some_record()), names=('clip_id', 'window'))) == ['window', 'clip_id']


def test_smooth_pictures_are_small():
  y, x = np.mgrid[:64, :64]
  smooth = np.stack([np.uint8(128 + 100 * np.sin((x + y + t) / 40)) for t in range(8)])[
    ..., None
  ].repeat(3, -1)
  assert len(pack({'x': smooth})) < smooth.nbytes / 20


def test_threads_read_side_by_side():
  packed = [pack(some_record(i)) for i in range(8)]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for i, found in enumerate(pool.map(unpack, packed * 8)):
      np.testing.assert_array_equal(found['video'], some_record(i % 8)['video'])


def test_damage_is_a_value_error_wherever_it_is():
  """Each byte of the header and some of the payload changed, and the bytes cut everywhere: an
  error, never other values."""
  record, rng = some_record(), np.random.default_rng(1)
  packed = pack(record)
  header = 12 + int.from_bytes(packed[8:12], 'little')
  for place in (*range(header), *rng.integers(header, len(packed), 300)):
    data = bytearray(packed)
    data[place] ^= 1 << rng.integers(0, 8)
    try:
      found = unpack(bytes(data))
    except ValueError:
      continue
    changed = [k for k in record if k not in found or not np.array_equal(found[k], record[k])]
    assert place < header or not changed, (
      'a payload is guarded by checksums; a name in the header may become another name'
    )
  for length in (*range(0, 60), *rng.integers(0, len(packed), 60)):
    with pytest.raises(ValueError):
      unpack(packed[:length])
  with pytest.raises(ValueError, match='bytes were added'):
    unpack(packed + b'x')


@pytest.mark.parametrize(
  'header',
  [
    '[' * 100000,
    '[{"name": "x"}]',
    '[3]',
    '{}',
    '[{"name":"x","dtype":"object","shape":[1],"rows":null,"size":0}]',
    '[{"name":"x","dtype":"uint8","shape":[99999999,99999],"rows":null,"size":0}]',
    '[{"name":"x","dtype":"uint8","shape":[-1],"rows":null,"size":0}]',
    '[{"name":"x","dtype":"uint8","shape":[2],"rows":5,"size":0}]',
    '[{"name":"x","dtype":"uint8","shape":[1000000],"rows":null,"size":0}]',
  ],
)
def test_foreign_headers_take_no_memory_and_are_refused(header):
  magic = pack({})[:8]
  with pytest.raises(ValueError):
    unpack(magic + len(header).to_bytes(4, 'little') + header.encode())


def test_objects_are_not_packed():
  with pytest.raises(ValueError, match='object'):
    pack({'x': np.array([{}])})
