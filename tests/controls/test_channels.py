"""Maps beside the normals: they agree with the geometry that they were drawn from."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial import cKDTree

from exp_jax.actors import make_stage, sample_actor, still_motion
from exp_jax.actors.actor import truth
from exp_jax.controls.channels import NEAR, control_channels, surface_attributes
from exp_jax.controls.maps import (
  control_maps,
  edge_fade,
  own_motion,
  subject_camera,
  template_vertices,
)
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.geometry import project
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import frame_params, subject_vertices
from exp_jax.heads.skinning import head_joints

SIZE = 96


@pytest.fixture(scope='module', params=['procedural', 'makehuman'])
def made(request):
  """(head, dense, subject, motion: at rest; looking left and up, mouth open)."""
  try:
    head = load_head(request.param)
  except UserError:
    pytest.skip('`make setup` fetches the MakeHuman head')
  stage = make_stage(head, 1)
  subject = truth(
    sample_actor(np.random.default_rng(4), stage), still_motion(head), stage, size=SIZE
  )
  motion = own_motion(subject)
  pose = np.repeat(motion.pose, 2, 0)
  names = list(head.joint_names)
  pose[1, names.index('jaw'), 0] = 0.35
  # up, and to the person's left
  pose[1, [names.index('left_eye'), names.index('right_eye')], :2] = -0.3, 0.45
  return (
    head,
    stage.assets.dense,
    subject,
    Motion(np.repeat(motion.expression, 2, 0), pose, np.repeat(motion.translation, 2, 0)),
  )


@pytest.fixture(scope='module')
def channels(made):
  head, dense, subject, motion = made
  return control_channels(head, dense, subject, motion, None, size=SIZE)


@pytest.mark.long
def test_all_are_bytes_of_one_size_and_the_normals_are_the_control(made, channels):
  head, dense, subject, motion = made
  assert {name: (m.shape, m.dtype) for name, m in channels.items()} == {
    name: ((2, SIZE, SIZE, c), np.uint8)
    for name, c in dict(normals=3, depth=1, shaded=3, iris=3, mouth=3, mouth_depth=1).items()
  }
  control = control_maps(head, dense, subject, motion, None, size=SIZE)
  assert np.abs(control.astype(int) - channels['normals']).max() <= 1
  outside = (
    ~channels['normals'].any(-1)
    & ~np.roll(channels['normals'], 1, 1).any(-1)
    & ~np.roll(channels['normals'], -1, 1).any(-1)
  )
  for name in ('depth', 'iris', 'mouth', 'mouth_depth'):
    assert not channels[name][~outside & ~channels['depth'].any(-1)].any()


@pytest.mark.long
def test_depth_is_the_distance_along_the_axis(made, channels):
  """The nose's pixel holds its depth, and nearer is brighter."""
  head, dense, subject, _ = made
  vertices = np.asarray(subject_vertices(head, dense, subject, 0))
  nose = vertices[
    np.argmax(np.where(np.asarray(dense.regions['face']) > 0.5, vertices[:, 2], -np.inf))
  ]
  pixel, depth = project(nose[None], subject_camera(subject))
  column, row = np.asarray(pixel)[0].astype(int)
  middle = -subject.translation[0, 2]
  shown = middle + NEAR - channels['depth'][0, row, column, 0] / 255 * 2 * NEAR
  assert abs(shown - float(depth[0])) < 2 * 2 * NEAR / 255 + 0.002
  joint = np.asarray(head_joints(head, frame_params(subject, 0)))[head.joint('head')]
  assert abs(-joint[2] - middle) < 0.03, 'half grey is about the head joint'
  ear = channels['depth'][0][channels['depth'][0] > 0]
  assert channels['depth'][0, row, column, 0] >= np.percentile(ear, 99)


@pytest.mark.long
def test_the_iris_looks_where_the_eye_does(made, channels):
  iris = channels['iris'].astype(float) / 255
  seen = iris.any(-1)
  assert seen[0].sum() > 4, 'open eyes'
  yaw, pitch = (1.2 * (iris[..., c] - 0.5) for c in (1, 2))
  np.testing.assert_allclose(yaw[0][seen[0]], 0, atol=0.003)
  # rims of two eyeballs do not mix: they are apart
  np.testing.assert_allclose(yaw[1][seen[1]], 0.45, atol=0.02)
  np.testing.assert_allclose(pitch[1][seen[1]], 0.3, atol=0.02)
  where = lambda t: (
    (np.nonzero(seen[t])[1] * iris[t, ..., 0][seen[t]]).sum() / iris[t, ..., 0][seen[t]].sum()
  )
  assert where(1) > where(0) + 0.3, "the person's left is the picture's right"
  assert (channels['mouth'][seen] == 0).all()


@pytest.mark.long
def test_the_mouth_shows_what_is_in_it(made, channels):
  head = made[0]
  if 'teeth' not in head.regions:
    assert not channels['mouth'].any() and not channels['mouth_depth'].any(), (
      'this head has nothing in its mouth'
    )
    return
  closed, opened = (channels['mouth'][t].any(-1) for t in (0, 1))
  assert opened.sum() > closed.sum() + 20
  classes = channels['mouth'][1][opened] > 0
  assert (classes.sum(-1) == 1).all(), 'one class a pixel'
  assert classes[:, 2].any(), 'the cavity is seen'
  depth = channels['mouth_depth'][1][opened]
  assert 0 < depth.min() and depth.max() > 40 and not channels['mouth_depth'][1][~opened].any()
  attributes = np.asarray(surface_attributes(*made[:3]))
  upper, lower = attributes[:, 4] > 0.5, attributes[:, 5] > 0.5
  template = template_vertices(head, made[1])
  assert (
    upper.sum() > 20
    and lower.sum() > 20
    and template[upper, 1].mean() > template[lower, 1].mean() + 0.002
  )


@pytest.mark.long
def test_shading_is_grey_without_albedo_and_brighter_where_it_faces_the_light(made):
  head, dense, subject, motion = made
  plain = control_channels(
    head,
    dense,
    dataclasses.replace(subject, albedo=None),
    Motion(motion.expression[:1], motion.pose[:1], motion.translation[:1]),
    None,
    size=SIZE,
  )
  shaded = plain['shaded'][0]
  assert (np.ptp(shaded, -1) <= 1).all() and shaded.max() > 120
  normal = plain['normals'][0].astype(float) / 127.5 - 1
  inside = np.abs(np.linalg.norm(normal, axis=-1) - 1) < 0.02
  light = np.array([-0.4, 0.5, 0.77])
  assert np.corrcoef(normal[inside] @ light, shaded[inside][:, 0])[0, 1] > 0.97


@pytest.mark.long
def test_the_map_fades_at_the_cut_and_nowhere_else(made):
  head, dense = made[:2]
  fade, template = edge_fade(head, dense), template_vertices(head, dense)
  faces = np.asarray(dense.faces)
  sides, uses = np.unique(
    np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1), axis=0, return_counts=True
  )
  neck = float(head.joint_template[head.joint('neck'), 1])
  rim = np.unique(sides[uses == 1])
  low = rim[template[rim, 1] < neck]
  assert len(low) and not fade[low].any()
  far = cKDTree(template[low]).query(template)[0] > 0.021
  assert (fade[far] == 1).all() and fade[~far].mean() < 0.9
  assert (fade[template[:, 1] > neck] == 1).all(), 'lips and eyes keep their edges'
