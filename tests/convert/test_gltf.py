"""Animated glTF, read back by a small evaluator of our own, by trimesh and by Blender: every frame
is ours."""

import io
import json
import os
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation, Slerp

from exp_jax.convert.gltf.export_gltf import export_gltf, main
from exp_jax.convert.gltf.textures import baked, normal_map, tangents
from exp_jax.convert.gltf.unwrap import unwrap
from exp_jax.heads import Subject, head_digest, load_head, save_subject
from exp_jax.heads.densify import densify
from exp_jax.heads.personalized import frame_params, subject_vertices
from exp_jax.heads.skinning import head_joints

FRAMES = 5


def a_head():
  """The procedural head with pose correctives, joints that an expression moves, and uv."""
  head, rng = load_head('procedural'), np.random.default_rng(0)
  place = np.asarray(head.template)
  waves = np.sin(place @ rng.normal(size=(3, 4)) * 20)
  correctives = np.einsum(
    'vw,wcp->vcp', waves, 3e-4 * rng.normal(size=(4, 3, 9 * (len(head.parents) - 1)))
  )
  joints = 1e-3 * rng.normal(size=head.joint_expression.shape)
  around = np.arctan2(place[:, 0], place[:, 2]) / 7 + 0.5
  uv = np.stack([around, (place[:, 1] - place[:, 1].min()) / np.ptp(place[:, 1]) * 0.9 + 0.05], 1)
  return head.replace(
    pose_basis=jnp.asarray(correctives, jnp.float32),
    joint_expression=jnp.asarray(joints, jnp.float32),
    uv=jnp.asarray(uv, jnp.float32),
  )


def a_subject(head, dense, *, seed=1):
  """Five frames in which three expressions, all joints and a field of offsets move."""
  rng, count = np.random.default_rng(seed), len(dense.coarse_ids)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  expression = np.zeros((FRAMES, head.expression_basis.shape[-1]), np.float32)
  expression[:, [0, 3, 4]] = rng.uniform(0, 1, (FRAMES, 3))
  moving = np.flatnonzero(np.asarray(dense.regions['face']) > 0.5).astype(np.int32)
  return Subject(
    'ann',
    head.name,
    head_digest(head),
    dense.levels,
    (64, 64),
    12.5,
    0.5 * draw(head.shape_basis.shape[-1]),
    expression,
    0.3 * draw(FRAMES, len(head.parents), 3),
    0.02 * draw(FRAMES, 3) - np.float32([0, 0, 0.7]),
    np.full(2, 150, np.float32),
    np.full(2, 32, np.float32),
    np.float32([0, 0.1, 0.15, 0.3, 0.4]),
    3e-4 * draw(count, 3),
    moving,
    4e-4 * draw(FRAMES, len(moving), 3),
    albedo=rng.uniform(0.2, 0.8, (count, 3)).astype(np.float32),
  )


class File:
  """A .glb, evaluated as the specification says."""

  def __init__(self, content):
    magic, version, length, first, kind = struct.unpack('<IIIII', content[:20])
    assert (magic, version, length, kind) == (0x46546C67, 2, len(content), 0x4E4F534A)
    self.tree = json.loads(content[20 : 20 + first])
    size, kind = struct.unpack('<II', content[20 + first : 28 + first])
    assert (
      kind == 0x004E4942
      and size == self.tree['buffers'][0]['byteLength'] == len(content) - 28 - first
    )
    self.binary = content[28 + first :]

  def array(self, number):
    accessor = self.tree['accessors'][number]
    view = self.tree['bufferViews'][accessor['bufferView']]
    kind = {5126: '<f4', 5125: '<u4', 5123: '<u2'}[accessor['componentType']]
    shape = {'SCALAR': (), 'VEC2': (2,), 'VEC3': (3,), 'VEC4': (4,), 'MAT4': (4, 4)}[
      accessor['type']
    ]
    values = np.frombuffer(
      self.binary, kind, accessor['count'] * int(np.prod(shape)), view['byteOffset']
    )
    return values.reshape(accessor['count'], *shape)

  def image(self, number):
    view = self.tree['bufferViews'][self.tree['images'][number]['bufferView']]
    return np.array(
      Image.open(
        io.BytesIO(self.binary[view['byteOffset'] : view['byteOffset'] + view['byteLength']])
      )
    )

  def curves(self):
    animation = self.tree['animations'][0]
    return {
      (c['target']['node'], c['target']['path']): animation['samplers'][c['sampler']]
      for c in animation['channels']
    }

  def at(self, time):
    """[N, 3] positions at a time: LINEAR curves, morph targets, joints."""
    tree, values = self.tree, {}
    for key, sampler in self.curves().items():
      times, output = self.array(sampler['input']), self.array(sampler['output'])
      output = output.reshape(len(times), -1)
      if key[1] == 'rotation':
        values[key] = Slerp(times, Rotation.from_quat(output))(time).as_quat()
      else:
        values[key] = np.array([np.interp(time, times, column) for column in output.T])
    primitive = tree['meshes'][0]['primitives'][0]
    get = lambda name: self.array(primitive['attributes'][name])
    node = next(k for k, n in enumerate(tree['nodes']) if 'mesh' in n)
    rest = get('POSITION').astype(np.float64)
    for weight, target in zip(values.get((node, 'weights'), ()), primitive.get('targets', ())):
      rest = rest + weight * self.array(target['POSITION'])
    parent = {child: k for k, n in enumerate(tree['nodes']) for child in n.get('children', ())}

    def world(k):
      matrix = np.eye(4)
      matrix[:3, :3] = Rotation.from_quat(
        values.get((k, 'rotation'), tree['nodes'][k]['rotation'])
      ).as_matrix()
      matrix[:3, 3] = values.get((k, 'translation'), tree['nodes'][k]['translation'])
      return matrix if k not in parent else world(parent[k]) @ matrix

    skin = tree['skins'][0]
    inverse = self.array(skin['inverseBindMatrices']).transpose(0, 2, 1)
    matrices = np.stack([world(k) @ inverse[i] for i, k in enumerate(skin['joints'])])
    blended = np.einsum('nk,nkab->nab', get('WEIGHTS_0'), matrices[get('JOINTS_0')])
    return np.einsum('nab,nb->na', blended[:, :3, :3], rest) + blended[:, :3, 3]


@pytest.fixture(scope='module')
def made():
  head = a_head()
  dense = densify(head, 1)
  subject = a_subject(head, dense)
  content, rig = export_gltf(subject, head, texture=32)
  return head, dense, subject, File(content), rig


@pytest.mark.long
def test_every_frame_is_where_ours_is(made):
  head, dense, subject, file, rig = made
  origin = np.array(file.tree['asset']['extras']['origin_in_head_frame'])
  for t in range(FRAMES):
    true = np.asarray(subject_vertices(head, dense, subject, t)) - origin
    wrong = np.linalg.norm(file.at(subject.times[t]) - true, axis=1).max()
    assert wrong < 1e-4, f'{wrong} metres in frame {t}'
    assert wrong < rig.error + 1e-6, 'the file says how far it is off'
  assert (
    np.linalg.norm(file.at(subject.times[1]) - file.at(subject.times[0]), axis=1).max() > 1e-2
  ), 'it moves'


@pytest.mark.long
def test_the_head_joint_stands_at_the_origin(made):
  head, _, subject, file, _ = made
  origin = np.array(file.tree['asset']['extras']['origin_in_head_frame'])
  np.testing.assert_allclose(
    head_joints(head, frame_params(subject, 0))[head.joint('head')], origin, atol=1e-6
  )


@pytest.mark.long
def test_targets_have_names_and_only_the_used_ones(made):
  head, _, subject, file, rig = made
  names = file.tree['meshes'][0]['extras']['targetNames']
  assert names[:3] == [head.expression_names[k] for k in (0, 3, 4)] and all(
    n.startswith('detail') for n in names[3:]
  )
  assert 0 < rig.detail == len(names) - 3 <= 2 * FRAMES
  curves = file.curves()
  node = next(k for k, n in enumerate(file.tree['nodes']) if 'mesh' in n)
  weights = file.array(curves[node, 'weights']['output']).reshape(FRAMES, -1)
  np.testing.assert_allclose(weights[:, :3], subject.expression[:, [0, 3, 4]], atol=1e-6)
  assert (
    0 <= weights.min() and weights.max() <= 1 and any(name.endswith('_reverse') for name in names)
  )
  np.testing.assert_allclose(file.array(curves[node, 'weights']['input']), subject.times, atol=1e-6)
  _, everything = export_gltf(subject, head, texture=32, all_expressions=True, most_detail=0)
  assert everything.target_names == head.expression_names


@pytest.mark.long
def test_what_is_left_out_is_counted(made):
  head, dense, subject, _, full = made
  content, rig = export_gltf(subject, head, texture=32, most_detail=1)
  file, origin = File(content), rig.origin
  true = lambda t: np.asarray(subject_vertices(head, dense, subject, t)) - origin
  worst = max(
    np.linalg.norm(file.at(subject.times[t]) - true(t), axis=1).max() for t in range(FRAMES)
  )
  assert worst > 3 * full.error
  np.testing.assert_allclose(rig.error, worst, rtol=1e-3)
  assert file.tree['asset']['extras']['largest_error_metres'] == pytest.approx(worst, rel=1e-3)


@pytest.mark.long
def test_four_influences_that_sum_to_one(made):
  file = made[3]
  attributes = file.tree['meshes'][0]['primitives'][0]['attributes']
  np.testing.assert_allclose(file.array(attributes['WEIGHTS_0']).sum(1), 1, atol=1e-6)
  assert file.array(attributes['JOINTS_0']).max() < len(file.tree['skins'][0]['joints'])
  np.testing.assert_allclose(
    np.linalg.norm(file.array(attributes['TANGENT'])[:, :3], axis=1), 1, atol=1e-5
  )


@pytest.mark.long
def test_materials_by_regions(made):
  head, dense, _, file, _ = made
  pieces = {
    file.tree['materials'][p['material']]['name']: len(file.array(p['indices'])) // 3
    for p in file.tree['meshes'][0]['primitives']
  }
  eyes = (np.asarray(dense.regions['eyeballs'])[np.asarray(dense.faces)] > 0.5).sum(1) >= 2
  assert pieces['eyes'] == eyes.sum() > 0 and sum(pieces.values()) == len(dense.faces)


@pytest.mark.long
def test_colours_lie_at_their_uv(made):
  """A colour that is linear in uv is read back at any vertex; sRGB of the linear values."""
  head, dense, subject, _, _ = made
  uv = np.asarray(dense.uv)
  coloured = Subject(
    **(
      vars(subject)
      | {'albedo': np.stack([uv[:, 0], uv[:, 1], 0 * uv[:, 0] + 0.5], 1).astype(np.float32)}
    )
  )
  file = File(export_gltf(coloured, head, texture=64, most_detail=0)[0])
  picture = file.image(0) / 255
  linear = np.where(picture < 0.04045, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4)
  place = file.array(file.tree['meshes'][0]['primitives'][0]['attributes']['TEXCOORD_0'])
  skin = np.flatnonzero(np.asarray(dense.regions['face']) > 0.5)
  x, y = np.clip((place[skin] * 64).astype(int), 0, 63).T
  np.testing.assert_allclose(linear[y, x, :2], coloured.albedo[skin, :2], atol=0.03)


@pytest.mark.long
def test_a_normal_map_turns_the_coarse_surface_into_the_fine_one():
  """A flat square whose fine surface is a wave: decoded with tangents and bitangents, the map gives
  the wave's normals."""
  side = np.linspace(0, 1, 41)
  u, v = (a.ravel() for a in np.meshgrid(side, side))
  uv = 0.1 + 0.8 * np.stack([u, v], 1)
  corner = np.arange(40)[:, None] * 41 + np.arange(40)
  halves = [
    np.stack([corner, corner + 1, corner + 42], -1),
    np.stack([corner, corner + 42, corner + 41], -1),
  ]
  faces = np.concatenate(halves).reshape(-1, 3)
  flat = np.stack([u, v, 0 * u], 1)  # u to the right, v up, seen from +z
  slope_u, slope_v = 0.5 * np.cos(6 * u), 0.3 * np.sin(5 * v)
  fine = np.stack([-slope_u, -slope_v, 1 + 0 * u], 1)
  fine /= np.linalg.norm(fine, axis=1, keepdims=True)
  out = np.tile([0.0, 0, 1], (len(flat), 1))
  along = tangents(flat, out, uv, faces)
  np.testing.assert_allclose(along, np.tile([1.0, 0, 0, 1], (len(flat), 1)), atol=1e-6)
  picture = normal_map(fine, out, along, uv, faces, 128)
  x, y = (uv[:, 0] * 128).astype(int), ((1 - uv[:, 1]) * 128).astype(int)
  inside = (np.abs(u - 0.5) < 0.45) & (np.abs(v - 0.5) < 0.45)
  np.testing.assert_allclose((picture[y, x] / 127.5 - 1)[inside], fine[inside], atol=0.04)
  mirrored = tangents(flat, out, uv * [-1, 1] + [1, 0], faces)
  np.testing.assert_allclose(mirrored, np.tile([-1.0, 0, 0, -1], (len(flat), 1)), atol=1e-6)
  assert baked(uv, uv, faces, 16).shape == (16, 16, 2)


@pytest.mark.long
def test_a_coarse_mesh_has_its_offsets_and_a_normal_map(made):
  head, dense, subject, _, _ = made
  content, rig = export_gltf(subject, head, whole=False, texture=64)
  file, count = File(content), len(head.template)
  true = np.asarray(subject_vertices(head, dense, subject, 2))[:count] - rig.origin
  assert np.linalg.norm(file.at(subject.times[2]) - true, axis=1).max() < 1e-4
  skin = file.tree['materials'][0]
  picture = file.image(file.tree['textures'][skin['normalTexture']['index']]['source'])
  assert picture.shape == (64, 64, 3) and picture[..., 2].mean() > 150 and picture[..., 0].std() > 2


@pytest.mark.long
def test_a_head_without_uv_is_unrolled(made):
  head, dense, subject, _, _ = made
  bare = head.replace(uv=None)
  content, rig = export_gltf(subject, bare, texture=64)
  file = File(content)
  attributes = file.tree['meshes'][0]['primitives'][0]['attributes']
  place = file.array(attributes['TEXCOORD_0'])
  assert place.min() >= 0 and place.max() <= 1 and len(place) > len(rig.vertices)
  faces = np.concatenate(
    [file.array(p['indices']).reshape(-1, 3) for p in file.tree['meshes'][0]['primitives']]
  )
  assert np.ptp(place[faces][..., 0], axis=1).max() < 0.5, (
    'no triangle runs across the whole picture'
  )
  laid = unwrap(rig.vertices, rig.faces, np.zeros(len(rig.faces), int))
  np.testing.assert_array_equal(laid.source[laid.faces], rig.faces)


@pytest.mark.long
def test_trimesh_reads_it(made, tmp_path):
  head, dense, subject, file, rig = made
  (tmp_path / 'a.glb').write_bytes(export_gltf(subject, head, texture=32)[0])
  scene = trimesh.load(tmp_path / 'a.glb')
  assert sum(len(mesh.faces) for mesh in scene.geometry.values()) == len(dense.faces)
  low, high = scene.bounds
  assert (high - low < 1).all() and (high - low > 0.1).all(), 'metres'


@pytest.mark.long
def test_the_command(made, tmp_path, capsys):
  head, dense = load_head('procedural'), densify(load_head('procedural'), 0)
  save_subject(tmp_path / 'ann.npz', a_subject(head, dense))
  main(
    [
      str(tmp_path / 'ann.npz'),
      '-o',
      str(tmp_path / 'ann.glb'),
      '--texture',
      '32',
      '--mesh',
      'head',
      '--all',
    ]
  )
  assert 'mm beside ours' in capsys.readouterr().out
  assert File((tmp_path / 'ann.glb').read_bytes()).tree['asset']['copyright'] == head.license
  for more, words in (
    (['-o', 'a.gltf'], 'must end in .glb'),
    (['-o', 'a.glb', '--texture', '4'], '16..8192'),
  ):
    with pytest.raises(SystemExit):
      main([str(tmp_path / 'ann.npz'), *more])
    assert words in capsys.readouterr().err


BLENDER = """
import bpy, json, sys
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=sys.argv[1])
mesh = next(o for o in bpy.data.objects if o.type == 'MESH' and o.data.shape_keys)
scene, found = bpy.context.scene, []
rate = scene.render.fps / scene.render.fps_base
for time in json.loads(sys.argv[2]):
  scene.frame_set(round(time * rate))
  shown = mesh.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
  found.append([list(mesh.matrix_world @ v.co) for v in shown.vertices])
bones = [b.name for o in bpy.data.objects if o.type == 'ARMATURE' for b in o.data.bones]
json.dump({'vertices': found, 'keys': [k.name for k in mesh.data.shape_keys.key_blocks], 'bones': bones,
           'materials': [m.name for m in mesh.data.materials]}, open(sys.argv[3], 'w'))
"""


@pytest.mark.slow
def test_blender_reads_it(made, tmp_path):
  """Needs `pip install bpy` (Python 3.11), here or in the folder that EXP_JAX_BPY names."""
  place = os.environ | {'PYTHONPATH': os.environ.get('EXP_JAX_BPY', '')}
  if subprocess.run(
    [sys.executable, '-c', 'import bpy'], env=place, capture_output=True
  ).returncode:
    pytest.skip('bpy cannot be imported: pip install bpy, or name its folder in EXP_JAX_BPY')
  head, dense, subject, file, rig = made
  # its scenes have whole frames, 24 a second
  subject = Subject(**(vars(subject) | {'times': np.float32([0, 2, 3, 7, 9]) / 24}))
  (tmp_path / 'a.glb').write_bytes(export_gltf(subject, head, texture=32)[0])
  (tmp_path / 'read.py').write_text(BLENDER)
  command = [sys.executable, 'read.py', 'a.glb', json.dumps(subject.times.tolist()), 'out.json']
  ended = subprocess.run(command, cwd=tmp_path, env=place, capture_output=True, text=True)
  assert ended.returncode == 0, ended.stderr[-2000:]
  found = json.loads((tmp_path / 'out.json').read_text())
  assert found['keys'][1:] == list(rig.target_names) and set(head.joint_names) <= set(
    found['bones']
  )
  assert {'skin', 'eyes'} <= set(found['materials'])
  for t, vertices in enumerate(found['vertices']):
    points = np.array(vertices)[:, [0, 2, 1]] * [1, 1, -1]  # Blender's +Z up back to +Y up
    true = np.asarray(subject_vertices(head, dense, subject, t)) - rig.origin
    # it may merge or reorder vertices
    near = np.linalg.norm(points[:, None] - true[None], axis=-1).min(1)
    assert near.max() < 1e-4, f'frame {t}: {near.max()} metres'
