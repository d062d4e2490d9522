"""Animates portraits with the head motion and expression of clips.

  python -m exp_jax.animate -s portrait.jpg -d driving.mp4 -o out/animated.mp4
  python -m exp_jax.animate -s portrait.jpg -d driving.mp4 -o out/dit.mp4 --engine dit [--export out/dit_export]
  python -m exp_jax.animate -s portraits/ -d clips/ -o out/all                # every portrait by every clip

-s is an image, or a clip of which one frame is taken (--source_frame). -d is a clip, an image, or
the motion of a clip (.npz, by --save_motion or exp_jax.fit), so that a clip is tracked once and
used often. Leaves the video (sound and times of the driver), <name>_side_by_side.mp4,
<name>_sheet.png and <name>.json with settings, versions and digests, but no paths. A run that was
interrupted goes on with the driver that it had tracked and, where frames do not depend on those
before them, after the frames that it had drawn. With folders -o is a folder too; it gets
<portrait>_by_<clip>.mp4 and status.jsonl, and what is done already is skipped where its settings
are the same. A zip archive and a list (.txt, a path a line) stand for several files as a folder
does; -s pairs.csv alone, with the columns portrait and driving, says who is driven by what.

Engines: 'proxy' is the textured preview, no network draws; 'dit' samples a video model, of your own
or the small embedded
one (128 pixels, trained on synthetic people: see exp_jax/embedded/README.md).
'loki' draws from a driver map of the head alone, with an export of your own (configs/loki.py);
'magicportrait' from depth, normals and a render of it (configs/magicportrait.py, or the published
weights by exp_jax.convert.magicportrait).
Exit status: 0 all done, 2 bad input or at least one of several failed (each is named).
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import sys

from exp_jax import catalog
from exp_jax.commands.bars import Bars
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly, item_failure, without_folders
from exp_jax.files.atomic import remove_folder
from exp_jax.files.digests import file_digest
from exp_jax.files.locks import only_one
from exp_jax.media.foreign.animation import is_animation
from exp_jax.performance.input_files import (
  DRIVERS,
  PORTRAITS,
  inputs_of,
  names_of,
  pairs_of,
  stands_for_several,
  unpacked,
)
from exp_jax.performance.options import SharedOptions, add_flags, described, from_flags, record
from exp_jax.performance.results import beside, read_record
from exp_jax.provenance.credentials import first_note

ENGINES = {
  'proxy': 'expportrait',
  'dit': 'expportrait',
  'liveportrait': 'liveportrait',
  'loki': 'loki',
  'magicportrait': 'magicportrait',
}
_NOT_COMPARED = ('source_frame', 'transfer')  # the record has what became of them


def parser() -> ArgumentParser:
  p = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  p.add_argument(
    '-s',
    '--source',
    type=pathlib.Path,
    required=True,
    help='portrait: an image or a clip; or a folder, a .zip or a list (.txt) of them; or pairs (.csv)',
  )
  p.add_argument(
    '-d',
    '--driving',
    type=pathlib.Path,
    help='clip, image or motion file (.npz), or a folder, a .zip or a list (.txt) of them',
  )
  p.add_argument(
    '-o',
    '--output',
    type=pathlib.Path,
    required=True,
    help='video to write (.mp4); a folder where an input is one',
  )
  p.add_argument(
    '--engine', choices=tuple(ENGINES), default='proxy', help='what draws (default proxy)'
  )
  p.add_argument(
    '--export',
    type=pathlib.Path,
    metavar='DIR',
    help='weights of the engine: for dit an exported video model (default: embedded), for '
    'liveportrait a folder of '
    'exp_jax.convert.liveportrait, for loki an export of configs/loki.py, for magicportrait one of '
    'configs/magicportrait.py',
  )
  p.add_argument(
    '--save_motion',
    type=pathlib.Path,
    metavar='FILE.npz',
    help="keep the driver's motion: -d FILE.npz uses it again without the clip",
  )
  p.add_argument('--again', action='store_true', help='with folders: make again what is done')
  add_flags(p.add_argument_group('all engines'), SharedOptions)
  every = {
    name: (*described(system.LoadOptions), *described(system.Options))
    for name, system in catalog.SYSTEMS.items()
  }
  choices: dict[str, tuple] = {}
  for each in (option for options in every.values() for option in options):
    choices[each.name] = tuple(dict.fromkeys((*choices.get(each.name, ()), *each.choices)))
  known = tuple(each.name for each in described(SharedOptions))
  for name, system in catalog.SYSTEMS.items():
    engines = ' and '.join(engine for engine, owner in ENGINES.items() if owner == name)
    again = [
      each.name
      for each in every[name]
      if each.name in known and not hasattr(SharedOptions, each.name)
    ]
    group = p.add_argument_group(
      f'engine {engines}', f'and --{", --".join(again)}, as above' if again else None
    )
    for options in (system.LoadOptions, system.Options):
      add_flags(group, options, skip=known, choices=choices)
    known += tuple(each.name for each in every[name])
  return p


def check_engine(args) -> None:
  """UserError for an option that was given although the chosen engine does not have it: it would
  change nothing."""
  names = lambda system: {
    each.name for part in (system.Options, system.LoadOptions) for each in described(part)
  }
  known = names(catalog.SYSTEMS[ENGINES[args.engine]])
  for owner, system in catalog.SYSTEMS.items():
    for name in names(system) - known:
      if hasattr(args, name):
        owners = ' or '.join(engine for engine, of in ENGINES.items() if of == owner)
        raise UserError(f'--{name} belongs to --engine {owners}; the engine is {args.engine}')
  if args.engine == 'proxy':
    for name in (
      'export',
      *(
        each.name
        for each in described(catalog.SYSTEMS['expportrait'].Options)
        if each.needs == 'generator'
      ),
      'vae',
    ):
      if getattr(args, name, None) is not None:
        raise UserError(
          f'--{name} belongs to --engine dit; --engine proxy, which is the default, samples nothing'
        )


def options_of(args):
  """The options dataclass of the chosen engine, checked."""
  return from_flags(catalog.SYSTEMS[ENGINES[args.engine]].Options, args)


def loaded(args, drivers: pathlib.Path | None = None):
  """The model of the chosen engine, loaded as the command line says; drivers: a folder for those
  that it tracks."""
  system = catalog.SYSTEMS[ENGINES[args.engine]]
  chosen = from_flags(system.LoadOptions, args)
  given = {each.name: getattr(chosen, each.name) for each in described(system.LoadOptions)}
  if args.engine == 'liveportrait':
    return system.load(args.export, seed=getattr(args, 'seed', 0), drivers=drivers, **given)
  if args.engine in ('loki', 'magicportrait'):
    return system.load(args.export, drivers=drivers, **given)
  return system.load(
    generator=(args.export or 'embedded') if args.engine == 'dit' else None,
    drivers=drivers,
    **given,
  )


@exits_cleanly
def main(argv=None):
  args = parser().parse_args(argv)
  many = _check_places(args)
  check_engine(args)
  options = options_of(args)
  pairs, inputs = None, ()
  if args.driving is None:
    pairs = pairs_of(args.source)
  else:
    inputs = (
      inputs_of(args.source, PORTRAITS, 'portraits'),
      inputs_of(args.driving, DRIVERS, 'clips', also=is_animation),
    )
  with (
    only_one(args.output, folder=many),
    unpacked(args.output / '.unpacked', inputs) if many else contextlib.nullcontext() as inputs,
    _drivers(args.output, many) as drivers,
    loaded(args, drivers) as model,
    Bars() as bars,
  ):
    if many:
      pairs = pairs or [(s, d) for s in inputs[0].files for d in inputs[1].files]
      for each in inputs:
        if each.passed_over:
          bars.say(f'{each.path}: {each.passed_over} files of other kinds are passed over')
      return _all_pairs(args, model, options, bars, pairs)
    count = animate_file(
      model, args.source, args.driving, args.output, options, bars, save_motion=args.save_motion
    )
  print(
    f'{args.output}: {count} frames; side by side in '
    f'{beside(args.output, "_side_by_side.mp4").name}'
  )
  return 0


def _check_places(args) -> bool:
  """Whether there are several inputs; UserError where they and the output do not go together."""
  pairs = args.source.suffix.lower() == '.csv' and not args.source.is_dir()
  if args.driving is None and not pairs:
    raise UserError('the following arguments are required: -d/--driving; see --help')
  if args.driving is not None and pairs:
    raise UserError(
      f'{str(args.source)!r} is a list of pairs, which names the drivers: leave --driving out, or '
      'give a list of portraits as .txt'
    )
  many = pairs or any(map(stands_for_several, (args.source, args.driving)))
  if not many and args.output.suffix.lower() != '.mp4':
    raise UserError(f'the output {str(args.output)!r} must end in .mp4')
  if many and args.output.suffix.lower() == '.mp4':
    raise UserError(
      f'with a folder, an archive or a list as input the output {str(args.output)!r} must be a '
      'folder too'
    )
  if args.save_motion is not None and (many or args.save_motion.suffix != '.npz'):
    raise UserError(
      '--save_motion is for a single driver'
      if many
      else f'--save_motion must end in .npz, got {str(args.save_motion)!r}'
    )
  if not many:
    for path in (args.source, args.driving):
      if path.resolve() == args.output.resolve():
        raise UserError(
          f'the output {str(args.output)!r} is one of the inputs; give it another name'
        )
  return many


@contextlib.contextmanager
def _drivers(output: pathlib.Path, many: bool):
  """A hidden folder for tracked drivers, which only an interruption leaves behind: the same command
  goes on with them."""
  folder = (
    output / '.drivers'
    if many
    else output.with_name(f'.{hashlib.sha256(os.fsencode(output.name)).hexdigest()[:8]}.drivers')
  )
  try:
    yield folder
  except UserError:
    remove_folder(folder)
    raise
  remove_folder(folder)


def animate_file(
  model,
  source: pathlib.Path,
  driving: pathlib.Path,
  output: pathlib.Path,
  options,
  bars: Bars,
  *,
  save_motion: pathlib.Path | None = None,
) -> int:
  """One portrait by one clip, from files to a video and what lies beside it; returns the number of
  frames."""
  animation = model.animate(source, driving, options=options, progress=bars, warn=bars.warn)
  if save_motion is not None:
    animation.write_motion(save_motion)
  if options.provenance and (note := first_note()):
    bars.say(note, file=sys.stderr)
  return animation.save(output)


def other_settings(options, made: dict) -> str:
  """'driving_stride 1, now 4' where a finished result, by its record, was made with other settings
  than are asked for; else ''."""
  sampling = made.get('sampling', {})
  asked = {
    name: value
    for name, value in record(options).items()
    if name in made | sampling and name not in _NOT_COMPARED
  }
  return ', '.join(
    f'{name} {(made | sampling)[name]}, now {value}'
    for name, value in asked.items()
    if (made | sampling)[name] != value and not (value is None and name in sampling)
  )


def _all_pairs(args, model, options, bars: Bars, pairs) -> int:
  """Every portrait by every clip; one that fails harms no other, whatever it fails by."""
  args.output.mkdir(parents=True, exist_ok=True)
  sources, drivers = (
    names_of(list(dict.fromkeys(pair[side] for pair in pairs))) for side in (0, 1)
  )
  failed = 0
  with (
    (args.output / 'status.jsonl').open('a') as status,
    contextlib.closing(bars.over(pairs, 'animate', 'pair')) as each,
  ):
    for portrait, driver in each:
      output = args.output / f'{sources[portrait]}_by_{drivers[driver]}.mp4'
      try:
        source, driving = portrait.checked(), driver.checked()
        if output.resolve() in (source.resolve(), driving.resolve()):
          raise UserError(f'{output.name} is one of the inputs; choose another folder as output')
        if not args.again and _is_done(output, source, driving, options, args.engine, model.loaded):
          continue
        line = {
          'status': 'ok',
          'frames': animate_file(model, source, driving, output, options, bars),
        }
      except Exception as error:  # the item's failure, whatever a library raises; the others go on
        failed += 1
        words = item_failure(f'{portrait.path.name} by {driver.path.name}', error)
        words = driver.named_in(portrait.named_in(words))
        given = (path.absolute() for path in (args.source, args.driving) if path)
        folders = {str(path.parent) for path in (*given, portrait.path, driver.path)}
        line = {'status': without_folders(words, *sorted(folders, key=len, reverse=True))}
        bars.say(f'error: {words}', file=sys.stderr)
      status.write(json.dumps({'output': output.name} | line) + '\n')
      status.flush()
  print(
    f'{args.output}: {len(pairs) - failed} of {len(pairs)} pairs done; status.jsonl tells of each'
  )
  return 2 if failed else 0


def _is_done(
  output: pathlib.Path,
  source: pathlib.Path,
  driving: pathlib.Path,
  options,
  engine: str,
  loaded: dict,
) -> bool:
  """Whether the result is there, made of the same files with the same settings and models;
  `loaded`: what a record says of those.

  Raises:
    UserError: it is there, but made otherwise.
  """
  if not (beside(output, '.json').is_file() and output.is_file()):
    return False
  made = read_record(output) or {}
  words = other_settings(options, made) or (
    f'engine {made["engine"]}, now {engine}' if made.get('engine', engine) != engine else ''
  )
  if words:
    raise UserError(f'{output.name} is there with other settings ({words}); --again makes it again')
  others = [
    name.removesuffix('_sha256') for name, value in loaded.items() if made.get(name, value) != value
  ]
  if others:
    raise UserError(
      f'{output.name} is there, made with other models ({", ".join(others)}); --again makes it '
      'again'
    )
  for name, path in (('source', source), ('driving', driving)):
    if made.get(f'{name}_sha256', found := file_digest(path)) != found:
      raise UserError(
        f'{output.name} is there, made of another {path.name}; --again makes it again'
      )
  return True


if __name__ == '__main__':
  sys.exit(main())
