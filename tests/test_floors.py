"""The house's law: imports point strictly down, systems never import each other, torch stays in convert/."""

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
  {'catalog', 'tasks', 'api'},
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
      if rest and top == 'exp_jax' and own[0] == 'systems' and rest[0] == 'systems' and rest[1] != own[1]:
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


@pytest.mark.parametrize('own, name', [
  (('geometry', 'a.py'), 'exp_jax.heads.model'), (('heads', 'a.py'), 'exp_jax.rendering'),
  (('systems', 'loki', 'a.py'), 'exp_jax.systems.expportrait.generator.dit'), (('heads', 'a.py'), 'torch.nn'),
  (('heads', 'a.py'), 'exp_jax.train'), (('fitting', 'a.py'), 'exp_jax.convert.smplx')])
def test_a_violation_is_seen(own, name):
  assert violations(own, [name])


def test_datasets_has_no_init():
  """A top-level datasets/__init__.py would hide the well-known package of that name."""
  assert not (ROOT.parent / 'datasets' / '__init__.py').exists()
