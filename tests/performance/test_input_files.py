"""What folders, archives and lists stand for, and what their results are called."""

import itertools
import pathlib
import zipfile

import pytest

from exp_jax.errors import UserError
from exp_jax.performance.input_files import (
  DRIVERS,
  PORTRAITS,
  InputFile,
  inputs_of,
  names_of,
  pairs_of,
  unpacked,
)


def listed(path, text, encoding='utf8'):
  path.write_bytes(text.encode(encoding))
  return path


def test_a_list_names_files_relative_to_itself(tmp_path):
  (tmp_path / 'a').mkdir()
  other = tmp_path / 'elsewhere.png'
  text = f'\ufeff# mine\r\n\r\n  a/me.png \r\n{other}\na/me.png\n#no.png\na/c#1 d.png'
  found = inputs_of(listed(tmp_path / 'a.txt', text), PORTRAITS, 'portraits').files
  assert [each.path for each in found] == [
    tmp_path / 'a' / 'me.png',
    other,
    tmp_path / 'a' / 'c#1 d.png',
  ]


def test_accents_are_found_in_either_form(tmp_path):
  (tmp_path / 'e\u0301.png').write_bytes(b'1')
  (file,) = inputs_of(listed(tmp_path / 'a.txt', '\u00e9.png'), PORTRAITS, 'portraits').files
  assert file.path.is_file()


@pytest.mark.parametrize(
  'content, words',
  [
    (b'# nothing\n', 'no portraits in the list'),
    (b'a\0b.png', 'is not a text file'),
    (b'\xff\xfeb.png', 'is not a text file'),
    (b'x' * (1 << 24) + b'x', 'is longer than 16 MB'),
  ],
)
def test_lists_that_cannot_be_read(tmp_path, content, words):
  path = tmp_path / 'a.txt'
  path.write_bytes(content)
  with pytest.raises(UserError, match=words):
    inputs_of(path, PORTRAITS, 'portraits')


@pytest.mark.parametrize('mark', ',\t')
def test_pairs(tmp_path, mark):
  rows = [
    ('driving', 'portrait'),
    ('d.mp4', '"a b.png"'),
    ('e.mp4', 'c.png'),
    ('d.mp4', '"a b.png"'),
  ]
  text = '\n'.join(mark.join(row) for row in rows) + '\n# end\n\nonly one\n'
  pairs = pairs_of(listed(tmp_path / 'p.csv', text))
  assert [[each.path.name for each in pair] for pair in pairs[:2]] == [
    ['a b.png', 'd.mp4'],
    ['c.png', 'e.mp4'],
  ]
  assert len(pairs) == 3 and pairs[2][0].wrong == "p.csv: 'only one' is no pair"


@pytest.mark.parametrize('header', ('', 'portrait\na.png\n', 'a.png,b.mp4\n', 'portrait,driving\n'))
def test_a_table_without_its_header_or_rows(tmp_path, header):
  with pytest.raises(UserError, match='must name the columns portrait and driving|no pairs'):
    pairs_of(listed(tmp_path / 'p.csv', header))


def test_what_is_wrong_with_an_entry_is_told_when_it_is_asked_for(tmp_path):
  (tmp_path / 'folder').mkdir()
  path = listed(tmp_path / 'a.txt', 'gs://bucket/a.png\nfolder\n')
  bucket, folder = inputs_of(path, PORTRAITS, 'portraits').files
  for file, words in ((bucket, 'is an address'), (folder, 'is a folder')):
    with pytest.raises(UserError, match=words):
      file.checked()


def test_archives_are_unpacked_for_the_block_alone(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    for name in ('x/m.npz', 'c.mp4', 'still.png', 'moving.gif', 'notes.txt'):
      archive.writestr(name, name)
  inputs = inputs_of(tmp_path / 'a.zip', DRIVERS, 'clips', also=lambda path: path.suffix == '.gif')
  place = tmp_path / '.unpacked'
  (place / 'left').mkdir(parents=True)
  with pytest.raises(KeyboardInterrupt), unpacked(place, (inputs,)) as (found,):
    assert [file.name for file in found.files] == ['c.mp4', 'moving.gif', 'x/m.npz']
    assert all(file.path.read_text() == file.name for file in found.files)
    assert found.passed_over == 2 and not (place / 'left').exists()
    raise KeyboardInterrupt
  assert [path.name for path in tmp_path.iterdir()] == ['a.zip']


def test_an_archive_of_stills_alone_is_no_drivers(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    archive.writestr('still.png', '1')
  inputs = inputs_of(tmp_path / 'a.zip', DRIVERS, 'clips')
  with pytest.raises(UserError, match='nothing in .*a.zip'), unpacked(tmp_path / 'u', (inputs,)):
    pass
  assert not (tmp_path / 'u').exists()


def test_names_are_plain_where_they_can_be_and_never_equal():
  names = lambda *found: list(
    names_of([InputFile(pathlib.Path(name), name) for name in found]).values()
  )
  assert names('me.png', 'you.jpg') == ['me', 'you']
  assert names('me.png', 'me.jpg') == ['me_png', 'me_jpg']
  assert names('a/me.png', 'b/me.png', 'c.png') == ['a_me_png', 'b_me_png', 'c']
  parts = ('a', 'A', 'a_png', 'x' * 120, 'x' * 130, 'e\u0301', '\u00e9', 'a\n')
  every = [
    f'{folder}{stem}{end}'
    for folder, stem, end in itertools.product(
      ('', 'a/', 'a_', '/r/../'), parts, ('.png', '.PNG', '.jpg', '')
    )
  ]
  found = names(*every)
  assert len({name.casefold() for name in found}) == len(every)
  assert all(name.isprintable() and '/' not in name and len(name) <= 120 for name in found)
