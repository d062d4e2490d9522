"""Properties every head model must have; the procedural head always, MakeHuman where it is
installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.errors import UserError
from exp_jax.files import npz
from exp_jax.geometry import Camera
from exp_jax.geometry.rotations import rotation_from_axis_angle
from exp_jax.heads import skinning
from exp_jax.heads.head_files import load_head, save_head
from exp_jax.heads.model import head_digest, make_head, neutral_params
from exp_jax.heads.skinning import (
  head_joints,
  head_landmarks,
  head_vertices,
  joint_transforms,
  landmark_pixels,
)
from exp_jax.layers.batching import BLOCK


@pytest.fixture(scope='module', params=['procedural', 'makehuman'])
def head(request):
  try:
    return load_head(request.param)
  except UserError as error:
    pytest.skip(str(error))


def some_params(head, seed=0):
  keys = jax.random.split(jax.random.key(seed), 4)
  zero = neutral_params(head)
  return zero.replace(
    shape=0.3 * jax.random.normal(keys[0], zero.shape.shape),
    expression=0.4 * jax.random.uniform(keys[1], zero.expression.shape),
    pose=0.2 * jax.random.normal(keys[2], zero.pose.shape),
    translation=jnp.array([0.1, -0.2, -0.9]),
  )


def test_joints_are_asked_by_name(head):
  assert [head.joint(name) for name in head.joint_names] == list(range(len(head.parents)))
  assert head.has_joint('jaw') and not head.has_joint('tail')
  pose = np.random.default_rng(0).normal(size=(7, len(head.parents), 3))
  np.testing.assert_array_equal(
    head.joint_turns(pose, 'jaw'), pose[:, head.joint_names.index('jaw')]
  )
  np.testing.assert_array_equal(head.joint_turns(pose, 'tail'), np.zeros((7, 3)))
  with pytest.raises(
    UserError,
    match=f"'{head.name}' has no joint 'tail', which is needed to wag; its joints are spine, neck",
  ):
    head.joint('tail', purpose='to wag')


def test_at_rest_the_head_is_its_template(head):
  vertices = head_vertices(head, neutral_params(head))
  np.testing.assert_allclose(vertices, head.template, atol=1e-6)
  np.testing.assert_allclose(
    head_joints(head, neutral_params(head)), head.joint_template, atol=1e-6
  )


@pytest.mark.long
def test_rigid_motion_commutes_with_posing(head):
  """Turning the root about its joint and translating moves all vertices, joints, landmarks
  alike."""
  params = some_params(head)
  turn, shift = jnp.array([0.3, -1.1, 0.4]), jnp.array([0.5, 0.25, -0.125])
  still = params.replace(pose=params.pose.at[0].set(0.0))
  moved = still.replace(pose=still.pose.at[0].set(turn), translation=still.translation + shift)
  rotation = rotation_from_axis_angle(turn)
  pivot = head_joints(head, still)[0]
  for points in (head_vertices, head_joints, head_landmarks):
    expected = (points(head, still) - pivot) @ rotation.T + pivot + shift
    np.testing.assert_allclose(points(head, moved), expected, atol=2e-6)  # metres, float32 at 1 m


def with_all_terms(head, seed=3):
  """`head` with pose correctives and with joints that move with the expression; heads of formulas
  have neither."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(0.005 * rng.normal(size=shape), jnp.float32)
  joints = len(head.parents)
  return head.replace(
    pose_basis=draw(*head.template.shape, 9 * (joints - 1)),
    joint_expression=draw(joints, 3, head.expression_basis.shape[-1]),
  )


def test_skinning_against_a_slow_reference(head):
  """Independent float64 loops over joints and their ancestors."""
  head = with_all_terms(head)
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), some_params(head, 1))
  get = lambda name: np.asarray(getattr(head, name), np.float64)
  canonical = (
    get('template')
    + get('shape_basis') @ params.shape
    + get('expression_basis') @ params.expression
    + get('pose_basis') @ (Rotation.from_rotvec(params.pose[1:]).as_matrix() - np.eye(3)).ravel()
  )
  joints = (
    get('joint_template')
    + get('joint_shape') @ params.shape
    + get('joint_expression') @ params.expression
  )
  vertices = np.zeros_like(canonical)
  for j in range(len(head.parents)):
    points, k = canonical, j
    while k >= 0:  # turn about each ancestor in its rest place, leaf first
      angle = np.linalg.norm(params.pose[k])
      axis = params.pose[k] / angle
      arm = points - joints[k]
      points = joints[k] + (
        arm * np.cos(angle)
        + np.cross(axis, arm) * np.sin(angle)
        + axis * (arm @ axis)[:, None] * (1 - np.cos(angle))
      )
      k = head.parents[k]
    vertices += get('weights')[:, [j]] * (points + params.translation)
  found = head_vertices(head, some_params(head, 1))
  np.testing.assert_allclose(found, vertices, atol=3e-6)  # metres, float32 against float64


def test_landmarks_lie_on_the_surface(head):
  params = some_params(head)
  corners = head_vertices(head, params)[head.faces[head.landmark_faces]]
  points = head_landmarks(head, params)
  normal = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
  distance = jnp.sum(normal * (points - corners[:, 0]), -1) / jnp.linalg.norm(normal, axis=-1)
  assert jnp.abs(distance).max() < 1e-6
  assert points.shape == (len(head.landmark_names), 3)


@pytest.mark.long
def test_gradient_is_finite_at_zero_pose_and_matches_differences(head):
  weight = jax.random.normal(jax.random.key(0), head.landmark_barycentric.shape)
  score = lambda params: jnp.sum(weight * head_landmarks(head, params))
  zero = neutral_params(head)
  gradient = jax.grad(score)(zero)
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
  step = 1e-2
  for joint, axis in ((1, 0), (2, 1), (3, 0)):
    ahead = zero.replace(pose=zero.pose.at[joint, axis].set(step))
    behind = zero.replace(pose=zero.pose.at[joint, axis].set(-step))
    slope = (score(ahead) - score(behind)) / (2 * step)
    assert abs(slope - gradient.pose[joint, axis]) < 1e-3


def test_transforms_at_rest_are_identities_and_vmap_lifts(head):
  zero = neutral_params(head)
  np.testing.assert_allclose(
    joint_transforms(head, zero), np.tile(np.eye(4), (len(head.parents), 1, 1)), atol=1e-6
  )
  batch = jax.tree.map(lambda *x: jnp.stack(x), *[some_params(head, s) for s in range(3)])
  together = jax.vmap(lambda p: head_vertices(head, p))(batch)
  np.testing.assert_allclose(together[2], head_vertices(head, some_params(head, 2)), atol=2e-6)


def test_regions_parts_and_outward_faces(head):
  for name, mask in head.regions.items():
    assert mask.shape == head.template.shape[:1] and mask.min() >= 0 and mask.max() <= 1, name
    assert mask.max() > 0.3, f'{name} is empty'
  corners = np.asarray(head.template)[np.asarray(head.faces)]
  volume = np.einsum('fc,fc->', corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
  assert volume > 0, 'faces must be counter-clockwise from outside'
  face = np.asarray(head.regions['face'])[:, None]
  assert ((face * head.template).sum(0) / face.sum())[2] > 0.03, 'the face looks along +z'


def test_saving_and_loading_keeps_everything(head, tmp_path):
  save_head(tmp_path / 'copy.npz', head)
  again = load_head(tmp_path / 'copy.npz')
  assert (again.name, again.parents, again.expression_names) == (
    head.name,
    head.parents,
    head.expression_names,
  )
  assert head_digest(again) == head_digest(head)
  np.testing.assert_array_equal(again.shape_basis, head.shape_basis)
  save_head(tmp_path / 'small.npz', head, dtype=np.float16)
  assert head_digest(load_head(tmp_path / 'small.npz')) == head_digest(head)
  changed = head.replace(template=head.template.at[0, 0].add(0.01))
  assert head_digest(changed) != head_digest(head)


def _arrays(path):
  return dict(np.load(path))


@pytest.mark.parametrize(
  'damage, words',
  [
    (lambda a: a.update(template=a['template'][:-1]), 'shape'),
    (lambda a: a.update(weights=a['weights'] * 2), 'sum to 1'),
    (lambda a: a.update(shape_basis=a['shape_basis'] * np.nan), 'NaN'),
    (lambda a: a.update(faces=a['faces'] + 9), 'outside'),
    (lambda a: a.update(parents=a['parents'][::-1]), 'parent'),
    (lambda a: a.update(region_face=a['region_face'] + 1), 'region'),
    (lambda a: a.update(shape_names=a['shape_names'][:-1]), 'shape_names'),
    (lambda a: a.pop('joint_template'), 'missing'),
    (lambda a: a.pop('license'), 'missing'),
    (lambda a: a.pop('format'), 'not a head'),
  ],
)
def test_a_damaged_head_is_refused_by_name(damage, words, tmp_path):
  save_head(tmp_path / 'head.npz', load_head('procedural'))
  arrays = _arrays(tmp_path / 'head.npz')
  damage(arrays)
  np.savez(tmp_path / 'bad.npz', **arrays)
  with pytest.raises(UserError, match=words) as caught:
    load_head(tmp_path / 'bad.npz')
  assert 'bad.npz' in str(caught.value)


def test_hostile_and_broken_archives_are_refused(tmp_path):
  save_head(tmp_path / 'head.npz', load_head('procedural'))
  whole = (tmp_path / 'head.npz').read_bytes()
  (tmp_path / 'half.npz').write_bytes(whole[: len(whole) // 2])
  (tmp_path / 'empty.npz').write_bytes(b'')
  (tmp_path / 'text.npz').write_text('hello')
  flipped = bytearray(whole)
  flipped[len(whole) // 3] ^= 0xFF
  (tmp_path / 'flipped.npz').write_bytes(flipped)
  np.savez(tmp_path / 'pickled.npz', format=np.array([{'a': 1}], dtype=object))
  for name in ('half', 'empty', 'text', 'flipped', 'pickled', 'absent'):
    with pytest.raises(UserError, match=name):
      load_head(tmp_path / f'{name}.npz')
  with pytest.raises(UserError, match='folder'):
    load_head(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  npz.write_npz(tmp_path / 'a.npz', {'x': np.arange(3)})

  def burst(*args, **kwargs):
    raise OSError('disk full')

  monkeypatch.setattr(np, 'savez_compressed', burst)
  with pytest.raises(OSError):
    npz.write_npz(tmp_path / 'a.npz', {'x': np.arange(4)})
  assert npz.read_npz(tmp_path / 'a.npz')['x'].shape == (3,)
  assert [p.name for p in tmp_path.iterdir()] == ['a.npz']


def test_a_missing_makehuman_tells_the_remedy(tmp_path, monkeypatch):
  monkeypatch.setenv('EXP_JAX_ASSETS', str(tmp_path))
  with pytest.raises(UserError, match='make setup'):
    load_head('makehuman')


def test_make_head_refuses_names_that_do_not_fit():
  head = load_head('procedural')
  arrays = {
    key: np.asarray(getattr(head, key))
    for key in (
      'template',
      'faces',
      'shape_basis',
      'expression_basis',
      'joint_template',
      'joint_shape',
      'joint_expression',
      'weights',
      'landmark_faces',
      'landmark_barycentric',
    )
  }
  with pytest.raises(UserError, match='joint_names'):
    make_head(
      arrays,
      {},
      parents=head.parents,
      name='x',
      license='',
      joint_names=('a',),
      shape_names=head.shape_names,
      expression_names=head.expression_names,
      landmark_names=head.landmark_names,
    )


def test_landmarks_of_clips_are_seen_by_one_program_whatever_their_length(head):
  """Each frame as one by one through the pinhole's formula."""
  params = [some_params(head, seed) for seed in range(3)]
  camera = Camera(
    jnp.diag(jnp.array([1.0, -1.0, -1.0])),
    jnp.zeros(3),
    jnp.array([600.0, 610.0]),
    jnp.array([250.0, 260.0]),
    (512, 512),
  )
  stacked = lambda name: np.stack([getattr(each, name) for each in params])
  numbers = [stacked(name) for name in ('expression', 'pose', 'translation')]
  found = landmark_pixels(head, camera, params[0].shape, *numbers)
  for each, pixels in zip(params, found):
    x, y, z = np.asarray(head_landmarks(head, each.replace(shape=params[0].shape))).T * [
      [1],
      [-1],
      [-1],
    ]
    np.testing.assert_allclose(
      pixels, np.stack([600 * x / z + 250, 610 * y / z + 260], -1), atol=1e-2
    )
  lengths = set()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      skinning, '_pixels', lambda *a: lengths.add(len(a[3])) or np.zeros((len(a[3]), 2))
    )
    for frames in (2, 30):
      landmark_pixels(
        head, camera, params[0].shape, *(np.repeat(n[:1], frames, 0) for n in numbers)
      )
  assert lengths == {BLOCK}
