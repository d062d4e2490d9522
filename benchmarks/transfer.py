"""The expression transfer in figures: speed, and with a trained export its errors by age gap and
what it leaks.

  python benchmarks/transfer.py [-o out/benchmark_transfer]
  python benchmarks/transfer.py --transfer out/transfer_export [--people 40] [--drivers 3] [--seed 77]
  python benchmarks/transfer.py --transfer embedded --fits out/fits --people 24 ...      # heads fitted to pictures, beside true ones

Speed: 81 frames on about 60 000 vertices, parameters drawn at random, the sizes of the `:actors`
and of the full config.
With --transfer: people of a seed that no config trains on (training: 20, its held-out 21; the demo
1 and 359) are driven by each other; leaves scores.json and age_gap.png. With --fits the same is
done with heads fitted to pictures of these people:

  python -m exp_jax.actors -o out/actors77 --num 24 --frames 1 --size 512 --seed 77
  python -m exp_jax.fit $(for clip in out/actors77/clips/*.mp4; do echo -i $clip; done) -o out/fits --config.limit=1

The command that trains an export:

  python -m exp_jax.train --config=configs/expression_transfer.py:actors --workdir=out/transfer
  python -m exp_jax.export --workdir out/transfer -o out/transfer_export
"""

import argparse
import json
import pathlib
import runpy
import time

import jax
import numpy as np

from exp_jax.actors import sample_actor
from exp_jax.errors import UserError, exits_cleanly
from exp_jax.files.resources import package_file
from exp_jax.geometry.meshes import subdivide
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.systems.expportrait.transfer import transfer_probe, transfer_scores
from exp_jax.systems.expportrait.transfer.network import Transfer, build, mirrored_expressions
from exp_jax.systems.expportrait.transfer.transfer_data import ACTOR, ActorFaces, FitNoise
from exp_jax.systems.expportrait.transfer.transfer_features import neutral_of, surface_of

CONFIG = pathlib.Path(__file__).parents[1] / 'configs' / 'expression_transfer.py'
FRAMES = 81


def speed(head) -> dict[str, float]:
  """Frames a second of each model size, after a warm-up, and how many vertices there were."""
  dense = densify(head, 2, ('face', 'lids', 'ears', 'neck'))
  surface = surface_of(head, dense)
  seen = neutral_of(
    head,
    dense,
    surface,
    np.zeros(head.shape_basis.shape[-1]),
    np.zeros((surface.count, 3), np.float32),
  )
  rng = np.random.default_rng(0)
  expression = rng.uniform(0, 1, (FRAMES, head.expression_basis.shape[-1])).astype(np.float32)
  jaw = 0.1 * rng.normal(size=(FRAMES, 3)).astype(np.float32)
  found = {'dense vertices': surface.count, 'of them moving': len(surface.ids)}
  for mode in ('actors', ''):
    module = build(runpy.run_path(str(CONFIG))['get_config'](mode))
    few = slice(0, 8)
    params = jax.jit(module.init)(
      jax.random.key(0),
      expression[None, :2],
      jaw[None, :2],
      seen.neutral[None],
      seen.normals[None],
      seen.relief[None],
      surface.place,
      surface.area,
      surface.mask,
      np.arange(8)[None, few],
    )['params']
    transfer = Transfer.of(
      module, params, head, dense, surface, order=mirrored_expressions(head.expression_names)
    )
    transfer.on_surface(seen, expression, jaw)
    start = time.perf_counter()
    transfer.on_surface(seen, expression, jaw)
    found[f'frames/s, {mode or "full"} size'] = FRAMES / (time.perf_counter() - start)
  return found


def densities(path, head, people: int, seed: int) -> float:
  """Relative difference of the offsets of the same surface on the mesh of training and on the next
  finer one."""
  faces = ActorFaces(head.name, count=people, seed=seed, frames_per_second=1.5)
  finer = densify(head, faces.dense.levels + 1)
  step = subdivide(np.asarray(faces.dense.faces), faces.surface.count)
  here, there = Transfer(path, head, faces.dense), Transfer(path, head, finer)
  found = []
  for i in range(people):
    actor = sample_actor(np.random.default_rng([seed, i]), faces.stage)
    expression, jaw, _ = faces.frames(i, np.random.default_rng([3, i]), 12)
    static = np.asarray(actor.static_offsets)
    a, b = np.zeros((12, faces.surface.count, 3)), np.zeros((12, len(finer.coarse_ids), 3))
    a[:, here.surface.ids] = here.of_person(np.asarray(actor.shape), static, expression, jaw)
    raised = np.einsum('nk,nkc->nc', np.asarray(step.weights), static[np.asarray(step.sources)])
    b[:, there.surface.ids] = there.of_person(np.asarray(actor.shape), raised, expression, jaw)
    found.append(np.linalg.norm(b[:, : a.shape[1]] - a) / np.linalg.norm(a))
  return float(np.mean(found))


def on_fits(path: pathlib.Path, head, fits: str, *, people: int, drivers: int, seed: int) -> dict:
  """Scores of people whose heads were fitted to pictures, and of the same people with their true
  heads."""
  faces = ActorFaces(head.name, count=people, seed=seed, frames_per_second=1.5, fits=fits)
  transfer = Transfer(path, faces.head, faces.dense)
  if missing := [
    i for i in range(people) if not (pathlib.Path(fits) / f'{ACTOR}{i:05d}.npz').is_file()
  ]:
    raise UserError(f'{fits} has no fit of person {missing[0]}; fit all {people}, or give --people')
  shown = lambda i, seen: faces.fitted(i, np.random.default_rng(0))
  score = lambda **more: transfer_scores.summary(
    transfer_scores.score_pairs(transfer, faces, drivers=drivers, **more)
  )
  return {'heads fitted to pictures': score(shown=shown), 'the same people, true heads': score()}


def quality(
  path: pathlib.Path, output: pathlib.Path, head, *, people: int, drivers: int, seed: int
) -> dict:
  faces = ActorFaces(head.name, count=people, seed=seed, frames_per_second=1.5)
  transfer = Transfer(path, faces.head, faces.dense)
  pairs = transfer_scores.score_pairs(transfer, faces, drivers=drivers)
  transfer_scores.plot_age_gap(pairs, output / 'age_gap.png')
  expression, jaw, _ = faces.frames(0, np.random.default_rng(0), 12)
  order = mirrored_expressions(head.expression_names)
  # a child and an old person who are otherwise alike
  stage, aged = faces.stage, []
  for age in (0.05, 0.95):
    actor = sample_actor(np.random.default_rng([seed, 0]), stage, age=age)
    seen = neutral_of(
      head, faces.dense, faces.surface, np.asarray(actor.shape), np.asarray(actor.static_offsets)
    )
    aged.append(
      float(1e3 * np.sqrt(np.mean(np.sum(transfer.on_surface(seen, expression, jaw) ** 2, -1))))
    )
  strengths = [
    1e3 * float(np.abs(transfer.on_surface(faces.neutral(0), s * expression, s * jaw)).mean())
    for s in np.linspace(0, 1.5, 7)
  ]
  noise, rough = FitNoise(faces.surface, faces.neutral(0).normals), {}
  for size in (2e-5, 5e-5, 1e-4, 2e-4):
    shown = lambda i, seen, size=size: noise(seen, np.random.default_rng([5, i]), size)
    found = transfer_scores.summary(transfer_scores.score_pairs(transfer, faces, shown=shown))
    rough |= {
      f'{1e3 * size:g} mm, {kind} of copy': found[f'{kind} of copy']
      for kind in ('offsets', 'normals')
    }
  return {
    'held out': transfer_scores.summary(pairs),
    'neutral head as rough as a fit of': rough,
    'by age gap': transfer_scores.by_age_gap(pairs),
    'mirrored driving, relative difference': transfer_probe.mirror_error(
      transfer, faces, order, 0, expression, jaw
    ),
    'two densifications, relative difference': densities(path, head, 4, seed),
    'mean |offset| at strengths 0..1.5, mm': strengths,
    'rms offset of one person at age 0.05 and 0.95, mm': aged,
    'probe': transfer_probe.probe(transfer, faces, seed=seed),
  }


@exits_cleanly
def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--transfer', type=pathlib.Path, help="export of a trained module, or 'embedded'"
  )
  parser.add_argument(
    '--fits', help='folder of fits of the first people of --seed; scores these and nothing else'
  )
  parser.add_argument(
    '-o', '--output', type=pathlib.Path, default=pathlib.Path('out/benchmark_transfer')
  )
  parser.add_argument('--people', type=int, default=40)
  parser.add_argument('--drivers', type=int, default=3, help='of each person')
  parser.add_argument('--seed', type=int, default=77)
  args = parser.parse_args()
  args.output.mkdir(parents=True, exist_ok=True)
  head = load_head('makehuman')
  if args.fits and not args.transfer:
    parser.error('--fits needs --transfer')
  if args.transfer == pathlib.Path('embedded'):
    args.transfer = package_file('embedded', 'transfer')
  results = {'device': jax.devices()[0].device_kind}
  if args.fits:
    results |= on_fits(
      args.transfer, head, args.fits, people=args.people, drivers=args.drivers, seed=args.seed
    )
  else:
    results['speed'] = speed(head)
  if args.transfer and not args.fits:
    results |= quality(
      args.transfer, args.output, head, people=args.people, drivers=args.drivers, seed=args.seed
    )
  (args.output / 'scores.json').write_text(json.dumps(results, indent=1) + '\n')
  for name, value in results.items():
    if name == 'by age gap':
      print(
        f'{"age gap":<14}{"pairs":>6}'
        + ''.join(f'{m + ", mm":>18}' for m in transfer_scores.METHODS)
        + ''.join(f'{m + ", deg":>18}' for m in transfer_scores.METHODS)
      )
      for gap, row in value.items():
        print(
          f'{gap:<14}{row["pairs"]:>6}'
          + ''.join(
            f'{row[f"{m}, {unit}"]:>18.4f}'
            for unit in ('mm', 'degrees')
            for m in transfer_scores.METHODS
          )
        )
    elif isinstance(value, dict):
      print(f'{name}:')
      for key, number in value.items():
        print(
          f'  {key:<34}{number:>12.4f}' if isinstance(number, float) else f'  {key:<34}{number:>12}'
        )
    else:
      print(f'{name}: {value}')


if __name__ == '__main__':
  main()
