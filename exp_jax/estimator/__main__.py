"""Draws the pictures that the estimator of face maps is trained on.

  python -m exp_jax.estimator -o out/estimator/pictures --people 3000 --seed 7

leaves <output>/pictures_00000.array_record and so on, sixteen people to a file. Run again, it goes
on where it was; more people (--people) can be added later; several processes share the work
by --part 0/2, --part 1/2.
"""

import argparse
import pathlib

from tqdm import tqdm

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.estimator.portraits import SIZE, draw_pictures, pack_picture
from exp_jax.files.array_records import write_packed

PEOPLE = 16  # in a file


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    prog='python -m exp_jax.estimator',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='folder to fill')
  parser.add_argument('--people', type=int, default=3000, help='how many (default 3000)')
  parser.add_argument('--pictures', type=int, default=4, help='pictures of each person (default 4)')
  parser.add_argument('--size', type=int, default=SIZE, help=f'pixels, square (default {SIZE})')
  parser.add_argument(
    '--seed', type=int, default=7, help='equal seeds draw equal people (default 7)'
  )
  parser.add_argument('--head', default='makehuman', help="head model: 'makehuman' or a file")
  parser.add_argument(
    '--part',
    default='0/1',
    help='K/N: this process draws every N-th file, beginning with K (default 0/1)',
  )
  options = parser.parse_args(argv)
  first, _, parts = options.part.partition('/')
  if not (first.isdigit() and parts.isdigit() and int(first) < int(parts)):
    raise UserError(f'--part must be K/N with 0 <= K < N, got {options.part!r}')
  if (
    options.people < 1 or options.pictures < 1 or options.seed < 0 or not 32 <= options.size <= 1024
  ):
    raise UserError(
      '--people and --pictures must be at least 1, --seed not negative, --size in 32..1024'
    )
  options.output.mkdir(parents=True, exist_ok=True)
  files = range(int(first), -(-options.people // PEOPLE), int(parts))
  for number in tqdm(files, unit='file'):
    path = options.output / f'pictures_{number:05d}.array_record'
    if path.exists():
      continue
    people = range(number * PEOPLE, min((number + 1) * PEOPLE, options.people))
    write_packed(
      path,
      (
        pack_picture(each)
        for person in people
        for each in draw_pictures(
          (options.seed, person), options.pictures, head=options.head, size=options.size
        )
      ),
    )
  print(f'{len(files)} files in {options.output}')
  return 0


if __name__ == '__main__':
  main()
