"""Every stage on one machine without a GPU: fit, drive, train, export, sample, score, and a page
that shows it.

  make demo                                                # sets up what is missing, then runs this
  python -m exp_jax demo -o out/demo [--portrait portrait.jpg] [--driving clip.mp4]

Each stage is a command of its own (printed before it runs, and listed on the page), leaves files
the next one starts
from, and is skipped when they are there: interrupt it, run it again, it goes on. Default portrait:
the photograph "astronaut" of scikit-image (NASA, public domain); default driver: a synthetic actor,
tracked from its video file. Ends with the path of <output>/index.html.
"""

import argparse
import pathlib
import sys

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('-o', '--output', type=pathlib.Path, default=pathlib.Path('out/demo'))
  parser.add_argument('--portrait', type=pathlib.Path, help='your own photograph')
  parser.add_argument('--driving', type=pathlib.Path, help='your own clip')
  args = parser.parse_args(argv)
  for path in (args.portrait, args.driving):
    if path is not None and not path.is_file():
      raise UserError(f'{str(path)!r} does not exist')
  from exp_jax.recipes import demo_stages

  page = demo_stages.run(args.output, portrait=args.portrait, driving=args.driving)
  print(f'done: open {page}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
