"""Digests agree with hashlib over the same bytes, and remembered ones with the file as it is."""

import hashlib
import json
import os

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.files.digests import (
  RememberedDigests,
  arrays_digest,
  file_digest,
  key_of,
  stream_digest,
)


def test_a_digest_sees_every_byte_and_name(tmp_path):
  (tmp_path / 'a').write_bytes(b'abc')
  # FIPS 180's own example
  assert file_digest(tmp_path / 'a').startswith('ba7816bf8f01cfea414140de5dae2223')
  for folder in ('x', 'y'):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'b.obj').write_bytes(b'1')
  assert file_digest(tmp_path / 'x') == file_digest(tmp_path / 'y')
  (tmp_path / 'y' / 'b.obj').rename(tmp_path / 'y' / 'c.obj')
  assert file_digest(tmp_path / 'x') != file_digest(tmp_path / 'y')
  content = np.random.default_rng(0).bytes(2**21 + 5)  # more than one block
  (tmp_path / 'a').write_bytes(content)
  with open(tmp_path / 'a', 'rb') as stream:
    assert (
      file_digest(tmp_path / 'a') == hashlib.sha256(content).hexdigest() == stream_digest(stream)
    )
  (tmp_path / 'x' / 'b.obj').write_bytes(content)
  assert file_digest(tmp_path / 'x') == hashlib.sha256(b'b.obj' + content).hexdigest()
  with pytest.raises(UserError, match='no such file: .*absent'):
    file_digest(tmp_path / 'absent')


def test_arrays_are_digested_as_they_lie_in_memory():
  clip = np.random.default_rng(0).integers(0, 255, (3, 5, 7, 2), np.uint8)
  assert arrays_digest(clip, about='clip ') == hashlib.sha256(b'clip ' + clip.tobytes()).hexdigest()
  assert (
    arrays_digest(clip[:, :, ::-1]) == hashlib.sha256(clip[:, :, ::-1].copy().tobytes()).hexdigest()
  )
  assert (
    arrays_digest([clip[0], np.float32(2)])
    == hashlib.sha256(clip[0].tobytes() + np.float32(2).tobytes()).hexdigest()
  )


def test_a_key_is_that_of_all_its_parts():
  assert key_of('a', 1) == key_of('a', 1) and len(key_of('a')) == 24
  assert (
    len(
      {
        key_of(*parts)
        for parts in (('a', 1), ('a', 2), ('a', None), ('a', '1'), ('a',), (['a', 1],))
      }
    )
    == 6
  )


def test_remembered_digests_are_read_once_and_follow_the_file(tmp_path):
  film, notes = tmp_path / 'film', tmp_path / 'out' / 'digests.jsonl'
  film.write_bytes(b'first')
  assert RememberedDigests(notes)(film) == hashlib.sha256(b'first').hexdigest()
  notes.write_text(notes.read_text() + '\n{"path": "cut of')
  time = film.stat().st_mtime_ns
  film.write_bytes(b'other')
  os.utime(film, ns=(time, time))  # as if it had not been touched
  assert RememberedDigests(notes)(film) == hashlib.sha256(b'first').hexdigest(), 'it was read again'
  os.utime(film, ns=(time, time + 1))
  again = RememberedDigests(notes)
  assert again(film) == again(film) == hashlib.sha256(b'other').hexdigest()
  assert json.loads(notes.read_text().splitlines()[-1])['sha256'] == again(film)
  film.write_bytes(b'')
  for path, words in ((film, 'is empty'), (tmp_path / 'absent', 'cannot be read')):
    with pytest.raises(UserError, match=words):
      again(path)
