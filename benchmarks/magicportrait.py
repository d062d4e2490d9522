"""What MagicPortrait's tiny model does on people it never saw, where the truth is known, and how
its ablations compare.

  python -m exp_jax actors -o out/magicportrait/actors --num 132 --seed 77
  python benchmarks/magicportrait.py out/magicportrait/export --actors out/magicportrait/actors --first 116 --count 12 \\
      -o out/magicportrait/benchmark [--steps 10]
  python benchmarks/magicportrait.py FULL_EXPORT ARM_EXPORT ... --actors ... -o ...                 # arms, each against the first

Cases and rows are those of `actor_cases.py`; besides
  repeat      the first frame, held still
  codec       the truth through the autoencoder: what the best network could reach
  unaligned   cross, with maps of the driver's own head in its own picture
  swap        decibels by which the maps of j bring the result nearer to j's motion than i's own maps do
Differences of arms are paired over people, with a 95 % interval by 2,000 resamplings of the people.
Exports of the first stage are drawn frame by frame.
"""

import argparse
import dataclasses
import json
import pathlib

import jax
import numpy as np
from actor_cases import run, score, sheet

from exp_jax.errors import ArgumentParser
from exp_jax.files.atomic import write_text
from exp_jax.metrics import psnr
from exp_jax.systems.magicportrait.animate import load
from exp_jax.systems.magicportrait.options import Options

_RESAMPLINGS = 2000


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
  """95 % interval of the mean over people, by resampling them."""
  rng = np.random.default_rng(seed)
  means = rng.choice(values, (_RESAMPLINGS, len(values))).mean(1)
  return tuple(float(q) for q in np.quantile(means, (0.025, 0.975)))


def per_case(cases: list[dict], key: str = 'result') -> np.ndarray:
  """PSNR of every case that moves, in their order."""
  return np.array(
    [psnr(c[key], c['truth'], mask=c['mask']).value for c in cases if c['mask'].any()]
  )


def add_unaligned(model, cases: list[dict], options: Options) -> None:
  """`unaligned` of every cross case: what the model makes of maps of the driver's own head."""
  loose = dataclasses.replace(options, alignment='none', smoothing=0.0)
  for case in cases:
    if case['kind'] == 'cross':
      scene = model.scene(case['picture'], case['subject'], case['driving'], loose)
      case['unaligned'] = np.stack(list(model.drawn(scene, loose)))


def arm(export: str, args, indices: list[int]) -> tuple[list[dict], dict]:
  """Cases and scores of one export."""
  first = json.loads((pathlib.Path(export) / 'config.json').read_text())['task'].endswith('stage1')
  options = Options(steps=args.steps, guidance=args.guidance)
  with load(export, frame_by_frame=first) as model:
    cases = run(model, args.actors, indices, options)
    add_unaligned(model, cases, options)
    sampling = dataclasses.asdict(model.generator.sampling(**options.sampling))
  crossed = [c for c in cases if c['kind'] == 'cross']
  found = score(cases) | {
    'sampling': sampling,
    'unaligned': float(per_case(crossed, 'unaligned').mean()),
  }
  repeated = [dict(c, result=np.broadcast_to(c['reference'], c['truth'].shape)) for c in cases]
  gain = per_case(cases) - per_case(repeated)
  return cases, found | {
    'above repeating': {'psnr': float(gain.mean()), 'interval': interval(gain)}
  }


def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('exports', nargs='+')
  parser.add_argument('--actors', type=pathlib.Path, required=True)
  parser.add_argument('--first', type=int, default=0)
  parser.add_argument('--count', type=int, default=12)
  parser.add_argument('--steps', type=int)
  parser.add_argument('--guidance', type=float)
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True)
  args = parser.parse_args(argv)
  args.output.mkdir(parents=True, exist_ok=True)
  indices, results, before = list(range(args.first, args.first + args.count)), {}, None
  for export in args.exports:
    cases, found = arm(export, args, indices)
    values = per_case(cases)
    if before is not None:
      found['against the first'] = {
        'psnr': float((values - before).mean()),
        'interval': interval(values - before),
      }
    before = values if before is None else before
    results[pathlib.Path(export).name] = found
    sheet(args.output / f'sheet_{pathlib.Path(export).name}.png', cases[:12])
  write_text(args.output / 'scores.json', json.dumps(results, indent=1) + '\n')
  print(json.dumps(results, indent=1), f'\n{jax.default_backend()}')


if __name__ == '__main__':
  main()
