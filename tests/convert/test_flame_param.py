"""VHAP's export, as GaussianAvatars reads it, projected by an independent computation; and the lids
of trackers, which stay."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from exp_jax.convert.flame import EYELIDS, with_eyelids
from exp_jax.errors import UserError
from exp_jax.heads import head_vertices, load_head, load_subject, neutral_params, save_head
from tests.convert.test_subjects import (  # noqa: F401
  FLAME,
  E,
  S,
  T,
  V,
  check,
  head_file,  # noqa: F811
  metrical_frame,
  posed,
  run,
  torch_zip,
)

WIDTH, HEIGHT, FOCAL = 320, 256, 700.0


def looking_at_the_head(turn):
  """A camera's pose [4, 4] to the world, OpenGL axes, 1.3 m away, turned about the head by `turn`
  radians."""
  pose = np.eye(4)
  pose[:3, :3] = Rotation.from_euler('yx', [turn, 0.07]).as_matrix()
  pose[:3, 3] = pose[:3, :3] @ [0.02, -0.01, 1.3]
  return pose


@pytest.fixture
def exported(tmp_path):
  """A folder of VHAP with two cameras and pixels [2, T, V, 2] of each; steps 3, 5, 6 of a longer
  clip."""
  rng, folder = np.random.default_rng(0), tmp_path / 'ann'
  (folder / 'flame_param').mkdir(parents=True)
  shape, offset = rng.normal(size=S), 0.01 * rng.normal(size=(1, V + 4, 3))
  poses, pixels, frames = (
    [looking_at_the_head(0.9), looking_at_the_head(0.1)],
    np.zeros((2, T, V, 2)),
    [],
  )
  for t, step in enumerate((3, 5, 6)):
    vectors, expression, move = (
      0.1 * rng.normal(size=(5, 3)),
      rng.normal(size=E),
      0.05 * rng.normal(size=3),
    )
    np.savez(
      folder / 'flame_param' / f'{step:05d}.npz',
      translation=move[None],
      rotation=vectors[:1],
      neck_pose=vectors[1:2],
      jaw_pose=vectors[2:3],
      eyes_pose=vectors[3:].reshape(1, 6),
      shape=shape,
      expr=expression[None],
      static_offset=offset,
    )
    world = np.append(posed(shape, expression, vectors, move, offset[0, :V]), np.ones((V, 1)), 1)
    for camera, pose in enumerate(poses):
      x, y, z, _ = np.linalg.inv(pose) @ world.T
      pixels[camera, t] = np.stack([150 - FOCAL * x / z, 130 + FOCAL * y / z], 1)
      frames.append(
        {
          'timestep_index': step,
          'camera_index': camera + 4,
          'flame_param_path': f'flame_param/{step:05d}.npz',
          'transform_matrix': pose.tolist(),
        }
      )
  table = {
    'fl_x': FOCAL,
    'fl_y': FOCAL,
    'cx': 150,
    'cy': 130,
    'w': WIDTH,
    'h': HEIGHT,
    'frames': frames,
  }
  (folder / 'transforms.json').write_text(json.dumps(table))
  return folder, table, pixels


@pytest.mark.parametrize('named', ('', 'flame_param'))
def test_the_camera_that_the_face_looks_into(exported, named, tmp_path, head_file):  # noqa: F811
  folder, _, pixels = exported
  run(folder / named, '--kind', 'vhap', '--head', head_file, '-o', tmp_path, '--fps', 10)
  subject = check(tmp_path / 'ann.npz', head_file, pixels[1])
  np.testing.assert_allclose(subject.times, [0, 0.2, 0.3], atol=1e-6)
  assert 'camera 5 is used' in json.loads(subject.report)['warnings'][0] and subject.image_size == (
    HEIGHT,
    WIDTH,
  )


def test_another_camera_and_tables_in_parts(exported, tmp_path, head_file):  # noqa: F811
  folder, table, pixels = exported
  (folder / 'transforms.json').unlink()
  angle = table | {
    'frames': table['frames'][:3],
    'camera_angle_x': 2 * np.arctan(WIDTH / 2 / FOCAL),
  }
  angle.pop('fl_x')
  (folder / 'transforms_train.json').write_text(json.dumps(angle))
  (folder / 'transforms_test.json').write_text(json.dumps(table | {'frames': table['frames'][3:]}))
  run(folder, '--kind', 'vhap', '--head', head_file, '-o', tmp_path, '--camera', 4, '--name', 'x')
  check(tmp_path / 'x.npz', head_file, pixels[0])
  with pytest.raises(SystemExit):
    run(folder, '--kind', 'vhap', '--head', head_file, '-o', tmp_path, '--camera', 9)


def test_without_a_table_the_camera_is_given(exported, tmp_path, head_file, capsys):  # noqa: F811
  folder, _, _ = exported
  (folder / 'transforms.json').unlink()
  with pytest.raises(SystemExit):
    run(folder, '--kind', 'vhap', '--head', head_file, '-o', tmp_path)
  assert 'transforms.json' in capsys.readouterr().err
  run(
    folder,
    '--kind',
    'vhap',
    '--head',
    head_file,
    '-o',
    tmp_path,
    '--focal',
    500,
    '--image_size',
    240,
    320,
  )
  subject = load_subject(tmp_path / 'ann.npz')
  assert (
    subject.image_size == (240, 320)
    and subject.focal.tolist() == [500, 500]
    and subject.center.tolist() == [160, 120]
  )


@pytest.mark.parametrize(
  'table, words',
  [
    ({'frames': 3}, 'frames is not a list'),
    ({'w': 0}, 'size of the pictures'),
    ({'fl_x': 'wide'}, 'fl_x'),
    ({'frames': [{'flame_param_path': 'other/7.npz'}]}, 'speaks of none'),
    ({'frames': [{'timestep_index': 1.5}]}, 'whole number'),
  ],
)
def test_a_table_of_another_kind_is_a_sentence_and_harms_no_other_clip(
  exported,
  table,
  words,
  tmp_path,
  head_file,  # noqa: F811
  capsys,
):
  folder, good, _ = exported
  other = tmp_path / 'bob'
  (other / 'flame_param').mkdir(parents=True)
  for path in (folder / 'flame_param').iterdir():
    (other / 'flame_param' / path.name).write_bytes(path.read_bytes())
  (other / 'transforms.json').write_text(json.dumps(good))
  (folder / 'transforms.json').write_text(json.dumps(good | table))
  with pytest.raises(SystemExit) as ended:
    run(folder, other, '--kind', 'vhap', '--head', head_file, '-o', tmp_path / 'out')
  said = capsys.readouterr().err
  assert ended.value.code == 2 and words in said and said.count('error: ') == 1
  assert [path.stem for path in (tmp_path / 'out').iterdir()] == ['bob']


@pytest.fixture(scope='module')
def lids(tmp_path_factory, head_file):  # noqa: F811
  """A head with lids, its file, and the blendshapes [2, V, 3]."""
  folder, moves = (
    tmp_path_factory.mktemp('lids'),
    0.004 * np.random.default_rng(1).normal(size=(2, V, 3)),
  )
  for name, move in zip('lr', moves):
    np.save(folder / f'{name}_eyelid.npy', move.astype(np.float32))
  head = with_eyelids(load_head(head_file), folder / 'l_eyelid.npy', folder / 'r_eyelid.npy')
  save_head(folder / 'flame.npz', head)
  return head, folder / 'flame.npz', moves


def test_lids_of_a_tracker_close_those_of_the_head(lids, tmp_path):
  head, path, moves = lids
  rng, shape = np.random.default_rng(3), np.random.default_rng(4).normal(size=S)
  closed = np.array([[0, 0.8], [0.3, 0], [1, 1]])
  plain = []
  for t in range(T):

    def save(where, value, t=t):
      value['flame']['eyelids'] = closed[t][None]
      plain.append(value['flame']['exp'][0])
      torch_zip(where, value)

    metrical_frame(rng, shape, t, save, tmp_path / f'{t:05d}.frame')
  run(
    *sorted(tmp_path.glob('*.frame')),
    '--kind',
    'metrical',
    '--head',
    path,
    '-o',
    tmp_path,
    '--name',
    'x',
  )
  subject = load_subject(tmp_path / 'x.npz')
  assert not any('eyelid' in words for words in json.loads(subject.report)['warnings'])
  neutral = neutral_params(head)
  for t in range(T):
    found = head_vertices(head, neutral.replace(expression=subject.expression[t])) - head.template
    expected = FLAME['expression_basis'] @ plain[t] + np.einsum('svc,s->vc', moves, closed[t])
    np.testing.assert_allclose(found, expected, atol=1e-6)
  assert head.expression_names[-2:] == EYELIDS


def test_lids_of_another_head_are_refused(lids, tmp_path):
  np.save(tmp_path / 'l.npy', np.zeros((V + 1, 3)))
  with pytest.raises(UserError, match='l.npy has shape'):
    with_eyelids(lids[0], tmp_path / 'l.npy', tmp_path / 'l.npy')
