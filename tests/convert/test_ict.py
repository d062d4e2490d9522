"""ICT-FaceKit: a synthetic folder in its format always; the real one where $ICT_FACEKIT names a
checkout."""

import json
import os
import pathlib
import time

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.convert import ict
from exp_jax.errors import UserError
from exp_jax.heads import head_landmarks, head_vertices, load_head, neutral_params

HINGE, EYES = np.array([0, 1.0, 1.0]), np.array([[3.0, 4, 8], [-3.0, 4, 8]])  # cm
OPENING = Rotation.from_rotvec([0.4, 0, 0])


def write_obj(path, vertices, polygons=()):
  lines = [
    '# a comment',
    'mtllib none.mtl',
    *(f'v {x:.5f} {y:.5f} {z:.5f}' for x, y, z in vertices),
  ]
  lines += ['vt 0.25 0.5', 'vt 0.5 0.5', 'vt 0.5 0.75', 'usemtl M_Face'] if polygons else []
  lines += ['f ' + ' '.join(f'{v + 1}/{t + 1}' for v, t in polygon) for polygon in polygons]
  path.write_text('\n'.join(lines) + '\n')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """26719 random vertices; the lower teeth turn about a hinge, the scleras are spheres."""
  folder, rng = tmp_path_factory.mktemp('ict') / 'FaceXModel', np.random.default_rng(0)
  folder.mkdir()
  vertices = rng.normal(size=(26719, 3)) * [6, 8, 6] + [0, -2, 2]
  for side, centre in zip(('left', 'right'), EYES):
    first, last = ict.PARTS[f'{side}_eye']
    ball = rng.normal(size=(last - first, 3))
    vertices[first:last] = centre + 1.5 * ball / np.linalg.norm(ball, axis=1, keepdims=True)
  polygons = []
  for first, last in ict.PARTS.values():  # quads, and a triangle, over neighbours in the list
    polygons += [
      [(v + k, k % 3) for k in range(4 if v % 5 else 3)] for v in range(first, last - 4, 4)
    ]
  polygons.append([(26700 + k, k) for k in range(3)])  # lashes, left out
  write_obj(folder / 'generic_neutral_mesh.obj', vertices, polygons)
  for k in range(2):
    write_obj(folder / f'identity{k:03}.obj', vertices + [0, 0.1 * (k + 1), 0])
  opened = vertices.copy()
  first, last = ict.PARTS['lower_teeth']
  opened[first:last] = OPENING.apply(vertices[first:last] - HINGE) + HINGE
  write_obj(folder / 'jawOpen.obj', opened)
  moved = vertices.copy()
  moved[:100, 1] -= 0.5
  moved[21451:21500, 1] += 0.5  # an eyeball that the action would drag along
  write_obj(folder / 'eyeBlink_L.obj', moved)
  landmarks = [4 * k for k in range(68)]
  (folder / 'vertex_indices.json').write_text(
    json.dumps({'expressions': ['eyeBlink_L', 'jawOpen'], 'idx_to_landmark_verts': landmarks})
  )
  return folder


def test_a_folder_of_the_format_becomes_a_head(folder, tmp_path, capsys):
  ict.main([str(folder.parent), '-o', str(tmp_path / 'ict.npz'), '--mediapipe', 'no'])
  assert 'sha256:' in capsys.readouterr().out
  head = load_head(tmp_path / 'ict.npz')
  assert head.name == 'ict' and 'MIT' in head.license and 'sha256:' in head.source
  assert head.template.shape == (24591, 3) and head.faces.max() < 24591, (
    'lashes and fluids are left out'
  )
  assert head.expression_names == ('eyeBlinkLeft', 'jawOpen') and head.landmark_names[67] == '67'
  joints = dict(zip(head.joint_names, np.asarray(head.joint_template) * 100))
  np.testing.assert_allclose(joints['left_eye'] - joints['right_eye'], EYES[0] - EYES[1], atol=1e-3)
  np.testing.assert_allclose(joints['jaw'] - joints['left_eye'], HINGE - EYES[0], atol=1e-2)
  np.testing.assert_allclose(joints['head'], 0, atol=1e-6)
  np.testing.assert_allclose(head.shape_basis[:, 1, 1], 0.002, atol=1e-5)  # metres
  blink = np.asarray(head.expression_basis[..., 0])
  assert np.abs(blink[:100, 1] + 0.005).max() < 1e-5 and np.abs(blink[100:]).max() < 1e-6, (
    'eyes are left to joints'
  )
  points = head_landmarks(head, neutral_params(head))
  np.testing.assert_allclose(points, head.template[np.arange(68) * 4], atol=1e-6)


def test_the_jaw_joint_moves_the_lower_teeth_as_jaw_open_does(folder):
  head = ict.convert(folder)
  zero = neutral_params(head)
  turn = zero.replace(pose=zero.pose.at[head.joint('jaw'), 0].set(0.4))
  action = zero.replace(expression=jnp.array([0.0, 1.0]))
  lower = slice(*ict.PARTS['lower_teeth'])
  by_joint, by_action = head_vertices(head, turn)[lower], head_vertices(head, action)[lower]
  # directions are rounded to 8 micrometres
  np.testing.assert_allclose(by_joint, by_action, atol=3e-5)


@pytest.mark.parametrize(
  'damage, words',
  [
    (lambda f: (f / 'jawOpen.obj').unlink(), 'jawOpen.obj'),
    (lambda f: (f / 'vertex_indices.json').write_text('{"expressions": 3}'), 'vertex_indices.json'),
    (lambda f: (f / 'vertex_indices.json').write_text('[' * 100_000), 'vertex_indices.json'),
    (
      lambda f: (f / 'vertex_indices.json').write_text(
        '{"expressions": ["../../etc"], "idx_to_landmark_verts": []}'
      ),
      'names',
    ),
    (lambda f: write_obj(f / 'identity001.obj', np.zeros((5, 3))), 'identity001.obj has 5'),
    (
      lambda f: write_obj(f / 'identity001.obj', np.full((26719, 3), np.nan)),
      'identity001.obj is not',
    ),
    (
      lambda f: (f / 'identity000.obj').write_text('v 1 2 __import__("os")\n'),
      'identity000.obj is not',
    ),
    (lambda f: (f / 'identity000.obj').write_text('hello'), 'identity000.obj is not'),
    (lambda f: [p.unlink() for p in f.glob('identity*')], 'identity000'),
  ],
)
def test_damaged_folders_are_refused_by_name(damage, words, folder, tmp_path):
  copy = tmp_path / 'FaceXModel'
  copy.mkdir()
  for path in folder.iterdir():
    os.link(path, copy / path.name)
  changed = {
    p.name: p.read_bytes()
    for p in copy.iterdir()
    if p.stat().st_size < 2**16 or p.name.startswith('identity')
  }
  for name, content in changed.items():  # those that `damage` may overwrite are no longer links
    (copy / name).unlink()
    (copy / name).write_bytes(content)
  damage(copy)
  with pytest.raises(UserError, match=words):
    ict.convert(copy)
  with pytest.raises(UserError, match='no such file'):
    ict.convert(tmp_path / 'absent')


def test_the_real_model(tmp_path):
  if 'ICT_FACEKIT' not in os.environ:
    pytest.skip('set ICT_FACEKIT to a checkout of ICT-FaceKit')
  started = time.perf_counter()
  ict.main([os.environ['ICT_FACEKIT'], '-o', str(tmp_path / 'ict.npz')])
  print(f'{time.perf_counter() - started:.1f} s')
  assert pathlib.Path(tmp_path / 'ict.npz').stat().st_size < 10e6
  head = load_head(tmp_path / 'ict.npz')
  assert (
    len(head.shape_names) == 100
    and len(head.expression_names) == 53
    and len(head.landmark_names) == 68
  )
  zero, template = neutral_params(head), np.asarray(head.template)
  at = dict(zip(head.landmark_names, np.asarray(head_landmarks(head, zero))))
  assert 0.08 < at['45'][0] - at['36'][0] < 0.1 and at['8'][1] < at['30'][1] < at['27'][1], (
    'metres, y up'
  )
  lids = lambda p: np.asarray(head_landmarks(head, p))
  blink = [float(n.startswith('eyeBlink')) for n in head.expression_names]
  closed = lids(zero.replace(expression=jnp.array(blink)))
  for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
    assert (
      at[str(upper)][1] - at[str(lower)][1] > 0.006 and closed[upper, 1] - closed[lower, 1] < 0.002
    )
  opened = lids(zero.replace(pose=zero.pose.at[head.joint('jaw'), 0].set(0.35)))
  assert opened[62, 1] - opened[66, 1] > 0.02, 'the jaw opens the mouth'
  edges = np.sort(np.asarray(head.faces)[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
  border = np.unique(edges, axis=0, return_counts=True)
  rim = np.unique(border[0][border[1] == 1])
  assert template[rim[rim < ict.PARTS['gums'][0]], 1].max() < -0.1, (
    'no cracks above the rim of the neck'
  )
