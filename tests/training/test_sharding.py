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
from exp_jax.training.sharding import make_mesh, over_examples, own_rows, partition

ROOT = pathlib.Path(__file__).parent.parent.parent
MESH = AbstractMesh((2, 4), ('data', 'fsdp'))


@pytest.mark.parametrize(
  'shape, spec, expected',
  [
    ((3, 8, 16), 'fsdp', P(None, None, 'fsdp')),
    ((3, 8, 6), 'fsdp', P(None, 'fsdp', None)),
    ((3, 5), 'fsdp', P()),
    ((8, 8), None, P()),
    ((), 'fsdp', P()),
    ((4, 6), ('data', None), P('data', None)),
  ],
)
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
  rate = lambda step: float(
    learning_rate(step, peak=2.0, warmup_steps=10, total_steps=110, final_fraction=0.1)
  )
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


@pytest.mark.long
def test_layouts_agree_and_checkpoints_pass_from_mesh_to_mesh(tmp_path):
  """Loss, gradient norm and the state after a step on 8 devices equal one device's; 1 -> 2 -> 4 ->
  8 -> 4 -> 1 bit for bit."""
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(ROOT),
    'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
  }
  done = subprocess.run(
    [sys.executable, ROOT / 'tests/training/tiny/layouts.py', tmp_path],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_generator_trains_alike_with_tokens_over_devices():
  """Ulysses, ring, and both with fsdp and tensor: loss and gradient norm of a step equal one
  device's to 1e-5."""
  # The CPU's scheduler starts collectives that do not need each other in any order, each device its
  # own: on busy cores seven wait in one and the eighth in another until XLA ends the process.
  # Without it they come in the program's order.
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(ROOT),
    'XLA_FLAGS': '--xla_force_host_platform_device_count=8 '
    '--xla_cpu_enable_concurrency_optimized_scheduler=false',
  }
  done = subprocess.run(
    [sys.executable, ROOT / 'tests/training/tiny/dit_layouts.py'],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0 and done.stdout.endswith('equal\n'), done.stderr


def test_rows_of_a_host_are_those_of_its_devices():
  mesh = make_mesh((('data', -1),))
  assert own_rows(mesh, 8 * mesh.size) == (0, 8 * mesh.size)
  with pytest.raises(UserError, match='accumulated parts'):
    own_rows(mesh, 3 * mesh.size, 2)


def test_axes_within_an_example_do_not_share_examples():
  mesh = AbstractMesh((2, 4, 2), ('data', 'fsdp', 'context'))
  assert over_examples(mesh).spec == P(('data', 'fsdp'))


def test_a_rule_with_an_axis_that_is_not_there_is_a_sentence():
  with pytest.raises(UserError, match="axis 'tensor'"):
    partition((4, 4), 'tensor', MESH)
