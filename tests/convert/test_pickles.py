"""The pickle reader opens arrays and nothing else."""

import collections
import os
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import scipy.sparse

from exp_jax.convert.pickles import read_pickle
from exp_jax.errors import UserError


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


@pytest.mark.parametrize('payload', [
  Calls(os.system, 'touch {}'), Calls(eval, 'open("{}", "w")'),
  Calls(subprocess.check_call, ['touch', '{}']),
  Calls(__import__, 'os'), Calls(getattr, 'x', 'upper'), Calls(np.load, '{}'),
  Calls(np.fromfile, '{}'), collections.Counter('a')])  # fmt: skip
def test_calls_are_refused_and_do_not_happen(payload, tmp_path):
  mark = tmp_path / 'ran'
  if isinstance(payload, Calls):
    function, args = payload.call
    fill = lambda arg: arg.format(mark) if isinstance(arg, str) else [a.format(mark) for a in arg]
    payload = Calls(function, *map(fill, args))
  path = write(tmp_path / 'bad.pkl', {'v_template': payload})
  with pytest.raises(UserError, match='refused'):
    read_pickle(path)
  assert not mark.exists()


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
