"""On eight devices: one training step of the smoke-sized generator in every layout, tokens over
devices included. Asserts inside."""

import pathlib
import runpy

import jax
import numpy as np

from exp_jax.systems.expportrait.generator import dit_task
from exp_jax.training import loop
from exp_jax.training.settings import settings_of
from exp_jax.training.sharding import make_mesh, over_examples

CONFIG = pathlib.Path(__file__).parents[3] / 'configs' / 'dit_a800.py'
SHARDED = ((r'.*blocks/.*kernel', (None, 'fsdp', None)), (r'.*', None))
SPLIT = ((r'.*self/(q|k|v)/kernel', (None, None, 'tensor')), (r'.*', None))
LAYOUTS = (
  ('one', (('data', 1),), ((r'.*', None),), ''),
  ('fsdp', (('data', 2), ('fsdp', 4)), SHARDED, ''),
  ('ulysses', (('data', 4), ('context', 2)), ((r'.*', None),), 'ulysses'),
  ('ring', (('data', 2), ('context', 4)), ((r'.*', None),), 'ring'),
  ('fsdp and ring', (('data', 1), ('fsdp', 4), ('context', 2)), SHARDED, 'ring'),
  ('tensor and ring', (('data', 2), ('context', 2), ('tensor', 2)), SPLIT, 'ring'),
)


def one_step(name, axes, rules, way):
  config = runpy.run_path(str(CONFIG))['get_config']('smoke').unlock()
  config.batch_size, config.mesh, config.param_sharding = 8, axes, rules
  config.model.update(context=way, attention='chunked')
  config.lock()
  settings, task = settings_of(config), dit_task.task(config)
  rng = np.random.default_rng(0)
  batch = {k: rng.integers(0, 256, v.shape).astype(np.uint8) for k, v in task.batch_spec.items()}
  mesh = make_mesh(axes, jax.devices()[:1] if name == 'one' else None)
  with jax.set_mesh(mesh):
    like = loop.abstract_state(settings, task, mesh)
    init = jax.jit(
      loop.init_fn_of(settings, task), out_shardings=jax.tree.map(lambda x: x.sharding, like)
    )
    state, frozen = init(jax.random.key(0))
    step = loop.jit_step(settings, task, mesh, *like)
    batch = {k: jax.device_put(v, over_examples(mesh)) for k, v in batch.items()}
    state, metrics = step(state, frozen, batch, jax.random.key(3), np.zeros(mesh.size, np.int32))
  return [
    np.asarray(x) for x in jax.tree.leaves((metrics['loss'], metrics['grad_norm'], state.ema))
  ]


if __name__ == '__main__':
  expected = one_step(*LAYOUTS[0])
  for layout in LAYOUTS[1:]:
    for found, leaf in zip(one_step(*layout), expected, strict=True):
      # Adam's first step is the sign of a gradient: where that is nothing but rounding, so is the
      # sign.
      close = np.isclose(found, leaf, rtol=1e-5, atol=1e-6)
      assert close.mean() > 0.999 if close.size > 1 else close.all(), (
        layout[0],
        np.abs(found - leaf).max(),
      )
  print('equal')
