"""Makes window records of clip records: codes, control maps and references, once, so that training
need not encode again.

  python -m exp_jax encode -i out/shards/train.array_record -o out/latents \\
      --vae DIR [--codec patch | wan] [--clip DIR] [--prompt FILE.npz] [--frames 49 --references 4]
      [--mirror]

With Wan's autoencoder every clip gives several windows (`windows.py` says which); the codes of a
reference are of the image followed by blank video. With codes of single frames the record is the
whole clip. --clip stores the CLIP tokens that the 14B modes need, --prompt puts the embeddings of
the prompts beside the records.

Stopped in any way and started again, the command goes on, and the shards are the same bytes. On
many hosts, which share OUT:

  python -m exp_jax encode ... -o OUT --shard 3 --num_shards 32     # every host its own
  python -m exp_jax encode ... -o OUT                               # afterwards, once: makes the shards

Exit status: 0 all clips in, 3 some failed (each is named in report.jsonl), 2 nothing could be done.
"""

import argparse
import dataclasses
import pathlib
import shutil
import sys

from exp_jax.data import clip_job as job
from exp_jax.data.clip_list import Item, share_of
from exp_jax.data.sources import PROMPT, PortraitClips, is_window
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files import manifest
from exp_jax.files.atomic import replacing
from exp_jax.files.digests import RememberedDigests
from exp_jax.files.npz import read_npz
from exp_jax.heads.trained_head import carry_head
from exp_jax.networks.codec import open_codec
from exp_jax.systems.expportrait.records.clip_tokens import open_clip
from exp_jax.systems.expportrait.records.windows import (
  Towers,
  WindowOptions,
  mirrored,
  window_records,
)

VERSION = 1  # of the records made here: those of another version are made again


def open_towers(*, codec: str, vae: str, tile: int = 0, clip: str = '') -> Towers:
  """The networks that records are encoded with, and their digests.

  UserError as of `open_codec` and `open_clip`.
  """
  digests = {
    name: manifest.seal(pathlib.Path(path))[:16]
    for name, path in (('vae', vae), ('clip', clip))
    if path
  }
  return Towers(
    open_codec(codec, vae, tile), open_clip(clip) if clip else None, digests | {'codec': codec}
  )


def store_prompt(source: pathlib.Path, output: pathlib.Path) -> None:
  """Copies embeddings of the prompts beside the records.

  UserError if they lack the positive or the empty one.
  """
  found = read_npz(source, ('positive', 'empty'))
  if absent := [name for name in ('positive', 'empty') if name not in found]:
    raise UserError(
      f'{source} holds no embedding {absent[0]!r}: make it anew with `python -m '
      'exp_jax.convert.wan_towers prompts`'
    )
  output.mkdir(parents=True, exist_ok=True)
  with replacing(output / PROMPT) as partial:
    shutil.copyfile(source, partial)


def _items(source: PortraitClips) -> list[Item]:
  """A clip record each, by file and number."""
  names = [pathlib.Path(file).name for file in source.files]
  if len({name.startswith('held_out') for name in names}) > 1:
    raise UserError(
      f'the input holds clips to train on and held-out ones ({", ".join(names[:4])}): encode them '
      'apart, into two folders'
    )
  found = []
  for row in range(len(source)):
    file, local = source.place(row)
    name = f'{pathlib.Path(file).name}:{local}'
    found.append(Item(name, name, name, row=row, source=source))
  return found


class Encoder:
  """`key` and `make` are what `clip_job.Work` wants."""

  def __init__(
    self,
    output: pathlib.Path,
    towers: Towers,
    options: WindowOptions,
    *,
    mirror: bool,
    digests_name: str,
  ):
    options.check(towers.codec.strides[0])
    self._towers, self._options, self._mirror = towers, options, mirror
    self._digest = RememberedDigests(output / digests_name)
    self._identity = [VERSION, dataclasses.asdict(options), towers.digests, mirror]

  def key(self, item: Item) -> str:
    """All that the records depend on."""
    file, local = item.source.place(item.row)
    return job.digest_of(self._identity, self._digest(pathlib.Path(file)), local)

  def make(self, items: list[Item]) -> list:
    """Window records of each item, or the exception that it ended with."""
    results = []
    for item in items:
      try:
        record = item.source[item.row]
        if is_window(record):
          raise UserError(
            f'{item.name} is encoded already: give the records of `exp_jax.prepare` without --vae'
          )
        both = [record, mirrored(record)] if self._mirror else [record]
        results.append(
          [made for one in both for made in window_records(one, self._towers, self._options)]
        )
      except Exception as error:  # whatever a record does, the others are encoded
        results.append(job.of_the_clip(error))
    return results


def add_window_arguments(parser) -> None:
  """The options of `WindowOptions`, for every command that encodes."""
  group = parser.add_argument_group('windows of codes (with --vae)')
  default = WindowOptions()
  group.add_argument(
    '--frames',
    type=int,
    default=default.frames,
    help='frames of a training window (default %(default)s)',
  )
  group.add_argument(
    '--windows',
    type=int,
    default=default.windows,
    help='windows of a clip; 0 (default): as many as cover it one and a half times',
  )
  group.add_argument(
    '--largest_stride',
    type=int,
    default=default.largest_stride,
    help='frames between neighbours of a window: 1 to this, drawn (default %(default)s)',
  )
  group.add_argument(
    '--later',
    type=float,
    default=default.later,
    help='share of windows that begin in the middle of a code, as most do in sampling (default '
    '%(default)s)',
  )
  group.add_argument(
    '--lead',
    type=int,
    default=default.lead,
    help='latent frames before those, at most (default %(default)s)',
  )
  group.add_argument(
    '--references',
    type=int,
    default=default.references,
    help='frames of a clip that can be its reference, spread over the turns of the head (default '
    '%(default)s)',
  )
  group.add_argument(
    '--seed', type=int, default=default.seed, help='seed of all random draws (default %(default)s)'
  )
  group.add_argument(
    '--clip',
    default='',
    metavar='DIR',
    help='CLIP tower by convert.wan_towers: the tokens that 14B modes need',
  )
  group.add_argument(
    '--prompt',
    type=pathlib.Path,
    metavar='FILE.npz',
    help='embeddings by `convert.wan_towers prompts`, kept beside the records',
  )
  group.add_argument(
    '--tile',
    type=int,
    default=0,
    help="pixels of a tile's edge, where frames are too large for Wan's; 0: none",
  )


def window_options(args) -> WindowOptions:
  """What the arguments of `add_window_arguments` say."""
  return WindowOptions(
    **{field.name: getattr(args, field.name) for field in dataclasses.fields(WindowOptions)}
  )


def parser() -> ArgumentParser:
  p = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  p.add_argument('-i', '--input', required=True, help='clip records: a folder, file or pattern')
  p.add_argument('-o', '--output', type=pathlib.Path, required=True, help='a folder')
  p.add_argument(
    '--vae', required=True, help="an export of task 'expportrait/vae', or weights by convert.wan"
  )
  p.add_argument('--codec', choices=('patch', 'wan'), default='patch')
  p.add_argument('--mirror', action='store_true', help='double the data by mirror images')
  job.add_sharing_arguments(p)
  add_window_arguments(p)
  return p


@exits_cleanly
def main(argv=None):
  args = parser().parse_args(argv)
  job.check_sharing(args)
  source, options = PortraitClips(args.input), window_options(args)
  items = _items(source)
  if args.shard is not None:
    share_of(items, args.shard, args.num_shards)
  towers = open_towers(codec=args.codec, vae=args.vae, tile=args.tile, clip=args.clip)
  encoder = Encoder(
    args.output,
    towers,
    options,
    mirror=args.mirror,
    digests_name=job.of_share('digests.jsonl', args),
  )
  if args.prompt is not None:
    store_prompt(args.prompt, args.output)
  carry_head(args.input, args.output)
  outcomes = job.run_shared(
    items,
    args.output,
    job.Work(encoder.key, encoder.make),
    args,
    held_out=set(),
    label='encode',
    names=('encoded', 'held_out'),
  )
  return job.print_outcomes(args.output, outcomes, 'encoded')


if __name__ == '__main__':
  sys.exit(main())
