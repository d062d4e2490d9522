"""Files of weights from others: headers as strict as the reference's, JSON of any depth, and what
only looks like weights."""

import json
import random

import numpy as np
import pytest
import safetensors

from exp_jax.convert import wan
from exp_jax.convert.foreign.pickles import read_pickle
from exp_jax.convert.wan_weights.wan_files import open_checkpoint
from exp_jax.errors import UserError, one_line
from exp_jax.files.foreign_tensors import all_finite, check_finite, parse_json, read_json, shown
from exp_jax.files.safetensors import SafetensorsFile, write_safetensors

DEEP = '[' * 200_000


def entry(begin, end, shape=None, kind='F32'):
  return {
    'dtype': kind,
    'shape': [(end - begin) // 4] if shape is None else shape,
    'data_offsets': [begin, end],
  }


def write(path, header, size, tail=b''):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, 'little') + text + bytes(size) + tail)
  return path


# header, bytes of data; whether it may be read is asked of the reference implementation
HEADERS = {
  'whole': ({'a': entry(0, 8), 'b': entry(8, 16)}, 16),
  'in another order': ({'b': entry(8, 16), 'a': entry(0, 8)}, 16),
  'empty ones': ({'a': entry(0, 0), 'b': entry(0, 8), 'c': entry(8, 8, [0, 5])}, 8),
  'nothing': ({}, 0),
  'metadata': ({'__metadata__': {'a': 'b'}, 'a': entry(0, 4)}, 4),
  'no metadata': ({'__metadata__': None, 'a': entry(0, 4)}, 4),
  'a scalar': ({'a': entry(0, 4, [])}, 4),
  'padded': (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}   ', 4),
  'an overlap': ({'a': entry(0, 8), 'b': entry(4, 12)}, 12),
  'the same place': ({'a': entry(0, 8), 'b': entry(0, 8)}, 8),
  'a hole': ({'a': entry(0, 8), 'b': entry(12, 20)}, 20),
  'a hole in front': ({'a': entry(4, 8)}, 8),
  'more at the end': ({'a': entry(0, 8)}, 12),
  'too short': ({'a': entry(0, 8), 'b': entry(8, 16)}, 12),
  'a size that lies': ({'a': entry(0, 8, [3])}, 8),
  'backwards': ({'a': entry(8, 0)}, 8),
  'a negative size': ({'a': entry(0, 8, [-2])}, 8),
  'two negative sizes': ({'a': entry(0, 8, [-1, -2])}, 8),
  'a fraction': ({'a': entry(0, 8, [2.0])}, 8),
  'an overflow': ({'a': entry(0, 0, [2**62, 2**62, 0])}, 0),
  'metadata of numbers': ({'__metadata__': {'a': 1}, 'a': entry(0, 4)}, 4),
  'an entry of words': ({'a': 'b'}, 0),
  'a name twice': (
    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
    8,
  ),
  'a key twice': (b'{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}', 4),
  'a list': (b'[1, 2]', 0),
  'deep': (b'{"a":' + DEEP.encode(), 0),
  'no text': (b'{"\xff":1}', 0),
  'another type': ({'a': entry(0, 4, kind='X9')}, 4),
  'a space in front': (b' {"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
}


@pytest.mark.parametrize('kind', HEADERS)
def test_headers_are_taken_and_refused_as_by_the_reference(kind, tmp_path):
  path = write(tmp_path / 'a.safetensors', *HEADERS[kind])
  try:
    with safetensors.safe_open(path, 'np') as file:
      expected = sorted(file.keys())
  except Exception:
    expected = None
  if expected is None:
    with pytest.raises(UserError, match='a.safetensors'):
      SafetensorsFile(path)
  else:
    with SafetensorsFile(path) as file:
      assert sorted(file.names) == expected
      assert all(np.isfinite(file.read(name)).all() for name in file.names)


def test_any_damage_to_a_header_is_a_sentence_or_what_the_reference_reads(tmp_path):
  """300 mutants, seeded: never anything but a UserError, and nothing taken that the reference
  refuses."""
  draw, path = random.Random(0), tmp_path / 'a.safetensors'
  write_safetensors(
    path, {'a': np.ones((2, 3), np.float32), 'b': np.ones(5, np.float16)}, {'format': 'pt'}
  )
  content, taken = path.read_bytes(), 0
  for _ in range(300):
    mutant = bytearray(content)
    for _ in range(draw.randint(1, 3)):
      mutant[draw.randrange(len(content) - 34)] = draw.choice(
        (*b'0123456789{}[],:" ', draw.randrange(256))
      )
    path.write_bytes(mutant)
    try:
      with SafetensorsFile(path) as file:
        names = sorted(file.names)
    except UserError:
      continue
    with safetensors.safe_open(path, 'np') as file:
      assert sorted(file.keys()) == names
    taken += 1
  assert 10 < taken < 400


@pytest.mark.parametrize('name', ['config.json', 'x.safetensors.index.json'])
@pytest.mark.parametrize(
  'content, words',
  [
    (DEEP, 'nested too deeply'),
    ('{"a": 1, "a": 2}', 'twice'),
    ('{', 'no JSON'),
    ('[1]', 'no JSON object'),
    ('\x00', 'no JSON'),
  ],
)
def test_json_beside_weights(name, content, words, tmp_path):
  write_safetensors(tmp_path / 'a.safetensors', {'a': np.ones(3, np.float32)})
  (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=words) as refused:
    open_checkpoint(tmp_path)
  assert name in str(refused.value)


def test_json_that_is_no_text_or_not_there(tmp_path):
  (tmp_path / 'a.json').write_bytes(b'{"a": "\xff"}')
  with pytest.raises(UserError, match='a.json is damaged'):
    read_json(tmp_path / 'a.json')
  with pytest.raises(UserError, match='does not exist'):
    read_json(tmp_path / 'b.json')
  assert parse_json('{"a": [1, {"b": 2}]}', 'x') == {'a': [1, {'b': 2}]}


@pytest.mark.parametrize(
  'content, words',
  [
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n', 'git lfs pull'),
    (b'/annex/objects/SHA256E-s5--00\n', 'git-annex'),
    (b'\xef\xbb\xbf\n <!DOCTYPE HTML><html>', 'web page'),
    (b'<html lang="en">', 'web page'),
    (b'<?xml version="1.0"?><Error>', 'answer of a server'),
    (b'{"error":"Repository not found"}', 'error message'),
    (b'Entry not found', 'error message'),
    (b'', 'is empty'),
    (bytes(4096), 'begins with zeros'),
    (b'\x1f\x8b\x08\x00more', 'gzip'),
    (b'GGUF' + bytes(40), 'GGUF'),
  ],
)
@pytest.mark.parametrize('suffix', ['safetensors', 'pth', 'pt', 'bin', 'ckpt', 'pkl'])
def test_what_only_looks_like_weights_is_told_by_its_content(content, words, suffix, tmp_path):
  path = tmp_path / f'a.{suffix}'
  path.write_bytes(content)
  with pytest.raises(UserError, match=words):
    (read_pickle if suffix == 'pkl' else open_checkpoint)(path)


def test_text_from_inside_a_file_cannot_move_the_cursor(tmp_path, capsys):
  name = 'a\n\x1b[31merror: \u202eforged\r'
  path = write(tmp_path / 'a.safetensors', {name: entry(0, 4)}, 4)
  with pytest.raises(UserError, match='impossible name') as refused:
    SafetensorsFile(path)
  assert str(refused.value).isprintable()  # wherever it is shown
  with pytest.raises(SystemExit):
    wan.main(['check', str(path)])
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and said[:-1].isprintable() and r'\x1b[31m' in said
  odd = tmp_path / 'a\x1b[31m\nb.safetensors'
  with pytest.raises(SystemExit):
    wan.main(['check', str(odd)])
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and said[:-1].isprintable() and 'does not exist' in said
  assert one_line('Zoë 漢 \udc80') == 'Zoë 漢 \\udc80' and shown('x' * 300) == 'x' * 200 + '...'


def test_numbers_that_are_not_finite_are_found_wherever_they_are():
  value = np.zeros((3, 5, 7), np.float32)
  assert (
    all_finite(value)
    and all_finite(value.T)
    and all_finite(np.arange(3))
    and all_finite(value[:, ::2].astype(np.float16))
  )
  value[2, 4, 6] = -np.inf
  for view in (value, value.T, value[1:, 1:, ::2], value.astype(np.float64)):
    assert not all_finite(view)
  with pytest.raises(
    UserError, match=r'x: w holds NaN or infinite numbers \(1, the first at \(2, 4, 6\)\)'
  ):
    check_finite(value, 'w', 'x')
