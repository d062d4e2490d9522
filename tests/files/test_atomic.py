"""Files and folders appear whole or not at all, with the rights of any other, and leave nothing
unfinished."""

import os
import signal
import stat
import subprocess
import sys
import threading

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
  assert (
    os.listdir(tmp_path / 'new') == [name]
    and (tmp_path / 'new' / name).read_bytes() == 'Ägypten'.encode()
  )
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
  assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
    'a.png': 0o640,
    'b': 0o750,
  }
  assert not any(atomic.is_partial(path) for path in tmp_path.iterdir()) and os.listdir(
    tmp_path / 'b'
  ) == ['c']
  with pytest.raises(UserError, match='b exists already'), atomic.new_folder(tmp_path / 'b'):
    pass


KILLED = """
import os, signal, sys
from exp_jax.files import atomic
with atomic.replacing(sys.argv[1] + '/a.txt') as file, atomic.new_folder(sys.argv[1] + '/b') as folder:
  file.write_text('half of what was to be written')
  (folder / 'sub').mkdir()
  (folder / 'sub' / 'c').touch()
  print('ready', flush=True)
  sys.stdin.read() if sys.argv[2] == 'wait' else os.kill(os.getpid(), signal.SIGKILL)
"""


def start(folder, what):
  process = subprocess.Popen(
    [sys.executable, '-c', KILLED, str(folder), what],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env=os.environ | {'PYTHONPATH': os.getcwd()},
  )
  process.stdout.readline()
  return process


def write_both(folder):
  with atomic.replacing(folder / 'a.txt') as file, atomic.new_folder(folder / 'b') as new:
    assert not list(new.iterdir()) and not file.read_bytes()
    file.write_text('whole')


def test_what_a_killed_writer_left_is_gone_after_the_next(tmp_path):
  assert start(tmp_path, 'kill').wait() == -signal.SIGKILL
  assert len(os.listdir(tmp_path)) == 2 and all(
    atomic.is_partial(path) for path in tmp_path.iterdir()
  )
  write_both(tmp_path)
  assert (
    sorted(os.listdir(tmp_path)) == ['a.txt', 'b'] and (tmp_path / 'a.txt').read_text() == 'whole'
  )


def test_a_living_writer_is_left_alone(tmp_path):
  process = start(tmp_path, 'wait')
  living = set(tmp_path.iterdir())
  write_both(tmp_path)
  assert living < set(tmp_path.iterdir()) and all(path.exists() for path in living)
  assert (
    next(path for path in living if path.is_file()).read_text() == 'half of what was to be written'
  )
  process.stdin.close()
  assert process.wait() in (0, 1)  # the folder's name is taken by now
  assert (tmp_path / 'a.txt').read_text() == 'half of what was to be written'


@pytest.mark.filterwarnings('error::pytest.PytestUnhandledThreadExceptionWarning')
def test_two_threads_may_write_one_file_and_no_rights_change_meanwhile(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'umask', lambda _: pytest.fail('the mask belongs to all threads'))
  barrier = threading.Barrier(8)

  def write(number):
    barrier.wait()
    for _ in range(20):
      with atomic.replacing(tmp_path / 'a.txt') as partial:
        partial.write_text(f'{number}' * 1000)

  threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  text = (tmp_path / 'a.txt').read_text()
  assert os.listdir(tmp_path) == ['a.txt'] and len(text) == 1000 and len(set(text)) == 1


def test_a_folder_is_removed_with_what_a_kill_left_of_the_last_removal(tmp_path):
  for content in ('first', 'second'):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / content).touch()
    if content == 'first':
      # as after a kill between the rename and the deletion
      (tmp_path / 'a').rename(tmp_path / '.a.partial')
  atomic.remove_folder(tmp_path / 'a')
  atomic.remove_folder(tmp_path / 'a')  # there is none
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('name', ['x' * 300, 'folder'])
def test_a_name_that_cannot_be_written_is_refused_before_the_work(tmp_path, name):
  (tmp_path / 'folder').mkdir()
  with pytest.raises((OSError, UserError)), atomic.replacing(tmp_path / name):
    pytest.fail('the work was begun')
  assert [path.name for path in tmp_path.iterdir()] == ['folder']
