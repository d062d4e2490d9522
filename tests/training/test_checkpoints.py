import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.training import integrity
from exp_jax.training.checkpoints import Checkpoints
from exp_jax.training.exports import load_export, write_export, write_safetensors

STATE = {'step': jnp.array(3, jnp.int32), 'params': {'a': jnp.linspace(0.1, 1, 7), 'b': jnp.ones((2, 3))}}
LIKE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), STATE)


def flip_a_bit(directory):
  victim = max((p for p in directory.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
  data = bytearray(victim.read_bytes())
  data[len(data) // 2] ^= 1
  victim.write_bytes(data)
  return victim.name


def test_round_trip_and_pruning(tmp_path):
  saved = Checkpoints(tmp_path, keep=2)
  for step in (1, 2, 5):
    saved.save(step, jax.tree.map(lambda x: x * step, STATE), {'next_index': step})
  assert saved.steps() == [2, 5] and saved.latest_verified() == 5
  state, data = saved.restore(5, LIKE)
  np.testing.assert_array_equal(state['params']['a'], STATE['params']['a'] * 5)
  assert data == {'next_index': 5}


def test_damage_is_found_and_passed_over(tmp_path, capsys):
  saved = Checkpoints(tmp_path)
  saved.save(1, STATE, {})
  saved.save(2, STATE, {})
  name = flip_a_bit(tmp_path / '00000002' / 'state')
  assert saved.latest_verified() == 1
  assert name in capsys.readouterr().err
  flip_a_bit(tmp_path / '00000001' / 'state')
  with pytest.raises(UserError, match='every checkpoint'):
    saved.latest_verified()


def test_an_unfinished_save_does_not_count(tmp_path):
  saved = Checkpoints(tmp_path)
  saved.save(4, STATE, {'next_index': 4})
  (tmp_path / '00000004' / integrity.MANIFEST).rename(tmp_path / '00000004' / 'm.tmp')
  assert saved.steps() == [] and saved.latest_verified() is None
  saved.save(4, STATE, {'next_index': 4})                     # written anew over the ruins
  assert saved.latest_verified() == 4


def test_another_shape_is_a_sentence(tmp_path):
  saved = Checkpoints(tmp_path)
  saved.save(1, STATE, {})
  other = LIKE | {'params': LIKE['params'] | {'b': jax.ShapeDtypeStruct(
    (4, 3), jnp.float32, sharding=STATE['step'].sharding)}}
  with pytest.raises(UserError, match='does not fit'):
    saved.restore(1, other)


def test_export_round_trip_and_damage(tmp_path):
  config = ml_collections.ConfigDict(dict(task='x', mesh=(('data', 1), ('fsdp', 2)), model=dict(a=1)))
  write_export(tmp_path / 'e', config, STATE['params'])
  again, params = load_export(tmp_path / 'e')
  assert again.mesh == config.mesh and again.model.a == 1
  np.testing.assert_allclose(params['a'], STATE['params']['a'], rtol=2**-8)  # bfloat16
  assert write_safetensors(tmp_path / 'e').exists()
  with pytest.raises(UserError, match='exists already'):
    write_export(tmp_path / 'e', config, STATE['params'])
  flip_a_bit(tmp_path / 'e' / 'params')
  with pytest.raises(UserError, match='SHA-256'):
    load_export(tmp_path / 'e')
  with pytest.raises(UserError, match='no export'):
    load_export(tmp_path / 'f')
