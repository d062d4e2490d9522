"""Where the program finds its own files: those that the package carries, and those that
`exp-jax setup` fetches.

Package files (embedded models, landmark tables, configs, the pins of the landmark estimator) are
found beside the code, by importlib.resources. Two of them, `configs/` and
`requirements-mediapipe.txt`, lie at the top of a checkout; `setup.py` copies them into the package
of an installed copy.

Fetched files live in one folder, the home:

  <home>/assets/heads/makehuman.npz   the MakeHuman head
  <home>/assets/metrics/              the networks behind LPIPS and CSIM (dlib), by `exp-jax setup --metrics`
  <home>/assets/wheels/               the downloads that the head and these networks are made from
  <home>/.venv-mediapipe/             the Python environment of the landmark estimator
  <home>/.provenance/                 the certificate that signs videos

The home is EXP_JAX_HOME if that is set, else the checkout that the code runs from, else `exp_jax`
in the user's cache
folder: $XDG_CACHE_HOME or ~/.cache, on macOS ~/Library/Caches, on Windows %LOCALAPPDATA%.
EXP_JAX_ASSETS and EXP_JAX_MEDIAPIPE replace the folder `assets` and the estimator's Python alone.
"""

import importlib.resources
import os
import pathlib
import sys

from exp_jax.errors import UserError


def package_folder() -> pathlib.Path:
  """The folder of the package `exp_jax`.

  Raises:
    UserError: the package is imported from a zip file, where its files cannot be opened by path.
  """
  folder = importlib.resources.files('exp_jax')
  if not isinstance(folder, pathlib.Path):
    raise UserError(
      f'exp_jax is imported from an archive ({folder}): unpack it, or install it with pip'
    )
  return folder


def checkout() -> pathlib.Path | None:
  """The top folder of the source tree that the code runs from, or None for an installed copy."""
  package = package_folder()
  installed = (package / 'configs').is_dir() or not (package.parent / 'configs').is_dir()
  return None if installed else package.parent


def package_file(*parts: str) -> pathlib.Path:
  """A file or folder that the package carries.

  Args:
    parts: names below the package, such as 'embedded', 'dit'.

  Raises:
    UserError: it is missing, so the installation is not complete.
  """
  path = package_folder().joinpath(*parts)
  if not path.exists():
    raise UserError(f'the installation of exp_jax lacks {"/".join(parts)}: install it again')
  return path


def top_level_file(name: str) -> pathlib.Path:
  """A file or folder that lies at the top of a checkout and inside an installed package; errors as
  of `package_file`."""
  root = checkout()
  return root / name if root and (root / name).exists() else package_file(name)


def config_file(name: str) -> pathlib.Path:
  """The config file of a name: a file of the user, else the package's own `NAME.py` or
  `configs/NAME.py`.

  Raises:
    UserError: there is no such file; lists the package's own.
  """
  if os.path.isfile(name):
    return pathlib.Path(name)
  folder = top_level_file('configs')
  known = sorted(path.name for path in folder.glob('*.py'))
  own = name.removeprefix('configs/')
  if own not in known:
    raise UserError(f'there is no config file {name!r}; the package has {", ".join(known)}')
  return folder / own


def home() -> pathlib.Path:
  """The folder of what is fetched; see the top of this file. It need not exist yet."""
  if named := os.environ.get('EXP_JAX_HOME'):
    return pathlib.Path(named).expanduser().absolute()
  return checkout() or _user_cache() / 'exp_jax'


def _user_cache() -> pathlib.Path:
  """The user's folder for files that can be fetched again."""
  if sys.platform == 'darwin':
    return pathlib.Path.home() / 'Library' / 'Caches'
  if sys.platform == 'win32':
    return pathlib.Path(os.environ.get('LOCALAPPDATA') or pathlib.Path.home() / 'AppData' / 'Local')
  named = os.environ.get('XDG_CACHE_HOME', '')
  # XDG: a relative one is invalid
  return pathlib.Path(named) if os.path.isabs(named) else pathlib.Path.home() / '.cache'


def assets() -> pathlib.Path:
  """The folder of fetched data: $EXP_JAX_ASSETS, else `assets` in the home."""
  named = os.environ.get('EXP_JAX_ASSETS')
  return pathlib.Path(named).expanduser().absolute() if named else home() / 'assets'


def metric_weights() -> pathlib.Path:
  """The folder of the networks that metrics look through, a folder each, as set-up leaves them."""
  return assets() / 'metrics'


def setup_command(option: str = '') -> str:
  """What to run to fetch what is missing, for messages: `make setup` in a checkout, `exp-jax setup`
  elsewhere, with an option."""
  if option:
    return f'`python -m exp_jax setup {option}`' if checkout() else f'`exp-jax setup {option}`'
  return '`make setup`' if checkout() else '`exp-jax setup`'
