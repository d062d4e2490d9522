"""The notebook, run from its first cell to its last; by a runner of a few lines, because a kernel would need Jupyter.

It is committed without outputs. Slow: it compiles a fit, a preview and a training step.
"""

import ast
import json
import os
import pathlib
import subprocess
import sys

import pytest

from exp_jax.errors import UserError
from exp_jax.heads.head_files import load_head
from exp_jax.observe.landmarks import interpreter

ROOT = pathlib.Path(__file__).parent.parent
PATH = ROOT / 'docs' / 'notebooks' / 'first_animation.ipynb'
BOOK = json.loads(PATH.read_text(encoding='utf8'))
CODE = [''.join(cell['source']) for cell in BOOK['cells'] if cell['cell_type'] == 'code']

RUNNER = """
import ast, json, sys
space = {'__name__': '__main__'}
for number, source in enumerate(json.load(sys.stdin)):
  tree = ast.parse(source, f'<cell {number}>')
  last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
  exec(compile(tree, f'<cell {number}>', 'exec'), space)
  shown = None if last is None else eval(compile(ast.Expression(last.value), f'<cell {number}>', 'eval'), space)
  print(f'cell {number}:', type(shown).__name__, getattr(shown, 'size', ''), flush=True)
"""


def _ready() -> bool:
  try:
    return bool(load_head('makehuman')) and bool(interpreter())
  except UserError:
    return False


def test_it_is_a_notebook_without_outputs():
  assert BOOK['nbformat'] == 4 and len(CODE) >= 5
  for cell in BOOK['cells']:
    assert cell['id'] and (
      cell['cell_type'] == 'markdown' or not cell['outputs'] and cell['execution_count'] is None
    )
  for source in CODE:
    ast.parse(source)


@pytest.mark.slow
@pytest.mark.skipif(
  not _ready(), reason='`make setup` makes the MakeHuman head and the landmark estimator'
)
def test_every_cell_runs():
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
    [sys.executable, '-c', RUNNER],
    input=json.dumps(CODE),
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=environment,
  )
  assert done.returncode == 0, done.stdout + done.stderr[-2000:]
  assert 'cell 1: Image (256, 128)' in done.stdout and 'cell 3: Image (512, 128)' in done.stdout, (
    done.stdout
  )
  assert 'offsets: static' in done.stdout and done.stdout.count('loss') >= 2
