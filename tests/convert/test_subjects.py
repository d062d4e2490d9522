"""Importers of FLAME trackers: random numbers in each exact format, projected by an independent
computation."""

import dataclasses
import io
import json
import os
import pickle
import struct
import sys
import types
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.controls.reenact import reenact
from exp_jax.convert import subjects
from exp_jax.convert.subject_files import subjects_torch
from exp_jax.errors import UserError
from exp_jax.geometry import Camera, project
from exp_jax.heads import load_subject, make_head, save_head
from exp_jax.heads.densify import densify
from exp_jax.heads.model import HeadParams
from exp_jax.heads.personalized import in_camera, subject_vertices
from exp_jax.heads.skinning import joint_transforms

T, V, S, E = 3, 20, 7, 5
PARENTS = (-1, 0, 1, 1, 1)


def a_flame(seed=0):
  """numpy arrays of a FLAME-like head of 20 vertices."""
  rng = np.random.default_rng(seed)
  return dict(
    template=0.1 * rng.normal(size=(V, 3)),
    faces=np.arange(V - 2)[:, None] + np.arange(3),
    shape_basis=0.01 * rng.normal(size=(V, 3, S)),
    expression_basis=0.01 * rng.normal(size=(V, 3, E)),
    pose_basis=0.005 * rng.normal(size=(V, 3, 36)),
    joint_template=0.05 * rng.normal(size=(5, 3)),
    joint_shape=0.005 * rng.normal(size=(5, 3, S)),
    joint_expression=0.005 * rng.normal(size=(5, 3, E)),
    weights=rng.dirichlet(np.ones(5), V),
    landmark_faces=np.array([0, 3]),
    landmark_barycentric=np.array([[0.2, 0.3, 0.5], [1, 0, 0]]),
  )


FLAME = a_flame()


@pytest.fixture(scope='module')
def head_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('head') / 'flame.npz'
  names = dict(
    joint_names=subjects.JOINTS,
    shape_names=tuple('abcdefg'),
    expression_names=tuple('hijkl'),
    landmark_names=('0', '1'),
  )
  save_head(path, make_head(FLAME, {}, parents=PARENTS, name='flame', license='test', **names))
  return path


def posed(shape, expression, vectors, translation=0, offsets=0):
  """[V, 3]: linear blend skinning written out with 4 x 4 matrices; vectors [5, 3] axis-angle."""
  shape, expression = np.resize(shape, S), np.resize(expression, E)
  vertices = (
    FLAME['template']
    + FLAME['shape_basis'] @ shape
    + FLAME['expression_basis'] @ expression
    + offsets
  )
  joints = (
    FLAME['joint_template'] + FLAME['joint_shape'] @ shape + FLAME['joint_expression'] @ expression
  )
  matrices = Rotation.from_rotvec(vectors).as_matrix()
  vertices = vertices + FLAME['pose_basis'] @ (matrices[1:] - np.eye(3)).ravel()
  world, result = [], np.zeros((V, 3))
  for j, parent in enumerate(PARENTS):
    local = np.eye(4)
    local[:3, :3], local[:3, 3] = matrices[j], joints[j] - (joints[parent] if j else 0)
    world.append(world[parent] @ local if j else local)
    skin = world[j][:3, :3] @ (vertices - joints[j]).T + world[j][:3, 3:]
    result += FLAME['weights'][:, [j]] * skin.T
  return result + translation


def check(path, head_file, expected, *, atol=2e-3):
  """The subject's projected vertices equal `expected` [T, V, 2] pixels."""
  from exp_jax.heads import load_head

  subject, head = load_subject(path), load_head(head_file)
  dense = densify(head, subject.levels)
  camera = Camera(
    jnp.eye(3),
    jnp.zeros(3),
    jnp.asarray(subject.focal),
    jnp.asarray(subject.center),
    subject.image_size,
  )
  for t in range(len(expected)):
    found = project(in_camera(subject_vertices(head, dense, subject, t)), camera)[0]
    # pixels, in float32 at hundreds of pixels
    np.testing.assert_allclose(found[:V], expected[t], atol=atol)
  return subject


def check_driving(subject, head_file, turns):
  """A portrait that the clip drives turns its head by [T, 3, 3], the tracker's own turns in the
  camera, root and all."""
  from exp_jax.heads import load_head

  head, count = load_head(head_file), len(turns)
  keep = lambda values, new: np.full_like(values[:1], new)
  portrait = dataclasses.replace(
    subject,
    expression=keep(subject.expression, 0),
    pose=keep(subject.pose, 0.1),
    translation=keep(subject.translation, -1),
    times=subject.times[:1],
    dynamic_offsets=subject.dynamic_offsets[:1],
    source_crop=None,
  )
  motion = reenact(portrait, subject, head)
  for t in range(count):
    params = HeadParams(
      jnp.asarray(portrait.shape),
      motion.expression[t],
      jnp.asarray(motion.pose[t]),
      motion.translation[t],
    )
    skull = joint_transforms(head, params)[head.joint('head'), :3, :3]
    np.testing.assert_allclose(skull, turns[t], atol=2e-6)


def run(*arguments):
  subjects.main([str(a) for a in arguments])


def vhap_arrays(rng):
  pose = 0.3 * rng.normal(size=(T, 5, 3))
  return pose, dict(
    rotation=pose[:, 0],
    neck_pose=pose[:, 1],
    jaw_pose=pose[:, 2],
    eyes_pose=pose[:, 3:].reshape(T, 6),
    translation=0.1 * rng.normal(size=(T, 3)),
    shape=rng.normal(size=S),
    expr=rng.normal(size=(T, E)),
    focal_length=np.array([1.5], np.float32),
    image_size=np.array([480, 640]),
    timestep_id=np.arange(T),
    n_processed_frames=T,
    static_offset=0.01 * rng.normal(size=(1, V + 4, 3)),
    tex=np.zeros(3),
  )


def test_vhap(tmp_path, head_file):
  pose, data = vhap_arrays(np.random.default_rng(1))
  np.savez(tmp_path / 'clip.npz', **data)
  run(
    tmp_path / 'clip.npz',
    '--kind',
    'vhap',
    '--head',
    head_file,
    '-o',
    tmp_path / 'out',
    '--fps',
    12,
  )
  expected = []
  for t in range(T):
    points = posed(
      data['shape'], data['expr'][t], pose[t], data['translation'][t], data['static_offset'][0, :V]
    )
    x, y, z = points.T + np.array([[0], [0], [-1]])  # OpenGL: x right, y up, looks along -z
    expected.append(np.stack([960 * x / -z + 320, 240 - 960 * y / -z], 1))
  subject = check(tmp_path / 'out' / 'clip.npz', head_file, np.stack(expected))
  check_driving(subject, head_file, [turn(p[0]) @ turn(p[1]) for p in pose])
  assert subject.fps == 12 and subject.image_size == (480, 640) and subject.focal[0] == 960
  assert 'joints of the tracker' in json.loads(subject.report)['warnings'][0]


def test_vhap_dynamic_offsets_and_dense_levels(tmp_path, head_file):
  rng = np.random.default_rng(2)
  pose, data = vhap_arrays(rng)
  data['dynamic_offset'] = 0.01 * rng.normal(size=(T, V, 3))
  np.savez(tmp_path / 'clip.npz', **data)
  run(
    tmp_path / 'clip.npz',
    '--kind',
    'vhap',
    '--head',
    head_file,
    '-o',
    tmp_path,
    '--name',
    'x',
    '--levels',
    1,
  )
  expected = []
  for t in range(T):
    offsets = data['static_offset'][0, :V] + data['dynamic_offset'][t]
    x, y, z = posed(data['shape'], data['expr'][t], pose[t], data['translation'][t], offsets).T
    expected.append(np.stack([960 * x / (1 - z) + 320, 240 - 960 * y / (1 - z)], 1))
  check(tmp_path / 'x.npz', head_file, np.stack(expected), atol=0.05)  # dynamic offsets are float16


def turn(vector):
  return Rotation.from_rotvec(vector).as_matrix()


def two_rows(matrix):
  return matrix[:2].reshape(1, 6).astype(np.float32)


def torch_zip(path, value):
  """torch.save's zip format for a dictionary of numpy arrays: they lie in the pickle itself."""
  with zipfile.ZipFile(path, 'w') as bundle:
    bundle.writestr('archive/data.pkl', pickle.dumps(value, 2))
    bundle.writestr('archive/byteorder', 'little')
    bundle.writestr('archive/version', '3\n')


def torch_legacy(path, value):
  """torch.save's format before 1.6: magic, protocol, machine, object, names of storages."""
  system = {
    'protocol_version': 1001,
    'little_endian': True,
    'type_sizes': {'short': 2, 'int': 4, 'long': 4},
  }
  parts = [0x1950A86A20F9469CFC6C, 1001, system, value, []]
  path.write_bytes(b''.join(pickle.dumps(part, 2) for part in parts))


def metrical_frame(rng, shape, t, save, path):
  """One .frame and the pixels [V, 2] that PyTorch3D's perspective camera gives."""
  rotation = Rotation.from_rotvec([0.1, np.pi + 0.1 * t, 0.05]).as_matrix()  # rows times it: X R
  move, focal, point = np.array([0.02, -0.03, 1.5]), 4.3, np.array([0.05, -0.08])
  vectors = 0.2 * rng.normal(size=(5, 3)) * np.array([[0], [0], [1], [1], [1]])
  matrices = Rotation.from_rotvec(vectors).as_matrix()
  expression = rng.normal(size=(1, E)).astype(np.float32)
  save(
    path,
    {
      'flame': {
        'exp': expression,
        'shape': shape[None].astype(np.float32),
        'jaw': two_rows(matrices[2]),
        'eyes': np.concatenate([two_rows(matrices[3]), two_rows(matrices[4])], 1),
        'eyelids': np.zeros((1, 2)),
        'tex': np.zeros((1, 4)),
        'sh': np.zeros((1, 9, 3)),
      },
      'camera': {
        'R': two_rows(rotation),
        't': move[None],
        'fl': np.array([[focal]]),
        'pp': point[None],
      },
      'opencv': {},
      'img_size': np.array([256, 320]),
      'frame_id': f'{t:05d}',
      'global_step': 7,
    },
  )
  seen = posed(shape, expression[0], vectors) @ rotation + move
  ndc = focal * seen[:, :2] / seen[:, 2:] + point  # x left, y up, in half short sides
  return np.stack([160 - 128 * ndc[:, 0], 128 - 128 * ndc[:, 1]], 1)


@pytest.mark.parametrize('save', [torch_zip, torch_legacy])
def test_metrical_tracker(save, tmp_path, head_file):
  rng, shape = np.random.default_rng(3), np.random.default_rng(4).normal(size=S)
  folder = tmp_path / 'actor' / 'checkpoint'
  folder.mkdir(parents=True)
  expected = [metrical_frame(rng, shape, t, save, folder / f'{t:05d}.frame') for t in range(T)]
  run(folder, '--kind', 'metrical', '--head', head_file, '-o', tmp_path)
  subject = check(tmp_path / 'actor.npz', head_file, np.stack(expected))
  left_up = np.diag([-1.0, 1, -1])  # PyTorch3D: x left, y up, z forward
  check_driving(
    subject, head_file, [left_up @ turn([0.1, np.pi + 0.1 * t, 0.05]).T for t in range(T)]
  )
  assert 'eyelid' in json.loads(subject.report)['warnings'][0] and subject.image_size == (256, 320)


def test_pixel3dmm(tmp_path, head_file):
  """The tracker's own projection: world turned and moved, an OpenGL camera, its shifted centre."""
  rng = np.random.default_rng(5)
  shape, size, focal = rng.normal(size=S), 256, 3.9
  base = Rotation.from_rotvec([0.02, 0.03, 0.01]).as_matrix()
  base_move = np.array([0.01, 0.02, -1.1])
  expected, turns, point = [], [], np.array([0.02, -0.01])
  for t in range(T):
    vectors = 0.2 * rng.normal(size=(5, 3))
    vectors[0] = 0
    m = Rotation.from_rotvec(vectors).as_matrix()
    turned, move = turn(0.3 * rng.normal(size=3)), 0.05 * rng.normal(size=3)
    turns.append(base @ turned @ m[1])
    expression = rng.normal(size=E)
    torch_zip(
      tmp_path / f'{t:05d}.frame',
      {
        'flame': {
          'exp': expression[None],
          'shape': shape[None],
          'jaw': two_rows(m[2]),
          'neck': two_rows(m[1]),
          'eyes': np.concatenate([two_rows(m[3]), two_rows(m[4])], 1),
          'R': two_rows(turned),
          'R_rotation_matrix': turned[None],
          't': move[None],
        },
        'camera': {
          'R_base_0': base[None],
          't_base_0': base_move[None],
          'fl': np.array([[focal]]),
          'pp': point[None],
        },
        'img_size': np.array([size, size]),
        'frame_id': t,
        'global_step': 1,
      },
    )
    world = posed(shape, expression, vectors) @ turned.T + move
    x, y, z = base @ world.T + base_move[:, None]
    cx, cy = size / 2 + 0.5 + point * (size / 2 + 0.5)
    across = -1 * (focal * size * x / -z + (size - cx) * -1)
    down = -1 * (focal * size * y / -z + cy * -1)
    expected.append(np.stack([size - 1 - across, down], 1))
  files = sorted(tmp_path.glob('*.frame'))
  run(*files, '--kind', 'pixel3dmm', '--head', head_file, '-o', tmp_path, '--name', 'p')
  check_driving(check(tmp_path / 'p.npz', head_file, np.stack(expected)), head_file, turns)


@pytest.mark.parametrize(
  'kind, suffix', [('smirk', '.pkl'), ('smirk', '.npz'), ('deca', '.pkl'), ('deca', '.pt')]
)
def test_regressors(kind, suffix, tmp_path, head_file):
  """A pinhole far away, and in the limit the orthographic camera itself."""
  rng = np.random.default_rng(6)
  root, jaw = 0.3 * rng.normal(size=(T, 3)), 0.2 * rng.normal(size=(T, 3))
  cam = np.stack([rng.uniform(7, 9, T), *(0.03 * rng.normal(size=(2, T)))], 1)
  shape, expression = np.tile(rng.normal(size=(1, S)), (T, 1)), rng.normal(size=(T, E - 1))
  if kind == 'smirk':
    data = dict(
      shape_params=shape,
      expression_params=expression,
      pose_params=root,
      jaw_params=jaw,
      cam=cam,
      eyelid_params=np.zeros((T, 2)),
      tform=np.tile(np.diag([2.0, 2, 1]), (T, 1, 1)),
    )
  else:
    data = dict(
      shape=shape,
      exp=expression,
      pose=np.concatenate([root, jaw], 1),
      cam=cam,
      tex=np.zeros((T, 50)),
    )
  path = tmp_path / f'clip{suffix}'
  if suffix == '.npz':
    np.savez(path, **data)
  elif suffix == '.pt':
    torch_zip(path, data)
  else:
    path.write_bytes(pickle.dumps(data, 2))
  for distance, atol in ((10, 3e-3), (1000, 0.05)):
    expected = []
    for t in range(T):
      vectors = np.stack([root[t], np.zeros(3), jaw[t], np.zeros(3), np.zeros(3)])
      x, y, z = posed(shape[t], np.append(expression[t], 0), vectors).T
      s, tx, ty = cam[t]
      away = 10 * np.median(cam[:, 0]) / s
      near = 1 / (1 - z / away) if distance == 10 else 1
      expected.append(
        np.stack([112 * (1 + s * (x + tx) * near), 112 * (1 - s * (y + ty) * near)], 1)
      )
    run(
      path,
      '--kind',
      kind,
      '--head',
      head_file,
      '-o',
      tmp_path,
      '--name',
      'r',
      '--distance',
      distance,
    )
    subject = check(tmp_path / 'r.npz', head_file, np.stack(expected), atol=atol)
  check_driving(subject, head_file, [turn(r) for r in root])
  notes = json.loads(subject.report)['warnings']
  assert not any('camera changes' in n for n in notes) and any('orthographic' in n for n in notes)
  assert (subject.source_crop is not None) == (kind == 'smirk') == any('eyelid' in n for n in notes)


def tensor_zip(path, key='0', size=(2, 3), numel=6):
  """torch.save's zip of {'a': tensor}, written by stand-ins of torch's names."""
  torch = types.ModuleType('torch')
  torch._utils = types.ModuleType('torch._utils')
  torch.FloatStorage = type('FloatStorage', (), {'__module__': 'torch'})
  rebuild = lambda *args: None
  rebuild.__module__, rebuild.__name__, rebuild.__qualname__ = (
    'torch._utils',
    *['_rebuild_tensor_v2'] * 2,
  )
  torch._utils._rebuild_tensor_v2 = rebuild
  storage, tensor = object(), object()

  class Pickler(pickle._Pickler):
    def persistent_id(self, value):
      return ('storage', torch.FloatStorage, key, 'cpu', numel) if value is storage else None

    def save(self, value, *args, **kwargs):
      if value is tensor:
        stride = (size[1], 1)
        return self.save_reduce(rebuild, (storage, 0, size, stride, False, {}), obj=value)
      return super().save(value, *args, **kwargs)

  stream = io.BytesIO()
  before = {name: sys.modules.get(name) for name in ('torch', 'torch._utils')}
  sys.modules.update({'torch': torch, 'torch._utils': torch._utils})
  try:
    Pickler(stream, 2).dump({'a': tensor})
  finally:
    for name, module in before.items():
      sys.modules.pop(name) if module is None else sys.modules.update({name: module})
  with zipfile.ZipFile(path, 'w') as bundle:
    bundle.writestr('archive/data.pkl', stream.getvalue())
    bundle.writestr('archive/data/0', np.arange(6, dtype=np.float32).tobytes())
  return stream.getvalue()


def test_tensors_are_read_without_torch(tmp_path):
  before = sys.modules.get('torch')
  index = tensor_zip(tmp_path / 'a.pt')
  found = subjects_torch.read_torch(tmp_path / 'a.pt')['a']
  np.testing.assert_array_equal(found, np.arange(6).reshape(2, 3))
  legacy = [pickle.dumps(p, 2) for p in (0x1950A86A20F9469CFC6C, 1001, {})]
  legacy += [
    index,
    pickle.dumps(['0'], 2),
    struct.pack('<q', 6),
    np.arange(6, dtype=np.float32).tobytes(),
  ]
  (tmp_path / 'b.pt').write_bytes(b''.join(legacy))
  np.testing.assert_array_equal(subjects_torch.read_torch(tmp_path / 'b.pt')['a'], found)
  assert sys.modules.get('torch') is before


def test_files_of_torch_itself(tmp_path):
  """Where torch is at hand: both formats, views, parameters, and tensors in a plain pickle."""
  torch = pytest.importorskip('torch')
  grid = torch.arange(20.0).reshape(4, 5)
  tensors = {
    'a': grid,
    'turned': grid.t(),
    'part': grid[1:3, 2:],
    'half': grid.half(),
    'ids': torch.arange(3),
    'scalar': torch.tensor(2.5),
    'parameter': torch.nn.Parameter(grid.clone()),
  }
  torch.save({'flame': tensors, 'x': np.ones(3)}, tmp_path / 'zip.pt')
  torch.save(
    {'flame': tensors, 'x': np.ones(3)}, tmp_path / 'old.pt', _use_new_zipfile_serialization=False
  )
  (tmp_path / 'plain.pkl').write_bytes(pickle.dumps({'flame': tensors, 'x': np.ones(3)}, 2))
  for name in ('zip.pt', 'old.pt', 'plain.pkl'):
    found = subjects_torch.read_torch(tmp_path / name)
    assert found['x'].sum() == 3
    for key, value in tensors.items():
      np.testing.assert_array_equal(found['flame'][key], value.detach().numpy())


def test_a_part_within_a_part_runs_nothing(tmp_path):
  class Nested:
    def __reduce__(self):
      return sys.modules['torch.storage']._load_from_bytes, (pickle.dumps(Evil(), 2),)

  storage = types.ModuleType('torch.storage')
  load = lambda content: None
  load.__module__, load.__name__, load.__qualname__ = 'torch.storage', *['_load_from_bytes'] * 2
  storage._load_from_bytes = load
  before = {name: sys.modules.get(name) for name in ('torch', 'torch.storage')}
  sys.modules.update({'torch': types.ModuleType('torch'), 'torch.storage': storage})
  try:
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps({'flame': Nested()}, 2))
  finally:
    for name, module in before.items():
      sys.modules.pop(name) if module is None else sys.modules.update({name: module})
  with pytest.raises(UserError, match='refused.*system'):
    subjects_torch.read_torch(tmp_path / 'a.pkl')


@pytest.mark.parametrize(
  'change', [dict(size=(20, 3)), dict(key='9'), dict(numel=2**40), dict(size=(-2, 3))]
)
def test_tensors_that_lie_are_refused(change, tmp_path):
  tensor_zip(tmp_path / 'a.pt', **change)
  with pytest.raises(UserError, match='a.pt is refused'):
    subjects_torch.read_torch(tmp_path / 'a.pt')


class Evil:
  def __reduce__(self):
    return os.system, ('true',)


@pytest.mark.parametrize('save', [torch_zip, torch_legacy])
def test_hostile_frames_run_nothing(save, tmp_path):
  save(tmp_path / 'a.frame', {'flame': Evil()})
  with pytest.raises(UserError, match='refused.*system'):
    subjects_torch.read_torch(tmp_path / 'a.frame')
  (tmp_path / 'cut.frame').write_bytes((tmp_path / 'a.frame').read_bytes()[:60])
  with pytest.raises(UserError, match='cut.frame is refused'):
    subjects_torch.read_torch(tmp_path / 'cut.frame')


@pytest.mark.parametrize(
  'change, words',
  [
    ({'expr': None}, "'expr' is missing"),
    ({'focal_length': None}, 'calibrated cameras'),
    ({'jaw_pose': np.zeros((T + 1, 3))}, 'jaw_pose has shape'),
    ({'shape': np.full(S, np.nan)}, 'NaN'),
    ({'shape': np.ones(S + 1)}, 'uses 8 shape coefficients'),
    ({'translation': np.full((T, 3), 5.0)}, 'behind the camera'),
    ({'static_offset': np.zeros((1, 5, 3))}, 'offsets are of 5 vertices'),
  ],
)
def test_wrong_files_are_one_sentence(change, words, tmp_path, head_file, capsys):
  _, data = vhap_arrays(np.random.default_rng(1))
  np.savez(tmp_path / 'bad.npz', **{k: v for k, v in (data | change).items() if v is not None})
  with pytest.raises(SystemExit) as ended:
    run(tmp_path / 'bad.npz', '--kind', 'vhap', '--head', head_file, '-o', tmp_path / 'out')
  said = capsys.readouterr().err
  assert ended.value.code == 2 and words in said and said.count('\n') == 1
  assert not (tmp_path / 'out').exists()


def test_another_head_and_an_empty_folder_are_refused(tmp_path, head_file, capsys):
  _, data = vhap_arrays(np.random.default_rng(1))
  np.savez(tmp_path / 'a.npz', **data)
  for arguments, words in (
    ((tmp_path / 'a.npz', '--head', 'procedural'), 'those of FLAME'),
    ((tmp_path, '--head', head_file), 'no *.frame files'),
  ):
    with pytest.raises(SystemExit):
      run(*arguments, '--kind', 'vhap' if 'FLAME' in words else 'metrical', '-o', tmp_path / 'out')
    assert words in capsys.readouterr().err


def test_a_camera_that_changes_keeps_place_and_size(head_file):
  """Where the focal length differs in one frame, the root joint stays where it was seen."""
  from exp_jax.heads import load_head

  rng = np.random.default_rng(7)
  tracked = subjects.Tracked(
    shape=np.zeros(S),
    expression=np.zeros((T, E)),
    rotations=np.tile(np.eye(3), (T, 5, 1, 1)),
    translation=0.1 * rng.normal(size=(T, 3)),
    camera_rotation=np.tile(np.eye(3), (T, 1, 1)),
    camera_translation=np.tile([0.0, 0, -1], (T, 1)),
    focal=np.array([[400.0] * 2, [400.0] * 2, [500.0] * 2]),
    center=np.array([[128.0, 120], [128, 120], [140, 100]]),
    image_size=(256, 256),
  )
  head = load_head(head_file)
  subject = subjects.to_subject(tracked, head, subject_id='x', kind='vhap')
  joint = FLAME['joint_template'][0]
  for t in range(T):
    x, y, z = joint + tracked.translation[t] + [0, 0, -1]
    before = tracked.center[t] + tracked.focal[t] * [-x / z, y / z]
    u, v, w = joint + subject.translation[t]
    np.testing.assert_allclose(subject.center + subject.focal * [-u / w, v / w], before, atol=1e-3)
    np.testing.assert_allclose(subject.focal[0] / w, tracked.focal[t, 0] / z, rtol=1e-5)
  assert 'camera changes' in json.loads(subject.report)['warnings'][0]
