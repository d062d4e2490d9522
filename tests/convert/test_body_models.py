"""SMPL-X and FLAME files, random in the exact format, against an independent numpy forward pass."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from scipy.spatial.transform import Rotation

from exp_jax.convert import flame, smplx
from exp_jax.errors import UserError
from exp_jax.heads import (
  contour_landmarks,
  head_landmarks,
  head_vertices,
  load_head,
  neutral_params,
)
from exp_jax.heads.landmark_sets import landmark_scheme

SMPLX_PARENTS = [
  -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15, 20, 25, 26,
  20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38, 21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50,
  21, 52, 53]  # fmt: skip
PLACES = {
  9: (0, 1.1, 0),
  12: (0, 1.3, 0),
  13: (0.07, 1.25, 0),
  14: (-0.07, 1.25, 0),
  15: (0, 1.4, 0),
  16: (0.18, 1.25, 0),
  17: (-0.18, 1.25, 0),
  22: (0, 1.38, 0.03),
  23: (0.03, 1.45, 0.08),
  24: (-0.03, 1.45, 0.08),
  18: (0.45, 1.25, 0),
  19: (-0.45, 1.25, 0),
}


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


@pytest.mark.long
@pytest.mark.parametrize('columns, start', [(20, 10), (402, 300)])
def test_smplx_head_and_shoulders_equal_the_whole_body(columns, start, tmp_path):
  model = a_model(SMPLX_PARENTS, PLACES, columns)
  ids = np.array([20 * 15 + 3, 20 * 22 + 1, 20 * 40 + 2])  # head, jaw, and a finger that is cut off
  shares = np.array([[0.2, 0.3, 0.5], [1, 0, 0], [0.1, 0.1, 0.8]])
  # a pickled member, never touched
  np.savez(
    tmp_path / 'm.npz',
    **model,
    lmk_faces_idx=ids,
    lmk_bary_coords=shares,
    joint2num=np.array({'pelvis': 0}, dtype=object),
  )
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


@pytest.mark.parametrize(
  'change, words',
  [
    ({'weights': None}, 'weights'),
    ({'v_template': np.zeros((5, 3))}, 'fit together'),
    ({'shapedirs': np.full((770, 3, 20), np.nan)}, 'NaN'),
    ({'f': np.array([['a', 'b', 'c']])}, 'f is not an array'),
    ({'posedirs': np.zeros((770, 3, 9))}, 'fit together'),
  ],
)
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


FLAME_PARENTS = [-1, 0, 1, 1, 1]
FLAME_PLACES = {
  0: (0, -0.1, 0),
  1: (0, 0, 0),
  2: (0, 0, 0.02),
  3: (0.03, 0.04, 0.07),
  4: (-0.03, 0.04, 0.07),
}


@pytest.fixture
def flame_folder(tmp_path):
  """A small FLAME: model, DECA-style landmarks with a contour, MediaPipe landmarks, masks."""
  rng, model = np.random.default_rng(5), a_model(FLAME_PARENTS, FLAME_PLACES, 400)
  points = lambda *shape: (rng.integers(0, 100, shape), rng.dirichlet([1, 1, 1], shape))
  (tmp_path / 'flame2023.pkl').write_bytes(pickle.dumps(model, 2))
  (static, static_shares), (rows, row_shares), (media, media_shares) = (
    points(51),
    points(79, 17),
    points(105),
  )
  table = {
    'static_lmk_faces_idx': static,
    'static_lmk_bary_coords': static_shares,
    'dynamic_lmk_faces_idx': rows,
    'dynamic_lmk_bary_coords': row_shares,
    'full_lmk_faces_idx': static[None],
  }
  np.save(tmp_path / 'landmark_embedding.npy', np.array(table, object), allow_pickle=True)
  np.savez(
    tmp_path / 'mediapipe.npz',
    lmk_face_idx=media,
    lmk_b_coords=media_shares,
    landmark_indices=np.sort(rng.choice(478, 105, replace=False)),
  )
  masks = {
    'face': np.arange(20),
    'left_eyeball': np.arange(42, 56),
    'right_eyeball': np.arange(56, 70),
    'lips': np.arange(3),
  }
  (tmp_path / 'FLAME_masks.pkl').write_bytes(pickle.dumps(masks, 2))
  return tmp_path, model, rows, row_shares


@pytest.mark.long
def test_flame_takes_landmarks_contour_and_masks_of_trackers(flame_folder, capsys):
  folder, model, rows, shares = flame_folder
  arguments = [str(folder / 'flame2023.pkl'), '-o', str(folder / 'h.npz')]
  flame.main(
    [
      *arguments,
      '--landmarks',
      str(folder / 'landmark_embedding.npy'),
      '--masks',
      str(folder / 'FLAME_masks.pkl'),
    ]
  )
  said = capsys.readouterr().out
  assert 'contour of 17' in said and 'sha256:' in said and 'licence: FLAME' in said
  head = load_head(folder / 'h.npz')
  assert head.landmark_names == tuple(str(k) for k in range(17, 68))
  assert head.joint_names[head.contour_joint] == 'head'
  for degrees, row in ((0, 0), (39, 39), (-1, 40), (-39, 78), (12, 12), (80, 39), (-80, 78)):
    params = neutral_params(head)
    # to the person's right
    params = params.replace(pose=params.pose.at[1, 1].set(np.radians(-degrees)))
    vertices = np.asarray(head_vertices(head, params))
    expected = np.einsum('kcd,kc->kd', vertices[model['f'][rows[row]]], shares[row])
    np.testing.assert_allclose(
      contour_landmarks(head, params), expected, atol=2e-6, err_msg=f'{degrees} degrees'
    )
  assert (
    np.asarray(head.regions['face'])[:20].mean()
    > 0.7
    > 0.1
    > np.asarray(head.regions['face'])[35:].mean()
  )
  flame.main([*arguments, '--landmarks', str(folder / 'mediapipe.npz')])
  head = load_head(folder / 'h.npz')
  assert (
    len(head.landmark_names) == 105
    and landmark_scheme(head) == 'mediapipe478'
    and head.contour_faces is None
  )
  with pytest.raises(ValueError, match='no contour'):
    contour_landmarks(head, neutral_params(head))


@pytest.mark.parametrize(
  'name, content, words',
  [
    (
      '--landmarks',
      {'lmk_face_idx': np.arange(51), 'lmk_b_coords': np.ones((51, 2)) / 2},
      'lmk_b_coords has shape',
    ),
    ('--landmarks', {'lmk_face_idx': np.arange(51), 'lmk_b_coords': np.ones((51, 3))}, 'sum to 1'),
    (
      '--landmarks',
      {'lmk_face_idx': np.full(51, 100_000), 'lmk_b_coords': np.ones((51, 3)) / 3},
      'do not exist',
    ),
    (
      '--landmarks',
      {'lmk_face_idx': np.arange(51) + 0.5, 'lmk_b_coords': np.ones((51, 3)) / 3},
      'fractions',
    ),
    ('--landmarks', {'other': np.arange(3)}, 'landmark file'),
    (
      '--contour',
      {'lmk_face_idx': np.zeros((78, 17), int), 'lmk_b_coords': np.ones((78, 17, 3)) / 3},
      '78 rows',
    ),
    ('--contour', {'lmk_face_idx': [['a']]}, 'lmk_face_idx'),
    ('--masks', {'face': np.array([5000])}, 'vertices that FLAME does not have'),
    ('--masks', {'nothing': np.array([5])}, 'none of the regions'),
  ],
)
def test_wrong_side_files_are_refused(name, content, words, flame_folder, capsys):
  folder = flame_folder[0]
  (folder / 'side.pkl').write_bytes(pickle.dumps(content, 2))
  with pytest.raises(SystemExit):
    flame.main(
      [str(folder / 'flame2023.pkl'), '-o', str(folder / 'h.npz'), name, str(folder / 'side.pkl')]
    )
  said = capsys.readouterr().err
  assert (
    words in said and 'Traceback' not in said and ('side.pkl' in said or 'flame2023.pkl' in said)
  )
  assert not (folder / 'h.npz').exists()


def test_smplx_takes_regions_of_flame_and_mediapipe_landmarks(tmp_path):
  model = a_model(SMPLX_PARENTS, PLACES, 20)
  np.savez(tmp_path / 'm.npz', **model)
  # head, jaw, eyes
  ids = np.concatenate([np.arange(15 * 14, 16 * 14), np.arange(22 * 14, 25 * 14)])
  np.save(tmp_path / 'ids.npy', ids)
  (tmp_path / 'masks.pkl').write_bytes(
    pickle.dumps({'face': np.arange(14), 'left_ear': np.arange(14, 20)}, 2)
  )
  np.savez(
    tmp_path / 'media.npz',
    lmk_face_idx=20 * 15 + np.arange(5),
    lmk_b_coords=np.ones((5, 3)) / 3,
    landmark_indices=np.array([0, 1, 17, 200, 477]),
  )
  files = dict(masks=tmp_path / 'masks.pkl', flame_ids=tmp_path / 'ids.npy')
  head = smplx.convert(tmp_path / 'm.npz', landmarks=tmp_path / 'media.npz', **files)
  assert head.landmark_names == ('0', '1', '17', '200', '477')
  rows = row_ids(head.template, model['v_template'])
  face = np.asarray(head.regions['face'])
  assert face[np.isin(rows, ids[:14])].mean() > 0.6 > 0.2 > face[~np.isin(rows, ids[:14])].mean()
  with pytest.raises(UserError, match='needed together'):
    smplx.convert(tmp_path / 'm.npz', masks=tmp_path / 'masks.pkl')
  np.save(tmp_path / 'ids.npy', np.array([1, 1]))
  with pytest.raises(UserError, match='ids.npy'):
    smplx.convert(tmp_path / 'm.npz', **files)


@pytest.mark.long
def test_the_whole_body_keeps_its_hands(tmp_path):
  model = a_model(SMPLX_PARENTS, PLACES, 20)
  np.savez(tmp_path / 'm.npz', **model)
  head = smplx.convert(tmp_path / 'm.npz', whole=True)
  assert head.template.shape[0] == 770 and head.parents == tuple(SMPLX_PARENTS)
  assert (
    head.joint_names[24] == 'right_eye'
    and head.joint_names[25] == 'left_index1'
    and head.joint_names[54] == 'right_thumb3'
  )
  rng = np.random.default_rng(3)
  rotations, coefficients = 0.3 * rng.normal(size=(55, 3)), rng.normal(size=20)
  params = params_for(head, range(55), rotations, coefficients[:10], coefficients[10:])
  whole = forward(model, SMPLX_PARENTS, coefficients, rotations)
  # metres, float32, eight joints deep
  np.testing.assert_allclose(head_vertices(head, params), whole, atol=5e-6)


def test_a_file_of_another_body_model_is_refused(tmp_path):
  model = a_model([-1, 0, 1], {}, 20)
  np.savez(tmp_path / 'smpl.npz', **model)
  with pytest.raises(UserError, match='3 joints, SMPL-X has 55'):
    smplx.convert(tmp_path / 'smpl.npz')
  (tmp_path / 'm.pkl').write_bytes(pickle.dumps(model, 2))
  with pytest.raises(UserError, match='FLAME 2020 and 2023'):
    flame.convert(tmp_path / 'm.pkl')


def test_flame_without_a_jaw_joint(tmp_path):
  model = a_model([-1, 0, 1, 1], {k: FLAME_PLACES[j] for k, j in enumerate((0, 1, 3, 4))}, 400)
  (tmp_path / 'flame2023_no_jaw.pkl').write_bytes(pickle.dumps(model, 2))
  head = flame.convert(tmp_path / 'flame2023_no_jaw.pkl')
  assert head.joint_names == ('neck', 'head', 'left_eye', 'right_eye') and head.parents == (
    -1,
    0,
    1,
    1,
  )
