"""Archives: what fits is unpacked to the bit, what is dangerous is refused before a byte is written."""

import pathlib
import stat
import struct
import zipfile

import pytest

from exp_jax.errors import UserError
from exp_jax.media import archives
from exp_jax.media.archives import packed_files, unpack

SUFFIXES = ('.png', '.mp4')


def packed(path, entries, packing=zipfile.ZIP_DEFLATED):
  with zipfile.ZipFile(path, 'w', packing) as archive:
    for name, content in entries:
      archive.writestr(name, content)
  return path


def test_what_fits_is_unpacked_and_the_rest_is_named(tmp_path):
  entries = {
    'b/me.png': b'one',
    'a/me.PNG': b'two' * 1000,
    'a/clip.mp4': b'',
    'readme.md': b'-',
    '__MACOSX/b/._me.png': b'-',
    'b/.hidden.png': b'-',
    'x\x1b[2J.png': b'odd',
  }
  path = packed(tmp_path / 'a.zip', [*entries.items(), ('folder/', b'')])
  found, passed = packed_files(path, SUFFIXES)
  assert [each.name for each in found] == ['a/clip.mp4', 'a/me.PNG', 'b/me.png', 'x\x1b[2J.png']
  assert sorted(passed) == ['__MACOSX/b/._me.png', 'b/.hidden.png', 'readme.md']
  files = unpack(path, found, tmp_path / 'out')
  assert [file.read_bytes() for file in files] == [entries[each.name] for each in found]
  assert [file.name for file in files] == ['clip.mp4', 'me.PNG', 'me.png', 'x_[2J.png']
  assert sorted(p for p in (tmp_path / 'out').rglob('*') if p.is_file()) == sorted(files)


@pytest.mark.parametrize(
  'name', ('../me.png', '/etc/me.png', 'a/../../me.png', 'C:/me.png', '..\\me.png', '\\me.png')
)
def test_places_outside_are_refused(tmp_path, name):
  with pytest.raises(UserError, match='outside of the archive') as error:
    packed_files(packed(tmp_path / 'a.zip', [('ok.png', b'1'), (name, b'2')]), SUFFIXES)
  assert 'a.zip' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('kind', (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR))
def test_links_and_devices_are_refused(tmp_path, kind):
  link = zipfile.ZipInfo('me.png')
  link.create_system, link.external_attr = 3, (kind | 0o777) << 16
  with pytest.raises(UserError, match='a link or a device'):
    packed_files(packed(tmp_path / 'a.zip', [(link, '/etc/passwd')]), SUFFIXES)


def test_a_bomb_is_refused_and_plain_pictures_are_not(tmp_path, monkeypatch):
  monkeypatch.setattr(archives, '_UNCHECKED', 10_000)
  bomb = packed(tmp_path / 'bomb.zip', [(f'{i}.png', bytes(50_000)) for i in range(9)])
  with pytest.raises(UserError, match='claims to unpack to 450,000'):
    packed_files(bomb, SUFFIXES)
  plain = packed(tmp_path / 'plain.zip', [('a.png', bytes(range(256)) * 200)], zipfile.ZIP_STORED)
  assert len(packed_files(plain, SUFFIXES)[0]) == 1
  monkeypatch.setenv('EXP_JAX_MAX_ARCHIVE_MB', '1')
  large = packed(tmp_path / 'large.zip', [('a.png', bytes(2 * 10**6))], zipfile.ZIP_STORED)
  with pytest.raises(UserError, match='EXP_JAX_MAX_ARCHIVE_MB'):
    packed_files(large, SUFFIXES)


def test_too_many_files_are_refused(tmp_path, monkeypatch):
  path = packed(tmp_path / 'a.zip', [(f'{i}.png', b'') for i in range(5)])
  monkeypatch.setattr(archives, 'MAX_FILES', 5)
  assert len(packed_files(path, SUFFIXES)[0]) == 5
  monkeypatch.setattr(archives, 'MAX_FILES', 4)
  with pytest.raises(UserError, match='holds 5 pictures'):
    packed_files(path, SUFFIXES)
  monkeypatch.setattr(archives, '_MOST_TABLE', 100)
  with pytest.raises(UserError, match='too many files'):
    packed_files(path, SUFFIXES)


def test_a_size_that_lies_writes_no_more_than_it_says(tmp_path):
  """The table says 100 bytes, the stream holds a megabyte."""
  path = packed(tmp_path / 'a.zip', [('a.png', bytes(10**6))])
  content = bytearray(path.read_bytes())
  at = content.index(b'PK\x01\x02')
  struct.pack_into('<L', content, at + 24, 100)
  path.write_bytes(content)
  (words,) = unpack(path, packed_files(path, SUFFIXES)[0], tmp_path / 'out')
  assert 'is damaged' in words
  assert not [p for p in (tmp_path / 'out').rglob('*') if p.is_file()]


def test_encrypted_and_twice_the_same_are_refused(tmp_path):
  path = packed(tmp_path / 'a.zip', [('a.png', b'1')])
  content = bytearray(path.read_bytes())
  content[content.index(b'PK\x01\x02') + 8] |= 1
  (tmp_path / 'secret.zip').write_bytes(content)
  with pytest.raises(UserError, match='is encrypted; unpack it'):
    packed_files(tmp_path / 'secret.zip', SUFFIXES)
  with pytest.warns(UserWarning, match='Duplicate'):
    packed(path, [('a.png', b'1'), ('a.png', b'2')])
  with pytest.raises(UserError, match='twice'):
    packed_files(path, SUFFIXES)


def test_damage_is_one_sentence_or_the_entrys_alone(tmp_path):
  """Every truncation is refused; a byte that is turned harms one file at most, and is noticed."""
  noise = bytes((i * 7919 >> 3) & 255 for i in range(2000))
  path = packed(tmp_path / 'a.zip', [('a.png', noise), ('b.png', noise[::-1])])
  content = path.read_bytes()
  for length in range(0, len(content), 97):
    path.write_bytes(content[:length])
    with pytest.raises(UserError, match='no zip archive, or a damaged one'):
      packed_files(path, SUFFIXES)
  for number, at in enumerate(range(0, len(content), 41)):
    path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
    try:
      files = packed_files(path, ('', *SUFFIXES))[0]
      found = unpack(path, files, tmp_path / str(number))
    except UserError:
      continue
    whole = [file for file in found if isinstance(file, pathlib.Path)]
    assert all(file.read_bytes() in (noise, noise[::-1]) for file in whole)


@pytest.mark.parametrize('packing', (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
def test_another_packing_is_told(tmp_path, packing):
  path = packed(tmp_path / 'a.zip', [('a.png', b'1' * 99)], packing)
  (words,) = unpack(path, packed_files(path, SUFFIXES)[0], tmp_path / 'out')
  assert "'a.png'" in words
