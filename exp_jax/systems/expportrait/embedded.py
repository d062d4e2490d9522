"""Models that ship with the package."""

import pathlib

from exp_jax.files.resources import package_file


def embedded(name: str) -> pathlib.Path:
  """The folder of a model that ships with the package: 'dit', 'vae', 'retouch' or 'transfer'; see
  exp_jax/embedded/README.md.

  Raises:
    UserError: it is not there.
  """
  return package_file('embedded', name)
