"""The portrait's training step with attention 'splash' at toy size, compiled by the TPU's compiler
for four chips that are not there.

  python tpu_step.py v5p:2x2x1

Prints a line per layout: kernels in the program, GB on a device. Needs libtpu.
"""

import pathlib
import runpy
import sys

import jax

from exp_jax.layers.attention import ahead_of_time
from exp_jax.systems.expportrait.generator import dit_task
from exp_jax.training import loop, plan
from exp_jax.training.settings import settings_of
from exp_jax.training.sharding import make_mesh

CONFIG = pathlib.Path(__file__).parents[3] / 'configs' / 'dit_a800.py'
LAYOUTS = (
  ((('data', 1), ('fsdp', 4), ('context', 1), ('tensor', 1)), 'input'),
  ((('data', 1), ('fsdp', 2), ('context', 2), ('tensor', 1)), 'attention'),
)


def config_of(mesh, remat):
  """Two heads of 128 channels, 320 tokens, text and an image branch as 14B has; encoders that take
  seconds to compile."""
  config = runpy.run_path(str(CONFIG))['get_config']('tpu').unlock()
  config.data.update(num_frames=5, height=64, width=64, latents=False)
  config.vae.name, config.condition.encoder = 'space_to_depth', 'patch'
  config.model.update(width=256, heads=2, ffn=512, depth=3, remat=remat)
  config.batch_size, config.mesh = 4, mesh
  return config.lock()


def main():
  found, _, _ = plan.described_devices(sys.argv[1], ())
  for axes, remat in LAYOUTS:
    config = config_of(axes, remat)
    settings, task, mesh = settings_of(config), dit_task.task(config), make_mesh(axes, found)
    with ahead_of_time('tpu'):
      memory, _ = plan.memory_of(settings, task, mesh)
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        given = plan.abstract_arguments(settings, task, mesh)
        text = loop.jit_step(settings, task, mesh, *given[:2]).lower(*given).as_text()
    assert memory.compiler == 'tpu' and memory.temporaries > 0
    print(
      dict(axes),
      remat,
      text.count('tpu_custom_call'),
      f'{memory.total / 1e9:.3f}',
      f'{memory.seconds:.0f} s',
      flush=True,
    )


if __name__ == '__main__':
  main()
