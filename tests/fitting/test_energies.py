"""The data terms of one frame, where the truth is known: the head itself, seen by the same
camera."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from exp_jax.fitting.coarse.coarse_fit import make_camera
from exp_jax.fitting.offsets.energies import TERMS, Scene, Seen, frame_losses
from exp_jax.fitting.offsets.targets import Targets
from exp_jax.geometry import clip_coordinates, project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import head_landmarks, head_vertices
from exp_jax.rendering import Topology, interpolate, rasterize

SIZE, MAP = 96, 32


@pytest.fixture(scope='module')
def scene():
  """(losses of a target, depth and normals of the truth, where they are certain, pixels of the
  landmarks)."""
  head = load_head('procedural')
  dense = densify(head, 0)
  params = HeadParams(
    jnp.zeros(10), jnp.zeros(10), jnp.zeros((6, 3)).at[2, 1].set(0.3), jnp.array([0, 0.05, -0.8])
  )
  topology = Topology.from_faces(np.asarray(dense.faces))
  camera, small = (
    make_camera(jnp.float32(210), (SIZE, SIZE)),
    make_camera(jnp.float32(210 * MAP / SIZE), (MAP, MAP)),
  )

  @jax.jit
  def seen():
    vertices = head_vertices(head, params)
    clip = clip_coordinates(vertices, small)
    fragments = rasterize(clip, topology, (MAP, MAP))
    surface = interpolate(
      jnp.concatenate([vertex_normals(vertices, dense.faces), clip[:, 3:]], -1),
      clip,
      topology,
      fragments,
    )
    length = jnp.maximum(jnp.linalg.norm(surface[..., :3], axis=-1, keepdims=True), 1e-6)
    return (
      vertices,
      fragments.face_id,
      surface[..., 3],
      surface[..., :3] / length,
      project(head_landmarks(head, params), camera)[0],
    )

  vertices, *found = seen()
  face_id, depth, normal, pixels = map(np.asarray, found)
  certain = scipy.ndimage.minimum_filter(face_id >= 0, 3)
  count = len(vertices)
  skin = jnp.ones((count, 2))

  @jax.jit
  def losses(target, points, weights):
    return frame_losses(
      vertices,
      vertices,
      Scene(head, camera, topology, skin),
      Seen(points, weights, target),
      albedo=jnp.zeros((count, 3)),
      light=jnp.zeros((9, 3)),
      trimmed=jnp.ones(()),
      shading=jnp.zeros(()),
    )

  def run(*, depth=depth, normals=normal, points=pixels, weights=np.ones(len(pixels))):
    as_array = lambda value: jnp.asarray(value, jnp.float32)
    target = Targets(
      matte=None,
      matte_weights=None,
      normals=as_array(normals),
      depth=as_array(depth),
      image=None,
      inside=as_array(certain),
    )
    return dict(zip(TERMS, np.asarray(losses(target, as_array(points), as_array(weights)))))

  return run, depth, normal, certain, pixels


def test_the_truth_costs_nothing(scene):
  found = scene[0]()
  assert found['landmarks'] < 1e-9
  assert found['normals'] < 1e-3 and found['depth'] < 1e-3, (
    "unit vectors, and shares of the depth's spread"
  )


@pytest.mark.parametrize('scale, shift', [(1.0, 0.0), (4.0, 7.0), (0.3, -2.0), (-2.0, 5.0)])
def test_depth_is_compared_after_the_best_scale_and_shift(scene, scale, shift):
  """Eq. 6b: whatever the units and origin of an estimate, also of disparity, which falls with the
  distance."""
  run, depth, _, certain, _ = scene
  assert run(depth=scale * depth + shift)['depth'] < 2e-3
  bent = depth + 0.1 * np.linspace(-1, 1, MAP)[:, None] ** 2
  line = np.polyfit(depth[certain], (scale * bent + shift)[certain], 1)
  residual = np.abs(np.polyval(line, depth[certain]) - (scale * bent + shift)[certain]) / np.std(
    (scale * bent + shift)[certain]
  )
  assert residual.mean() > 0.05
  np.testing.assert_allclose(
    run(depth=scale * bent + shift)['depth'], np.minimum(residual, 0.5).mean(), rtol=2e-2
  )


def test_normals_point_up_and_to_the_viewer(scene):
  """Targets have y up and z to the viewer: the L1 distance of turned ones is known wherever the
  face trusts them."""
  run, _, up, certain, _ = scene
  turned = up @ np.array([[np.cos(0.3), np.sin(0.3), 0], [-np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
  expected = np.abs(turned - up).sum(-1)[certain].mean()
  assert expected > 0.05
  np.testing.assert_allclose(run(normals=turned)['normals'], expected, rtol=1e-2)
  # what points elsewhere altogether is an occluder's, and is left out
  assert run(normals=np.where(np.arange(MAP)[:, None, None] < MAP // 2, -up, up))['normals'] < 1e-3


def test_landmarks_count_by_their_weights_in_half_image_heights(scene):
  run, *_, pixels = scene
  rng = np.random.default_rng(0)
  off, weights = rng.normal(0, 2, pixels.shape), rng.random(len(pixels))
  weights[0] = 0
  off[0] = 1000  # of no weight: it may lie anywhere
  expected = np.sum(weights * np.sum((off / (SIZE / 2)) ** 2, -1)) / weights.sum()
  np.testing.assert_allclose(
    run(points=pixels + off, weights=weights)['landmarks'], expected, rtol=1e-3
  )
