"""Shadows against closed forms, patterns in range and still under the camera, maps against
geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from exp_jax.actors import make_stage, render_actor, sample_actor, sample_motion
from exp_jax.actors.appearance import vertex_albedo
from exp_jax.actors.lighting import lamp, sh_basis
from exp_jax.actors.materials import FIELDS, noise, surface
from exp_jax.actors.occlusion import shadow, transfer_vectors, turned_light
from exp_jax.heads.head_files import load_head


@pytest.fixture(scope='module')
def stage():
  return make_stage(load_head('procedural'), 1)


@pytest.mark.long
def test_nothing_shadows_a_sphere_and_a_lid_shadows_what_is_under_it():
  ball = trimesh.creation.icosphere(3, 0.1)
  transfer = transfer_vectors(np.asarray(ball.vertices), np.asarray(ball.faces))
  light = lamp(np.array([0.0, 1, 0.2]), np.ones(3)) + 0.3 * lamp(np.array([1.0, -1, 0]), np.ones(3))
  normals = np.asarray(ball.vertex_normals)
  # 128 directions and 24 mm wide views: a few per cent of the lamp's 1.06
  np.testing.assert_allclose(transfer @ light, sh_basis(normals) @ light, atol=0.06)
  lid = (
    trimesh.creation.box((0.5, 0.01, 0.5)).apply_translation([0, 0.16, 0]).subdivide().subdivide()
  )
  both = trimesh.util.concatenate([ball, lid])
  covered = transfer_vectors(np.asarray(both.vertices), np.asarray(both.faces))[: len(normals)]
  above, below = normals[:, 1] > 0.9, normals[:, 1] < -0.9
  sun = jnp.asarray(lamp(np.array([0.0, 1, 0]), np.ones(3)), jnp.float32)
  left = shadow(jnp.asarray(covered), jnp.asarray(normals, jnp.float32), sun)
  assert left[above].max() < 0.35
  # one grazing direction of 128 more or less, since a pixel is five times as wide here
  np.testing.assert_allclose(covered[below], transfer[below], atol=0.05)


def test_turned_light_is_the_same_light():
  rng = np.random.default_rng(0)
  turn = Rotation.random(random_state=1).as_matrix().astype(np.float32)
  light = rng.normal(size=(9, 3)).astype(np.float32)
  normals = rng.normal(size=(50, 3))
  normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
  there = sh_basis(normals @ turn.T) @ light
  np.testing.assert_allclose(sh_basis(normals) @ turned_light(light, turn), there, atol=2e-5)


def test_pixel_noise_is_continuous_bounded_and_seeded():
  points = jax.random.uniform(jax.random.key(0), (4000, 3), minval=-20, maxval=20)
  seed = jnp.array([0.3, 7.0, 2.0])
  values = noise(points, seed)
  assert jnp.abs(values).max() <= 1 and values.std() > 0.2 and abs(values.mean()) < 0.05
  assert jnp.abs(noise(points + 1e-4, seed) - values).max() < 2e-3
  assert jnp.abs(noise(points, seed + 0.5) - values).mean() > 0.1


@pytest.mark.long
def test_materials_stay_in_range_and_fade_to_their_mean_far_away(stage):
  actor = sample_actor(np.random.default_rng(2), stage)
  look, place = actor.look, stage.assets.place
  paint = lambda pixel: surface(
    look, look.skin, look.gloss, look.fields, place, stage.assets.crown, pixel=jnp.float32(pixel)
  )
  near, far = paint(2e-4), paint(0.05)
  for found in (near, far):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert 0 <= found.albedo.min() and found.albedo.max() <= 1
  assert jnp.abs(near.bump).max() > 0.02 and jnp.abs(far.bump).max() == 0.0
  solid = (np.asarray(look.fields)[:, FIELDS.index('hair')] < 0.01) & (vertex_albedo(look) > 0).all(
    1
  )
  assert (
    np.abs(np.asarray(near.albedo)[solid].mean(0) - np.asarray(far.albedo)[solid].mean(0)).max()
    < 0.03
  )


@pytest.mark.long
def test_maps_and_gaze_are_those_of_the_geometry(stage):
  motion = sample_motion(np.random.default_rng(3), stage.assets.head, num_frames=2, fps=4)
  actor = sample_actor(np.random.default_rng(2), stage)
  clip = render_actor(actor, motion, stage, size=48, maps=True)
  inside = clip.matte == 255
  depth = clip.maps['depth'].astype(np.float32)
  assert depth[clip.matte == 0].max() == 0
  assert np.abs(depth[inside] + float(actor.seat[2])).max() < 0.2, (
    'a head is within 20 cm of its seat'
  )
  np.testing.assert_allclose(np.linalg.norm(clip.gaze, axis=-1), 1, atol=1e-5)
  names = stage.assets.head.joint_names
  eye = names.index('left_eye')
  chain = ('head', 'neck', names[0])
  turn = Rotation.from_rotvec(motion.pose[1, eye])
  for name in chain:
    turn = Rotation.from_rotvec(motion.pose[1, names.index(name)]) * turn
  np.testing.assert_allclose(clip.gaze[1, 0], turn.as_matrix()[:, 2] * [1, -1, -1], atol=1e-5)
