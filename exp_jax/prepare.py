"""Turns clips and their fitted subjects into training shards: frames, control maps, mattes, references.

  python -m exp_jax.prepare --clips out/actors/clips --subjects out/actors/truth -o out/shards --size 64 --holdout 8

Each clip <name>.mp4 needs a subject <name>.npz; a clip without one is fitted first (and its subject kept). Clips are
cut to the crop the subject was fitted in. Leaves <output>/train.array_record, held_out.array_record (the last
--holdout identities in sorted order) and report.jsonl with one line a clip: 'ok', or why not. A bad clip never stops
the others; prepared clips are kept in <output>/parts and not made again. Exit status: 0 all clips in, 3 some failed.
"""

import argparse
import pathlib
import sys

from exp_jax.errors import UserError, exits_cleanly


@exits_cleanly
def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--clips', type=pathlib.Path, required=True, help='folder of videos')
  parser.add_argument('--subjects', type=pathlib.Path, required=True, help='folder of subject files')
  parser.add_argument('--mattes', type=pathlib.Path, help='folder of <name>.npz with `matte`; else the head itself')
  parser.add_argument('-o', '--output', type=pathlib.Path, required=True, help='folder of shards')
  parser.add_argument('--size', type=int, default=512, help='pixels of the training frames (default 512)')
  parser.add_argument('--holdout', type=int, default=0, help='identities kept for evaluation (default 0)')
  parser.add_argument('--head', default='makehuman', help='head model of the subjects (default makehuman)')
  args = parser.parse_args(argv)
  if args.size < 16 or args.size % 16:
    raise UserError(f'--size must be a multiple of 16, got {args.size}')
  from exp_jax.systems.expportrait.prepare import prepare_clips
  done, failed = prepare_clips(args.clips, args.subjects, args.output, mattes=args.mattes, size=args.size,
                               holdout=args.holdout, head_name=args.head)
  print(f'{args.output}: {done} clips prepared, {len(failed)} failed')
  for name, reason in failed:
    print(f'  {name}: {reason}', file=sys.stderr)
  return 3 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
