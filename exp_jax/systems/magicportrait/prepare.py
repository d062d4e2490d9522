"""Draws the guidance maps of clips whose heads are fitted, as records that MagicPortrait trains on.

  python -m exp_jax actors -o out/actors --num 448 --seed 24
  python -m exp_jax magicportrait.prepare --clips out/actors/clips --subjects out/actors/truth --mattes out/actors/mattes \\
      -o out/magicportrait/records --size 64 --crop square --normals signed --holdout 24

--subjects are files of `exp_jax.fit`, of the actors, or converted trackers'
(exp_jax.convert.subjects), one for each clip, of any head model. Leaves
<output>/train_00000.array_record and so on, 16 clips to a file, the last clips in held_out_00000
and so on, and head.json. Run again it goes on where it was.
"""

import dataclasses
import functools
import pathlib

from exp_jax.controls.map_records import record_parser, write_records
from exp_jax.errors import exits_cleanly
from exp_jax.files.digests import file_digest
from exp_jax.systems.magicportrait.maps import CHOICES, Conventions, guidance_surface
from exp_jax.systems.magicportrait.records import make_record
from exp_jax.systems.magicportrait.texture import load_texture

_HELP = {
  'camera': 'of the maps: weak perspective as published, or the one of the fit',
  'depth': 'over the head of each frame as published, or of a fixed range',
  'normals': 'without their negative halves as published, or with them',
  'albedo': "of the render: the subject file's where it has one, or grey",
}


@exits_cleanly
def main(argv=None):
  parser = record_parser('magicportrait.prepare', __doc__)
  for name, choices in CHOICES.items():
    parser.add_argument(
      f'--{name}', choices=choices, default=choices[0], help=f'{_HELP[name]} (default {choices[0]})'
    )
  parser.add_argument(
    '--texture',
    type=pathlib.Path,
    metavar='FILE',
    help='FLAME_texture.npz: its mean is the albedo of FLAME subjects that have none',
  )
  options = parser.parse_args(argv)
  conventions = Conventions(**{name: getattr(options, name) for name in CHOICES})
  texture = None if options.texture is None else load_texture(options.texture)
  settings = dataclasses.asdict(conventions) | {
    'texture': '' if options.texture is None else file_digest(options.texture)
  }
  write_records(
    options,
    settings,
    lambda head: functools.partial(
      make_record, surface=guidance_surface(head), conventions=conventions, texture=texture
    ),
  )
  return 0


if __name__ == '__main__':
  main()
