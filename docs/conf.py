"""Sphinx settings: pages in MyST Markdown, the public API from docstrings, the commands from their
own --help.

make docs     # in the project's environment; warnings are errors; the pages are in docs/_build/html
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import docstrings  # noqa: E402  (found by the path above)
import reference  # noqa: E402

from exp_jax import __version__  # noqa: E402

project = 'exp_jax'
author = 'the exp_jax contributors'
copyright = f'{author}, Apache-2.0'
version = release = __version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
source_suffix = {'.md': 'markdown'}
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'exp_jax {release}'

myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 3

autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False


def setup(app):
  """Writes the generated pages before Sphinx looks for its sources."""
  app.connect('autodoc-process-docstring', docstrings.process_docstring)
  app.connect('autodoc-skip-member', docstrings.skip_member)
  app.connect(
    'builder-inited', lambda app: reference.write_pages(pathlib.Path(app.srcdir, '_generated'))
  )
