"""What the plan says a step takes, and what the process takes when it makes it: prints two numbers
of bytes.

  python measured_memory.py state | activations | recomputed

Linux's record of the most memory that was resident is put back to the present before the state is
made.
"""

import pathlib
import re
import runpy
import sys

import jax
import numpy as np

from exp_jax.systems.expportrait.generator import dit_task
from exp_jax.training import loop, plan
from exp_jax.training.settings import settings_of
from exp_jax.training.sharding import make_mesh, over_examples

CONFIG = pathlib.Path(__file__).parents[3] / 'configs' / 'dit_a800.py'
LONG = dict(width=256, heads=4, ffn=1024, depth=6, frames=17, size=64)
SIZES = {
  'state': dict(width=768, heads=8, ffn=3072, depth=8, frames=5, size=32, remat='none'),
  'activations': LONG | dict(remat='none'),
  'recomputed': LONG | dict(remat='input'),
}


def config_of(width, heads, ffn, depth, frames, size, remat):
  config = runpy.run_path(str(CONFIG))['get_config']('smoke').unlock()
  config.data.update(num_frames=frames, height=size, width=size)
  config.model.update(
    remat=remat, attention='chunked', width=width, heads=heads, ffn=ffn, depth=depth
  )
  return config.lock()


def status(name: str) -> int:
  return 1024 * int(
    re.search(rf'^{name}:\s+(\d+) kB', pathlib.Path('/proc/self/status').read_text(), re.MULTILINE)[
      1
    ]
  )


def main():
  config = config_of(**SIZES[sys.argv[1]])
  settings, task = settings_of(config), dit_task.task(config)
  mesh = make_mesh(config.mesh)
  said, _ = plan.memory_of(settings, task, mesh)
  rng, spec = np.random.default_rng(0), task.batch_spec
  with jax.set_mesh(mesh):
    given = plan.abstract_arguments(settings, task, mesh)
    compiled = loop.jit_step(settings, task, mesh, *given[:2]).lower(*given).compile()
    pathlib.Path('/proc/self/clear_refs').write_text('5')
    before = status('VmRSS')
    fill = lambda x: jax.device_put(
      np.zeros(x.shape, x.dtype)
      if x.dtype == np.int32
      else np.abs(rng.standard_normal(x.shape, np.float32)) * np.float32(0.01),
      x.sharding,
    )
    state, frozen = jax.tree.map(fill, given[:2])
    batch = {
      k: jax.device_put(rng.integers(0, 256, v.shape).astype(np.uint8), over_examples(mesh))
      for k, v in spec.items()
    }
    for _ in range(2):
      state, metrics = compiled(state, frozen, batch, jax.random.key(3), np.zeros(1, np.int32))
    assert np.isfinite(metrics['loss'])
  print(said.total, status('VmHWM') - before, sum(said.parts.values()))


if __name__ == '__main__':
  main()
