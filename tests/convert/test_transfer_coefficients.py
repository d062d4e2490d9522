"""Coefficients moved between heads: exactly where the spaces are shared, much nearer where they are
not."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from exp_jax.convert import ict, smplx, stand_in, transfer_coefficients
from exp_jax.convert.heads.registration import (
  from_vertex_ids,
  nearest_on_triangles,
  normals_of,
  register,
)
from exp_jax.errors import UserError
from exp_jax.geometry import similarity
from exp_jax.heads import HeadParams, head_vertices, load_head, save_head

FLAME_JOINTS = ('neck', 'head', 'jaw', 'left_eye', 'right_eye')


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """A SMPL-X head and a FLAME-like one: its own joints and rows, the same directions in another
  mixture."""
  path = tmp_path_factory.mktemp('models') / 'SMPLX_NEUTRAL.npz'
  np.savez(path, **stand_in.smplx_model())
  source = smplx.convert(path, num_shape=12, num_expression=9)
  rows = [source.joint(name) for name in FLAME_JOINTS]
  few = np.arange(0, len(source.template), 8)
  weights = np.asarray(source.weights)[few].copy()
  ids = np.flatnonzero(weights[:, rows].sum(1) > 0.8)  # whatever follows other joints FLAME lacks
  weights[np.ix_(ids, [k for k in range(10) if k not in rows])] = 0
  weights[ids] /= weights[ids].sum(1, keepdims=True)
  source = source.replace(
    template=source.template[few],
    faces=jnp.zeros((1, 3), jnp.int32),
    shape_basis=source.shape_basis[few],
    expression_basis=source.expression_basis[few],
    pose_basis=source.pose_basis[few],
    weights=jnp.asarray(weights),
    regions={},
    landmark_faces=jnp.zeros(0, jnp.int32),
    landmark_barycentric=jnp.zeros((0, 3)),
    landmark_names=(),
    contour_faces=None,
    contour_barycentric=None,
  )
  rng = np.random.default_rng(3)
  mix = lambda n: np.linalg.qr(rng.normal(size=(n, n)))[0] * rng.uniform(0.5, 2, n)
  shape, expression = mix(12), mix(9)
  columns = np.concatenate([np.arange(9) + 9 * (rows[k] - 1) for k in range(1, 5)])
  target = source.replace(
    template=source.template[ids],
    shape_basis=jnp.asarray(np.asarray(source.shape_basis)[ids] @ shape),
    expression_basis=jnp.asarray(np.asarray(source.expression_basis)[ids] @ expression),
    pose_basis=source.pose_basis[ids][..., columns],
    joint_template=source.joint_template[np.array(rows)],
    joint_shape=jnp.asarray(np.asarray(source.joint_shape)[rows] @ shape),
    joint_expression=jnp.asarray(np.asarray(source.joint_expression)[rows] @ expression),
    weights=jnp.asarray(weights[ids][:, rows]),
    parents=(-1, 0, 1, 1, 1),
    joint_names=FLAME_JOINTS,
    name='flame',
    contour_joint=1,
  )
  return source, target, ids


def some_params(head, joints, frames=2, seed=0):
  rng = np.random.default_rng(seed)
  pose = np.zeros((frames, len(head.parents), 3))
  for name in joints:
    pose[:, head.joint(name)] = 0.2 * rng.normal(size=(frames, 3))
  pose[:, 0] = [[0.3, 1.2, -0.2], [0, -2.5, 0.4]][:frames]  # turned far: the start must find it
  return HeadParams(
    shape=rng.normal(size=len(head.shape_names)),
    expression=rng.normal(size=(frames, len(head.expression_names))),
    pose=pose,
    translation=rng.normal(size=(frames, 3)),
  )


def vertices_of(head, params, t):
  frame = HeadParams(
    *(
      jnp.asarray(x, jnp.float32)
      for x in (params.shape, params.expression[t], params.pose[t], params.translation[t])
    )
  )
  return np.asarray(head_vertices(head, frame))


@pytest.mark.long
def test_a_shared_space_is_recovered_to_rounding(pair):
  source, target, ids = pair
  assert 300 < len(ids) < len(source.template)
  params = some_params(source, ('head', 'jaw', 'left_eye', 'right_eye'))
  pairs = from_vertex_ids(ids, np.arange(len(ids)))
  made, residual = transfer_coefficients.transfer(source, target, pairs, params)
  for t in range(2):
    # metres
    np.testing.assert_allclose(
      vertices_of(target, made, t), vertices_of(source, params, t)[ids], atol=1e-5
    )
  assert residual['frames'].max() < 1e-3 < residual['before'], residual  # millimetres
  back, residual = transfer_coefficients.transfer(target, source, pairs.swapped(), made)
  for t in range(2):
    np.testing.assert_allclose(
      vertices_of(source, back, t)[ids], vertices_of(target, made, t), atol=1e-5
    )
  assert np.abs(made.shape - params.shape).max() > 0.1, 'copying the numbers would have been wrong'


@pytest.mark.long
def test_the_command_line(pair, tmp_path, capsys):
  source, target, ids = pair
  for name, head in (('source', source), ('target', target)):
    save_head(tmp_path / f'{name}.npz', head)
  params = some_params(source, ('head', 'jaw'), frames=1)
  fields = {name: getattr(params, name) for name in ('shape', 'expression', 'pose', 'translation')}
  np.savez(tmp_path / 'params.npz', **fields)
  np.save(tmp_path / 'ids.npy', ids)
  files = [str(tmp_path / f'{name}.npz') for name in ('source', 'target', 'params')]
  options = ['-o', str(tmp_path / 'out.npz'), '--vertex-ids', str(tmp_path / 'ids.npy')]
  transfer_coefficients.main([*files, *options])
  assert 'mm' in capsys.readouterr().out
  found = np.load(tmp_path / 'out.npz')
  made = HeadParams(*(found[name] for name in fields))
  np.testing.assert_allclose(
    vertices_of(target, made, 0), vertices_of(source, params, 0)[ids], atol=1e-5
  )
  np.save(tmp_path / 'ids.npy', ids[:-1])
  np.savez(tmp_path / 'short.npz', **(fields | {'pose': fields['pose'][:, :3]}))
  np.savez(tmp_path / 'bare.npz', shape=fields['shape'])
  for arguments, words in (
    (files, 'ids.npy has'),
    ([*files[:2], str(tmp_path / 'short.npz')], 'pose has shape'),
    ([*files[:2], str(tmp_path / 'bare.npz')], "'expression' is missing"),
  ):
    with pytest.raises(SystemExit) as ended:
      transfer_coefficients.main([*arguments, *options])
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_heads_without_common_landmarks_are_refused(pair):
  with pytest.raises(UserError, match='landmark'):
    register(pair[0], pair[1])


def test_similarity_is_recovered():
  rng = np.random.default_rng(0)
  points, rotation = rng.normal(size=(9, 3)), Rotation.from_rotvec([0.3, -2, 0.5]).as_matrix()
  moved = 1.7 * points @ rotation.T + [1, 2, 3]
  moved[0] = 99  # of no weight
  scale, found, shift = similarity(points, moved, np.array([0.0, *[1] * 8]))
  np.testing.assert_allclose((scale, *shift), (1.7, 1, 2, 3), atol=1e-9)
  np.testing.assert_allclose(found, rotation, atol=1e-9)


def test_nearest_points_agree_with_all_triangles_tried():
  head = load_head('procedural')
  vertices, faces = np.asarray(head.template, np.float64), np.asarray(head.faces)
  rng = np.random.default_rng(0)
  chosen = rng.choice(500, 40)
  normals = normals_of(vertices, faces)[chosen]
  points = vertices[chosen] + 0.003 * rng.normal(size=(40, 3))
  face, shares, distance = nearest_on_triangles(points, normals, vertices, faces)
  facing = normals_of(vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3))[::3]
  for k in range(40):
    there = trimesh.triangles.closest_point(
      vertices[faces], np.broadcast_to(points[k], (len(faces), 3))
    )
    away = np.where(facing @ normals[k] > 0.5, np.linalg.norm(there - points[k], axis=1), np.inf)
    np.testing.assert_allclose(distance[k], away.min(), atol=1e-9)
  np.testing.assert_allclose(
    np.einsum('kcd,kc->kd', vertices[faces[face]], shares) - points,
    there_of(points, vertices, faces, face) - points,
    atol=1e-9,
  )


def there_of(points, vertices, faces, face):
  return trimesh.triangles.closest_point(vertices[faces[face]], points)


def heads_of(name):
  try:
    return load_head(name)
  except UserError as error:
    pytest.skip(str(error))


@pytest.mark.long
def test_makehuman_takes_the_shape_and_smile_of_the_procedural_head():
  source, target = load_head('procedural'), heads_of('makehuman')
  params = some_params(source, ('jaw',), frames=1, seed=2)
  smile = np.array([[float(n.startswith('mouthSmile')) for n in source.expression_names]])
  params = params.replace(expression=smile, shape=0 * params.shape)
  with jax.default_matmul_precision('highest'):
    made, residual = transfer_coefficients.transfer(
      source, target, register(source, target), params
    )
  print({key: np.round(value, 2) for key, value in residual.items()}, 'mm')
  assert residual['neutral'] < 0.5 * residual['before'] and residual['frames'].max() < 2.5
  turned = (
    Rotation.from_rotvec(made.pose[0, 0])
    * Rotation.from_rotvec(made.pose[0, 1])
    * Rotation.from_rotvec(made.pose[0, 2])
  )
  assert (turned.inv() * Rotation.from_rotvec(params.pose[0, 0])).magnitude() < 0.2, (
    'the head faces the same way'
  )


def test_ict_takes_the_shape_and_expression_of_makehuman():
  if 'ICT_FACEKIT' not in os.environ:
    pytest.skip('set ICT_FACEKIT to a checkout of ICT-FaceKit')
  source, target = heads_of('makehuman'), ict.convert(os.environ['ICT_FACEKIT'])
  rng = np.random.default_rng(0)
  params = some_params(source, ('head',), frames=1)
  blink = np.array([[float(n == 'eyeBlinkLeft') for n in source.expression_names]])
  params = params.replace(expression=blink, shape=0.3 * rng.normal(size=params.shape.shape))
  made, residual = transfer_coefficients.transfer(source, target, register(source, target), params)
  print({key: np.round(value, 2) for key, value in residual.items()}, 'mm')
  assert residual['neutral'] < 0.5 * residual['before'] and residual['frames'].max() < 1.5
  largest = target.expression_names[int(np.argmax(made.expression[0]))]
  assert largest == 'eyeBlinkLeft'
