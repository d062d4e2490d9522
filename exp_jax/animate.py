"""Animates a portrait with the head motion and expression of a clip.

  python -m exp_jax.animate -s portrait.jpg -d driving.mp4 -o out/animated.mp4
  python -m exp_jax.animate -s portrait.jpg -d driving.mp4 -o out/dit.mp4 --engine dit --export out/dit_export

-d also takes a subject file (.npz), so that a clip is tracked once and used often. Leaves the video (sound and frame
rate of the driver), <name>_side_by_side.mp4, <name>_sheet.png and <name>.json with all settings and digests.

Engines: 'proxy' is the textured preview, needs no training and no network; 'dit' samples an exported video model.
"""

import argparse
import pathlib
import sys

from exp_jax.errors import UserError, exits_cleanly


def parser() -> argparse.ArgumentParser:
  p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  p.add_argument('-s', '--source', type=pathlib.Path, required=True, help='portrait: an image file')
  p.add_argument('-d', '--driving', type=pathlib.Path, required=True, help='clip, or a subject file of one')
  p.add_argument('-o', '--output', type=pathlib.Path, required=True, help='video to write (.mp4)')
  p.add_argument('--engine', choices=('proxy', 'dit'), default='proxy')
  p.add_argument('--export', type=pathlib.Path, help='exported video model, for --engine dit')
  p.add_argument('--vae', type=pathlib.Path, help="autoencoder export, if not where the model's config says")
  p.add_argument('--transfer', type=pathlib.Path, help='exported expression transfer; without it no wrinkles move')
  p.add_argument('--subjects', type=pathlib.Path,
                 help='folder of `exp_jax.fit`: portrait and clip that are fitted there are not fitted again')
  p.add_argument('--rotation', choices=('absolute', 'relative'), default='absolute',
                 help="the driver's head rotation as it is, or its change since the first frame")
  p.add_argument('--expression_strength', type=float, default=1.0, help='0 still, 1 as driven (default), 1.5 more')
  p.add_argument('--drive_torso', action='store_true', help="also take the driver's torso rotation")
  p.add_argument('--size', type=int, default=512, help='pixels of the fitted square (default 512)')
  p.add_argument('--limit', type=int, help='use only the first frames of the driver')
  p.add_argument('--steps', type=int, default=8, help='sampler steps of the video model (default 8)')
  p.add_argument('--guidance', type=float, default=1.0, help='pose guidance of the video model (default 1: none)')
  p.add_argument('--seed', type=int, default=0)
  return p


@exits_cleanly
def main(argv=None):
  args = parser().parse_args(argv)
  if args.output.suffix.lower() != '.mp4':
    raise UserError(f'the output {str(args.output)!r} must end in .mp4')
  if not 0 <= args.expression_strength <= 3:
    raise UserError(f'--expression_strength must be in 0..3, got {args.expression_strength}')
  if (args.engine == 'dit') != (args.export is not None):
    raise UserError('--engine dit and --export DIR go together')
  for path in (args.source, args.driving):
    if not path.is_file():
      raise UserError(f'{str(path)!r} does not exist')
  from exp_jax.systems.expportrait.animate import animate_files
  count = animate_files(args)
  print(f'{args.output}: {count} frames; side by side in {args.output.stem}_side_by_side.mp4')
  return 0


if __name__ == '__main__':
  sys.exit(main())
