"""npz and npy files that lie about their size, or are not what they say: refused by name, before
memory is taken."""

import ast
import struct
import warnings
import zipfile

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.files.npz import read_npy, read_npz
from tests.small_process import ROOT, read_in_a_small_process


def header(text: str, version=1, length=None) -> bytes:
  size = len(text) if length is None else length
  return (
    b'\x93NUMPY'
    + bytes([version, 0])
    + struct.pack('<H' if version == 1 else '<I', size)
    + text.encode()
  )


def npz(path, content: bytes, name='v_template.npy'):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(name, content)
  return path


def describe(shape, descr="'<f8'"):
  return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


LIES = {
  'hundred_gigabytes': header(describe((12_500_000_000,))) + b'1' * 64,
  'overflow': header(describe((2**40, 2**40))) + b'1' * 64,
  'negative': header(describe((-1, -8))) + b'1' * 64,
  'short': header(describe((9,))) + b'1' * 64,
  'long_header': header(describe((8,)), version=2, length=2**32 - 1) + b'1' * 64,
  'nested': header("{'descr': " + '(' * 9000) + b'1' * 64,
  'call': header("__import__('os').system('touch ran')") + b'1' * 64,
  'record': header(describe((1,), "[('a', '<f8'), ('b', 'O')]")) + b'1' * 64,
  'objects': header(describe((1,), "'|O'")) + b'1' * 64,
  'wide': header(describe((1,), "'<U2000000000'")) + b'1' * 64,
  'no_array': b'hello',
}


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
  folder = tmp_path_factory.mktemp('hostile')
  paths = [npz(folder / f'{name}.npz', content) for name, content in LIES.items()]
  zeros = header(describe((12_500_000,))) + bytes(100_000_000)
  paths.append(npz(folder / 'bomb.npz', zeros))
  whole = npz(folder / 'whole.npz', header(describe((8,))) + b'1' * 64).read_bytes()
  # the zip's own table claims 4 GB, in the entry and in the central directory
  patched, size = whole, struct.pack('<I', whole.find(b'\x93') * 0 + 2**32 - 16)
  central = patched.rfind(b'PK\x01\x02')
  patched = patched[: central + 24] + size + patched[central + 28 :]
  (folder / 'table.npz').write_bytes(patched)
  (folder / 'cut.npz').write_bytes(whole[:-30])
  return [*paths, folder / 'table.npz', folder / 'cut.npz']


def test_lies_are_refused_by_name_without_taking_memory(hostile):
  assert sum(path.stat().st_size for path in hostile) < 200_000
  growth, said = read_in_a_small_process(hostile)
  for path in hostile:
    assert path.name in said[str(path)] and said[str(path)] != 'accepted', said[str(path)]
  assert growth < 64, f'{growth} MB'
  assert not (ROOT / 'ran').exists()


def test_a_member_that_is_not_wanted_is_not_opened(tmp_path):
  np.savez(tmp_path / 'a.npz', good=np.arange(6.0).reshape(2, 3), bad=np.array([{}], object))
  np.testing.assert_array_equal(
    read_npz(tmp_path / 'a.npz', ('good', 'absent'))['good'], [[0, 1, 2], [3, 4, 5]]
  )
  with pytest.raises(UserError, match='bad holds pickled objects'):
    read_npz(tmp_path / 'a.npz')


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read_back(save, tmp_path):
  rng = np.random.default_rng(0)
  arrays = {
    'double': rng.normal(size=(3, 5)),
    'single': rng.normal(size=(2, 1, 7)).astype(np.float32),
    'columns': np.asfortranarray(rng.normal(size=(4, 6))),
    'ids': np.arange(7, dtype=np.uint32),
    'scalar': np.array(3.5),
    'names': np.array(['a', 'longer']),
    'none': np.zeros((0, 3)),
    'swapped': np.arange(3, dtype='>i4'),
    'yes': np.array([True, False]),
    'half': np.arange(3, dtype=np.float16),
  }
  save(tmp_path / 'a.npz', **arrays)
  found = read_npz(tmp_path / 'a.npz')
  assert set(found) == set(arrays)
  for key, value in arrays.items():
    np.testing.assert_array_equal(found[key], value)
    assert found[key].dtype == value.dtype


def test_a_single_array(tmp_path):
  np.save(tmp_path / 'a.npy', np.arange(5))
  np.testing.assert_array_equal(read_npy(tmp_path / 'a.npy'), np.arange(5))
  np.save(tmp_path / 'objects.npy', np.array({}, object), allow_pickle=True)
  (tmp_path / 'lie.npy').write_bytes(LIES['hundred_gigabytes'])
  for name in ('objects', 'lie', 'absent'):
    with pytest.raises(UserError, match=name):
      read_npy(tmp_path / f'{name}.npy')
  with pytest.raises(UserError, match='single array'):
    read_npz(tmp_path / 'a.npy')


def test_every_form_of_a_header_is_read_and_nothing_is_evaluated(tmp_path, monkeypatch):
  """Python's parser, run beside other threads, ends in a SystemError now and then."""

  def gone(*_, **__):
    raise SystemError('AST constructor recursion depth mismatch')

  rng = np.random.default_rng(0)
  arrays = {
    'none': rng.normal(size=()),
    'one': rng.normal(size=7),
    'turned': np.asfortranarray(rng.normal(size=(3, 5, 2))),
    'empty': np.zeros((0, 3)),
    'text': np.array(['Ä', 'bc']),
    'half': rng.normal(size=(2, 2)).astype('>f2'),
    'mask': rng.normal(size=(4, 3)) > 0,
  }
  np.savez_compressed(tmp_path / 'a.npz', **arrays)
  other = (
    '{ "shape" : ( 2 ,1), "fortran_order":False,"descr" : "<f4" }\n'  # as other writers have it
  )
  npz(tmp_path / 'b.npz', header(other) + np.float32([3, 4]).tobytes(), 'b.npy')
  monkeypatch.setattr(ast, 'literal_eval', gone)
  for source in (tmp_path / 'a.npz', (tmp_path / 'a.npz').read_bytes()):
    found = read_npz(source)
    assert set(found) == set(arrays)
    for name, value in arrays.items():
      np.testing.assert_array_equal(found[name], value, strict=True)
  np.testing.assert_array_equal(
    read_npz(tmp_path / 'b.npz')['b'], np.float32([[3], [4]]), strict=True
  )


@pytest.mark.parametrize(
  'text',
  [
    describe((2,)) + ' + {}',
    describe((2,)).replace('False', "('x')"),
    describe((2,)).replace("'", ''),
    describe((2,)).replace('(2,)', "'2'"),
    describe((2,)).replace("'descr'", "'other'"),
    "{'descr': '<f8'",
  ],
)
def test_what_is_no_header_is_refused(tmp_path, text):
  with pytest.raises(UserError, match='a has a damaged numpy header'):
    read_npz(npz(tmp_path / 'a.npz', header(text) + bytes(16), 'a.npy'))


def test_the_bytes_of_a_damaged_file_are_refused_and_so_is_more_than_is_wanted(tmp_path):
  np.savez(tmp_path / 'a.npz', a=np.zeros(1000))
  with pytest.raises(UserError, match='the npz cannot be read'):
    read_npz((tmp_path / 'a.npz').read_bytes()[:-20])
  with pytest.raises(UserError, match='claim more than'):
    read_npz(tmp_path / 'a.npz', most_bytes=8000)


def test_a_name_that_is_there_twice_is_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
    for name in ('a', 'b', 'a'):
      with warnings.catch_warnings(action='ignore'):
        archive.writestr(f'{name}.npy', header(describe((8,))) + b'1' * 64)
  with pytest.raises(UserError, match="has 'a' twice"):
    read_npz(tmp_path / 'a.npz')


@pytest.mark.parametrize(
  'content, words',
  [
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'a git-lfs pointer'),
    (b'<!DOCTYPE html>', 'a web page'),
    (b'', 'is empty'),
  ],
)
def test_what_only_bears_the_name_is_told(tmp_path, content, words):
  (tmp_path / 'a.npz').write_bytes(content)
  with pytest.raises(UserError, match=words):
    read_npz(tmp_path / 'a.npz')
