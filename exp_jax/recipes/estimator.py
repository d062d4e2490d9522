"""Trains the network that sees normals, depth and parts of a head in a picture, and packs it.

  python -m exp_jax estimator -o out/estimator

Synthetic people only. Stages as in `make demo`: interrupted, the same command goes on. Leaves
out/estimator/package/face_maps: bfloat16 safetensors with config and digests.
"""

import pathlib
import shutil
import sys

from exp_jax.errors import ArgumentParser, exits_cleanly
from exp_jax.recipes.demo_stages import Stage, run_stages
from exp_jax.training.exports import write_release

PEOPLE, HELD_OUT = 6000, 64


def stages(out: pathlib.Path) -> list[Stage]:
  """The recipe, in order of priority."""
  pictures = f'{out / "pictures"}'

  def train(mode, name, *more):
    return [
      'train',
      f'--config=configs/estimator.py{mode}',
      f'--workdir={out / name}',
      f'--config.data.path={pictures}',
      f'--config.data.held_out={out / "held_out"}',
      *more,
    ]

  draw = lambda name, people, seed, *more: [
    'estimator.pictures',
    '-o',
    f'{out / name}',
    '--people',
    f'{people}',
    '--seed',
    f'{seed}',
    *more,
  ]
  last = lambda name, people: out / name / f'pictures_{(people - 1) // 16:05d}.array_record'
  return [
    Stage('draw', 'Pictures to learn from.', draw('pictures', PEOPLE, 7), last('pictures', PEOPLE)),
    Stage(
      'draw held out',
      'Pictures of others.',
      draw('held_out', HELD_OUT, 8, '--pictures', '2'),
      last('held_out', HELD_OUT),
    ),
    Stage(
      'train coarse',
      'Large forms, in small pictures.',
      train(':coarse', 'coarse'),
      out / 'coarse' / 'finished',
      ('draw', 'draw held out'),
    ),
    Stage(
      'export coarse',
      'Averaged weights.',
      ['export', '--workdir', f'{out / "coarse"}', '-o', f'{out / "coarse_export"}'],
      out / 'coarse_export',
      ('train coarse',),
    ),
    Stage(
      'train fine',
      'Lids, lips, folds.',
      train('', 'fine', f'--config.model.weights={out / "coarse_export"}'),
      out / 'fine' / 'finished',
      ('export coarse',),
    ),
    Stage(
      'export fine',
      'Averaged weights.',
      ['export', '--workdir', f'{out / "fine"}', '-o', f'{out / "export"}'],
      out / 'export',
      ('train fine',),
    ),
  ]


def pack(out: pathlib.Path, export: str = 'export') -> pathlib.Path:
  """Writes <out>/package/face_maps anew from an export and returns it."""
  package = out / 'package' / 'face_maps'
  shutil.rmtree(package, ignore_errors=True)
  write_release(
    out / export, package, **{'data.path': '', 'data.held_out': '', 'model.weights': 'scratch'}
  )
  return package


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__.partition('\n\n')[0])
  parser.add_argument('-o', '--output', type=pathlib.Path, default=pathlib.Path('out/estimator'))
  out = parser.parse_args(argv).output.absolute()
  run_stages(out, stages(out))
  print(f'done: {pack(out)}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
