"""Exported meshes, loaded back and compared with the posed dense mesh."""

import dataclasses
import json
import struct

import numpy as np
import pytest
import trimesh

from exp_jax.convert import export_subject
from exp_jax.errors import UserError
from exp_jax.heads import head_digest, load_head, save_subject
from exp_jax.heads.densify import densify
from exp_jax.heads.personalized import Subject, subject_vertices

T = 5


@pytest.fixture(scope='module')
def scene():
  """A moving procedural head with offsets and colours: head, dense, subject."""
  head = load_head('procedural')
  dense, rng = densify(head, 0), np.random.default_rng(0)
  count = len(dense.coarse_ids)
  number = lambda *shape, scale=1.0: (scale * rng.normal(size=shape)).astype(np.float32)
  subject = Subject(
    subject_id='anna',
    head_name='procedural',
    head_digest=head_digest(head),
    levels=0,
    image_size=(64, 64),
    fps=12.5,
    shape=number(10),
    expression=number(T, 10, scale=0.3),
    pose=number(T, len(head.parents), 3, scale=0.1),
    translation=np.float32([0, 0, -1]) + number(T, 3, scale=0.02),
    focal=np.full(2, 90.0, np.float32),
    center=np.full(2, 32.0, np.float32),
    times=np.arange(T, dtype=np.float32) / 12.5,
    static_offsets=number(count, 3, scale=0.001),
    dynamic_vertices=np.arange(7, dtype=np.int32),
    dynamic_offsets=number(T, 7, 3, scale=0.002),
    albedo=rng.uniform(0, 1, (count, 3)).astype(np.float32),
  )
  return head, dense, subject


def truth(scene, frame):
  return np.asarray(subject_vertices(*scene, frame))


@pytest.mark.parametrize('suffix', ['.obj', '.ply', '.glb'])
def test_a_frame_comes_back(suffix, scene, tmp_path):
  save_subject(tmp_path / 'anna.npz', scene[2])
  output = tmp_path / f'a{suffix}'
  export_subject.main([str(tmp_path / 'anna.npz'), '-o', str(output), '--frame', '3'])
  found = trimesh.load(output, process=False, force='mesh')
  # text with eight digits; the file keeps offsets and colours as float16
  np.testing.assert_allclose(found.vertices, truth(scene, 3), atol=2e-6)
  np.testing.assert_array_equal(found.faces, scene[1].faces)
  light = np.float16(scene[2].albedo).astype(float)
  curved = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
  expected = 255 * (light if suffix == '.glb' else curved)
  # a level of rounding
  np.testing.assert_allclose(found.visual.vertex_colors[:, :3], expected, atol=1.01)


def parse(content):
  """The JSON and the arrays of a .glb, by the format's own description."""
  magic, version, length, size, kind = struct.unpack('<4sIII4s', content[:20])
  assert (magic, version, kind, length) == (b'glTF', 2, b'JSON', len(content))
  tree = json.loads(content[20 : 20 + size])
  blob = content[28 + size :]

  def array(index):
    accessor = tree['accessors'][index]
    assert accessor['componentType'] == 5126
    view, width = (
      tree['bufferViews'][accessor['bufferView']],
      {'SCALAR': 1, 'VEC3': 3}[accessor['type']],
    )
    start = view.get('byteOffset', 0) + accessor.get('byteOffset', 0)
    assert start % 4 == 0 and accessor['count'] * width * 4 <= view['byteLength']
    return np.frombuffer(blob, '<f4', accessor['count'] * width, start).reshape(-1, width)

  return tree, array


def test_the_animation_gives_every_frame(scene, tmp_path):
  export_subject.export_subject(scene[2], scene[0], tmp_path / 'a.glb', animated=True)
  tree, array = parse((tmp_path / 'a.glb').read_bytes())
  primitive = tree['meshes'][0]['primitives'][0]
  (animation,) = tree['animations']
  sampler, channel = animation['samplers'][0], animation['channels'][0]['target']
  np.testing.assert_allclose(array(sampler['input'])[:, 0], np.arange(T) / 12.5, rtol=1e-6)
  assert channel['path'] == 'weights' and tree['nodes'][channel['node']]['mesh'] == 0
  targets = np.stack([array(target['POSITION']) for target in primitive['targets']])
  weights = array(sampler['output']).reshape(T, len(targets))
  played = array(primitive['attributes']['POSITION']) + np.einsum('tk,knc->tnc', weights, targets)
  for t in range(T):
    np.testing.assert_allclose(played[t], truth(scene, t), atol=2.2e-5)  # the tolerance it promises
  assert len(targets) <= T - 1 and np.abs(weights).max() <= 1 + 1e-6
  assert np.abs(truth(scene, 1) - truth(scene, 0)).max() > 1e-3  # there is something to play
  loaded = trimesh.load(tmp_path / 'a.glb', process=False, force='mesh')
  assert loaded.faces.shape == scene[1].faces.shape


def test_motions_of_low_rank_need_few_targets():
  rng = np.random.default_rng(1)
  vertices = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 33)) + rng.normal(size=33)
  mean, targets, weights = export_subject.principal_motions(vertices.reshape(6, 11, 3))
  assert len(targets) == 2
  played = mean + np.einsum('tk,knc->tnc', weights, targets)
  np.testing.assert_allclose(played.reshape(6, 33), vertices, atol=1e-9)


def test_a_subject_that_stands_still_is_a_plain_mesh(scene, tmp_path):
  one = dataclasses.replace(
    scene[2],
    **{
      k: getattr(scene[2], k)[:1]
      for k in ('expression', 'pose', 'translation', 'times', 'dynamic_offsets')
    },
  )
  export_subject.export_subject(one, scene[0], tmp_path / 'a.glb', animated=True)
  tree, _ = parse((tmp_path / 'a.glb').read_bytes())
  assert 'animations' not in tree
  np.testing.assert_allclose(
    trimesh.load(tmp_path / 'a.glb', process=False, force='mesh').vertices,
    truth(scene, 0),
    atol=1e-6,
  )


@pytest.mark.parametrize(
  'name, how, words',
  [
    ('a.stl', {}, 'must end in'),
    ('a.obj', {'animated': True}, 'only .glb'),
    ('a.ply', {'frame': T}, 'frames 0..4'),
  ],
)
def test_wrong_wishes_are_one_sentence(name, how, words, scene, tmp_path):
  with pytest.raises(UserError, match=words):
    export_subject.export_subject(scene[2], scene[0], tmp_path / name, **how)
  assert not list(tmp_path.iterdir())


def test_another_head_is_refused(scene, tmp_path):
  other = dataclasses.replace(scene[2], head_digest='0' * 16)
  with pytest.raises(UserError, match='was made with head'):
    export_subject.export_subject(other, scene[0], tmp_path / 'a.ply')


def test_a_head_of_the_user_must_be_named(scene, tmp_path, capsys):
  save_subject(tmp_path / 'a.npz', dataclasses.replace(scene[2], head_name='flame'))
  with pytest.raises(SystemExit) as ended:
    export_subject.main([str(tmp_path / 'a.npz'), '-o', str(tmp_path / 'a.ply')])
  assert ended.value.code == 2 and '--head' in capsys.readouterr().err
