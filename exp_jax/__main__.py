"""ExpPortrait and its siblings in functional JAX.

exp-jax COMMAND [arguments]       # or: python -m exp_jax COMMAND
exp-jax COMMAND --help
exp-jax --version
"""

import ast
import difflib
import runpy
import sys

from exp_jax import __version__
from exp_jax.errors import UserError, exits_cleanly
from exp_jax.files.resources import package_file

COMMANDS = {  # heading -> names; what each does is the first line of its file
  'Start': ('setup', 'doctor', 'demo'),
  'Portraits': ('animate', 'fit', 'transfer', 'render', 'evaluate', 'app', 'serve'),
  'Training': (
    'actors',
    'prepare',
    'previews',
    'encode',
    'train',
    'export',
    'verify',
    'embedded',
    'estimator',
    'estimator.pictures',
    'retouch.records',
    'prior.frames',
    'loki.prepare',
    'magicportrait.prepare',
    'liveportrait.prepare',
    'liveportrait.speech',
  ),
  'Heads and subjects': (
    'convert.makehuman',
    'convert.makehuman_landmarks',
    'convert.smplx',
    'convert.flame',
    'convert.ict',
    'convert.landmarks',
    'convert.stand_in',
    'convert.subjects',
    'convert.export_subject',
    'convert.export_gltf',
    'convert.transfer_coefficients',
  ),
  'Weights': (
    'fetch',
    'convert.liveportrait',
    'convert.wan',
    'convert.wan_towers',
    'convert.sd',
    'convert.loki',
    'convert.magicportrait',
    'convert.lora',
    'convert.whisper',
    'convert.metrics',
  ),
}
NAMES = tuple(name for names in COMMANDS.values() for name in names)
_ELSEWHERE = {  # commands that lie neither in commands/ nor in convert/
  'actors': 'actors',
  'previews': 'systems.expportrait.generator.previews',
  'encode': 'systems.expportrait.records.encode',
  'convert.landmarks': 'convert.heads.landmark_transfer',
  'convert.export_gltf': 'convert.gltf.export_gltf',
  'app': 'studio.app',
  'fetch': 'recipes.fetch',
  'serve': 'studio.serve',
  'embedded': 'recipes.embedded',
  'estimator': 'recipes.estimator',
  'estimator.pictures': 'estimator',
  'retouch.records': 'recipes.retouch_records',
  'prior.frames': 'prior',
  'loki.prepare': 'systems.loki.prepare',
  'magicportrait.prepare': 'systems.magicportrait.prepare',
  'liveportrait.prepare': 'systems.liveportrait.training.prepare',
  'liveportrait.speech': 'systems.liveportrait.motion.speech',
}


def module_of(name: str) -> str:
  """The module of a command, below exp_jax."""
  return _ELSEWHERE.get(name, name if name.startswith('convert.') else f'commands.{name}')


def summary(name: str) -> str:
  """The first paragraph of a command's docstring, on one line, read without importing it."""
  *rooms, last = module_of(name).split('.')
  folder = package_file(*rooms) / last
  source = folder / '__main__.py' if folder.is_dir() else package_file(*rooms, f'{last}.py')
  text = ast.get_docstring(ast.parse(source.read_text(encoding='utf-8')))
  return ' '.join(text.partition('\n\n')[0].split())


def listing() -> str:
  """The help text."""
  width = max(map(len, NAMES))
  groups = (
    '\n'.join((f'{heading}:', *(f'  {name:{width}}  {summary(name)}' for name in names)))
    for heading, names in COMMANDS.items()
  )
  return f'{__doc__}\n' + '\n\n'.join(groups)


@exits_cleanly
def main() -> int:
  name, *arguments = sys.argv[1:] or ['--help']
  if name in ('-h', '--help'):
    print(listing())
  elif name == '--version':
    print(f'exp_jax {__version__}')
  elif name in NAMES:
    sys.argv[1:] = arguments
    runpy.run_module(f'exp_jax.{module_of(name)}', run_name='__main__', alter_sys=True)
  else:
    near = difflib.get_close_matches(name, NAMES, 1, 0.5)
    raise UserError(
      f'there is no command {name!r}; '
      + (f'did you mean {near[0]!r}?' if near else 'exp-jax --help lists them')
    )
  return 0


if __name__ == '__main__':
  sys.exit(main())
