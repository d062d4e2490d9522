"""How fast examples come: cost of a clip by its parts, and whether the loader keeps ahead of a
training step.

  python benchmarks/input.py [--clips 64 --frames 13 --size 64 --batch 8]

Writes an ArrayRecord file of synthetic clips as `prepare` does, reads it back by the loader of
training, and trains the `tiny` step of dit_a800.py:smoke on one batch again and again. Leaves
docs/results/figures/input.json; ends with 1 if the loader gives less than three times what the step
takes.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from record import Column, write_record  # noqa: E402

from configs.dit_a800 import get_config  # noqa: E402
from exp_jax.catalog.tasks import load_task  # noqa: E402
from exp_jax.data.loader import batches_from  # noqa: E402
from exp_jax.data.sources import PortraitClips, from_bytes, write_records  # noqa: E402
from exp_jax.data.synthetic import synthetic_clip  # noqa: E402
from exp_jax.errors import exits_cleanly  # noqa: E402
from exp_jax.training import loop  # noqa: E402
from exp_jax.training.settings import settings_of  # noqa: E402
from exp_jax.training.sharding import make_mesh, over_examples  # noqa: E402

REPEATS = 5  # the fastest counts: others may use the machine


def fastest(action, repeats: int = REPEATS) -> float:
  """Seconds of `action`, the least of several."""
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    action()
    times.append(time.perf_counter() - began)
  return min(times)


def clips_per_second(open_batches, batch: int, seconds: float = 2.0) -> float:
  """Of an iterator that has begun."""
  batches = open_batches(None)
  next(batches)
  began, count = time.perf_counter(), 0
  while time.perf_counter() - began < seconds:
    next(batches)
    count += batch
  rate = count / (time.perf_counter() - began)
  batches.close()
  return rate


def step_seconds(config, batch: dict) -> float:
  """One compiled update on a batch that is there already."""
  settings, (_, task) = settings_of(config), load_task(config)
  mesh = make_mesh(settings.mesh)
  with jax.set_mesh(mesh):
    like = loop.abstract_state(settings, task, mesh)
    state, frozen = jax.jit(loop.init_fn_of(settings, task))(jax.random.key(0))
    step = loop.jit_step(settings, task, mesh, *like)
    batch = {k: jax.device_put(v, over_examples(mesh)) for k, v in batch.items()}
    arguments = (batch, jax.random.key(1), np.zeros(mesh.size, np.int32))
    state, _ = step(state, frozen, *arguments)

    def one():
      nonlocal state
      state, metrics = step(state, frozen, *arguments)
      jax.block_until_ready(metrics)

    return fastest(one, 3 * REPEATS)


COLUMNS = [Column('what', 'what'), Column('value', 'figure', '', 2), Column('unit', 'unit')]


@exits_cleanly
def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  for name, value in dict(clips=64, frames=13, size=64, batch=8, threads=2, workers=0).items():
    parser.add_argument(f'--{name}', type=int, default=value)
  args = parser.parse_args()
  config, before = get_config('smoke'), os.getloadavg()[0]
  with config.unlocked():
    config.data.update(name='portrait_clips', num_frames=5, height=args.size, width=args.size)
    config.batch_size = args.batch
  with tempfile.TemporaryDirectory() as folder:
    config.data.path = os.path.join(folder, 'clips.array_record')
    write_records(
      config.data.path,
      (
        synthetic_clip(i, num_frames=args.frames, height=args.size, width=args.size)
        for i in range(args.clips)
      ),
    )
    size = os.path.getsize(config.data.path) / args.clips
    module, _ = load_task(config)
    source, transform = module.examples(config)
    clips = PortraitClips(config.data.path)
    raw = clips._sources[0]
    rng, record, data = np.random.default_rng(0), clips[0], raw[0]
    indices = range(min(args.clips, 32))
    read = fastest(lambda: [raw[i] for i in indices]) / len(indices)
    decode = fastest(lambda: [from_bytes(data) for _ in indices]) / len(indices)
    transformed = fastest(lambda: [transform(record, rng) for _ in indices]) / len(indices)
    opened = lambda **more: batches_from(source, transform, batch_size=args.batch, seed=0, **more)
    batch = next(opened()(None))
    loader = clips_per_second(opened(threads=args.threads, workers=args.workers), args.batch)
    step = step_seconds(config, batch)
  ratio = loader * step / args.batch
  rows = [
    dict(what=what, value=value, unit=unit)
    for what, value, unit in (
      ('a clip on disk', size / 1e3, 'kB'),
      ('reading a clip', 1e3 * read, 'ms'),
      ('decoding it', 1e3 * decode, 'ms'),
      ('transforming it', 1e3 * transformed, 'ms'),
      ('loader', loader, 'clips a second'),
      ('a step', 1e3 * step, 'ms'),
      ('clips that the steps take', args.batch / step, 'clips a second'),
      ('loader over steps', ratio, ''),
    )
  ]
  print(write_record('input', COLUMNS, rows, load=(before, os.getloadavg()[0])))
  return 0 if ratio >= 3 else 1


if __name__ == '__main__':
  sys.exit(main())
