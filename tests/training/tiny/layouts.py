"""On eight devices: one step in every layout, and one checkpoint through every number of devices.

Asserts inside.
"""

import pathlib
import sys

import jax
import numpy as np
from tiny_config import get_config
from tiny_task import task as task_of

from exp_jax.training import loop
from exp_jax.training.checkpoints import Checkpoints
from exp_jax.training.settings import settings_of
from exp_jax.training.sharding import make_mesh, over_examples

SPLIT = ((r'.*one/kernel', (None, 'tensor')), (r'.*two/kernel', ('tensor', None)), (r'.*', None))
SHARDED, REPLICATED = ((r'.*kernel', 'fsdp'), (r'.*', None)), ((r'.*', None),)
LAYOUTS = {
  'one': ((('data', 1),), REPLICATED),
  'data': ((('data', 8),), REPLICATED),
  'data x fsdp': ((('data', 2), ('fsdp', 4)), SHARDED),
  'tensor': ((('data', 1), ('fsdp', 1), ('tensor', 8)), SPLIT),
  'context': ((('data', 2), ('context', 4)), REPLICATED),
  'all': ((('data', 2), ('fsdp', 2), ('context', 1), ('tensor', 2)), SHARDED),
}
BATCH = {
  'x': np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32),
  'flag': np.zeros(16, np.float32),
}


def settings_and_task(**changes):
  config = get_config()
  with config.unlocked():
    config.batch_size = 16
    config.update(changes)
  return settings_of(config), task_of(config)


def start(settings, task, mesh):
  like = loop.abstract_state(settings, task, mesh)
  init = jax.jit(
    loop.init_fn_of(settings, task), out_shardings=jax.tree.map(lambda x: x.sharding, like)
  )
  return like, *init(jax.random.key(0))


def host(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


def one_step(layout, **changes):
  axes, rules = LAYOUTS[layout]
  settings, task = settings_and_task(mesh=axes, param_sharding=rules, **changes)
  mesh = make_mesh(axes, jax.devices()[:1] if layout == 'one' else None)
  with jax.set_mesh(mesh):
    like, state, frozen = start(settings, task, mesh)
    kernels = (
      state.params['two']['kernel'],
      state.opt_state[1][0].mu['two']['kernel'],
      state.ema['two']['kernel'],
    )
    assert all(
      k.sharding.is_fully_replicated == (rules is REPLICATED or layout == 'one') for k in kernels
    ), layout
    step = loop.jit_step(settings, task, mesh, *like)
    batch = {k: jax.device_put(v, over_examples(mesh)) for k, v in BATCH.items()}
    state, metrics = step(state, frozen, batch, jax.random.key(3), np.zeros(mesh.size, np.int32))
  return host((metrics['loss'], metrics['grad_norm'], state))


def main(folder):
  expected = one_step('one')
  for layout in LAYOUTS:
    for found, leaf in zip(one_step(layout), expected, strict=True):
      np.testing.assert_allclose(found, leaf, rtol=1e-5, atol=1e-6, err_msg=layout)
  for found, leaf in zip(
    one_step('data x fsdp', accumulate=2), one_step('one', accumulate=2), strict=True
  ):
    np.testing.assert_allclose(found, leaf, rtol=1e-5, atol=1e-6, err_msg='accumulated')

  settings, task = settings_and_task(param_sharding=SHARDED)
  saved, before = Checkpoints(pathlib.Path(folder), keep=9), None
  for step, count in enumerate((1, 2, 4, 8, 4, 1)):  # each takes over from the one before
    mesh = make_mesh((('data', 1), ('fsdp', count)), jax.devices()[:count])
    like, state, _ = start(settings, task, mesh)
    if before is not None:
      state, _ = saved.restore(step - 1, like[0])
      kernel = state.params['one']['kernel']
      assert len(kernel.sharding.device_set) == count and kernel.sharding.is_fully_replicated == (
        count == 1
      )
      for found, leaf in zip(host(state), before, strict=True):
        assert found.dtype == leaf.dtype and found.tobytes() == leaf.tobytes()
    saved.save(step, state, {})
    saved.wait()
    before = host(state)


if __name__ == '__main__':
  main(sys.argv[1])
