"""Checks every byte of checkpoints, exports and converted weights against the digests they were sealed with.

  python -m exp_jax.verify out/run                     # all checkpoints and exports below a folder
  python -m exp_jax.verify out/run/checkpoints/00001000 out/export
  python -m exp_jax.verify adapters.safetensors             # a single file: its form and its numbers

The numbers of exports, converted weights and single files are read too: NaN and infinite ones are named. Checkpoints of
training are not opened, since no update that is not finite enters them.

One line for each; exit status 0 if all are sound, 2 if one is damaged or there are none.
"""

import argparse
import pathlib
import sys

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly, one_line


def sealed_below(path: pathlib.Path) -> list[pathlib.Path]:
  """Folders with a manifest or its mark at or below `path`, and numbered ones beside them that lost both."""
  from exp_jax.files.manifest import COMMIT, MANIFEST
  found = {p.parent for name in (MANIFEST, COMMIT) for p in path.rglob(name)}
  numbered = {p for folder in {f.parent for f in found} | {path / 'checkpoints'} for p in folder.glob('*')
              if p.name.isdigit() and p.is_dir()} if path not in found else set()
  return sorted(found | numbered)


def not_finite(path: pathlib.Path) -> str | None:
  """What is not finite in a safetensors file, an export or a folder of converted weights; None if all is, or it is none."""
  from exp_jax.files.safetensors import first_not_finite
  file = path if path.is_file() else path / 'params.safetensors'
  name = None
  if file.is_file():
    name = first_not_finite(file)
  elif (path / 'params').is_dir():
    from exp_jax.files.foreign_tensors import all_finite
    from exp_jax.files.safetensors import flattened
    from exp_jax.training.exports import read_arrays
    name = next((name for name, value in flattened(read_arrays(path / 'params')).items() if not all_finite(value)), None)
  return None if name is None else f'{name} holds NaN or infinite numbers'


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('paths', type=pathlib.Path, nargs='+', metavar='PATH',
                      help='a run, a checkpoint, an export, converted weights or a .safetensors file')
  parser.add_argument('--sizes_only', action='store_true', help='compare sizes, not content: fast, blind to flipped bits')
  args = parser.parse_args(argv)
  from exp_jax.files import manifest
  count = damaged = 0
  for path in args.paths:
    folders = [path] if path.is_file() and path.suffix == '.safetensors' else sealed_below(path)
    if not folders:
      raise UserError(f'{str(path)!r} has no checkpoint and no export')
    for folder in folders:
      words = None if folder.is_file() else manifest.problem(folder, sizes_only=args.sizes_only)
      if words is None and (folder.is_file() or not args.sizes_only):
        words = not_finite(folder)
      print(one_line(f'{folder}: {words or ("sizes are right" if args.sizes_only else "sound")}'))
      count, damaged = count + 1, damaged + (words is not None)
  if damaged:
    raise UserError(f'{damaged} of {count} are damaged: delete them, or restore them from a copy')
  return 0


if __name__ == '__main__':
  sys.exit(main())
