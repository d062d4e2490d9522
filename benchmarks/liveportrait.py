"""Times LivePortrait's modules and whole frames, beside the same networks in torch in the same run.

  python benchmarks/liveportrait.py [--batches 1] [--modules motion,warping] [--json out.json]      two CPU cores, minutes
  python benchmarks/liveportrait.py --batches 1,8 --dtypes float32,bfloat16 --rounds 100 --compile   a GPU

| line | what runs |
|---|---|
| appearance | F, once per source |
| motion | M, once per driving frame |
| warping, generator | W and G, once per frame |
| perceptrons | stitching, eyes and lips |
| frame | M, stitching, W and G: what a driving frame costs |

Milliseconds per picture of the batch. Ours and torch's take turns, the fastest of several rounds
counts; the torch networks are those of the parity tests, with norms as layers, `--compile` for
torch.compile. Without torch its column stays empty. Ratios of
one run are sound on a busy machine, times are not. Bars: 5 ms a frame at batch 1 on an H200 and
twice torch's throughput at batch 8; on two CPU cores not slower than torch in float32.
"""

import argparse
import importlib.util
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.systems.liveportrait.models import extract_motion, networks, paint, random_model
from exp_jax.systems.liveportrait.networks.convolutions import compiler_options
from exp_jax.systems.liveportrait.networks.keypoints import posed
from exp_jax.systems.liveportrait.networks.retargeting import retargeting_move, stitching_move

MODULES = ('appearance', 'motion', 'warping', 'generator', 'perceptrons', 'frame')
_ORACLE = (
  pathlib.Path(__file__).parents[1] / 'tests' / 'systems' / 'liveportrait' / 'torch_networks.py'
)


def inputs(nets, batch):
  """Numpy arrays of the shapes that the modules take."""
  rng, S = np.random.default_rng(0), nets.input_size
  draw = lambda *shape: rng.standard_normal((batch, *shape)).astype(np.float32)
  return dict(
    image=rng.uniform(size=(batch, S, S, 3)).astype(np.float32),
    volume=draw(nets.warping.depth, S // 4, S // 4, nets.warping.channels),
    source=0.3 * draw(21, 3),
    driving=0.3 * draw(21, 3),
    features=draw(S // 4, S // 4, nets.generator.features),
    eyes=draw(3),
    lip=draw(2),
  )


def ours(variant, dtype, batch):
  """{module: function without arguments}."""
  nets = networks(variant, dtype=dtype)
  params = jax.tree.map(
    lambda x: jnp.asarray(x, dtype) if x.ndim > 1 else x, random_model(variant).params
  )
  x = {k: jnp.asarray(v) for k, v in inputs(nets, batch).items()}

  def frame(params, image, volume, source):
    driving = posed(extract_motion(nets, params, image))
    driving = driving + stitching_move(nets.stitching, params['stitching'], source, driving)
    return paint(nets, params, volume, source, driving)

  def perceptrons(params, source, driving, eyes, lip):
    return (
      stitching_move(nets.stitching, params['stitching'], source, driving),
      retargeting_move(nets.eyes, params['eyes'], source, eyes),
      retargeting_move(nets.lip, params['lip'], source, lip),
    )

  apply = lambda part: lambda params, *x: getattr(nets, part).apply({'params': params[part]}, *x)
  calls = {
    'appearance': (apply('appearance'), ('image',)),
    'motion': (apply('motion'), ('image',)),
    'warping': (apply('warping'), ('volume', 'driving', 'source')),
    'generator': (apply('generator'), ('features',)),
    'perceptrons': (perceptrons, ('source', 'driving', 'eyes', 'lip')),
    'frame': (frame, ('image', 'volume', 'source')),
  }

  def ready(name, call, names):
    # as in `models.compiled`
    options = (
      compiler_options() if name in ('appearance', 'warping', 'generator', 'frame') else None
    )
    compiled, given = jax.jit(call, compiler_options=options), [x[name] for name in names]
    own = (
      params
      if name == 'frame'
      else {
        n: params[n] for n in (('stitching', 'eyes', 'lip') if name == 'perceptrons' else (name,))
      }
    )
    return lambda: jax.block_until_ready(compiled(own, *given))

  return {name: ready(name, *call) for name, call in calls.items()}


def peers(variant, dtype, batch, compiled):
  """The same of torch, or {} where it is not installed."""
  try:
    import torch
  except ImportError:
    return {}
  spec = importlib.util.spec_from_file_location('torch_networks', _ORACLE)
  oracle = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(oracle)
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  kind = getattr(torch, dtype)
  parts = {
    n: p.to(device, kind)
    for n, p in oracle.build(oracle.BASE if variant == 'base' else oracle.TINY).items()
  }
  if compiled:
    parts = {n: torch.compile(p, mode='max-autotune') for n, p in parts.items()}
  wait = torch.cuda.synchronize if device == 'cuda' else lambda: None
  first = lambda v: np.moveaxis(v, -1, 1) if v.ndim > 3 else v
  x = {
    k: torch.from_numpy(np.ascontiguousarray(first(v))).to(device, kind)
    for k, v in inputs(networks(variant), batch).items()
  }
  flat = lambda *ts: torch.cat([t.reshape(batch, -1) for t in ts], 1)
  if dtype != 'float32' and device == 'cpu':
    return {}  # no grid_sample in bfloat16 there

  def frame():
    motion = parts['motion'](x['image'])
    driving = (motion['kp'] + motion['exp']).view(batch, 21, 3) * motion['scale'][:, None]
    driving = driving + parts['stitching'](flat(x['source'], driving))[:, :63].view(batch, 21, 3)
    return parts['generator'](parts['warping'](x['volume'], driving, x['source'])['out'])

  calls = {
    'appearance': lambda: parts['appearance'](x['image']),
    'motion': lambda: parts['motion'](x['image']),
    'warping': lambda: parts['warping'](x['volume'], x['driving'], x['source']),
    'generator': lambda: parts['generator'](x['features']),
    'frame': frame,
    'perceptrons': lambda: (
      parts['stitching'](flat(x['source'], x['driving'])),
      parts['eyes'](flat(x['source'], x['eyes'])),
      parts['lip'](flat(x['source'], x['lip'])),
    ),
  }

  def ready(call):
    def run():
      with torch.no_grad():
        call()
      wait()

    return run

  return {name: ready(call) for name, call in calls.items()}


def fastest(functions, rounds):
  """Seconds of the fastest round of each, taking turns after one round to compile."""
  found = [[] for _ in functions]
  for _ in range(rounds + 1):
    for times, function in zip(found, functions):
      began = time.perf_counter()
      function()
      times.append(time.perf_counter() - began)
  return [min(times[1:]) for times in found]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--variant', default='base', choices=('base', 'tiny'))
  parser.add_argument('--modules', default=','.join(MODULES))
  parser.add_argument('--batches', default='1')
  parser.add_argument('--dtypes', default='float32')
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--compile', action='store_true', help='torch.compile the peer')
  parser.add_argument('--json', help='also write the rows here')
  options = parser.parse_args()
  rows, device = [], jax.devices()[0].device_kind
  print(f'{device}, jax {jax.__version__}, {options.variant}')
  print(f'{"dtype":9} {"batch":>5} {"module":12} {"ms":>10} {"torch ms":>10} {"ours / torch":>13}')
  for dtype in options.dtypes.split(','):
    for batch in (int(n) for n in options.batches.split(',')):
      mine, theirs = (
        ours(options.variant, dtype, batch),
        peers(options.variant, dtype, batch, options.compile),
      )
      for name in options.modules.split(','):
        functions = [mine[name]] + ([theirs[name]] if name in theirs else [])
        own, *other = (1000 * seconds / batch for seconds in fastest(functions, options.rounds))
        rows.append(
          dict(dtype=dtype, batch=batch, module=name, ms=own, torch_ms=other[0] if other else None)
        )
        print(
          f'{dtype:9} {batch:5} {name:12} {own:10.2f} '
          + (f'{other[0]:10.2f} {own / other[0]:13.2f}' if other else f'{"-":>10} {"-":>13}'),
          flush=True,
        )
  if options.json:
    pathlib.Path(options.json).write_text(
      json.dumps(dict(device=device, rows=rows), indent=1) + '\n'
    )


if __name__ == '__main__':
  main()
