"""Checks every byte of checkpoints, exports and converted weights against the digests they were
sealed with; and where videos come from.

  python -m exp_jax.verify out/run                     # all checkpoints and exports below a folder
  python -m exp_jax.verify out/run/checkpoints/00001000 out/export
  python -m exp_jax.verify adapters.safetensors             # a single file: its form and its numbers
  python -m exp_jax.verify out/animated.mp4            # a video: its content credentials (C2PA) and its invisible mark

The numbers of exports, converted weights and single files are read too: NaN and infinite ones are
named. Checkpoints of training are not opened, since no update that is not finite enters them.

Of a video it tells who signed it, whether it was changed since, engine and digests of settings,
portrait and driver; and the mark, which is found after re-encoding, cropping and scaling too, where
the credentials are gone.

One line for each; exit status 0 if all are sound and all videos are as they were signed, 2 if not,
or if there are none.
"""

import argparse
import pathlib
import sys

from exp_jax.errors import ArgumentParser, UserError, exits_cleanly, one_line
from exp_jax.media.formats import CLIP_SUFFIXES


def sealed_below(path: pathlib.Path) -> list[pathlib.Path]:
  """Folders with a manifest or its mark at or below `path`, and numbered ones beside them that lost
  both."""
  from exp_jax.files.manifest import COMMIT, MANIFEST

  found = {p.parent for name in (MANIFEST, COMMIT) for p in path.rglob(name)}
  numbered = (
    {
      p
      for folder in {f.parent for f in found} | {path / 'checkpoints'}
      for p in folder.glob('*')
      if p.name.isdigit() and p.is_dir()
    }
    if path not in found
    else set()
  )
  return sorted(found | numbered)


def not_finite(path: pathlib.Path) -> str | None:
  """What is not finite in a safetensors file, an export or a folder of converted weights; None if
  all is, or it is none."""
  from exp_jax.files.safetensors import first_not_finite

  file = path if path.is_file() else path / 'params.safetensors'
  name = None
  if file.is_file():
    name = first_not_finite(file)
  elif (path / 'params').is_dir():
    from exp_jax.files.foreign_tensors import all_finite
    from exp_jax.files.safetensors import flattened
    from exp_jax.training.exports import read_arrays

    name = next(
      (
        name
        for name, value in flattened(read_arrays(path / 'params')).items()
        if not all_finite(value)
      ),
      None,
    )
  return None if name is None else f'{name} holds NaN or infinite numbers'


def provenance(path: pathlib.Path) -> tuple[str, bool]:
  """What the credentials and the mark of a video tell, in a sentence, and whether it is as it was
  made."""
  from exp_jax.media.video import read_frames
  from exp_jax.provenance import credentials, mark

  signed = credentials.read(path)
  found = mark.find(frame for frame, _ in read_frames(path, allow_partial=True))
  if signed is None and found is None:
    found = mark.find(
      (frame for frame, _ in read_frames(path, allow_partial=True)), mark.SCALES[1:]
    )
  words = (
    'no mark found' if found is None else f'mark {found.identity} (certainty {found.certainty:.1f}'
  )
  if found is not None:
    words += ')' if found.scale == 1 else f', scaled by {found.scale:.2f})'
  if signed is None:
    return f'no content credentials; {words}' + (
      '' if found is None else ': made by exp_jax and changed since'
    ), False
  whose = f'{signed.generator}, signed by {signed.issuer!r}'
  whose += (
    ', which proves no name'
    if signed.self_made
    else ''
    if signed.trusted
    else ', whom no list here vouches for'
  )
  if not signed.valid:
    return f'changed after it was signed ({", ".join(signed.problems)}); {whose}; {words}', False
  told = [
    f'{name.removesuffix("_sha256")} {str(value)[:12]}' for name, value in signed.about.items()
  ]
  return f'as it was signed; {whose}; {", ".join(told)}; {words}', True


@exits_cleanly
def main(argv=None):
  parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    'paths',
    type=pathlib.Path,
    nargs='+',
    metavar='PATH',
    help='a run, a checkpoint, an export, converted weights, a .safetensors file or a video',
  )
  parser.add_argument(
    '--sizes_only',
    action='store_true',
    help='compare sizes, not content: fast, blind to flipped bits',
  )
  args = parser.parse_args(argv)
  from exp_jax.files import manifest

  count = damaged = unsure = 0
  for path in args.paths:
    if path.is_file() and path.suffix.lower() in CLIP_SUFFIXES:
      words, sound = provenance(path)
      print(one_line(f'{path}: {words}'))
      unsure += not sound
      continue
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
  if unsure:
    raise UserError(
      f'{unsure} of the videos are not as exp_jax wrote them, or were not written by it'
    )
  return 0


if __name__ == '__main__':
  sys.exit(main())
