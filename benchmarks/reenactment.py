"""The paper's claims where the truth is known: full head, driver's offsets copied, linear model
alone; one generator design.

  python benchmarks/reenactment.py [-o out/reenactment] [--actors 112] [--steps 300]

Synthetic people of which the last 12 are measured on. Two generators of the same design, data,
steps and seed are trained, one on normal maps and previews of the personalized heads, one on those
of the linear model alone (ExpPortrait, Fig. 7); the first is also driven by the driver's dynamic
offsets (Fig. 8). Autoencoder and expression transfer are the embedded ones. Prints the table;
leaves it as table.md and scores.json, with sheets and videos of each variant.

  PSNR, L1          of the frames against the rendered truth, in the head's matte, moving frames
  wrinkle normals   degrees between the normals shown to the generator and the true ones, where the person wrinkles
  AED, APD          distance of expression and head pose (exp_jax's own fit to MediaPipe's landmarks of the frames, four times
                    enlarged) from the same of the truth; coverage: share of clips whose face was
                    found in most frames
"""

import argparse
import json
import pathlib
import sys

import numpy as np

from exp_jax.errors import UserError, exits_cleanly
from exp_jax.recipes.demo_stages import Stage, run_stages

HELD_OUT, SEED = 12, 2


def stages(out: pathlib.Path, actors: int, steps: int) -> list[Stage]:
  """Data and training of both generators."""
  from exp_jax.systems.expportrait.embedded import embedded

  people, vae = out / 'actors', embedded('vae')
  found = [
    Stage(
      'actors',
      'People.',
      [
        'actors',
        '-o',
        f'{people}',
        '--num',
        f'{actors}',
        '--frames',
        '16',
        '--size',
        '128',
        '--seed',
        f'{SEED}',
      ],
      people / 'sheet.png',
    )
  ]
  for kind, truth in (('full', people / 'truth'), ('linear', out / 'plain')):
    shards, previews, latents, dit = (
      out / f'{kind}_{name}' for name in ('shards', 'previews', 'latents', 'dit')
    )
    found += [
      Stage(
        f'{kind} prepare',
        'Normal maps.',
        [
          'prepare',
          '--clips',
          f'{people / "clips"}',
          '--subjects',
          f'{truth}',
          '--mattes',
          f'{people / "mattes"}',
          '-o',
          f'{shards}',
          '--size',
          '128',
          '--holdout',
          f'{HELD_OUT}',
        ],
        shards / 'train.array_record',
        ('actors',),
      ),
      Stage(
        f'{kind} previews',
        'Textured previews.',
        [
          'previews',
          '-i',
          f'{shards / "train.array_record"}',
          '--subjects',
          f'{truth}',
          '-o',
          f'{previews}',
        ],
        previews / 'previews.array_record',
        (f'{kind} prepare',),
      ),
      Stage(
        f'{kind} encode',
        'Latents.',
        ['encode', '-i', f'{previews}', '-o', f'{latents}', '--vae', f'{vae}', '--mirror'],
        latents / 'encoded.array_record',
        (f'{kind} previews',),
      ),
      Stage(
        f'{kind} dit',
        'The generator.',
        [
          'train',
          '--config=configs/dit_a800.py:demo',
          f'--workdir={dit}',
          f'--config.data.path={latents}',
          f'--config.vae.path={vae}',
          f'--config.total_steps={steps}',
        ],
        dit / 'finished',
        (f'{kind} encode',),
      ),
      Stage(
        f'{kind} export',
        'Averaged weights.',
        ['export', '--workdir', f'{dit}', '-o', f'{out / f"{kind}_export"}'],
        out / f'{kind}_export',
        (f'{kind} dit',),
      ),
    ]
  return found


def make_plain(people: pathlib.Path, output: pathlib.Path) -> None:
  """The same subject files without offsets."""
  from exp_jax.heads.personalized import load_subject, save_subject
  from exp_jax.systems.expportrait.evaluation.actor_benchmark import plain

  output.mkdir(parents=True, exist_ok=True)
  for path in sorted((people / 'truth').glob('*.npz')):
    if not (output / path.name).is_file():
      save_subject(output / path.name, plain(load_subject(path)))


def seen_motion(frames: np.ndarray, estimator, head):
  """(expression [T, E], pose [T, 6]: neck and head) as fitted to frames [T, H, W, 3] in 0..1; None
  where no face is found."""
  from exp_jax.fitting.coarse.fit import fit_coarse
  from exp_jax.media.images import resize
  from exp_jax.observe.face_crop import crop_observation, head_crop
  from exp_jax.observe.landmarks import observe

  large = np.stack(
    [resize(np.rint(np.clip(f, 0, 1) * 255).astype(np.uint8), (512, 512)) for f in frames]
  )
  try:
    seen = observe(large, name='a generated clip', estimator=estimator)
    fit = fit_coarse(head, crop_observation(seen, head_crop(seen, size=512)))
  except UserError:
    return None
  turn = [head.joint(name) for name in ('neck', 'head')]
  return np.asarray(fit.expression), np.asarray(fit.pose)[:, turn].reshape(len(frames), -1)


def measure(out: pathlib.Path, actors: int) -> dict:
  """Scores by variant and kind."""
  from exp_jax.heads.densify import densify
  from exp_jax.heads.head_files import load_head
  from exp_jax.observe.landmarks import FaceEstimator
  from exp_jax.systems.expportrait.embedded import embedded
  from exp_jax.systems.expportrait.evaluation import actor_benchmark as benchmark
  from exp_jax.systems.expportrait.generator.loading import load_generator
  from exp_jax.systems.expportrait.transfer.network import Transfer

  head = load_head('makehuman')
  transfer, table = Transfer(embedded('transfer'), head, densify(head, 1)), {}
  with FaceEstimator() as estimator:
    truths: dict = {}
    for variant in benchmark.VARIANTS:
      generator = load_generator(out / ('linear_export' if variant == 'linear' else 'full_export'))
      cases, offsets = benchmark.run_cases(
        generator,
        transfer,
        out / 'actors',
        list(range(actors - HELD_OUT, actors)),
        steps=4,
        guidance=1.0,
        seed=0,
        variant=variant,
      )
      results = benchmark.score(cases)
      benchmark.write_results(out / variant, cases, results | {'offset_error_mm': offsets})
      distances: dict[str, list] = {'self': [], 'cross': []}
      for i, case in enumerate(cases):
        if i not in truths:
          truths[i] = seen_motion(case.truth, estimator, head)
        mine = seen_motion(case.result, estimator, head)
        if mine is not None and truths[i] is not None:
          distances[case.kind].append(
            [np.linalg.norm(a - b, axis=-1).mean() for a, b in zip(mine, truths[i])]
          )
      for kind, found in distances.items():
        row = {k: results['scores'][f'{kind}, model'][k] for k in ('psnr', 'l1', 'wrinkle normals')}
        row |= (
          {'AED': float(np.mean(found, 0)[0]), 'APD': float(np.mean(found, 0)[1])} if found else {}
        )
        table[f'{kind}, {variant}'] = row | {'coverage': len(found) / (len(cases) / 2)}
  return table


@exits_cleanly
def main(argv=None):
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, default=pathlib.Path('out/reenactment'))
  parser.add_argument('--actors', type=int, default=112)
  parser.add_argument(
    '--steps', type=int, default=300, help='training steps of each generator (default 300)'
  )
  args = parser.parse_args(argv)
  out = args.output.absolute()
  todo = stages(out, args.actors, args.steps)
  run_stages(out, todo[:1])
  make_plain(out / 'actors', out / 'plain')
  run_stages(out, todo)
  table = measure(out, args.actors)
  columns = ('psnr', 'l1', 'wrinkle normals', 'AED', 'APD', 'coverage')
  lines = [
    f'| {args.actors - HELD_OUT} people, {args.steps} steps | {" | ".join(columns)} |',
    '|---' * (len(columns) + 1) + '|',
  ]
  cells = lambda values: ' | '.join(f'{values.get(c, np.nan):.3f}' for c in columns)
  lines += [f'| {row} | {cells(values)} |' for row, values in sorted(table.items(), reverse=True)]
  (out / 'table.md').write_text('\n'.join(lines) + '\n')
  (out / 'scores.json').write_text(json.dumps(table, indent=1) + '\n')
  print('\n'.join(lines))
  return 0


if __name__ == '__main__':
  sys.exit(main())
