"""Files and folders appear whole or not at all, with the rights of any other, and leave nothing unfinished."""

import os
import stat

import pytest

from exp_jax.errors import UserError
from exp_jax.files import atomic

LONG = 'n' * 251 + '.txt'  # 255 bytes, the most that a file system takes


def fails(context):
  with pytest.raises(KeyError), context as partial:
    (partial / 'part' if partial.is_dir() else partial).write_text('half')
    raise KeyError


@pytest.mark.parametrize('name', ['a.txt', LONG, 'a.' + 's' * 200])
def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path, name):
  atomic.write_text(tmp_path / 'new' / name, 'Ägypten')
  fails(atomic.replacing(tmp_path / 'new' / name))
  assert os.listdir(tmp_path / 'new') == [name] and (tmp_path / 'new' / name).read_bytes() == 'Ägypten'.encode()
  fails(atomic.new_folder(tmp_path / LONG))
  assert os.listdir(tmp_path) == ['new']


def test_it_appears_at_the_end_with_the_rights_that_are_usual(tmp_path):
  before = os.umask(0o027)
  try:
    with atomic.replacing(tmp_path / 'a.png') as file, atomic.new_folder(tmp_path / 'b') as folder:
      assert file.suffix == '.png' and all(atomic.is_partial(path) for path in (file, folder))
      assert sorted(tmp_path.iterdir()) == sorted((file, folder))
      (folder / 'c').touch()
  finally:
    os.umask(before)
  assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {'a.png': 0o640, 'b': 0o750}
  assert not any(atomic.is_partial(path) for path in tmp_path.iterdir()) and os.listdir(tmp_path / 'b') == ['c']
  with pytest.raises(UserError, match='b exists already'), atomic.new_folder(tmp_path / 'b'):
    pass


def test_a_folder_is_removed_with_what_a_kill_left_of_the_last_removal(tmp_path):
  for content in ('first', 'second'):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / content).touch()
    if content == 'first':
      (tmp_path / 'a').rename(tmp_path / '.a.partial')  # as after a kill between the rename and the deletion
  atomic.remove_folder(tmp_path / 'a')
  atomic.remove_folder(tmp_path / 'a')  # there is none
  assert not os.listdir(tmp_path)
