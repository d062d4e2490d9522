"""SMPL-X and FLAME files, random in the exact format, against an independent numpy forward pass."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from scipy.spatial.transform import Rotation

from exp_jax.convert import flame, smplx
from exp_jax.errors import UserError
from exp_jax.heads import head_landmarks, head_vertices, load_head, neutral_params

SMPLX_PARENTS = [
  -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15, 20, 25, 26,
  20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38, 21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50,
  21, 52, 53]  # fmt: skip
PLACES = {
  9: (0, 1.1, 0), 12: (0, 1.3, 0), 13: (0.07, 1.25, 0), 14: (-0.07, 1.25, 0), 15: (0, 1.4, 0),
  16: (0.18, 1.25, 0), 17: (-0.18, 1.25, 0), 22: (0, 1.38, 0.03), 23: (0.03, 1.45, 0.08),
  24: (-0.03, 1.45, 0.08), 18: (0.45, 1.25, 0), 19: (-0.45, 1.25, 0)}  # fmt: skip


def a_model(parents, places, columns, *, seed=0):
  """Random arrays in the file's format: 14 vertices and 20 faces about each joint."""
  rng = np.random.default_rng(seed)
  joints, each = len(parents), 14
  place = np.stack([places.get(j, (0.3 * (-1) ** j, 0.5 - 0.01 * j, 0)) for j in range(joints)])
  owner = np.repeat(np.arange(joints), each)
  weights = 0.7 * np.eye(joints)[owner] + 0.3 * rng.dirichlet(np.full(joints, 0.1), len(owner))
  regressor = np.eye(joints)[owner].T * rng.uniform(0.5, 1, len(owner))
  faces = np.concatenate(
    [
      each * j + np.stack([rng.choice(each, 3, replace=False) for _ in range(20)])
      for j in range(joints)
    ]
  )
  return {
    'v_template': place[owner] + rng.normal(0, 0.04, (len(owner), 3)),
    'f': faces.astype(np.uint32),
    'shapedirs': 0.01 * rng.normal(size=(len(owner), 3, columns)),
    'weights': weights,
    'posedirs': 0.005 * rng.normal(size=(len(owner), 3, 9 * (joints - 1))),
    'J_regressor': regressor / regressor.sum(1, keepdims=True),
    'kintree_table': np.stack([np.array(parents, np.int64) % 2**32, np.arange(joints)]).astype(
      np.uint32
    ),
  }


def forward(model, parents, coefficients, rotations):
  """[V, 3] float64: the published equations, joint by joint, with 4x4 matrices."""
  shaped = model['v_template'] + model['shapedirs'] @ coefficients
  joints = model['J_regressor'] @ shaped
  matrices = Rotation.from_rotvec(rotations).as_matrix()
  posed = shaped + model['posedirs'] @ (matrices[1:] - np.eye(3)).ravel()
  world = []
  for j, parent in enumerate(parents):
    local = np.eye(4)
    local[:3, :3], local[:3, 3] = matrices[j], joints[j] - (joints[parent] if parent >= 0 else 0)
    world.append(local if parent < 0 else world[parent] @ local)
  vertices = np.zeros_like(posed)
  for j in range(len(parents)):
    relative = world[j].copy()
    relative[:3, 3] -= relative[:3, :3] @ joints[j]
    vertices += model['weights'][:, [j]] * (posed @ relative[:3, :3].T + relative[:3, 3])
  return vertices


def row_ids(template, whole):
  """Where the rows of the cut template are in the whole mesh."""
  distance = np.abs(np.asarray(template)[:, None] - whole).sum(-1)
  assert distance.min(1).max() < 1e-6
  return distance.argmin(1)


def params_for(head, joints, rotations, shape, expression):
  pose = jnp.asarray(np.stack([rotations[j] for j in joints]), jnp.float32)
  return neutral_params(head).replace(
    pose=pose,
    shape=jnp.asarray(shape, jnp.float32),
    expression=jnp.asarray(expression, jnp.float32),
  )


@pytest.mark.parametrize('columns, start', [(20, 10), (402, 300)])
def test_smplx_head_and_shoulders_equal_the_whole_body(columns, start, tmp_path):
  model = a_model(SMPLX_PARENTS, PLACES, columns)
  ids = np.array([20 * 15 + 3, 20 * 22 + 1, 20 * 40 + 2])  # head, jaw, and a finger that is cut off
  shares = np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0.1, 0.1, 0.8]])
  np.savez(
    tmp_path / 'm.npz',
    **model,
    lmk_faces_idx=ids,
    lmk_bary_coords=shares,
    joint2num=np.array({'pelvis': 0}, dtype=object),
  )  # a pickled member, never touched
  smplx.main(
    [str(tmp_path / 'm.npz'), '-o', str(tmp_path / 'head.npz'), '--shape', '7', '--expression', '5']
  )
  head = load_head(tmp_path / 'head.npz')
  rng = np.random.default_rng(1)
  rotations = np.zeros((55, 3))
  for joint in smplx.JOINTS:
    rotations[joint] = 0.3 * rng.normal(size=3) if joint != 9 else 0
  coefficients = np.zeros(columns)
  coefficients[:7], coefficients[start : start + 5] = rng.normal(size=7), rng.normal(size=5)
  whole = forward(model, SMPLX_PARENTS, coefficients, rotations)
  kept = row_ids(head.template, model['v_template'])
  params = params_for(
    head, smplx.JOINTS, rotations, coefficients[:7], coefficients[start : start + 5]
  )
  assert 50 < len(kept) < len(model['v_template']) and (model['v_template'][kept, 1] > 1.0).all()
  np.testing.assert_allclose(head_vertices(head, params), whole[kept], atol=2e-6)  # metres, float32
  points = np.einsum('kcd,kc->kd', whole[model['f'][ids[:2]]], shares[:2])
  np.testing.assert_allclose(head_landmarks(head, params), points, atol=2e-6)
  assert head.landmark_names == ('17', '18')


def test_flame_pickle_with_a_sparse_regressor(tmp_path):
  parents = [-1, 0, 1, 1, 1]
  places = {
    0: (0, -0.1, 0),
    1: (0, 0, 0),
    2: (0, 0, 0.02),
    3: (0.03, 0.04, 0.07),
    4: (-0.03, 0.04, 0.07),
  }
  model = a_model(parents, places, 400)
  stored = model | {
    'J_regressor': scipy.sparse.csc_matrix(model['J_regressor']),
    'bs_type': 'lrotmin',
  }
  (tmp_path / 'generic_model.pkl').write_bytes(pickle.dumps(stored, 2))
  head = flame.convert(tmp_path / 'generic_model.pkl')
  assert head.shape_basis.shape[-1] == 300 and head.expression_basis.shape[-1] == 100
  rng = np.random.default_rng(2)
  rotations, coefficients = 0.3 * rng.normal(size=(5, 3)), 0.3 * rng.normal(size=400)
  whole = forward(model, parents, coefficients, rotations)
  kept = row_ids(head.template, model['v_template'])
  params = params_for(head, flame.JOINTS, rotations, coefficients[:300], coefficients[300:])
  # 400 coefficients, float32
  np.testing.assert_allclose(head_vertices(head, params), whole[kept], atol=5e-6)


@pytest.mark.parametrize('change, words', [
  ({'weights': None}, 'weights'), ({'v_template': np.zeros((5, 3))}, 'fit together'),
  ({'shapedirs': np.full((770, 3, 20), np.nan)}, 'NaN'),
  ({'f': np.array([['a', 'b', 'c']])}, 'f is not an array'),
  ({'posedirs': np.zeros((770, 3, 9))}, 'fit together')])  # fmt: skip
def test_wrong_model_files_are_refused(change, words, tmp_path, capsys):
  model = a_model(SMPLX_PARENTS, PLACES, 20)
  model = {k: v for k, v in (model | change).items() if v is not None}
  np.savez(tmp_path / 'bad.npz', **model)
  with pytest.raises(UserError, match=words):
    smplx.convert(tmp_path / 'bad.npz')
  with pytest.raises(SystemExit) as ended:
    smplx.main([str(tmp_path / 'bad.npz'), '-o', str(tmp_path / 'out.npz')])
  assert ended.value.code == 2 and 'bad.npz' in capsys.readouterr().err
  assert not (tmp_path / 'out.npz').exists()


def test_truncated_and_pickled_npz_are_refused(tmp_path):
  np.savez(tmp_path / 'a.npz', **a_model(SMPLX_PARENTS, PLACES, 20))
  whole = (tmp_path / 'a.npz').read_bytes()
  (tmp_path / 'cut.npz').write_bytes(whole[: len(whole) // 2])
  np.savez(tmp_path / 'objects.npz', v_template=np.array([{}], dtype=object))
  for name in ('cut', 'objects', 'absent'):
    with pytest.raises(UserError, match=name):
      smplx.convert(tmp_path / f'{name}.npz')
