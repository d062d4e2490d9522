"""Fits a personalized head to photographs and clips, and shows how well it fits.

  python -m exp_jax.fit -i portrait.jpg -i clip.mp4 -o out/subjects [--config=configs/fit_head.py] [--config.size=512]
  python -m exp_jax.fit -i portrait.jpg -o out/subjects --head assets/heads/flame.npz      # on another head

Leaves <output>/<name>.npz (the subject, see exp_jax.heads.personalized) and <name>_preview.png for
a photograph or <name>_preview.mp4 for a clip: input, landmarks, head over input, normals, normals
without the dynamic field, and where the textured head misses the input. Inputs that are done
already are skipped.
Exit status: 0 all done, 2 bad command line or at least one input failed (each is named).
"""

import functools
import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from exp_jax.commands.command_line import parse_with_config
from exp_jax.errors import UserError, exits_cleanly

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE.py[:mode] (default: configs/fit_head.py)'
)
_INPUT = flags.DEFINE_multi_string(
  'input', [], 'photograph or clip; repeat for more', short_name='i'
)
_OUTPUT = flags.DEFINE_string('output', None, 'folder for subjects and previews', short_name='o')
_HEAD = flags.DEFINE_string(
  'head',
  None,
  "head model: 'makehuman', a name in the folder of heads, or the file of a converted head "
  '(default: config.head, makehuman)',
)
_PART = flags.DEFINE_string(
  'part', '0/1', 'K/N: only every N-th input, starting at the K-th, for N such processes'
)
_AGAIN = flags.DEFINE_bool('again', False, 'fit inputs again that are done already')


@exits_cleanly
def main(argv):
  del argv  # `parse_with_config` refuses stray words
  if not _INPUT.value or not _OUTPUT.value:
    raise UserError('give at least one input and an output folder: -i portrait.jpg -o out/subjects')
  from exp_jax.fitting.job import fit_files, part_of

  inputs = part_of([pathlib.Path(p) for p in _INPUT.value], _PART.value)
  config = _CONFIG.value
  if _HEAD.value is not None:
    config.head = _HEAD.value
  failures = fit_files(inputs, pathlib.Path(_OUTPUT.value), config, again=_AGAIN.value)
  if len(inputs) > 1 and failures:
    print(f'{len(failures)} of {len(inputs)} inputs failed', file=sys.stderr)
  return 2 if failures else 0


if __name__ == '__main__':
  app.run(
    main, flags_parser=exits_cleanly(functools.partial(parse_with_config, default='fit_head.py'))
  )
