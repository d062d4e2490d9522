"""Who may write an output: one process at a time, also after a kill, and with a warning where a
file system has no locks."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from exp_jax.errors import UserError
from exp_jax.files.locks import only_one

HOLDS = """
import sys
from exp_jax.files.locks import only_one
with only_one(sys.argv[1], folder=sys.argv[2] == 'folder'):
  print('ready', flush=True)
  sys.stdin.read()
"""


def hold(path, kind):
  process = subprocess.Popen(
    [sys.executable, '-c', HOLDS, str(path), kind],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env=os.environ | {'PYTHONPATH': os.getcwd()},
  )
  process.stdout.readline()
  return process


@pytest.mark.parametrize('kind', ('folder', 'file'))
def test_the_second_is_told_and_a_kill_sets_free(tmp_path, kind):
  output, folder = tmp_path / 'new' / 'a.mp4', kind == 'folder'
  process = hold(output, kind)
  with (
    pytest.raises(UserError, match='another run writes .*a.mp4'),
    only_one(output, folder=folder),
  ):
    pass
  with only_one(output.with_name('b.mp4'), folder=folder):
    pass
  process.send_signal(signal.SIGKILL)
  process.wait()
  with only_one(output, folder=folder):
    with pytest.raises(UserError), only_one(output, folder=folder):
      pass
  left = [path for path in tmp_path.rglob('*') if path.is_file()]
  assert not left, 'the lock that the killed process left is gone as well'


def test_a_process_that_ends_in_peace_leaves_nothing(tmp_path):
  process = hold(tmp_path / 'a', 'folder')
  process.stdin.close()
  assert process.wait() == 0 and not os.listdir(tmp_path / 'a')


@pytest.mark.parametrize('code', (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP))
def test_without_locks_it_goes_on_and_says_so(tmp_path, monkeypatch, code):
  def flock(*_):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(fcntl, 'flock', flock)
  said = []
  with (
    only_one(tmp_path / 'a', folder=True, warn=said.append),
    only_one(tmp_path / 'a', folder=True, warn=said.append),
  ):
    pass
  assert len(said) == 2 and 'no locks' in said[0] and not os.listdir(tmp_path / 'a')
