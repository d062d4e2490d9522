"""Dense registration to maps: the triangles lie on the round skin, derivatives are those of the
cost, hair has no pull."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import known_clips
import numpy as np
import pytest
import scipy.spatial

from exp_jax.fitting.coarse import relief
from exp_jax.fitting.coarse.coarse_fit import FOCAL_PRIOR, make_camera
from exp_jax.fitting.coarse.fit import fit_coarse, fit_coarse_many
from exp_jax.fitting.coarse.landmark_jacobian import landmark_points
from exp_jax.fitting.coarse.residuals import pixels_of
from exp_jax.fitting.coarse.unknowns import frame_arguments, params_of
from exp_jax.geometry import clip_coordinates
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import dense_vertices, densify, rounding
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import head_vertices
from exp_jax.observe.landmarks import ESTIMATOR
from exp_jax.observe.observation import Observation
from exp_jax.rendering import Topology, interpolate, rasterize

SIZE = (256, 256)


@pytest.fixture(scope='module')
def head():
  return known_clips.makehuman()


@pytest.fixture(scope='module')
def scene(head):
  """A known clip of 3 frames and its normals, depth and place in the rest pose [T, H, W, ...], of
  the rounded dense head."""
  truth = known_clips.clip(head, 3, yaw=0.3)
  dense = densify(head, 1)
  rounder = jnp.asarray(
    rounding(head, dense) @ np.asarray(head.template + head.shape_basis @ truth.params.shape),
    jnp.float32,
  )
  topology, camera = (
    Topology.from_faces(np.asarray(dense.faces)),
    make_camera(jnp.float32(truth.focal), SIZE),
  )

  def draw(t):
    params = HeadParams(
      truth.params.shape,
      truth.params.expression[t],
      truth.params.pose[t],
      truth.params.translation[t],
    )
    vertices = dense_vertices(head, dense, params, rounder, jnp.zeros_like(rounder))
    clip = clip_coordinates(vertices, camera)
    fragments = rasterize(clip, topology, SIZE)
    columns = jnp.concatenate([vertex_normals(vertices, topology.faces), clip[:, 3:], place], -1)
    return (
      np.asarray(interpolate(columns, clip, topology, fragments)),
      np.asarray(fragments.face_id >= 0),
      np.asarray(vertices),
    )

  place = jnp.einsum('nkc,nk->nc', head.template[dense.coarse_ids], dense.barycentric)
  drawn = [draw(t) for t in range(3)]
  maps, inside = np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn])
  normals = maps[..., :3] / np.maximum(np.linalg.norm(maps[..., :3], axis=-1, keepdims=True), 1e-6)
  return dict(
    truth=truth,
    dense=dense,
    normals=normals * inside[..., None],
    depth=maps[..., 3],
    place=maps[..., 4:],
    inside=inside,
    vertices=drawn[0][2],
  )


def observation(scene, points=None, **changes) -> Observation:
  seen, believed = scene['truth'].observation, scene['inside'].astype(np.float16)
  maps = dict(normals=scene['normals'], depth=scene['depth']) | changes
  return Observation(
    seen.points if points is None else points,
    seen.found,
    None,
    SIZE,
    'truth',
    normals=maps['normals'].astype(np.float16),
    normal_weights=believed,
    depth=None if maps['depth'] is None else maps['depth'].astype(np.float32),
    depth_weights=None if maps['depth'] is None else believed,
  )


def unknowns(head, truth, frame):
  """Shared and frame's unknowns [S + 1], [P] of the truth."""
  names = {name: k for k, name in enumerate(head.joint_names)}
  pose = np.asarray(truth.params.pose[frame])
  shared = jnp.append(truth.params.shape, jnp.log(truth.focal / (FOCAL_PRIOR * SIZE[0])))
  parts = (
    truth.params.expression[frame],
    2 * pose[names['neck']],
    pose[0],
    pose[names['jaw']],
    pose[names['left_eye'], :2],
    pose[names['right_eye'], :2],
    truth.params.translation[frame],
  )
  return shared.astype(jnp.float32), jnp.concatenate([jnp.asarray(p, jnp.float32) for p in parts])


def frame_of(maps, frame):
  return jax.tree.map(lambda a: jnp.asarray(a[frame]), maps)


@jax.jit
def equations(triangles, maps, shared, vector):
  onto = lambda points, focal: pixels_of(points, focal, SIZE)
  return relief.relief_equations(
    triangles, *frame_arguments(triangles, shared, vector), shared[-1], project=onto, maps=maps
  )


@pytest.mark.long
def test_triangles_lie_on_the_round_skin_and_away_from_hair(head, scene):
  triangles, truth, dense = relief.relief_triangles(head), scene['truth'], scene['dense']
  params = HeadParams(
    truth.params.shape,
    truth.params.expression[0],
    truth.params.pose[0],
    truth.params.translation[0],
  )
  middles = scene['vertices'][np.asarray(dense.faces)].mean(1)
  away, which = scipy.spatial.cKDTree(middles).query(
    np.asarray(landmark_points(triangles, params)).T
  )
  assert away.max() < 2e-6  # metres, float32
  assert len(set(which)) == len(which) == 1000
  corners = np.asarray(dense.faces)[which]
  place = np.einsum(
    'nkc,nk->nc',
    np.asarray(head.template)[np.asarray(dense.coarse_ids)],
    np.asarray(dense.barycentric),
  )
  scalp = place[np.asarray(dense.regions['scalp']) > 0.5]
  assert scipy.spatial.distance.cdist(place[corners.ravel()], scalp).min() > 0.015
  assert np.asarray(dense.regions['lids'])[corners].max() < 0.5
  flat = np.linalg.norm(
    scene['vertices'][: len(head.template)]
    - np.asarray(
      dense_vertices(head, dense, params, jnp.zeros((len(place), 3)), jnp.zeros((len(place), 3)))
    )[: len(head.template)],
    axis=-1,
  )
  assert flat.max() > 5e-4, 'rounding is something to be seen'


@pytest.mark.long
def test_the_truth_misses_its_own_maps_by_little(head, scene):
  triangles, maps = (
    relief.relief_triangles(head),
    relief.relief_maps(observation(scene), np.arange(3)),
  )
  for t in range(3):
    frame = frame_of(maps, t)
    (of_normals, of_depth), residual, *_ = equations(
      triangles, frame, *unknowns(head, scene['truth'], t)
    )
    count = len(of_normals)
    counting = np.asarray(of_normals) > 0.5
    missed = np.asarray(residual).reshape(4, count)[:, counting]
    apart = relief.SIGMA_NORMAL * np.linalg.norm(missed[:3], axis=0) / np.sqrt(of_normals[counting])
    # the depth's weights hold its slope: metres
    behind = relief.SIGMA_DEPTH * np.abs(missed[3])
    assert counting.sum() > 400
    # flat triangles of 3 mm against smooth normals; float16 depth
    assert np.median(apart) < 0.05 and np.percentile(apart, 95) < 0.15
    assert np.median(behind) < 1e-4 and np.percentile(behind, 95) < 5e-4


def test_derivatives_are_those_of_the_cost(head, scene):
  """Also where the line of depth is solved for within the residual: Kaufman's Jacobian gives the
  exact gradient."""
  triangles, rng = relief.relief_triangles(head), np.random.default_rng(0)
  shared, vector = unknowns(head, scene['truth'], 1)
  shared = shared + jnp.asarray(
    rng.normal(0, 0.1, shared.shape) * (np.arange(len(shared)) < len(shared) - 1), jnp.float32
  )
  moved = np.concatenate(
    [rng.normal(0, 0.1, len(vector) - 16), rng.normal(0, 0.02, 13), [3e-3, -2e-3, 4e-3]]
  )
  vector = vector + jnp.asarray(moved, jnp.float32)

  def cost(shared, vector, maps, weights):
    project = lambda points: pixels_of(points, shared[-1], SIZE)
    return relief.relief_cost(
      triangles, params_of(triangles, shared, vector), project, maps, weights
    )

  for changes in (dict(depth=None), {}):
    maps = frame_of(relief.relief_maps(observation(scene, **changes), np.arange(3)), 1)
    weights, residual, of_shared, of_frame = equations(triangles, maps, shared, vector)
    true_cost, true = jax.jit(jax.value_and_grad(cost, argnums=(0, 1)))(
      shared, vector, maps, weights
    )
    np.testing.assert_allclose(true_cost, jnp.sum(residual**2), rtol=1e-4)
    for mine, other in zip((2 * of_shared @ residual, 2 * of_frame @ residual), true):
      assert np.linalg.norm(other) > 1
      # float32, sums of thousands
      assert np.linalg.norm(mine - other) < 2e-4 * np.linalg.norm(other)


def test_maps_count_more_beside_rough_landmarks(scene):
  maps = {
    name: relief.relief_maps(dataclasses.replace(observation(scene), estimator=name), np.arange(3))
    for name in ('truth', ESTIMATOR, 'mediapipe 0.10.21 face landmarker')
  }
  known = np.float32(maps['truth'].believed)
  assert known.max() == 1
  for name in (ESTIMATOR, 'mediapipe 0.10.21 face landmarker'):
    np.testing.assert_allclose(np.float32(maps[name].believed), 10 * known, rtol=1e-3)
    np.testing.assert_array_equal(maps[name].normals, maps['truth'].normals)


def test_sliding_over_the_end_of_a_surface_is_no_cliff(head, scene):
  """Every triangle, wherever it slides within three pixels: as wide as its maps bend, no jump from
  one end to the other.

  Without depth's steps left out and without values beyond the outline a triangle that slides from
  the jaw to the neck, or off the head, would cost a thousand times its share, and steps would fail
  for it.
  """
  triangles = relief.relief_triangles(head)
  shared, vector = unknowns(head, scene['truth'], 2)
  maps = frame_of(relief.relief_maps(observation(scene), np.arange(3)), 2)
  weights, *_ = equations(triangles, maps, shared, vector)

  def cost(shift):
    project = lambda points: pixels_of(points, shared[-1], SIZE) + shift
    return relief.relief_cost(
      triangles, params_of(triangles, shared, vector), project, maps, weights
    )

  steps = np.linspace(-3, 3, 241, dtype=np.float32)
  for axis in np.eye(2, dtype=np.float32):
    costs = np.asarray(
      jax.jit(functools.partial(jax.lax.map, cost))(steps[:, None, None] * axis[:, None])
    )
    turns = np.abs(np.diff(costs, 2))  # a jump stands out in both neighbouring differences
    assert turns.max() < 20 * np.median(turns) + 1e-3 * costs.max(), (
      turns.max(),
      np.median(turns),
      costs.max(),
    )


def test_depth_counts_up_to_scale_and_shift(head, scene):
  triangles = relief.relief_triangles(head)
  shared, vector = unknowns(head, scene['truth'], 0)
  vector = vector + 0.02
  found = []
  for depth in (scene['depth'], 7 * scene['depth'] + 3):
    maps = frame_of(relief.relief_maps(observation(scene, depth=depth), np.arange(3)), 0)
    found.append(equations(triangles, maps, shared, vector))
  for one, other in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1])):
    # maps are kept in float16: 0.02 mm of depth
    np.testing.assert_allclose(one, other, atol=1e-2 * np.abs(one).max())


def test_what_differs_grossly_has_no_pull(head, scene):
  triangles, (shared, vector) = relief.relief_triangles(head), unknowns(head, scene['truth'], 1)
  clean = frame_of(relief.relief_maps(observation(scene), np.arange(3)), 1)
  (normals, depth), *_ = equations(triangles, clean, shared, vector)
  hidden = scene['place'][1][..., 0] > 0  # something passes before one half of the face
  turned = clean.replace(
    normals=jnp.where(hidden[..., None], jnp.float16([0.9, 0.0, 0.44]), clean.normals)
  )
  ahead = turned.replace(depth=jnp.where(hidden, clean.depth - jnp.float16(2), clean.depth))
  side = triangles.template[:, 0].mean(0)
  behind, free = side > 0.005, side < -0.005
  for changed in (turned, ahead):
    (now, now_depth), *_ = equations(triangles, changed, shared, vector)
    assert jnp.sum(now * behind) < 0.2 * jnp.sum(normals * behind)
    assert jnp.sum(now * free) > 0.9 * jnp.sum(normals * free)
  assert jnp.sum(now_depth * behind) < 0.05 * jnp.sum(depth * behind)


@pytest.mark.slow
def test_many_clips_with_maps_at_once_equal_one_by_one(head, scene):
  rng, vertices = np.random.default_rng(7), jax.jit(head_vertices)
  noisy = lambda: observation(
    scene,
    points=scene['truth'].observation.points + rng.normal(0, 0.6, (3, 478, 2)),
    normals=scene['inside'][..., None]
    * (scene['normals'] + rng.normal(0, 0.04, scene['normals'].shape)),
    depth=scene['depth'] + rng.normal(0, 0.001, scene['depth'].shape),
  )
  clips = [noisy(), noisy()]
  for one, other in zip(
    (fit_coarse(head, clip) for clip in clips), fit_coarse_many(head, clips, at_once=2)
  ):
    np.testing.assert_allclose(one.focal, other.focal, rtol=1e-5)
    # metres
    np.testing.assert_allclose(
      head.shape_basis @ one.shape, head.shape_basis @ other.shape, atol=1e-5
    )
    for t in range(3):
      np.testing.assert_allclose(
        vertices(head, one.params(t)), vertices(head, other.params(t)), atol=1e-5
      )


@pytest.mark.long
def test_maps_bring_the_neutral_face_near_and_hair_does_not_drag_it_away(head, scene):
  """Noisy landmarks; noisy maps; then hair about the hairline, a centimetre high, as steep as hair
  is at its edge."""
  truth, rng = scene['truth'], np.random.default_rng(1)
  points = (truth.observation.points + rng.normal(0, 0.6, truth.observation.points.shape)).astype(
    np.float32
  )
  noisy = scene['inside'][..., None] * (
    scene['normals'] + rng.normal(0, 0.04, scene['normals'].shape)
  )
  depth = scene['depth'] + rng.normal(0, 0.001, scene['depth'].shape)
  dense, face = scene['dense'], np.asarray(head.regions['face']) > 0.5
  place = np.einsum(
    'nkc,nk->nc',
    np.asarray(head.template)[np.asarray(dense.coarse_ids)],
    np.asarray(dense.barycentric),
  )
  scalp = place[np.asarray(dense.regions['scalp']) > 0.5]
  away = (
    scipy.spatial.cKDTree(scalp)
    .query(scene['place'].reshape(-1, 3))[0]
    .reshape(scene['inside'].shape)
  )
  hair = scene['inside'] & (away < 0.012)
  tilted = np.where(hair[..., None], noisy + [0, -0.5, 0], noisy)
  assert hair.mean((1, 2)).min() > 0.02

  def off(fit):
    """Millimetres, after the best rotation, scale and shift."""
    true, found = (
      np.asarray(head.template + head.shape_basis @ shape)[face]
      for shape in (truth.params.shape, fit.shape)
    )
    a, b = found - found.mean(0), true - true.mean(0)
    turn, _ = scipy.spatial.transform.Rotation.align_vectors(b, a)
    a = turn.apply(a)
    return 1e3 * np.linalg.norm(a * (a * b).sum() / (a * a).sum() - b, axis=1).mean()

  plain = off(fit_coarse(head, Observation(points, truth.observation.found, None, SIZE, 'truth')))
  near = off(fit_coarse(head, observation(scene, points, normals=noisy, depth=depth)))
  under_hair = off(
    fit_coarse(head, observation(scene, points, normals=tilted, depth=depth - 0.01 * hair))
  )
  assert near < 0.75 * plain, (near, plain)  # the rest is what expression may as well be
  assert under_hair < 1.05 * near, (under_hair, near)
