"""Turns clips into training shards: crops, landmarks, fitted heads, control maps, mattes, references, latents.

  python -m exp_jax.prepare --clips CLIPS -o out/shards --size 128 --holdout 8                      # raw clips
  python -m exp_jax.prepare --clips out/actors/clips --subjects out/actors/truth -o out/shards      # fitted before
  python -m exp_jax.prepare --dataset out/tfds/vfhq/1.0.0 --split train -o out/shards               # of datasets/

CLIPS is a folder, or a list: .txt (a path a line), .csv or .jsonl (path, clip_id, subject_id, begin, end). A clip needs a
subject <clip_id>.npz in --subjects, else it is fitted. Leaves train.array_record, held_out.array_record (all clips of the
last --holdout people in sorted order), report.jsonl (a line a clip: ok or failed, and why), fits/ and parts/.

A bad clip never stops the others. Everything is kept by the digest of its clip and settings: stopped in any way and started
again, the command goes on, and the shards are the same bytes. On many hosts, which share OUT:

  python -m exp_jax.prepare ... -o OUT --shard 3 --num_shards 32      # every host its own; parts and a report only
  python -m exp_jax.prepare ... -o OUT                                # afterwards, once: makes the shards of them

Exit status: 0 all clips in, 3 some failed (each is named), 2 nothing could be done.
"""

import argparse
import pathlib
import sys

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly


def parser() -> ArgumentParser:
  p = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  p.add_argument('--clips', type=pathlib.Path, help='folder of videos, or a list of them')
  p.add_argument('--dataset', type=pathlib.Path, help='or a dataset that datasets/build.py left')
  p.add_argument('--split', default='train', help='of the dataset (default train)')
  p.add_argument('--people', choices=('clip', 'folder'), default='clip',
                 help='whose a clip of a folder is: its own (default), or that of the folder it lies in')
  p.add_argument('--subjects', type=pathlib.Path, help='folder of subject files that are there already')
  p.add_argument('--mattes', type=pathlib.Path, help='folder of <clip_id>.npz with `matte`; else the estimated one')
  p.add_argument('-o', '--output', type=pathlib.Path, required=True, help='folder of shards')
  p.add_argument('--size', type=int, default=512, help='pixels of the training frames (default 512)')
  p.add_argument('--fit_size', type=int, default=512, help='pixels of the square that heads are fitted in (default 512)')
  p.add_argument('--holdout', type=int, default=0, help='people kept for evaluation (default 0)')
  p.add_argument('--head', default='makehuman', help='head model of the subjects (default makehuman)')
  p.add_argument('--levels', type=int, default=1, help='subdivisions of heads fitted here (default 1)')
  p.add_argument('--offsets', choices=('auto', 'yes', 'no'), default='auto', help='fit vertex offsets (default auto)')
  p.add_argument('--steps', type=int, default=160, help='of the offset stage (default 160)')
  p.add_argument('--networks', default='', help='ONNX files for normals, depth, matte, separated by commas')
  p.add_argument('--transfer', default='', help='exported expression transfer: its offsets fold the control maps')
  p.add_argument('--vae', default='', help='autoencoder export: records get latents')
  p.add_argument('--codec', choices=('patch', 'wan'), default='patch')
  p.add_argument('--faces', choices=('one', 'largest'), default='one', help='refuse clips of two faces, or follow the largest')
  p.add_argument('--shots', choices=('one', 'longest', 'any'), default='one',
                 help='refuse clips with a cut, take the longest shot, or do not look for cuts (default one)')
  p.add_argument('--limit', type=int, default=0, help='frames used of a clip (default 0: all)')
  p.add_argument('--least_frames', type=int, default=2, help='shorter clips are refused (default 2)')
  p.add_argument('--allow_partial', action='store_true', help='use damaged clips up to the damage')
  p.add_argument('--shard', type=int, help='prepare only every --num_shards-th clip, from this one on')
  p.add_argument('--num_shards', type=int, default=1)
  p.add_argument('--records_per_file', type=int, default=0, help='split shards into files of so many (default 0: one file)')
  p.add_argument('--together', type=int, default=0,
                 help='clips fitted in one program (0: 1 on a CPU, 16 elsewhere); equal bytes after a restart are promised for 1')
  p.add_argument('--retry_failed', action='store_true', help='try clips again that failed before')
  return p


@exits_cleanly
def main(argv=None):
  args = parser().parse_args(argv)
  if (args.clips is None) == (args.dataset is None):
    raise UserError('give --clips or --dataset, one of them')
  for name in ('size', 'fit_size'):
    if (value := getattr(args, name)) < 16 or value % 16:
      raise UserError(f'--{name} must be a multiple of 16, got {value}')
  for name, least in (('holdout', 0), ('limit', 0), ('records_per_file', 0), ('together', 0), ('levels', 0), ('steps', 1),
                      ('least_frames', 1), ('num_shards', 1)):
    if getattr(args, name) < least:
      raise UserError(f'--{name} must {"not be negative" if least == 0 else f"be at least {least}"}, got {getattr(args, name)}')
  from exp_jax.systems.expportrait.prepare_command import run
  outcomes = run(args)
  failed = [outcome for outcome in outcomes if outcome.reason]
  print(f'{args.output}: {len(outcomes) - len(failed)} clips prepared, {len(failed)} failed')
  for outcome in failed:
    print(f'  {outcome.item.name}: {outcome.reason}', file=sys.stderr)
  return 3 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
