"""Adds to the package what lies at the top of the source tree and an installed copy needs; all else
is in pyproject.toml."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

# found by exp_jax.files.resources.top_level_file
TOP_LEVEL = 'configs', 'requirements-mediapipe.txt'


class BuildWithTopLevelFiles(build_py):
  """build_py that copies TOP_LEVEL into the built package.

  An editable installation finds them where they lie.
  """

  def run(self):
    super().run()
    if getattr(self, 'editable_mode', False):
      return
    package = pathlib.Path(self.build_lib, 'exp_jax')
    for name in TOP_LEVEL:
      source = pathlib.Path(__file__).parent / name
      if source.is_dir():
        shutil.rmtree(package / name, ignore_errors=True)
        shutil.copytree(source, package / name, ignore=shutil.ignore_patterns('__pycache__', '.*'))
      else:
        shutil.copy2(source, package / name)


setup(cmdclass={'build_py': BuildWithTopLevelFiles})
