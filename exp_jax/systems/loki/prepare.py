"""Draws the driver maps of clips whose heads are fitted, as records that Loki trains on.

  python -m exp_jax actors -o out/actors --num 448 --seed 24
  python -m exp_jax loki.prepare --clips out/actors/clips --subjects out/actors/truth --mattes out/actors/mattes \\
      -o out/loki/records --size 64 --crop square --holdout 24

--subjects are files of `exp_jax.fit`, of the actors, or converted trackers' (exp_jax.convert.subjects), one for each clip, of any
head model. Leaves <output>/train_00000.array_record and so on, 16 clips to a file, the last clips in held_out_00000 and so on, and
head.json. Run again it goes on where it was.
"""

import argparse
import json
import pathlib

from tqdm import tqdm

from exp_jax.controls.driver_map import driver_surface
from exp_jax.errors import ArgumentParser, UserError, exits_cleanly
from exp_jax.files import atomic, npz, record_bytes
from exp_jax.files.array_records import write_packed
from exp_jax.files.digests import file_digest
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import check_head, load_subject
from exp_jax.heads.trained_head import write_head
from exp_jax.media.formats import CLIP_SUFFIXES
from exp_jax.media.video import read_video
from exp_jax.networks.codec import open_codec
from exp_jax.systems.loki.framing import CROPS
from exp_jax.systems.loki.records import SETTINGS, make_record

IN_A_FILE = 16


def _parser() -> ArgumentParser:
  parser = ArgumentParser(prog='python -m exp_jax loki.prepare', description=__doc__,
                          formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('--clips', type=pathlib.Path, required=True, help='folder of clips')
  add('--subjects', type=pathlib.Path, required=True, help='folder of their fitted heads, <clip>.npz')
  add('--mattes', type=pathlib.Path, help='folder of <clip>.npz with `matte`, for measures')
  add('-o', '--output', type=pathlib.Path, required=True, help='folder to fill')
  add('--head', default='makehuman', help='head model (default makehuman)')
  add('--size', type=int, default=512, help='pixels, square (default 512)')
  add('--crop', choices=CROPS, default='clip', help='the square about the head (default clip)')
  add('--codec', choices=('patch', 'sd'), default='sd', help='autoencoder of --vae (default sd)')
  add('--vae', default='', help='weights of the autoencoder: latents are stored too')
  add('--holdout', type=int, default=0, help='clips that are not trained on (default 0)')
  return parser


def _claim(folder: pathlib.Path, settings: dict) -> None:
  """Makes the folder, or checks that its records were made with the same settings."""
  folder.mkdir(parents=True, exist_ok=True)
  note = folder / SETTINGS
  if note.exists() and (found := json.loads(note.read_text())) != settings:
    changed = [name for name in settings if found.get(name) != settings[name]]
    raise UserError(f'{folder} holds records made with another {", ".join(changed)}; choose another folder or delete that one')
  atomic.write_text(note, json.dumps(settings, indent=1))


def record_of(path: pathlib.Path, subjects: pathlib.Path, mattes: pathlib.Path | None, head, surface, **how) -> dict:
  """The record of a clip; UserError names the clip."""
  truth = subjects / f'{path.stem}.npz'
  if not truth.is_file():
    raise UserError(f'{path.name} has no subject {truth.name} in {subjects}: fit it with `python -m exp_jax.fit`')
  subject = load_subject(truth)
  check_head(subject, head)
  matte = npz.read_npz(mattes / f'{path.stem}.npz', ('matte',))['matte'] if mattes is not None else None
  try:
    return make_record(read_video(path).frames, subject, head, surface, matte=matte, **how)
  except UserError as error:
    raise UserError(f'{path.name}: {error}') from None


@exits_cleanly
def main(argv=None):
  options = _parser().parse_args(argv)
  if not 16 <= options.size <= 1024 or options.size % 8:
    raise UserError(f'--size must be a multiple of 8 in 16..1024, got {options.size}')
  clips = sorted(p for p in options.clips.glob('*') if p.suffix.lower() in CLIP_SUFFIXES) if options.clips.is_dir() else []
  if not 0 <= options.holdout < len(clips):
    raise UserError(f'{len(clips)} clips at {options.clips} for --holdout {options.holdout}: give more clips or hold out fewer')
  head = load_head(options.head)
  surface, codec = driver_surface(head), open_codec(options.codec, options.vae) if options.vae else None
  weights = file_digest(options.vae) if options.vae and options.vae != 'embedded' else options.vae
  _claim(options.output, {'size': options.size, 'crop': options.crop, 'weights': weights, 'holdout': options.holdout,
                          'head': head.name, 'clips': len(clips)})
  write_head(options.output, head)
  how = dict(size=options.size, crop=options.crop, codec=codec, weights=weights)
  cut = len(clips) - options.holdout
  halves = {'train': clips[:cut], 'held_out': clips[cut:]}
  parts = [(f'{name}_{k // IN_A_FILE:05d}', half[k:k + IN_A_FILE]) for name, half in halves.items()
           for k in range(0, len(half), IN_A_FILE)]
  made = lambda clip: record_bytes.pack(record_of(clip, options.subjects, options.mattes, head, surface, **how))
  for name, group in tqdm(parts, unit='file'):
    path = options.output / f'{name}.array_record'
    if not path.exists():
      write_packed(path, map(made, group))
  print(f'{cut} clips to train on and {options.holdout} held out in {options.output}')
  return 0


if __name__ == '__main__':
  main()
