"""A random Wan 2.1 T2V-1.3B of full size: written as diffusers does, converted, and run with the
portrait conditions.

  python tests/convert/full_size_wan.py FOLDER           about 6 GB of disk, minutes on two cores

The conversion takes half a GB of memory, the run 12.

Prints what the conversion took, and how far the first step with zero-init encoders is from the
unmodified backbone.
"""

import json
import pathlib
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from exp_jax.convert import wan
from exp_jax.convert.wan_weights import wan_names
from exp_jax.files.safetensors import SafetensorsWriter, nested
from exp_jax.networks.wan_dit import wan_dit
from exp_jax.networks.weights import load_weights, place
from exp_jax.systems.expportrait.generator.conditions import PoseEncoder, ReferenceEncoder
from exp_jax.systems.expportrait.generator.dit import PortraitDiT, reference_code


def write_folder(out: pathlib.Path, variant: str) -> int:
  """Shards, index and config.json as diffusers writes them, random bfloat16; returns the bytes."""
  model, rng, table = wan_dit(variant), np.random.default_rng(0), {}
  leaves, plan = wan.abstract_params(model), wan.plan('dit', model, 'diffusers')
  names = list(plan)
  shape = lambda piece: leaves[piece.ours].shape[piece.layer is not None :]
  foreign = lambda piece: (
    wan_names.from_ours(np.broadcast_to(np.uint8(0), shape(piece)), piece.layout).shape
  )
  out.mkdir(parents=True)
  for i, part in enumerate((names[::2], names[1::2])):
    file = f'diffusion_pytorch_model-{i + 1:05}-of-00002.safetensors'
    with SafetensorsWriter(
      out / file, {n: (foreign(plan[n]), ml_dtypes.bfloat16) for n in part}, {'format': 'pt'}
    ) as writer:
      for name in part:
        piece = plan[name]
        middle = float('norm' in piece.ours and not piece.ours.endswith('bias'))
        value = middle + 0.02 * rng.standard_normal(shape(piece), np.float32)
        writer.write(name, wan_names.from_ours(value, piece.layout).astype(ml_dtypes.bfloat16))
    table |= dict.fromkeys(part, file)
  index = {'metadata': {}, 'weight_map': table}
  (out / 'diffusion_pytorch_model.safetensors.index.json').write_text(json.dumps(index))
  (out / 'config.json').write_text(json.dumps({'num_attention_heads': model.heads}))
  return sum((out / file).stat().st_size for file in set(table.values()))


def first_step(folder: pathlib.Path) -> tuple[float, float]:
  """(largest difference, largest value) of the portrait network's first output and the
  backbone's."""
  weights = load_weights(folder, 'dit')
  options = dict(variant='wan_1_3b', dtype='bfloat16', residual_dtype='float32', remat='none')
  alone, wide = wan_dit(**options), wan_dit(**options, in_channels=36)
  like = lambda model: {
    name: jax.ShapeDtypeStruct(s.shape, weights.arrays[name].dtype)
    for name, s in wan.abstract_params(model).items()
  }
  params = place(weights.arrays, nested(like(wide).items()))
  keys = jax.random.split(jax.random.key(0), 6)
  image = lambda key, *frames: jax.random.uniform(key, (1, *frames, 64, 96, 3))
  given = dict(
    reference=image(keys[0]),
    reference_normals=image(keys[1]),
    normals=image(keys[2], 5),
    reference_latents=jax.random.normal(keys[3], (1, 2, 8, 12, 16)),
  )
  z, t, text = (
    jax.random.normal(keys[4], (1, 2, 8, 12, 16)),
    jnp.array([700.0]),
    jax.random.normal(keys[5], (1, 512, 4096)),
  )
  model = PortraitDiT(wide, (4, 8, 8), zero_init=True)
  own = {
    'backbone': params,
    'pose': PoseEncoder(1536, 16, True).init(keys[0], given['normals'])['params'],
    'reference': ReferenceEncoder(20, 16, True).init(keys[0], jnp.zeros((1, 64, 96, 6)))['params'],
  }
  first = np.asarray(jax.jit(model.apply)({'params': own}, z, t, text=text, **given))
  params['patch'] = {'kernel': params['patch']['kernel'][:64], 'bias': params['patch']['bias']}
  second = np.asarray(jax.jit(alone.apply)({'params': params}, z, t, text))
  assert reference_code(given['reference_latents'], 2, mask_channels=4, spread=False).any()
  return float(np.abs(first - second).max()), float(np.abs(second).max())


def main():
  folder = pathlib.Path(sys.argv[1])
  if not (folder / 'diffusers').exists():
    print(f'written: {write_folder(folder / "diffusers", "wan_1_3b") / 1e9:.2f} GB', flush=True)
  began = time.perf_counter()
  subprocess.run(
    [
      sys.executable,
      '-m',
      'exp_jax.convert.wan',
      'import',
      str(folder / 'diffusers'),
      '-o',
      str(folder / 'ours'),
    ],
    check=True,
  )
  memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
  print(
    f'converted in {time.perf_counter() - began:.0f} s, {memory:.2f} GB of memory at most',
    flush=True,
  )
  difference, size = first_step(folder / 'ours')
  memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
  print(
    f'first step: at most {difference:.2g} from the backbone alone, whose output reaches '
    f'{size:.2g}; {memory:.2f} GB'
  )


if __name__ == '__main__':
  main()
