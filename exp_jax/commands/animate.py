"""Animates portraits with the head motion and expression of clips.

  python -m exp_jax.animate -s portrait.jpg -d driving.mp4 -o out/animated.mp4
  python -m exp_jax.animate -s portrait.jpg -d driving.mp4 -o out/dit.mp4 --engine dit [--export out/dit_export]
  python -m exp_jax.animate -s portraits/ -d clips/ -o out/all                # every portrait by every clip

-s is an image, or a clip of which one frame is taken (--source_frame). -d is a clip, an image, or the motion of a clip (.npz,
by --save_motion or exp_jax.fit), so that a clip is tracked once and used often. Leaves the video (sound and times of the
driver), <name>_side_by_side.mp4, <name>_sheet.png and <name>.json with settings, versions and digests, but no paths.
With folders -o is a folder too; it gets <portrait>_by_<clip>.mp4 and status.jsonl, and what is done already is skipped where its
settings are the same.

Engines: 'proxy' is the textured preview, no network draws; 'dit' samples a video model, of your own or the small embedded
one (128 pixels, trained on synthetic people: see exp_jax/embedded/README.md).
Exit status: 0 all done, 2 bad input or at least one of several failed (each is named).
"""

import argparse
import copy
import importlib
import json
import pathlib
import sys

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.media.foreign.animation import is_animation
from exp_jax.media.formats import CLIP_SUFFIXES, PICTURE_SUFFIXES

ENGINES = {'proxy': 'exp_jax.systems.expportrait.animate', 'dit': 'exp_jax.systems.expportrait.animate',
           'liveportrait': 'exp_jax.systems.liveportrait.animate'}
_SHARED = ('save_motion',)   # options that one engine adds and others use as well
_NOT_COMPARED = ('again', 'source_frame', 'transfer')   # the record has what became of them


def parser() -> ArgumentParser:
  p = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  p.add_argument('-s', '--source', type=pathlib.Path, required=True, help='portrait: an image or a clip, or a folder of them')
  p.add_argument('-d', '--driving', type=pathlib.Path, required=True, help='clip, image or motion file (.npz), or a folder')
  p.add_argument('-o', '--output', type=pathlib.Path, required=True, help='video to write (.mp4); a folder where an input is one')
  p.add_argument('--engine', choices=tuple(ENGINES), default='proxy')
  p.add_argument('--export', type=pathlib.Path, help='weights of the engine, for dit an exported video model (default: embedded)')
  p.add_argument('--source_frame', default='best', metavar='N', help="of a clip as portrait: 'best' (frontal, at rest) or a number")
  p.add_argument('--face', default='largest', help='whose portrait: largest, a number (0 the largest), left, right, or X,Y pixels')
  p.add_argument('--driving_face', default='largest', help='who drives: likewise')
  p.add_argument('--no_face', choices=('hold', 'cut', 'stop'), default='hold',
                 help='driving frames without a face: hold the nearest motion, cut them out, or stop (default hold)')
  p.add_argument('--paste_back', action='store_true', help='the whole source picture at its own size, not the fitted square')
  p.add_argument('--limit', type=int, help='use only the first frames of the driver')
  p.add_argument('--allow_partial', action='store_true', help='use what can be read of a damaged or truncated clip')
  p.add_argument('--seed', type=int, default=0, help='equal seeds make equal videos')
  p.add_argument('--again', action='store_true', help='with folders: make again what is done')
  for module in dict.fromkeys(ENGINES.values()):
    importlib.import_module(module).add_arguments(p)
  return p


def check_engine(args) -> None:
  """UserError for an option with a value of its own that belongs to another engine than the chosen one: it would change nothing."""
  module = ENGINES[args.engine]
  known = _options_of(module)
  for other in dict.fromkeys(ENGINES.values()):
    for name, default in _options_of(other).items():
      if name not in known and name not in _SHARED and getattr(args, name) != default:
        owners = ' or '.join(engine for engine, path in ENGINES.items() if path == other)
        raise UserError(f'--{name} belongs to --engine {owners}; the engine is {args.engine}')


def _options_of(module: str) -> dict:
  """{name: default} of the options that a module adds."""
  own = ArgumentParser(add_help=False)
  importlib.import_module(module).add_arguments(own)
  return vars(own.parse_args([]))


def _inputs(path: pathlib.Path, kinds: tuple[str, ...], what: str, also=lambda path: False) -> list[pathlib.Path]:
  """The files that a path stands for: of a folder those whose names end in `kinds`, and those that `also` is true of."""
  if not path.is_dir():
    if not path.is_file():
      raise UserError(f'{str(path)!r} does not exist')
    return [path]
  found = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith('.') and (p.suffix.lower() in kinds or also(p)))
  if not found:
    raise UserError(f'no {what} in the folder {str(path)!r}; it takes {", ".join(kinds)}')
  return found


@exits_cleanly
def main(argv=None):
  args = parser().parse_args(argv)
  engine = importlib.import_module(ENGINES[args.engine])
  for name, least in (('limit', 1), ('seed', 0)):
    if (value := getattr(args, name)) is not None and value < least:
      raise UserError(f'--{name} must be at least {least}, got {value}')
  if args.source_frame != 'best' and not args.source_frame.isdecimal():
    raise UserError(f"--source_frame must be 'best' or a number, got {args.source_frame!r}")
  many = args.source.is_dir() or args.driving.is_dir()
  if not many and args.output.suffix.lower() != '.mp4':
    raise UserError(f'the output {str(args.output)!r} must end in .mp4')
  if many and args.output.suffix.lower() == '.mp4':
    raise UserError(f'with a folder as input the output {str(args.output)!r} must be a folder too')
  check_engine(args)
  engine.check_arguments(args)
  sources = _inputs(args.source, (*PICTURE_SUFFIXES, *CLIP_SUFFIXES), 'portraits')
  drivers = _inputs(args.driving, (*CLIP_SUFFIXES, '.npz'), 'clips', also=is_animation)
  if not many:
    for path in (args.source, args.driving):
      if path.resolve() == args.output.resolve():
        raise UserError(f'the output {str(args.output)!r} is one of the inputs; give it another name')
    count = engine.animate_files(args)
    print(f'{args.output}: {count} frames; side by side in {args.output.stem}_side_by_side.mp4')
    return 0
  return _all_pairs(args, engine, [(s, d) for s in sources for d in drivers])


def other_settings(args, record: dict) -> str:
  """'driving_stride 1, now 4' where a finished result, by its record, was made with other settings than are asked for; else ''."""
  sampling = record.get('sampling', {})
  made = record | sampling
  asked = {name: value for name, value in vars(args).items() if name in made and name not in _NOT_COMPARED}
  return ', '.join(f'{name} {made[name]}, now {value}' for name, value in asked.items()
                   if made[name] != value and not (value is None and name in sampling))


def _all_pairs(args, engine, pairs) -> int:
  """Every portrait by every clip; one that fails harms no other."""
  import tqdm

  from exp_jax.performance.results import beside, read_record
  if args.save_motion is not None:
    raise UserError('--save_motion is for a single driver')
  args.output.mkdir(parents=True, exist_ok=True)
  failed = 0
  with (args.output / 'status.jsonl').open('a') as status:
    for source, driving in tqdm.tqdm(pairs, desc='animate', unit='pair'):
      one = copy.copy(args)
      one.source, one.driving, one.output = source, driving, args.output / f'{source.stem[:100]}_by_{driving.stem[:100]}.mp4'
      try:
        if beside(one.output, '.json').is_file() and one.output.is_file() and not args.again:
          if words := other_settings(one, read_record(one.output) or {}):
            raise UserError(f'{one.output.name} is there with other settings ({words}); --again makes it again')
          continue
        line = {'status': 'ok', 'frames': engine.animate_files(one)}
      except UserError as error:
        failed += 1
        line = {'status': str(error)}
        tqdm.tqdm.write(f'error: {error}', file=sys.stderr)
      status.write(json.dumps({'output': one.output.name} | line) + '\n')
      status.flush()
  print(f'{args.output}: {len(pairs) - failed} of {len(pairs)} pairs done; status.jsonl tells of each')
  return 2 if failed else 0


if __name__ == '__main__':
  sys.exit(main())
