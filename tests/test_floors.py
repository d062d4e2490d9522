"""The house's law: imports point strictly down, systems never import each other, torch stays in
convert/."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent / 'exp_jax'
FLOORS = (
  {'files'},
  {'geometry', 'layers', 'diffusion', 'media', 'training'},
  {'heads', 'rendering', 'networks', 'data', 'provenance'},
  {'observe', 'controls', 'performance'},
  {'fitting', 'actors', 'metrics'},
  {'systems', 'estimator', 'prior'},
  {'convert'},
  {'catalog', 'api'},
  {'recipes'},
  {'commands'},
  {'studio'},
)
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
OFFLINE_ONLY = {'torch', 'pytorch3d', 'diffusers', 'transformers', 'smplx'}


def imported_names(path: pathlib.Path) -> list[str]:
  names = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: write absolute imports'
      names += [f'{node.module}.{alias.name}' for alias in node.names]
  return names


def violations(own: tuple[str, ...], names: list[str]) -> list[str]:
  found = []
  for name in names:
    top, *rest = name.split('.')
    if top in OFFLINE_ONLY and own[0] != 'convert':
      found.append(f'{name} belongs in convert/ only')
    if top != 'exp_jax' or not rest or rest[0] == own[0]:
      if (
        rest
        and top == 'exp_jax'
        and own[0] == 'systems'
        and rest[0] == 'systems'
        and rest[1] != own[1]
      ):
        found.append(f'systems never import each other: {name}')
      continue
    if rest[0] in FLOOR and FLOOR[rest[0]] >= FLOOR[own[0]]:
      found.append(f'{name} is not below {own[0]}')
    if rest[0] not in FLOOR and rest[0] not in ('errors', 'progress', '__version__'):
      found.append(f'{name}: rooms never import entry points')
  return found


@pytest.mark.parametrize('path', sorted(ROOT.glob('*/**/*.py')), ids=str)
def test_imports_point_down(path):
  own = path.relative_to(ROOT).parts
  assert not violations(own, imported_names(path))


def test_every_room_has_a_floor():
  rooms = {p.parent.relative_to(ROOT).parts[0] for p in ROOT.glob('*/**/*.py')}
  assert rooms <= set(FLOOR), rooms - set(FLOOR)


@pytest.mark.parametrize(
  'own, name',
  [
    (('geometry', 'a.py'), 'exp_jax.heads.model'),
    (('heads', 'a.py'), 'exp_jax.rendering'),
    (('systems', 'loki', 'a.py'), 'exp_jax.systems.expportrait.generator.dit'),
    (('heads', 'a.py'), 'torch.nn'),
    (('heads', 'a.py'), 'exp_jax.train'),
    (('fitting', 'a.py'), 'exp_jax.convert.smplx'),
  ],
)
def test_a_violation_is_seen(own, name):
  assert violations(own, [name])


def test_datasets_has_no_init():
  """A top-level datasets/__init__.py would hide the well-known package of that name."""
  assert not (ROOT.parent / 'datasets' / '__init__.py').exists()


# Still longer than they may be, file or file::function. Whoever splits one takes it out.
LEFT_FILES = set()
LEFT_FUNCTIONS = set()
SOURCES = sorted(ROOT.glob('**/*.py'))
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef


def functions(path: pathlib.Path):
  return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTIONS)]


def long_functions(path: pathlib.Path, most: int = 80) -> set[str]:
  name = path.relative_to(ROOT).as_posix()
  lines = lambda node: node.end_lineno - node.lineno + 1
  return {f'{name}::{node.name}' for node in functions(path) if lines(node) > most}


def test_functions_have_at_most_80_lines():
  found = set().union(*(long_functions(path) for path in SOURCES))
  assert found == LEFT_FUNCTIONS, 'split what is new, take out what is short enough now'


def test_files_have_at_most_500_lines():
  long = {p.relative_to(ROOT).as_posix() for p in SOURCES if p.read_text().count('\n') > 500}
  assert long == LEFT_FILES, 'split what is new, take out what is short enough now'


def test_folders_hold_at_most_15_files():
  folders = {path.parent for path in SOURCES}
  count = lambda folder: sum(p.name != '__init__.py' for p in folder.glob('*.py'))
  assert not {str(folder.relative_to(ROOT)) for folder in folders if count(folder) > 15}


def test_public_functions_have_at_most_6_positional_parameters():
  found = []
  for path in SOURCES:
    body = ast.parse(path.read_text()).body
    methods = [node for each in body if isinstance(each, ast.ClassDef) for node in each.body]
    for node in (node for node in (*body, *methods) if isinstance(node, FUNCTIONS)):
      given = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg != 'self']
      # `__call__` of a network takes its inputs
      if len(given) > 6 and not node.name.startswith('_'):
        found.append(f'{path.relative_to(ROOT)}::{node.name}')
  assert not found


def test_tests_import_no_private_names():
  found = []
  for path in sorted((ROOT.parent / 'tests').glob('**/*.py')):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('exp_jax'):
        private = [a.name for a in node.names if a.name.startswith('_') and a.name[1] != '_']
        found += [f'{path.name}: {name}' for name in private]
  assert not found


def test_long_functions_are_seen(tmp_path, monkeypatch):
  (tmp_path / 'a.py').write_text('def long():\n' + '  x = 1\n' * 81 + '\n\ndef short():\n  pass\n')
  monkeypatch.setitem(globals(), 'ROOT', tmp_path)
  assert long_functions(tmp_path / 'a.py') == {'a.py::long'}
