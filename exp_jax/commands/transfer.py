"""Gives one person's fitted head the expressions of another, with the wrinkles that this person
would have.

  python -m exp_jax.transfer --target subjects/ann.npz --driving subjects/bob.npz -o out/ann_by_bob
  python -m exp_jax.transfer --target subjects/ann.npz --driving clip.mp4 -o out/ann --portrait ann.jpg

Leaves in the folder: subject.npz (the reenacted head with its transferred offsets, for every later
stage), control maps as videos (normals, depth, shaded, iris, mouth, mouth_depth), preview.mp4 (on
the photograph, if --portrait is given; else on the albedo of the subject file), side_by_side.mp4
and .png (without offsets, the driver's copied, transferred), report.json (jitter and flicker in
figures). --transfer is an export of the task expportrait/transfer:

  python -m exp_jax.train --config=configs/expression_transfer.py:actors --workdir=out/transfer
  python -m exp_jax.export --workdir out/transfer -o out/transfer_export
"""

import argparse
import pathlib
import sys

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly


def parser() -> ArgumentParser:
  p = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  add = p.add_argument
  add('--target', type=pathlib.Path, required=True, help='subject file: whose head')
  add('--driving', type=pathlib.Path, required=True, help='subject file or clip: whose expressions')
  add('-o', '--output', type=pathlib.Path, required=True, help='a new folder')
  add(
    '--transfer',
    type=pathlib.Path,
    default=pathlib.Path('out/transfer_export'),
    help='export (default out/transfer_export)',
  )
  add(
    '--portrait',
    type=pathlib.Path,
    help='the photograph that the target was fitted to, for the preview',
  )
  add('--head', help="head file, if not the one named in the target's file")
  add('--frame', type=int, default=0, help='frame of the target that is the reference (default 0)')
  add(
    '--rotation',
    choices=('absolute', 'relative'),
    default='absolute',
    help="the driver's head rotation as it is, or its change since the first frame",
  )
  add(
    '--expression_strength',
    type=float,
    default=1.0,
    help='0 still, 1 as driven (default), 1.5 more',
  )
  add(
    '--drive_torso',
    action='store_true',
    help="turn the torso as the driver's too; the head moves the same",
  )
  add(
    '--smoothing',
    type=float,
    metavar='SECONDS',
    help="take the detector's jitter out of the motion over about so many seconds (default: as "
    'animate; 0 leaves it as tracked)',
  )
  add(
    '--networks',
    metavar='NAMES',
    help="see normals and depth of a driving clip: 'embedded' (default), 'none', or ONNX files and "
    'exports, separated by commas',
  )
  add('--size', type=int, default=512, help='pixels of the control maps (default 512)')
  add('--limit', type=int, help='use only the first frames of the driver')
  return p


@exits_cleanly
def main(argv=None):
  args = parser().parse_args(argv)
  for name, least, most in (
    ('size', 16, 2048),
    ('limit', 1, 10**9),
    ('expression_strength', 0, 3),
    ('smoothing', 0, 5),
  ):
    if (value := getattr(args, name)) is not None and not least <= value <= most:
      raise UserError(f'--{name} must be in {least}..{most}, got {value}')
  if args.size % 2:
    raise UserError(f'--size must be even, got {args.size}')
  for path in (args.target, args.driving, args.portrait):
    if path is not None and not path.is_file():
      raise UserError(f'{str(path)!r} does not exist')
  if args.networks is not None and args.driving.suffix.lower() == '.npz':
    raise UserError(f'--networks: {str(args.driving)!r} is fitted already; leave the flag out')
  from exp_jax.systems.expportrait.transfer.transfer_command import transfer_files

  report = transfer_files(args)
  print(
    f'{args.output}: {report["frames"]} frames; jitter of the offsets {report["offset_jitter_mm"]} '
    'mm, flicker of the normals '
    f'{report["normal_flicker_of_255"]} of 255 ({report["flicker_without_offsets_of_255"]} without '
    'offsets)'
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
