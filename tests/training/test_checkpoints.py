"""Checkpoints: no damaged byte is ever restored, the last good step is never lost, a failed save
never counts."""

import multiprocessing
import os
import pathlib
import resource
import shutil
import signal
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from exp_jax.commands import verify
from exp_jax.errors import UserError
from exp_jax.files import manifest
from exp_jax.training import checkpoints, exports
from exp_jax.training.checkpoints import Checkpoints, SaveFailed
from exp_jax.training.exports import (
  RELEASE,
  load_export,
  write_export,
  write_release,
  write_safetensors,
)

STATE = {
  'step': jnp.array(3, jnp.int32),
  'params': {'a': jnp.linspace(0.1, 1, 7), 'b': jnp.ones((2, 3))},
  'none': {},
}
LIKE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), STATE)


def save(saved, *steps):
  for step in steps:
    saved.save(step, jax.tree.map(lambda x, step=step: x * step, STATE), {'examples': step})
    saved.wait()


def files_of(folder):
  return [p for p in sorted(folder.rglob('*')) if p.is_file()]


def flip(path, offset, bit=0):
  data = bytearray(path.read_bytes())
  data[offset] ^= 1 << bit
  path.write_bytes(data)


def flip_a_bit(directory):
  victim = max(files_of(directory), key=lambda p: p.stat().st_size)
  flip(victim, victim.stat().st_size // 2)
  return victim.name


def test_round_trip_and_pruning(tmp_path):
  saved = Checkpoints(tmp_path, keep=2)
  save(saved, 1, 2, 5)
  assert saved.steps() == [2, 5] and saved.latest_verified() == 5
  assert sorted(p.name for p in tmp_path.iterdir()) == ['00000002', '00000005']
  state, data = saved.restore(5, LIKE)
  np.testing.assert_array_equal(state['params']['a'], STATE['params']['a'] * 5)
  assert data == {'examples': 5}


@pytest.mark.long
def test_every_damage_is_found_before_use_and_the_older_step_is_taken(tmp_path, capsys):
  saved = Checkpoints(tmp_path)
  save(saved, 1, 2)
  newest, rng, tried = tmp_path / '00000002', np.random.default_rng(0), 0
  shutil.copytree(newest, tmp_path / 'whole')
  assert len(files_of(newest)) >= 9
  for path in files_of(newest):
    size, content = path.stat().st_size, path.read_bytes()
    damages = [
      lambda p=path, n=size: flip(p, rng.integers(n), rng.integers(8))
      for _ in range(20 if size else 0)
    ]
    damages += [lambda p=path, n=size: os.truncate(p, n // 2)] * bool(size)
    damages += [lambda p=path, n=size: p.write_bytes(bytes(n))] * bool(size)
    damages += [lambda p=path: p.write_bytes(p.read_bytes() + b'x'), path.unlink]
    for damage in damages:
      damage()
      assert saved.latest_verified() == 1, (path, damage)
      said = capsys.readouterr().err.splitlines()
      assert len(said) == 1 and said[0].startswith('warning: ') and path.name in said[0], said
      path.write_bytes(content)
      tried += 1
  assert tried > 150 and saved.latest_verified() == 2 and not capsys.readouterr().err


def test_with_all_damaged_nothing_is_restored(tmp_path, capsys):
  saved = Checkpoints(tmp_path)
  save(saved, 1, 2)
  names = [flip_a_bit(tmp_path / f'{step:08d}' / 'state') for step in (2, 1)]
  with pytest.raises(manifest.Damaged, match='every checkpoint'):
    saved.latest_verified()
  assert all(name in line for name, line in zip(names, capsys.readouterr().err.splitlines()))
  # a lost mark is damage as well, not a fresh start
  (tmp_path / '00000001' / manifest.COMMIT).unlink()
  shutil.rmtree(tmp_path / '00000002')
  with pytest.raises(manifest.Damaged, match='every checkpoint'):
    saved.latest_verified()


def test_a_damaged_step_never_crowds_out_a_good_one(tmp_path):
  saved = Checkpoints(tmp_path, keep=1)
  save(saved, 1)
  shutil.copytree(tmp_path / '00000001', tmp_path / 'aside')
  save(saved, 4)
  shutil.move(tmp_path / 'aside', tmp_path / '00000001')
  flip_a_bit(tmp_path / '00000004')
  saved = Checkpoints(tmp_path, keep=1)
  assert saved.latest_verified() == 1
  save(saved, 2)  # later than the good one, earlier than the damaged one
  assert saved.steps() == [2, 4] and saved.latest_verified() == 2
  save(saved, 4)  # the damaged one is written anew
  assert saved.steps() == [4] and saved.latest_verified() == 4


def test_an_unfinished_save_does_not_count_and_is_cleared(tmp_path, capsys):
  saved = Checkpoints(tmp_path)
  save(saved, 4)
  # killed between the mark and the sign's removal: finished
  (tmp_path / '00000004' / checkpoints.UNFINISHED).touch()
  assert saved.latest_verified() == 4
  (tmp_path / '00000004' / manifest.COMMIT).unlink()
  assert saved.steps() == [] and saved.latest_verified() is None
  (tmp_path / '.00000003.partial').mkdir()
  (tmp_path / 'notes').mkdir()  # not ours
  saved.clear_unfinished()
  assert [p.name for p in tmp_path.iterdir()] == [
    'notes'
  ] and 'not finished' in capsys.readouterr().err


def test_another_shape_is_a_sentence(tmp_path):
  saved = Checkpoints(tmp_path)
  save(saved, 1)
  other = LIKE | {
    'params': LIKE['params']
    | {'b': jax.ShapeDtypeStruct((4, 3), jnp.float32, sharding=STATE['step'].sharding)}
  }
  with pytest.raises(UserError, match='does not fit'):
    saved.restore(1, other)


def test_frozen_parameters_are_saved_once_and_verified(tmp_path):
  saved = Checkpoints(tmp_path)
  saved.save_frozen(STATE['params'])
  saved.save_frozen(jax.tree.map(jnp.zeros_like, STATE['params']))  # not again
  assert saved.steps() == [] and saved.latest_verified() is None
  found = saved.restore_frozen(LIKE['params'])
  np.testing.assert_array_equal(found['a'], STATE['params']['a'])
  flip_a_bit(tmp_path / checkpoints.FROZEN / 'state')
  with pytest.raises(manifest.Damaged, match='frozen parameters .* SHA-256'):
    saved.restore_frozen(LIKE['params'])


def test_a_vanished_directory_is_an_error_of_the_next_save(tmp_path):
  saved = Checkpoints(tmp_path / 'a')
  (tmp_path / 'a').mkdir()
  save(saved, 1)
  (tmp_path / 'a').rename(tmp_path / 'b')
  with pytest.raises(SaveFailed, match='00000002'):
    save(saved, 2)
  assert not (tmp_path / 'a').exists() and Checkpoints(tmp_path / 'b').latest_verified() == 1


def _save_with_little_room(folder, limit):
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  saved = Checkpoints(pathlib.Path(folder))
  saved.save(1, {'x': jnp.arange(1000.0)}, {})
  saved.wait()
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
  big = {'x': jax.random.normal(jax.random.key(0), (1 << 20,))}  # 4 MB that do not compress
  try:
    saved.save(2, big, {})
    saved.wait()
  except SaveFailed as error:
    assert saved.steps() == [1] and '00000002' in str(error) or 'step 2' in str(error), error
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    saved.save(3, big, {})  # room again: the same object goes on
    saved.wait()
    sys.exit(0 if saved.latest_verified() == 3 else 4)
  sys.exit(5)


def test_a_full_disk_fails_the_save_and_leaves_the_older_step(tmp_path):
  process = multiprocessing.get_context('spawn').Process(
    target=_save_with_little_room, args=(str(tmp_path), 1 << 20)
  )
  process.start()
  process.join()
  assert process.exitcode == 0
  assert sorted(p.name for p in tmp_path.iterdir()) == ['00000001', '00000003']


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='mounting needs root')
@pytest.mark.parametrize('options, words', [('size=2m', ''), ('size=64m', 'ro')])
def test_a_small_or_read_only_disk(tmp_path, options, words):
  import subprocess

  disk = tmp_path / 'disk'
  disk.mkdir()
  if subprocess.run(
    ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', disk], capture_output=True
  ).returncode:
    pytest.skip('no mounts here')
  try:
    saved = Checkpoints(disk / 'checkpoints')
    saved.directory.mkdir()
    save(saved, 1)
    if words == 'ro':
      subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    with pytest.raises(SaveFailed):
      saved.save(2, {'x': jax.random.normal(jax.random.key(0), (1 << 20,))}, {})
      saved.wait()
    assert saved.steps() == [1] and saved.latest_verified() == 1
    # a full disk has its room back
    assert [p.name for p in saved.directory.iterdir()] == ['00000001']
  finally:
    subprocess.run(['umount', disk], check=True)


def test_verify_tells_of_runs_and_exports(tmp_path, capsys):
  saved = Checkpoints(tmp_path / 'run' / 'checkpoints')
  saved.directory.mkdir(parents=True)
  save(saved, 1, 2)
  write_export(
    tmp_path / 'run' / 'export', ml_collections.ConfigDict(dict(task='x')), STATE['params']
  )
  assert verify.main([str(tmp_path / 'run')]) == 0
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 3 and all('sound' in line for line in said)
  name = flip_a_bit(tmp_path / 'run' / 'checkpoints' / '00000001')
  (tmp_path / 'run' / 'export' / manifest.COMMIT).unlink()
  with pytest.raises(SystemExit) as ended:
    verify.main([str(tmp_path / 'run')])
  said = capsys.readouterr()
  assert ended.value.code == 2 and '2 of 3' in said.err
  assert [line for line in said.out.splitlines() if name in line and '00000001' in line]
  with pytest.raises(SystemExit) as ended:
    verify.main([str(tmp_path / 'nowhere')])
  assert ended.value.code == 2 and 'nowhere' in capsys.readouterr().err


def test_export_round_trip_and_damage(tmp_path):
  config = ml_collections.ConfigDict(
    dict(task='x', mesh=(('data', 1), ('fsdp', 2)), model=dict(a=1))
  )
  write_export(tmp_path / 'e', config, STATE['params'])
  again, params = load_export(tmp_path / 'e')
  assert again.mesh == config.mesh and again.model.a == 1
  np.testing.assert_allclose(params['a'], STATE['params']['a'], rtol=2**-8)  # bfloat16
  assert write_safetensors(tmp_path / 'e').exists()
  with pytest.raises(UserError, match='exists already'):
    write_export(tmp_path / 'e', config, STATE['params'])
  write_release(tmp_path / 'e', tmp_path / 'r', **{'model.a': 2})
  changed, released = load_export(tmp_path / 'r')
  assert (
    changed.model.a == 2
    and changed.mesh == config.mesh
    and not (tmp_path / 'r' / 'params').exists()
  )
  assert jax.tree.structure(released) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, released, params)
  with pytest.raises(UserError, match='exists already'):
    write_release(tmp_path / 'e', tmp_path / 'r')
  flip_a_bit(tmp_path / 'e' / 'params')
  with pytest.raises(UserError, match='SHA-256'):
    load_export(tmp_path / 'e')
  flip_a_bit(tmp_path / 'r')
  with pytest.raises(UserError, match='damaged'):
    load_export(tmp_path / 'r')
  assert RELEASE in [p.name for p in (tmp_path / 'r').iterdir()]
  with pytest.raises(UserError, match='no export'):
    load_export(tmp_path / 'f')


def test_an_export_holds_no_path_of_its_maker(tmp_path):
  """The autoencoder and the CLIP tower are named relative to the export, so that the folders can
  move together."""
  own = tmp_path / 'home' / 'mary'
  config = ml_collections.ConfigDict(
    dict(
      task='x',
      data=dict(path=f'{own}/clips', held_out=f'{own}/more', count=3),
      vae=dict(path=f'{own}/vae', name='patch'),
      condition=dict(clip_weights=f'{own}/clip'),
      init=dict(weights=''),
    )
  )
  found = exports.without_places(config, own / 'runs' / 'e')
  write_export(own / 'runs' / 'e', found, STATE['params'])
  assert (
    found.vae.path == '../../vae'
    and found.condition.clip_weights == '../../clip'
    and found.data.count == 3
  )
  assert found.data.path == found.data.held_out == '' and config.data.path == f'{own}/clips'
  for path in (own / 'runs' / 'e').rglob('*'):
    assert not path.is_file() or b'mary' not in path.read_bytes(), path
  load_export(own / 'runs' / 'e')
