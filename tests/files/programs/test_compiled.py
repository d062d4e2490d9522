"""What JAX compiled in one process serves the next, unless its bytes are not those that were
written."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from exp_jax.files.programs.compiled import keep_compiled, remove_oldest, remove_unverified, seal

ROOT = pathlib.Path(__file__).parents[3]
COMMAND = """
import json, sys
from exp_jax.errors import exits_cleanly
import jax

@exits_cleanly
def main():
  hits = []
  jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if 'compilation_cache/cache_' in name else None)
  print(json.dumps([float(jax.jit(lambda x: jax.numpy.sin(x) * 3 + 1)(0.5)), sorted(set(h.split('/')[-1] for h in hits))]))
main()
"""


def run(folder, **more):
  """[value, ['cache_hits' or 'cache_misses']] of a command that compiles one function."""
  kept = {
    k: v for k, v in os.environ.items() if not k.startswith(('JAX_COMPILATION', 'JAX_PERSISTENT'))
  }
  done = subprocess.run(
    [sys.executable, '-c', COMMAND],
    capture_output=True,
    text=True,
    check=True,
    timeout=300,
    env=kept
    | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'EXP_JAX_COMPILED': str(folder)}
    | more,
  )
  return json.loads(done.stdout)


@pytest.mark.long
def test_a_second_process_compiles_nothing_and_a_damaged_program_is_never_run(tmp_path):
  folder = tmp_path / 'kept'
  value, events = run(folder)
  assert 'cache_misses' in events and 'cache_hits' not in events
  (machine,) = folder.iterdir()
  assert folder.stat().st_mode & 0o777 == machine.stat().st_mode & 0o777 == 0o700
  entries = sorted(machine.glob('*-cache'))
  assert entries and all(entry.with_name(entry.name + '.sha256').is_file() for entry in entries)
  assert run(folder) == [value, ['cache_hits']]
  for entry in entries:
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(data)
  assert run(folder) == [value, ['cache_misses']]
  assert run(folder) == [value, ['cache_hits']]


@pytest.mark.long
def test_nothing_is_kept_where_the_user_said_so_or_nobody_may_write(tmp_path):
  assert run('none')[1] == []
  own = tmp_path / 'own'
  run(tmp_path / 'kept', JAX_COMPILATION_CACHE_DIR=str(own))
  assert own.is_dir() and not (tmp_path / 'kept').exists()
  (tmp_path / 'file').write_text('')
  assert run(tmp_path / 'file')[1] == []


@pytest.fixture
def kept(tmp_path, monkeypatch):
  """A folder with an entry that is sealed, `a`, one that is not, `b`, and one that was changed,
  `c`."""
  for name in ('a', 'c'):
    (tmp_path / f'{name}-cache').write_bytes(b'program')
  seal(tmp_path)
  (tmp_path / 'b-cache').write_bytes(b'program')
  (tmp_path / 'c-cache').write_bytes(b'Program')
  return tmp_path


def test_only_sealed_entries_stay(kept):
  (kept / 'gone-cache.sha256').write_text('0')
  (kept / 'autotuning').mkdir()
  remove_unverified(kept)
  assert sorted(path.name for path in kept.iterdir()) == ['a-cache', 'a-cache.sha256', 'autotuning']


def test_the_oldest_go_first(tmp_path):
  for age, name in enumerate('abc'):
    entry = tmp_path / 'machine' / f'{name}-cache'
    entry.parent.mkdir(exist_ok=True)
    entry.write_bytes(bytes(10))
    os.utime(entry, (1000 - age, 1000 - age))
  seal(tmp_path / 'machine')
  remove_oldest(tmp_path, largest=25)
  assert sorted(path.name for path in (tmp_path / 'machine').glob('*-cache')) == [
    'a-cache',
    'b-cache',
  ]
  assert not (tmp_path / 'machine' / 'c-cache.sha256').exists()


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
  for name in ('JAX_COMPILATION_CACHE_DIR', 'JAX_ENABLE_COMPILATION_CACHE'):
    monkeypatch.delenv(name, raising=False)
  (tmp_path / 'open').mkdir(mode=0o777)
  (tmp_path / 'open').chmod(0o777)
  (tmp_path / 'real').mkdir(mode=0o700)
  (tmp_path / 'link').symlink_to(tmp_path / 'real')
  for name in ('open', 'link'):
    monkeypatch.setenv('EXP_JAX_COMPILED', str(tmp_path / name))
    assert keep_compiled() is None and 'JAX_COMPILATION_CACHE_DIR' not in os.environ
    assert not list((tmp_path / name).glob('*/*'))
