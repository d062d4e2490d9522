"""Programs whose reader has gone, whose streams are closed or whose terminal lacks letters: they
work, or end in a sentence."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import os, pathlib, sys
from exp_jax.errors import UserError, exits_cleanly
from exp_jax.files.atomic import write_text
@exits_cleanly
def main():
  {}
sys.exit(main())
"""


def start(body: str, *, shell: str = 'exec "$0" "$@"', **settings) -> subprocess.Popen:
  environment = (
    os.environ
    | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'PYTHONUNBUFFERED': ''}
    | settings.pop('env', {})
  )
  return subprocess.Popen(
    ['sh', '-c', shell, sys.executable, '-c', PROGRAM.format(body)], env=environment, **settings
  )


@pytest.mark.parametrize(
  'body',
  [
    "sys.stdin.read(); print('one line that waits in a buffer')",
    "sys.stdin.read(); [print('x' * 100) for _ in range(5000)]",
    "sys.stdin.read(); print('help'); sys.exit(0)",
  ],
)
def test_a_reader_that_has_gone_ends_it_quietly(body):
  process = start(body, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  process.stdout.close()
  process.stdin.close()
  assert process.stderr.read() == b'' and process.wait(60) == 141


def test_a_failure_keeps_its_status_though_nobody_reads_it():
  process = start(
    "sys.stdin.read(); print('x'); raise UserError('bad')",
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  for stream in (process.stdout, process.stderr, process.stdin):
    stream.close()
  assert process.wait(60) == 2


@pytest.mark.parametrize(
  'shell',
  [
    'exec "$0" "$@" <&- >&- 2>&-',
    'exec "$0" "$@" 2>&-',
    'exec "$0" "$@" >&-',
    'exec "$0" "$@" <&-',
  ],
)
def test_what_is_printed_to_closed_streams_is_in_no_file(tmp_path, shell):
  body = (
    "kept = open('kept', 'wb', buffering=0); print('out'); print('err', file=sys.stderr); "
    "sys.stderr.write('bar'); "
    "sys.stdout.flush(); [os.write(n, b'of a library') for n in (1, 2)]; kept.write(b'whole'); "
    'return 7'
  )
  process = start(body, shell=shell, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  process.communicate(timeout=60)
  assert process.returncode == 7 and (tmp_path / 'kept').read_bytes() == b'whole'


def test_letters_that_a_terminal_lacks_are_spelled_out():
  process = start(
    "print('\\u65e5', '\\udcff')", stdout=subprocess.PIPE, env={'PYTHONIOENCODING': 'ascii'}
  )
  assert process.communicate(timeout=60)[0] == b'\\u65e5 \\udcff\n' and process.returncode == 0


@pytest.mark.parametrize(
  'body, words',
  [
    ("pathlib.Path('b').absolute()", b'error: the current folder has been deleted'),
    ("write_text('b', 'text')", b'error: the current folder has been deleted'),
  ],
)
def test_a_current_folder_that_was_deleted_is_a_sentence(tmp_path, body, words):
  process = start(
    body,
    shell='mkdir gone && cd gone && rmdir ../gone && exec "$0" "$@"',
    cwd=tmp_path,
    stderr=subprocess.PIPE,
  )
  found = process.communicate(timeout=60)[1]
  assert process.returncode == 2 and found.startswith(words) and found.count(b'\n') == 1


@pytest.mark.parametrize(
  'place, words',
  [
    ('file/a', b"'file' is there and is no folder"),
    ('/proc/a', b'No such file or directory'),
    ('loop/a', b"'loop' is there and is no folder"),
    ('x' * 300, b'File name too long'),
    ('folder', b"'folder' is a folder"),
  ],
)
def test_a_place_where_nothing_can_be_written_is_a_sentence(tmp_path, place, words):
  (tmp_path / 'file').touch()
  (tmp_path / 'loop').symlink_to('loop')
  (tmp_path / 'folder').mkdir()
  process = start(f'write_text({place!r}, "text")', cwd=tmp_path, stderr=subprocess.PIPE)
  found = process.communicate(timeout=60)[1]
  assert (
    process.returncode == 2
    and words in found
    and found.startswith(b'error: ')
    and found.count(b'\n') == 1
  )
  assert not list(tmp_path.glob('.*'))
