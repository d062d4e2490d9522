import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from exp_jax.errors import UserError
from exp_jax.training.optimizers import ema_update, learning_rate, make_optimizer
from exp_jax.training.sharding import make_mesh, partition

ROOT = pathlib.Path(__file__).parent.parent.parent
MESH = AbstractMesh((2, 4), ('data', 'fsdp'))


@pytest.mark.parametrize('shape, spec, expected', [
  ((3, 8, 16), 'fsdp', P(None, None, 'fsdp')), ((3, 8, 6), 'fsdp', P(None, 'fsdp', None)),
  ((3, 5), 'fsdp', P()), ((8, 8), None, P()), ((), 'fsdp', P()),
  ((4, 6), ('data', None), P('data', None))])
def test_partition(shape, spec, expected):
  assert partition(shape, spec, MESH) == expected


def test_a_spec_of_another_rank_is_refused():
  with pytest.raises(ValueError, match='does not fit'):
    partition((4, 6), ('data',), MESH)


def test_a_mesh_too_large_is_a_sentence():
  with pytest.raises(UserError, match='needs 6 devices'):
    make_mesh((('data', 2), ('fsdp', 3)))
  assert make_mesh((('data', -1), ('fsdp', 1))).shape['data'] == jax.device_count()


def test_learning_rate_warms_up_and_decays():
  rate = lambda step: float(learning_rate(step, peak=2.0, warmup_steps=10, total_steps=110,
                                          final_fraction=0.1))
  assert rate(0) == pytest.approx(0.2) and rate(9) == rate(10) == pytest.approx(2.0)
  assert rate(60) == pytest.approx(1.1) and rate(110) == rate(500) == pytest.approx(0.2)


def test_only_kernels_decay():
  params = {'a': {'kernel': jnp.ones(3), 'bias': jnp.ones(3)}, 'table': jnp.ones(3)}
  tx = make_optimizer(learning_rate=0.1, weight_decay=0.5)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  assert (updates['a']['kernel'] < -0.04).all()
  assert not updates['a']['bias'].any() and not updates['table'].any()


def test_a_young_average_follows_fast():
  average = ema_update({'w': jnp.zeros(2)}, {'w': jnp.ones(2)}, 0, 0.999)
  np.testing.assert_allclose(average['w'], 0.9)
  average = ema_update({'w': jnp.zeros(2)}, {'w': jnp.ones(2)}, 10**6, 0.999)
  np.testing.assert_allclose(average['w'], 0.001, rtol=1e-3)


PROGRAM = '''
import sys
import jax, jax.numpy as jnp, ml_collections, numpy as np
from exp_jax.data.loader import batches_from
from exp_jax.training import checkpoints, loop
from exp_jax.training.task import Task

def init_fn(rng):
  a, b = jax.random.split(rng)
  return {'one': {'kernel': jax.random.normal(a, (6, 8))},
          'two': {'kernel': jax.random.normal(b, (8, 4))}}

def loss_fn(params, batch, rng):
  noise = 0.1 * jax.random.normal(rng, batch['x'].shape)
  y = jnp.tanh((batch['x'] + noise) @ params['one']['kernel']) @ params['two']['kernel']
  return jnp.square(y - batch['x'][:, :4]).mean(), {}

n = jax.device_count()
config = ml_collections.ConfigDict(dict(
  seed=0, total_steps=5, log_every=5, save_every=5, eval_every=5,
  mesh=(('data', max(n // 2, 1)), ('fsdp', min(n, 2))), param_sharding=(('.*kernel', 'fsdp'),),
  optimizer=dict(learning_rate=0.05, warmup_steps=1, clip_norm=1.0, ema_decay=0.9)))
source = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
batches = batches_from(source, lambda x, rng: {'x': x}, batch_size=8, seed=1)
task = Task(init_fn, loss_fn, {'x': jax.ShapeDtypeStruct((8, 6), jnp.float32)})
import pathlib
saved = checkpoints.Checkpoints(pathlib.Path(sys.argv[1]))
state, _ = loop.train(config, task, batches, saved, lambda *a, **k: None)
kernel = state.opt_state[1][0].mu['one']['kernel']
assert n == 1 or not kernel.sharding.is_fully_replicated, kernel.sharding
np.savez(sys.argv[2], *map(np.asarray, jax.tree.leaves(state)))
'''


def test_four_devices_train_as_one(tmp_path):
  leaves = []
  for count in (1, 4):
    out = tmp_path / f'{count}.npz'
    environment = os.environ | {
      'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT),
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={count}'}
    subprocess.run([sys.executable, '-c', PROGRAM, tmp_path / str(count), out], cwd=ROOT,
                   env=environment, check=True)
    leaves.append(np.load(out))
  assert leaves[0].files == leaves[1].files and len(leaves[0].files) > 8
  for name in leaves[0].files:
    np.testing.assert_allclose(leaves[0][name], leaves[1][name], rtol=1e-5, atol=1e-6)
