"""The one reader of torch's files: what it reads, and that nothing in a file can hurt."""

import pathlib
import random
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from torch_maker import named, number, overlapping, table, tensor, text, whole, write_old, write_zip

from exp_jax.convert.subject_files.subjects_torch import read_torch
from exp_jax.convert.wan_weights.wan_files import open_checkpoint
from exp_jax.errors import UserError

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden'
SIX = np.arange(6, dtype=np.float32)
TWO = {
  'w': tensor((2, 3)),
  'turned': tensor((3, 2), strides=(1, 3)),
  'part': tensor((2, 2), offset=1, strides=(3, 1)),
  'one': tensor(()),
}
MEANT = {
  'w': SIX.reshape(2, 3),
  'turned': SIX.reshape(2, 3).T,
  'part': SIX.reshape(2, 3)[:, 1:],
  'one': SIX[0],
}


def arrays(path, **settings):
  source = open_checkpoint(path, **settings)
  return {name: source.read(name) for name in source.names}


def equal(found, expected):
  assert sorted(found) == sorted(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value)
    assert found[name].shape == value.shape and found[name].dtype == value.dtype


def test_both_formats_views_and_whole_files(tmp_path):
  new = write_zip(tmp_path / 'a.pth', table(TWO), {'0': SIX.tobytes()})
  old = write_old(tmp_path / 'b.pth', table(TWO), {'0': SIX})
  for path in (new, old):
    equal(arrays(path), MEANT)
    equal(read_torch(path), MEANT)
  (tmp_path / 'misnamed.safetensors').write_bytes(new.read_bytes())  # the content decides
  equal(arrays(tmp_path / 'misnamed.safetensors'), MEANT)


@pytest.mark.parametrize(
  'kind, dtype',
  [
    ('HalfStorage', np.float16),
    ('BFloat16Storage', ml_dtypes.bfloat16),
    ('DoubleStorage', np.float64),
    ('LongStorage', np.int64),
    ('BoolStorage', np.bool_),
  ],
)
def test_kinds_of_numbers(kind, dtype, tmp_path):
  values = np.array([0, 1, 1, 0, 1, 0]).astype(dtype)
  path = write_zip(
    tmp_path / 'a.bin', table({'w': tensor((2, 3), kind=kind)}), {'0': values.tobytes()}
  )
  equal(arrays(path), {'w': values.reshape(2, 3)})


def test_files_that_torch_wrote():
  """Written by torch 2.13 itself; see make_metric_networks_fixture.py: the same network in three
  forms, the last trained further."""
  plain, old, nested = (
    arrays(GOLDEN / f'state_dict{kind}.pth') for kind in ('', '_old', '_nested')
  )
  assert plain and all(v.dtype.kind in 'fi' for v in plain.values())
  equal(old, plain)
  assert {n.removeprefix('module.'): v.shape for n, v in nested.items()} == {
    n: v.shape for n, v in plain.items()
  }


def test_state_dictionaries_inside_what_trainers_save(tmp_path):
  """A checkpoint of Lightning or of a loop of one's own: settings, counters, optimizers and
  callbacks lie beside the weights."""
  weights, other = table({'w': tensor((2, 3))}), table({'w': tensor((6,))})
  settings = (
    named('omegaconf.dictconfig', 'DictConfig') + b')\x81' + table({'_content': table({})}) + b'b'
  )
  callbacks = (
    b'}'
    + named('pytorch_lightning.callbacks.model_checkpoint', 'ModelCheckpoint')
    + table({'best': text('x')})
    + b's'
  )
  state = {
    'epoch': number(3),
    'callbacks': callbacks,
    'hyper_parameters': settings,
    'state_dict': weights,
    'optimizer_states': b']' + table({'state': other}) + b'a',
    'optimizer': table({'state': other}),
  }
  path = write_zip(tmp_path / 'a.ckpt', table(state), {'0': SIX.tobytes()})
  equal(arrays(path), {'w': MEANT['w']})
  path = write_zip(
    tmp_path / 'b.ckpt', table({'model': weights, 'ema': other}), {'0': SIX.tobytes()}
  )
  with pytest.raises(UserError, match="--part which is meant: 'ema', 'model'"):
    open_checkpoint(path)
  equal(arrays(path, part='ema'), {'w': SIX})
  with pytest.raises(UserError, match="no part 'emma'"):
    open_checkpoint(path, part='emma')


LIES = {
  'a negative size': table({'a': tensor((-2,))}),
  'two negative sizes': table({'a': tensor((-2, -3))}),
  'a size beyond': table({'a': tensor((7,))}),
  'an offset beyond': table({'a': tensor((2,), offset=5)}),
  'a negative offset': table({'a': tensor((2,), offset=-1)}),
  'a far offset': table({'a': tensor((1,), offset=10**9)}),
  'a stride beyond': table({'a': tensor((2,), strides=(6,))}),
  'a negative stride': table({'a': tensor((2,), strides=(-1,))}),
  'strides missing': table({'a': tensor((2, 3), strides=(1,))}),
  'numbers missing': table({'a': tensor((2,), key='7')}),
  'more numbers than there are': table({'a': tensor((2,), count=10**9)}),
  'no arguments': named('torch._utils', '_rebuild_tensor_v2') + b')R',
  'repeated without end': table({'a': tensor((10**6, 10**6), strides=(0, 0))}),
  'a size of words': table({'a': tensor((2,)).replace(b'I2\n', text('2'))}),
  'another function': table({'a': named('os', 'system') + b'(' + text('true') + b'tR'}),
  'a name that is no text': b'c\xff\xfe\nx\n.',
  'an unknown kind': table({'a': tensor((2,), kind='QInt8Storage')}),
  'a short reference': table({'a': b'(' + text('storage') + b'tQ'}),
  'a name with an escape': table({'a\n\x1b[31m': tensor((2,))}),
  'no tensors': table({'epoch': number(3)}),
  'a list': b']',
}


@pytest.mark.parametrize('lie', LIES)
def test_a_file_that_lies_is_one_sentence(lie, tmp_path):
  for path in (
    write_zip(tmp_path / 'a.pth', LIES[lie], {'0': SIX.tobytes()}),
    write_old(tmp_path / 'b.pth', LIES[lie], {'0': SIX}),
  ):
    with pytest.raises(UserError) as refused:
      open_checkpoint(path)
    assert path.name in str(refused.value) and str(refused.value).isprintable()


def encrypted(path):
  content = bytearray(write_zip(path, table(TWO), {'0': SIX.tobytes()}).read_bytes())
  for mark, place in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
    content[content.index(mark) + place] |= 1
  path.write_bytes(content)


def archives(path, kind):
  six = {'0': SIX.tobytes()}
  match kind:
    case 'compressed':
      far = table({'a': tensor((2,), count=2**24, offset=2**24 - 2)})
      write_zip(path, far, {'0': bytes(2**26)}, compression=zipfile.ZIP_DEFLATED)
    case 'overlapping':
      overlapping(path, table({'a': tensor((2,), count=250)}), 500)
    case 'encrypted':
      encrypted(path)
    case 'byteorder':
      write_zip(path, table(TWO), six, more=[('archive/byteorder', b'big')])
    case 'script':
      write_zip(path, table(TWO), six, more=[('archive/code/__torch__.py', b'')])
    case 'two':
      write_zip(path, table(TWO), six, more=[('other/data.pkl', whole(table(TWO)))])
    case 'none':
      path.write_bytes(b'PK\x05\x06' + bytes(18))
    case 'cut':
      path.write_bytes(write_zip(path, table(TWO), six).read_bytes()[:-30])


@pytest.mark.parametrize(
  'kind, words',
  [
    ('compressed', 'compressed, which torch.save never does'),
    ('overlapping', 'more than the file holds'),
    ('encrypted', 'encrypted'),
    ('byteorder', 'order of bytes'),
    ('script', 'TorchScript'),
    ('two', 'without one data.pkl'),
    ('none', 'a.pth'),
    ('cut', 'truncated'),
  ],
)
def test_odd_archives_are_refused_before_they_are_unpacked(kind, words, tmp_path):
  archives(tmp_path / 'a.pth', kind)
  tracemalloc.start()
  try:
    with pytest.raises(UserError, match=words):
      open_checkpoint(tmp_path / 'a.pth')
    assert tracemalloc.get_traced_memory()[1] < 2**22  # what is claimed is 64 MB
  finally:
    tracemalloc.stop()


def test_damaged_numbers_are_named(tmp_path):
  path = write_zip(tmp_path / 'a.pth', table(TWO), {'0': SIX.tobytes()})
  content = bytearray(path.read_bytes())
  content[content.index(SIX.tobytes()) + 5] ^= 1
  path.write_bytes(content)
  source = open_checkpoint(path)
  with pytest.raises(UserError, match='a.pth: w is refused.*CRC'):
    source.read('w')


def test_an_old_file_that_was_cut_is_refused_when_it_is_opened(tmp_path):
  path = write_old(tmp_path / 'a.pth', table(TWO), {'0': SIX})
  content = path.read_bytes()
  for cut in (1, 24, 25, 40):  # in the numbers, before them, in the keys
    path.write_bytes(content[:-cut])
    with pytest.raises(UserError, match='a.pth is refused'):
      open_checkpoint(path)
  count = content[-32:-24]
  path.write_bytes(content[:-32] + (7).to_bytes(8, 'little') + content[-24:])
  assert count == (6).to_bytes(8, 'little')
  with pytest.raises(UserError, match='numbers do not go with their tensor'):
    open_checkpoint(path)


def test_any_damage_is_a_sentence_or_harmless(tmp_path):
  """200 mutants of each format, seeded: nothing but a UserError, and no array larger than the
  file's own numbers."""
  draw = random.Random(0)
  new = write_zip(tmp_path / 'a.pth', table(TWO), {'0': SIX.tobytes()})
  for n, original in enumerate((new, write_old(tmp_path / 'b.pth', table(TWO), {'0': SIX}))):
    content = original.read_bytes()
    refused = 0
    for i in range(200):
      mutant = bytearray(content)
      for _ in range(draw.randint(1, 4)):
        mutant[draw.randrange(len(mutant))] = draw.choice(
          (0, 1, 127, 128, 255, draw.randrange(256))
        )
      if i % 10 == 0:
        del mutant[draw.randrange(len(mutant)) :]
      path = tmp_path / f'{n}.pth'
      path.write_bytes(mutant)
      try:
        assert all(v.nbytes <= 4 * 2**16 for v in arrays(path).values())
        read_torch(path)
      except UserError as error:
        assert path.name in str(error)
        refused += 1
    assert 50 < refused < 200
