"""The pickle reader opens arrays and nothing else."""

import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import types

import numpy as np
import pytest
import scipy.sparse

from exp_jax.convert.foreign.pickles import read_pickle
from exp_jax.errors import UserError
from tests.small_process import read_in_a_small_process


class Calls:
  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


def write(path, value, protocol=2):
  path.write_bytes(pickle.dumps(value, protocol))
  return path


def fake_chumpy():
  """Classes that pickle under chumpy's names, as old model files hold them."""
  made = {}
  for module, name in (('chumpy.ch', 'Ch'), ('chumpy.reordering', 'Select')):
    sys.modules.setdefault('chumpy', types.ModuleType('chumpy'))
    parent = sys.modules[module] = types.ModuleType(module)
    made[name] = type(name, (), {'__module__': module})
    setattr(parent, name, made[name])
  return made


@pytest.fixture
def chumpy():
  before = set(sys.modules)
  yield fake_chumpy()
  for name in set(sys.modules) - before:
    del sys.modules[name]


@pytest.mark.parametrize('protocol', [0, 1, 2, 4])
def test_arrays_sparse_matrices_and_names_come_through(protocol, tmp_path):
  rng = np.random.default_rng(0)
  matrix = rng.normal(size=(3, 7)) * (rng.random((3, 7)) < 0.5)
  source = {
    'a': rng.normal(size=(2, 5)),
    'ids': np.arange(4, dtype=np.uint32),
    'one': np.float64(2.5),
    'column': scipy.sparse.csc_matrix(matrix),
    'row': scipy.sparse.csr_matrix(matrix),
    'name': 'linear',
    'empty': np.zeros((0, 3)),
  }
  found = read_pickle(write(tmp_path / 'a.pkl', source, protocol))
  for key in ('a', 'ids', 'one', 'empty'):
    np.testing.assert_array_equal(found[key], source[key])
  for key in ('column', 'row'):
    np.testing.assert_array_equal(found[key], matrix)
  assert found['name'] == 'linear'


def test_chumpy_arrays_become_numbers(chumpy, tmp_path):
  inner, chosen = chumpy['Ch'](), chumpy['Select']()
  inner.__dict__['x'] = np.arange(12.0).reshape(4, 3)
  chosen.__dict__.update(a=inner, idxs=np.array([7, 1]), preferred_shape=(2, 1))
  path = write(tmp_path / 'a.pkl', {'v': inner, 's': chosen})
  found = read_pickle(path)
  np.testing.assert_array_equal(found['v'], np.arange(12.0).reshape(4, 3))
  np.testing.assert_array_equal(found['s'], [[7], [1]])


def object_npy(path, value, protocol=2):
  """An npy file with one pickled object, as Python 2 and numpy wrote it."""
  array = np.empty((), object)
  array[()] = value
  stream = io.BytesIO()
  np.lib.format.write_array_header_1_0(stream, {'descr': '|O', 'fortran_order': False, 'shape': ()})
  path.write_bytes(stream.getvalue() + pickle.dumps(array, protocol))
  return path


@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_a_dictionary_in_an_npy_file(protocol, tmp_path):
  table = {'lmk_face_idx': np.arange(6).reshape(2, 3), 'lmk_b_coords': np.ones((2, 3, 3))}
  found = read_pickle(object_npy(tmp_path / 'a.npy', table, protocol))
  for key, value in table.items():
    np.testing.assert_array_equal(found[key], value)
  np.save(tmp_path / 'numbers.npy', np.arange(3))
  with pytest.raises(UserError, match='numbers.npy'):
    read_pickle(tmp_path / 'numbers.npy')


def test_tensors_of_landmark_files(tmp_path):
  """DECA-style landmark_embedding.npy holds torch tensors."""
  torch = pytest.importorskip('torch')
  table = {
    'ids': torch.arange(6).reshape(2, 3),
    'shares': torch.ones(2, 3, 3, dtype=torch.float32) / 3,
  }
  found = read_pickle(object_npy(tmp_path / 'a.npy', table))
  for key, value in table.items():
    np.testing.assert_array_equal(found[key], value.numpy())


def test_arrays_in_other_orders_and_lists(tmp_path):
  source = {
    'columns': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    'swapped': np.arange(3, dtype='>f4'),
    'list': [1, 2, 3],
    'words': ['a', 'b'],
    'ordered': collections.OrderedDict(a=1),
    'text': np.array(['ab', 'c']),
  }
  found = read_pickle(write(tmp_path / 'a.pkl', source))
  for key in ('columns', 'swapped', 'list', 'text'):
    np.testing.assert_array_equal(found[key], source[key])
  assert found['words'] is None and found['ordered'] is None


@pytest.mark.parametrize(
  'payload',
  [
    Calls(os.system, 'touch {}'),
    Calls(eval, 'open("{}", "w")'),
    Calls(subprocess.check_call, ['touch', '{}']),
    Calls(__import__, 'os'),
    Calls(getattr, 'x', 'upper'),
    Calls(np.load, '{}'),
    Calls(np.fromfile, '{}'),
    collections.Counter('a'),
  ],
)
def test_calls_are_refused_and_do_not_happen(payload, tmp_path):
  mark = tmp_path / 'ran'
  if isinstance(payload, Calls):
    function, args = payload.call
    fill = lambda arg: arg.format(mark) if isinstance(arg, str) else [a.format(mark) for a in arg]
    payload = Calls(function, *map(fill, args))
  for path in (
    write(tmp_path / 'bad.pkl', {'v_template': payload}),
    object_npy(tmp_path / 'bad.npy', {'v_template': payload}),
  ):
    with pytest.raises(UserError, match=f'{path.name} is refused'):
      read_pickle(path)
  assert not mark.exists()


def array_pickle(shape, kind, content):
  """A pickle of {'a': array} whose array has a state of our choice."""

  class Fake:
    def __reduce__(self):
      return (
        np._core.multiarray._reconstruct,
        (np.ndarray, (0,), b'b'),
        (1, shape, kind, False, content),
      )

  return pickle.dumps({'a': Fake()}, 2)


def huge_matrix():
  matrix = scipy.sparse.csr_matrix((1, 2**28))
  matrix.indptr = np.zeros(2, np.int32)
  return matrix


def hostile_pickles():
  """Name -> bytes: each would take gigabytes, run for ever or crash an unguarded reader."""
  mark, key, end = b'\x80\x04}', b'\x8c\x01a', b's.'
  doubled = (
    b']\x940'
    + b''.join(b'](h' + bytes([k]) + b'h' + bytes([k]) + b'e\x940' for k in range(40))
    + b'h\x28'
  )
  text = b'X' + struct.pack('<I', 2**20) + b'a' * 2**20 + b'\x94'
  copies = (b'c_codecs\nencode\n' + b'h\x00' + b'\x85R') * 200
  return {
    'memo': b'\x80\x02}r\xff\xff\xff\x7f' + key + b'NsX.',
    'bytes': mark + key + b'\x8e' + struct.pack('<Q', 10**11) + b'abc' + end,
    'bytearray': mark + key + b'\x96' + struct.pack('<Q', 10**11) + b'abc' + end,
    'frame': b'\x80\x04\x95' + struct.pack('<Q', 10**11) + b'}.',
    'integer': mark + key + b'\x8b' + struct.pack('<i', 2**31 - 1) + end,
    'flood': b'\x80\x04' + b'\x8f' * 3_000_000 + b'.',
    'copies': b'\x80\x04' + text + b'](' + copies + b'e.',
    'doubled': mark + key + doubled + end,
    'nested_key': b'\x80\x04})' + b'\x85' * 200_000 + b'K\x01s.',
    'nested_set': b'\x80\x04\x8f()' + b'\x85' * 200_000 + b'\x90.',
    'claims': array_pickle((10**11,), np.dtype('f8'), b'12345678'),
    'few_objects': array_pickle((10**9,), np.dtype('O'), [1]),
    'odd_type': array_pickle((1,), np.dtype([('a', 'f8')]), b'12345678'),
    'build': mark + key + b'c_codecs\nencode\n}\x8c\x0c__defaults__)sb' + end,
    'sparse': pickle.dumps({'a': huge_matrix()}, 2),
    'deep': b'\x80\x02' + b'(' * 400_000 + b'.',
  }


def test_bombs_are_refused_without_taking_memory(tmp_path):
  paths = []
  for name, content in hostile_pickles().items():
    paths.append(tmp_path / f'{name}.pkl')
    paths[-1].write_bytes(content)
  growth, said = read_in_a_small_process(paths)
  # harmless as read here: a list that holds itself twice, forty times over, stays as it is and
  # counts as no array; a frame is only as long as the file
  for name, meant in (('doubled', {'a': None}), ('frame', {})):
    assert said.pop(str(tmp_path / f'{name}.pkl')) == 'accepted'
    assert read_pickle(tmp_path / f'{name}.pkl') == meant
  for path, words in said.items():
    assert words != 'accepted' and path in words, (path, words)
  assert growth < 160, f'{growth} MB'


def test_damaged_matrices_files_and_other_content_are_refused(tmp_path):
  matrix = scipy.sparse.csc_matrix(np.eye(4))
  matrix.indices = np.array([0, 1, 2, 900], np.int32)  # would read outside in compiled code
  with pytest.raises(UserError, match='well-formed'):
    read_pickle(write(tmp_path / 'a.pkl', {'J_regressor': matrix}))
  whole = pickle.dumps({'a': np.arange(100)})
  (tmp_path / 'cut.pkl').write_bytes(whole[: len(whole) // 2])
  (tmp_path / 'text.pkl').write_text('not a pickle')
  write(tmp_path / 'list.pkl', [1, 2])
  for name in ('cut', 'text', 'list', 'absent'):
    with pytest.raises(UserError, match=name):
      read_pickle(tmp_path / f'{name}.pkl')
