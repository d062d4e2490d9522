"""Cuts clips into the frames that the diffusion prior is trained on.

  python -m exp_jax prior.frames -i out/actors/clips -o out/frames --size 64 --holdout 24

leaves <output>/train.array_record and, of the last clips in the order of their names,
<output>/held_out.array_record.
"""

import argparse
import pathlib

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files.array_records import write_packed
from exp_jax.media.formats import CLIP_SUFFIXES
from exp_jax.prior.frames import packed_frames


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(
    prog='python -m exp_jax prior.frames',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '-i',
    '--input',
    type=pathlib.Path,
    required=True,
    help='folder of square clips, as exp_jax.actors leaves them',
  )
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='folder to fill')
  parser.add_argument('--size', type=int, default=64, help='pixels, square (default 64)')
  parser.add_argument(
    '--holdout', type=int, default=0, help='clips that are not trained on (default 0)'
  )
  parser.add_argument('--limit', type=int, default=0, help='frames of each clip, 0 all')
  options = parser.parse_args(argv)
  if not 16 <= options.size <= 1024 or options.size % 16:
    raise UserError(f'--size must be a multiple of 16 in 16..1024, got {options.size}')
  clips = (
    sorted(p for p in options.input.glob('*') if p.suffix.lower() in CLIP_SUFFIXES)
    if options.input.is_dir()
    else []
  )
  if not 0 <= options.holdout < len(clips) or options.limit < 0:
    raise UserError(
      f'{len(clips)} clips at {options.input} for --holdout {options.holdout} and --limit '
      f'{options.limit}: give more '
      'clips or hold out fewer'
    )
  options.output.mkdir(parents=True, exist_ok=True)
  parts = {
    'train': clips[: len(clips) - options.holdout],
    'held_out': clips[len(clips) - options.holdout :],
  }
  for name, part in parts.items():
    if part:
      count = write_packed(
        options.output / f'{name}.array_record', packed_frames(part, options.size, options.limit)
      )
      print(f'{name}: {count} clips')
  return 0


if __name__ == '__main__':
  main()
