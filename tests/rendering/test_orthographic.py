"""Parallel projections: z decides, screen-linear interpolation, gradients, silhouettes and batches.

Oracles: a z-buffer in numpy, planes solved in float64, finite differences, and the same picture in
perspective, which a mesh of screen-parallel triangles allows.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes_for_tests import bumpy_head, front_camera, padded, soup
from scipy import ndimage

from exp_jax.geometry import clip_coordinates, orthographic_camera, weak_perspective_camera
from exp_jax.rendering import antialias, barycentrics, interpolate, rasterize, surface_maps

SIZE = (24, 33)
CAMERA = weak_perspective_camera(jnp.array([7.0, 0.005, -0.01]), SIZE)


@functools.partial(jax.jit, static_argnames=('method', 'cull'))
def drawn(clip, topology, method='scatter', cull='none'):
  return rasterize(clip, topology, SIZE, method=method, cull=cull)


@jax.jit
def pictures(still, clip, attributes, topology, weights):
  """Fragments of `still`; the antialiased image of the attributes, and gradients of its weighted
  sum."""
  fragments = rasterize(still, topology, SIZE)

  def weigh(clip, attributes):
    image = antialias(interpolate(attributes, clip, topology, fragments), clip, topology, fragments)
    return (image * weights).sum(), image

  (_, image), gradients = jax.value_and_grad(weigh, (0, 1), has_aux=True)(clip, attributes)
  return fragments, image, gradients


def z_buffer(clip, faces):
  """Every face against every pixel, float64, corners on 1/256 pixel: face id and z [H, W], -1 and 0
  where empty."""
  height, width = SIZE
  half = np.array([width, height]) / 2
  xy = (
    np.rint(np.asarray(clip[:, :2], np.float64) / np.asarray(clip[:, 3:], np.float64) * half * 256)
    / 256
    + half
  )
  z = np.asarray(clip[:, 2], np.float64)
  y, x = np.mgrid[:height, :width] + 0.5
  best, ids = np.full(SIZE, np.inf), np.full(SIZE, -1)
  for index, face in enumerate(np.asarray(faces)):
    (ax, ay), (bx, by), (cx, cy) = xy[face]
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0:
      continue
    shares = [(bx - x) * (cy - y) - (by - y) * (cx - x), (cx - x) * (ay - y) - (cy - y) * (ax - x)]
    shares = np.stack([*shares, area - shares[0] - shares[1]]) / area
    depth = np.tensordot(z[face], shares, 1)
    nearer = (shares > 0).all(0) & (depth < best)
    best, ids = np.where(nearer, depth, best), np.where(nearer, index, ids)
  return ids, np.where(ids < 0, 0, best)


def flat_soup(seed, count=120, size=0.5, w=1.0):
  """Random triangles of one w, z from -1 to 3 in each: [3 * count, 4] and faces."""
  rng = np.random.default_rng(seed)
  clip, faces = soup(rng, count, SIZE, size=size)
  xy = clip[:, :2] / clip[:, 3:]
  z = rng.uniform(-1, 3, (len(clip), 1))
  return np.concatenate([xy * w, z, np.full_like(z, w)], -1).astype(np.float32), faces


@pytest.mark.long
@pytest.mark.parametrize('method', ['scatter', 'sort'])
@pytest.mark.parametrize('shift, w', [(0.0, 1.0), (-5.0, 1.0), (10.0, 2.0)])
def test_of_two_triangles_the_one_of_smaller_z_is_seen(method, shift, w):
  corners = np.array([[-0.9, -0.8], [0.8, -0.7], [0.1, 0.9]])
  for near, far in ((0.1, 0.9), (0.9, 0.1)):
    z = np.repeat([near, far], 3)[:, None] + shift
    clip = np.concatenate([np.tile(corners, (2, 1)) * w, z, np.full((6, 1), w)], -1)
    found = drawn(*padded(clip.astype(np.float32), np.array([[0, 1, 2], [3, 4, 5]])), method)
    seen = np.asarray(found.face_id >= 0)
    assert seen.mean() > 0.2 and found.parallel
    assert (np.asarray(found.face_id)[seen] == (0 if near < far else 1)).all()
    np.testing.assert_allclose(np.asarray(found.z)[seen], 0.1 + shift, atol=1e-6)
    np.testing.assert_array_equal(found.inv_w, np.where(seen, np.float32(1 / w), 0))


@pytest.mark.long
@pytest.mark.parametrize('method', ['scatter', 'sort'])
@pytest.mark.parametrize('size', [0.1, 0.6, 40.0])
def test_soups_equal_a_z_buffer(size, method):
  """Small and large triangles, and such as reach beyond the guard band and are clipped."""
  clip, faces = flat_soup(3, size=size, count=30 if size > 1 else 120)
  if size > 1:
    clip[:, :2] *= 100
  found = drawn(*padded(clip, faces), method)
  ids, z = z_buffer(clip, faces)
  # Clipping moves an edge 4000 pixels long by the last bits of float32: leave out the pixels about
  # edges.
  smooth = ids == ndimage.median_filter(ids, 3) if size > 1 else np.full(SIZE, True)
  assert (ids >= 0).mean() > 0.1 and smooth.mean() > 0.5
  np.testing.assert_array_equal(np.asarray(found.face_id)[smooth], ids[smooth])
  # z is 1 .. 2 times the range of the vertices in float32; a clipped corner is placed to 1e-5 of
  # its edge.
  np.testing.assert_allclose(
    np.asarray(found.z)[smooth], z[smooth], atol=2e-4 if size > 1 else 2e-6
  )


@pytest.mark.long
def test_back_faces_of_a_parallel_projection_are_culled():
  clip, faces = flat_soup(5)
  a, b, c = (clip[faces[:, k], :2].astype(float) for k in range(3))
  (ux, uy), (vx, vy) = (b - a).T, (c - a).T
  front = ux * vy - uy * vx < 0  # y points down
  found = drawn(*padded(clip, faces), cull='back')
  ids, _ = z_buffer(clip, faces[front])
  np.testing.assert_array_equal(found.face_id, np.where(ids < 0, -1, np.flatnonzero(front)[ids]))


@pytest.mark.long
def test_a_head_under_weak_perspective_equals_a_z_buffer():
  vertices, faces = bumpy_head(12, 16)
  clip = np.asarray(clip_coordinates(vertices, CAMERA))
  found = drawn(*padded(clip, faces))
  ids, z = z_buffer(clip, faces)
  assert 0.2 < (ids >= 0).mean() < 0.9
  np.testing.assert_array_equal(found.face_id, ids)
  np.testing.assert_allclose(found.z, z, atol=1e-7)  # metres


@pytest.mark.long
def test_depth_and_normals_of_a_sphere_are_those_of_the_formula():
  vertices, faces = bumpy_head(40, 39)
  vertices = 0.1 * vertices / np.linalg.norm(vertices, axis=-1, keepdims=True)
  camera = orthographic_camera(SIZE, view_height=0.25, distance=0.4)
  given, topology = padded(np.float32(vertices), faces)
  maps = jax.jit(lambda v: surface_maps(v, camera, topology))(given)
  y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
  x, y = (x - SIZE[1] / 2) * 0.25 / SIZE[0], (y - SIZE[0] / 2) * 0.25 / SIZE[0]
  inside = np.hypot(x, y) < 0.085
  depth = np.sqrt(np.maximum(0.01 - x**2 - y**2, 0))
  # a mesh, not a sphere
  np.testing.assert_allclose(np.asarray(maps['depth'])[inside, 0], 0.4 - depth[inside], atol=1e-3)
  normal = np.stack([x, y, -depth], -1)[inside] / 0.1
  np.testing.assert_allclose(np.asarray(maps['normal'])[inside], normal, atol=0.02)


@pytest.mark.long
def test_barycentrics_are_linear_on_the_screen():
  clip, faces = flat_soup(7, count=20)
  given, topology = padded(clip, faces)
  fragments = drawn(given, topology)
  weights = np.asarray(jax.jit(barycentrics)(given, topology, fragments))
  ids = np.asarray(fragments.face_id)
  y, x = np.nonzero(ids >= 0)
  for row, column in list(zip(y, x))[::7]:
    corners = clip[faces[ids[row, column]], :2].astype(float)
    system = np.concatenate([corners.T, np.ones((1, 3))])
    at = [(2 * column + 1) / SIZE[1] - 1, (2 * row + 1) / SIZE[0] - 1, 1]
    np.testing.assert_allclose(weights[row, column], np.linalg.solve(system, at), atol=2e-4)


@pytest.mark.long
def test_screen_parallel_triangles_look_as_in_perspective():
  """Each triangle has one depth: perspective from afar and parallel projection are the same
  picture, with the same silhouettes and the same derivatives on the screen.
  """
  rng = np.random.default_rng(11)
  # Few and large: where the tip of a triangle lies between two pixels of another one, rounding
  # decides.
  clip, faces = flat_soup(11, count=25, size=0.8)
  clip[:, 2] = np.repeat(rng.permutation(25) / 8, 3)
  deep = np.concatenate([clip[:, :2], np.zeros((len(clip), 1)), np.ones((len(clip), 1))], -1) * (
    clip[:, 2:3] + 2
  )
  weights = ndimage.gaussian_filter(rng.normal(size=(*SIZE, 2)), (2, 2, 0)).astype(np.float32)
  attributes = np.repeat(rng.normal(size=(25, 2)), 3, 0)
  attributes = padded(attributes.astype(np.float32), faces)[0]
  results = []
  for one in (clip, deep.astype(np.float32)):
    given, topology = padded(one, faces)
    results.append(pictures(given, given, attributes, topology, weights))
  (flat, image, (by_clip, by_values)), (perspective, expected, (expected_clip, expected_values)) = (
    results
  )
  assert flat.parallel and not perspective.parallel
  np.testing.assert_array_equal(flat.face_id, perspective.face_id)
  np.testing.assert_allclose(image, expected, atol=1e-4)
  np.testing.assert_allclose(by_values, expected_values, atol=1e-4)
  w = np.where(
    np.arange(len(by_clip)) < len(clip), np.pad(clip[:, 2], (0, len(by_clip) - len(clip))) + 2, 1
  )[:, None]
  np.testing.assert_allclose(
    by_clip[:, :2], expected_clip[:, :2] * w, atol=1e-3 * float(jnp.abs(by_clip).max())
  )
  shown = np.asarray(jax.jit(interpolate)(attributes, given, topology, flat))
  inner = np.abs(np.asarray(image) - shown)[np.asarray(flat.face_id) >= 0]
  assert (inner.max(-1) > 0.05).mean() > 0.05  # silhouettes before other triangles are blended


@pytest.mark.long
def test_gradients_match_finite_differences():
  """Frozen visibility and a small step, as in perspective; z has no gradient where it is not an
  attribute."""
  clip = np.float32([[-0.52, -0.61, 0.3, 1], [0.63, -0.33, 0.7, 1], [0.11, 0.72, -0.4, 1]])
  given, topology = padded(clip, np.array([[0, 1, 2]]))
  rng = np.random.default_rng(1)
  y, x = np.mgrid[: SIZE[0], : SIZE[1]]
  weights = np.float32(np.stack([1 + 0.5 * np.sin(x / 9 + y / 7), np.cos(x / 8 - y / 9)], -1))
  attributes = padded(rng.normal(size=(3, 2)).astype(np.float32), np.array([[0, 1, 2]]))[0]
  _, _, (by_clip, by_values) = pictures(given, given, attributes, topology, weights)
  value = lambda c, a: (
    weights * np.asarray(pictures(given, c, a, topology, weights)[1], np.float64)
  ).sum()
  largest = float(np.abs(by_clip).max())
  for vertex in range(3):
    for axis in range(4):
      step = np.zeros(given.shape, np.float32)
      step[vertex, axis] = 1e-4
      slope = (value(given + step, attributes) - value(given - step, attributes)) / 2e-4
      np.testing.assert_allclose(by_clip[vertex, axis], slope, atol=0.01 * largest)
  noise = rng.normal(size=attributes.shape).astype(np.float32)
  slope = (value(given, attributes + noise) - value(given, attributes - noise)) / 2
  np.testing.assert_allclose((by_values * noise).sum(), slope, rtol=1e-4)
  assert (by_clip[:, 2] == 0).all()


@pytest.mark.long
def test_a_batch_of_both_projections_equals_single_frames():
  vertices, faces = bumpy_head(9, 11)
  clips = [clip_coordinates(vertices, camera) for camera in (CAMERA, front_camera(SIZE))]
  clips = jnp.stack(
    [padded(clip, faces)[0] for clip in (clips[0], clips[1], clips[0] * jnp.float32([1, 1, -1, 1]))]
  )
  topology = padded(clips[0][: len(vertices)], faces)[1]
  attributes = jnp.asarray(np.random.default_rng(0).normal(size=(clips.shape[1], 2)), jnp.float32)
  weights = jnp.ones((*SIZE, 2))
  together = jax.jit(jax.vmap(pictures, (0, 0, None, None, None)))(
    clips, clips, attributes, topology, weights
  )
  np.testing.assert_array_equal(together[0].parallel, [True, False, True])
  for i, clip in enumerate(clips):
    alone = pictures(clip, clip, attributes, topology, weights)
    for name in ('face_id', 'inv_w', 'z'):
      np.testing.assert_array_equal(getattr(together[0], name)[i], getattr(alone[0], name))
    np.testing.assert_allclose(together[1][i], alone[1], atol=1e-6)
    np.testing.assert_allclose(
      together[2][0][i], alone[2][0], atol=1e-5 * float(jnp.abs(alone[2][0]).max())
    )
  assert (np.asarray(together[0].face_id[0]) != np.asarray(together[0].face_id[2])).any()
