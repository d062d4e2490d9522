"""Turns clips into training shards: crops, landmarks, fitted heads, control maps, mattes,
references, latents.

  python -m exp_jax.prepare --clips CLIPS -o out/shards --size 128 --holdout 8                      # raw clips
  python -m exp_jax.prepare --clips out/actors/clips --subjects out/actors/truth -o out/shards      # fitted before
  python -m exp_jax.prepare --dataset out/tfds/vfhq/1.0.0 --split train -o out/shards               # of datasets/

CLIPS is a folder, or a list: .txt (a path a line), .csv or .jsonl (path, clip_id, subject_id,
begin, end). A clip needs a subject <clip_id>.npz in --subjects, else it is fitted. Leaves
train.array_record, held_out.array_record (all clips of the last --holdout people in sorted order),
report.jsonl (a line a clip: ok or failed, why, and its figures), sheets/ (look at them), fits/ and
parts/. With --vae the records are windows of latents, as `exp_jax encode` makes them.

A bad clip never stops the others. Everything is kept by the digest of its clip and settings:
stopped in any way and started again, the command goes on, and the shards are the same bytes. On
many hosts, which share OUT:

  python -m exp_jax.prepare ... -o OUT --shard 3 --num_shards 32      # every host its own; parts and a report only
  python -m exp_jax.prepare ... -o OUT                                # afterwards, once: makes the shards of them

Exit status: 0 all clips in, 3 some failed (each is named), 2 nothing could be done.
"""

import argparse
import pathlib
import sys

from exp_jax.data import clip_job as sharing
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.systems.expportrait.records import encode, quality


def _add_fit_arguments(p: ArgumentParser) -> None:
  """How heads are fitted here."""
  p.add_argument(
    '--fit_size',
    type=int,
    default=512,
    help='pixels of the square that heads are fitted in (default 512)',
  )
  p.add_argument(
    '--head', default='makehuman', help='head model of the subjects (default makehuman)'
  )
  p.add_argument(
    '--levels',
    type=int,
    default=1,
    help="subdivisions of heads fitted here (default 1); -1: so many that a face's edges are 1.5 "
    'pixels',
  )
  p.add_argument(
    '--offsets',
    choices=('auto', 'yes', 'no'),
    default='auto',
    help='fit vertex offsets (default auto)',
  )
  p.add_argument('--steps', type=int, default=160, help='steps of the offset stage (default 160)')
  p.add_argument(
    '--networks',
    default='embedded',
    help="that see normals, depth, matte: 'embedded' (default), 'none', or ONNX files and exports, "
    'separated by commas',
  )


def _add_limits(p: ArgumentParser) -> None:
  """What a clip must be to be taken."""
  limits = p.add_argument_group('clips that are refused by name')
  for name, words in (
    ('least_face', 'height of the face, pixels of the film'),
    (
      'least_sharpness',
      'finest detail beside coarser; pictures enlarged to three times their size have 0.2',
    ),
    (
      'least_motion',
      'change from the first frame, of 255; photographs shown as films have less than 0.5',
    ),
    ('most_invented', 'share of the square beyond the picture or in black bars'),
  ):
    limits.add_argument(
      f'--{name}',
      type=float,
      default=getattr(quality.Limits, name),
      help=f'{words} (default %(default)s)',
    )


def parser() -> ArgumentParser:
  p = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  p.add_argument('--clips', type=pathlib.Path, help='folder of videos, or a list of them')
  p.add_argument('--dataset', type=pathlib.Path, help='or a dataset that datasets/build.py left')
  p.add_argument('--split', default='train', help='split of the dataset (default train)')
  p.add_argument(
    '--people',
    choices=('clip', 'folder'),
    default='clip',
    help='whose a clip of a folder is: its own (default), or that of the folder it lies in',
  )
  p.add_argument(
    '--subjects', type=pathlib.Path, help='folder of subject files that are there already'
  )
  p.add_argument(
    '--mattes',
    type=pathlib.Path,
    help='folder of <clip_id>.npz with `matte`; else the estimated one',
  )
  p.add_argument('-o', '--output', type=pathlib.Path, required=True, help='folder of shards')
  p.add_argument(
    '--size', type=int, default=512, help='pixels of the training frames (default 512)'
  )
  p.add_argument('--holdout', type=int, default=0, help='people kept for evaluation (default 0)')
  _add_fit_arguments(p)
  p.add_argument(
    '--transfer',
    default='',
    help='exported expression transfer: its offsets replace fitted dynamic ones in some clips',
  )
  p.add_argument(
    '--transfer_share',
    type=float,
    default=0.3,
    help='share of clips that get them, drawn by clip (default 0.3)',
  )
  p.add_argument(
    '--extras',
    default='',
    metavar='NAMES',
    help='further control channels, separated by commas: iris, mouth, mouth_depth, depth, shaded',
  )
  p.add_argument(
    '--vae', default='', help='autoencoder export: window records with latents instead of pixels'
  )
  p.add_argument('--codec', choices=('patch', 'wan'), default='patch')
  p.add_argument(
    '--faces',
    choices=('one', 'largest'),
    default='one',
    help='refuse clips of two faces, or follow the largest',
  )
  p.add_argument(
    '--shots',
    choices=('one', 'longest', 'any'),
    default='one',
    help='refuse clips with a cut, take the longest shot, or do not look for cuts (default one)',
  )
  p.add_argument('--limit', type=int, default=0, help='frames used of a clip (default 0: all)')
  p.add_argument(
    '--least_frames', type=int, default=2, help='shorter clips are refused (default 2)'
  )
  p.add_argument('--allow_partial', action='store_true', help='use damaged clips up to the damage')
  p.add_argument(
    '--together',
    type=int,
    default=0,
    help='clips fitted in one program (0: 1 on a CPU, 16 elsewhere); equal bytes after a restart '
    'are promised for 1',
  )
  sharing.add_sharing_arguments(p)
  encode.add_window_arguments(p)
  _add_limits(p)
  return p


@exits_cleanly
def main(argv=None):
  args = parser().parse_args(argv)
  if (args.clips is None) == (args.dataset is None):
    raise UserError('give --clips or --dataset, one of them')
  for name in ('size', 'fit_size'):
    if (value := getattr(args, name)) < 16 or value % 16:
      raise UserError(f'--{name} must be a multiple of 16, got {value}')
  sharing.check_sharing(args)
  for name, least in (
    ('holdout', 0),
    ('limit', 0),
    ('together', 0),
    ('levels', -1),
    ('steps', 1),
    ('least_frames', 1),
  ):
    if getattr(args, name) < least:
      raise UserError(
        f'--{name} must {"not be negative" if least == 0 else f"be at least {least}"}, got '
        f'{getattr(args, name)}'
      )
  from exp_jax.systems.expportrait.records.prepare_command import run

  return sharing.print_outcomes(args.output, run(args), 'prepared')


if __name__ == '__main__':
  sys.exit(main())
