"""Silhouettes against supersampled truth; interpolation against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes_for_tests import bumpy_head, front_camera, padded

from exp_jax.geometry import clip_coordinates
from exp_jax.rendering import (
  Fragments,
  Topology,
  antialias,
  barycentrics,
  interpolate,
  mask_map,
  rasterize,
  surface_maps,
)

SIZE = (80, 64)
FINE = 8  # supersampling, for the truth


@functools.partial(jax.jit, static_argnames=('image_size', 'smooth'))
def mask_and_depth(vertices, topology, shift=(0.0, 0.0), *, image_size=SIZE, smooth=True):
  """[H, W, 2]; the shift of the image is in pixels of SIZE."""
  camera = front_camera(image_size)
  camera = camera.replace(center=camera.center + jnp.asarray(shift) * (image_size[0] / SIZE[0]))
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, topology, image_size)
  depth = interpolate(clip[:, 3:], clip, topology, fragments, background=1.0)
  image = jnp.concatenate([mask_map(fragments), depth], -1)
  return antialias(image, clip, topology, fragments) if smooth else image


def supersampled(vertices, topology, shift=(0.0, 0.0)):
  """The box-filtered image of the same camera with FINE x FINE samples a pixel."""
  height, width = SIZE
  fine = (height * FINE, width * FINE)
  image = mask_and_depth(vertices, topology, shift, image_size=fine, smooth=False)
  return np.asarray(image, np.float64).reshape(height, FINE, width, FINE, 2).mean((1, 3))


def smooth_weights(seed=0):
  height, width = SIZE
  y, x = np.mgrid[:height, :width] / max(SIZE)
  rng = np.random.default_rng(seed)
  waves = [np.cos(2 * np.pi * (k * x + l * y) + rng.uniform(0, 6)) for k in (0, 1) for l in (1, 2)]
  return 1 + 0.3 * sum(waves)


# 0.25k, 0.8k, 17k and 154k faces
RINGS = [90, *(pytest.param(rings, marks=pytest.mark.slow) for rings in (9, 18, 275))]

MOVES = (
  lambda v: v,
  lambda v: v * 0 + [0.1, 0, 0],
  lambda v: v * 0 + [0, 0.1, 0],
  lambda v: np.stack([0.1 * np.sin(20 * v[:, 1]), 0.1 * np.cos(15 * v[:, 0]), 0 * v[:, 2]], -1),
)


@pytest.mark.long
@pytest.mark.parametrize('rings', RINGS)
def test_directional_derivatives_match_supersampled_truth(rings):
  """Every move on every quarter of the image within 2 % (mask) and 5 % (depth), for faces larger
  and far smaller than a pixel. Depth is coarser since a blend takes the neighbour's depth at its
  centre, and a head bends away at its outline.

  Quarters are weighed apart because a head's two sides cancel under a translation: of a sideways
  derivative of -1655 on the left and 1880 on the right, 224 is left, of which the noise of the
  pixel grid is much (standard deviation 28). Four places of the grid are averaged, which leaves
  about 1 %. A bias shows: electing winners among the edges of one steepness only, so that hidden
  folds less than a pixel behind the outline counted as well, put 5 % on the left half.
  """
  vertices, faces = bumpy_head(rings, rings + 5)
  topology = Topology.from_faces(faces)
  height, width = SIZE
  left = np.broadcast_to(np.arange(width) < width / 2, SIZE)
  upper = np.broadcast_to(np.arange(height)[:, None] < height / 2, SIZE)
  quarters = np.stack([left & upper, ~left & upper, left & ~upper, ~left & ~upper], -1)
  quarters = smooth_weights()[..., None] * quarters

  @jax.jit
  @jax.jacrev
  def gradients(vertices, shift):
    image = mask_and_depth(vertices, topology, shift)
    return jnp.einsum('hwk,hwc->kc', jnp.asarray(quarters, jnp.float32), image)

  step = 0.02  # 1.6 % of the head: more than a fine pixel, so that the truth has little noise
  directions = [np.asarray(move(vertices), np.float32) for move in MOVES]
  found, truth = [], []
  for shift in ([0.0, 0.0], [0.5, 0.25], [0.25, 0.75], [0.75, 0.5]):
    gradient = np.asarray(gradients(jnp.asarray(vertices), jnp.array(shift)), np.float64)
    found.append(np.einsum('kcvx,mvx->mkc', gradient, directions))
    for direction in directions:
      ahead, behind = (
        supersampled(vertices + s * direction, topology, shift) for s in (step, -step)
      )
      truth.append(np.einsum('hwk,hwc->kc', quarters, ahead - behind) / (2 * step))
  found, truth = np.mean(found, 0), np.mean(np.reshape(truth, (4, len(MOVES), 4, 2)), 0)
  error = np.abs(found - truth) / np.abs(truth).max(1, keepdims=True)  # of the largest quarter
  assert (error < [0.02, 0.05]).all(), error.round(3).tolist()


@functools.partial(jax.jit, static_argnames='cull')
def blended_as_seen(still, clip, topology, image, weights, cull):
  """The soft image, and the gradients of its weighted sum by clip and by image; visibility as of
  the clip coordinates `still`.
  """
  fragments = rasterize(still, topology, SIZE, cull=cull)

  def weigh(clip, image):
    soft = antialias(image, clip, topology, fragments)
    return (weights * soft).sum(), soft

  (value, soft), gradients = jax.value_and_grad(weigh, (0, 1), has_aux=True)(clip, image)
  return fragments, soft, value, gradients


def blended(clip, topology, image, weights, cull='none'):
  return blended_as_seen(clip, clip, topology, image, weights, cull)


@functools.partial(jax.jit, static_argnames='cull')
def seen(clip, topology, cull='none'):
  return rasterize(clip, topology, SIZE, cull=cull).face_id


ONES = np.ones((*SIZE, 3), np.float32)


def masked(clip, topology, cull='none'):
  return ONES * (np.asarray(seen(clip, topology, cull)) >= 0)[..., None]


def test_a_hidden_edge_counts_for_nothing():
  """A polygon just behind a larger one, turned so that a steep edge of one lies before a shallow
  one of the other: the image does not depend on it.
  """
  sides, radius = 24, 0.61
  angle = np.arange(sides) / sides * 2 * np.pi
  ring = lambda turn, r, w: np.stack(
    [r * w * np.cos(angle + turn), r * w * np.sin(angle + turn), 0 * angle + w, 0 * angle + w], -1
  )
  clip = np.concatenate([ring(0.1, radius, 1.0), ring(0.1 + np.pi / sides, 0.99 * radius, 1.5)])
  fan = np.stack([np.zeros(sides - 2), np.arange(1, sides - 1), np.arange(2, sides)], -1)
  clip, topology = padded(clip.astype(np.float32), np.concatenate([fan, fan + sides]).astype(int))
  found = blended(clip, topology, masked(clip, topology), ONES)[3][0]
  assert (found[:sides, :2] != 0).any(1).all()
  np.testing.assert_array_equal(found[sides:], 0)


@pytest.mark.parametrize('rings', [16, 90, 275])  # 0.7k, 17k, 154k faces
@pytest.mark.slow
def test_area_and_its_derivative(rings):
  vertices, faces = bumpy_head(rings, rings + 5)
  topology = Topology.from_faces(faces)
  area_of = jax.jit(
    jax.value_and_grad(lambda s: mask_and_depth(vertices * s, topology)[..., 0].sum())
  )
  area, slope = area_of(1.0)
  assert abs(area - supersampled(vertices, topology)[..., 0].sum()) < 5
  ahead, behind = (supersampled(vertices * s, topology)[..., 0].sum() for s in (1.03, 0.97))
  np.testing.assert_allclose(slope, (ahead - behind) / 0.06, rtol=0.02)


@pytest.mark.long
@pytest.mark.parametrize('rings', RINGS)
def test_nearly_every_boundary_pixel_finds_its_edge(rings):
  """Border pixel pairs of which one side got a blend: at least 98 %."""
  vertices, faces = bumpy_head(rings, rings + 5)
  topology = Topology.from_faces(faces)
  hard = np.asarray(mask_and_depth(vertices, topology, smooth=False)[..., 0])
  soft = np.asarray(mask_and_depth(vertices, topology)[..., 0])
  changed = hard != soft
  found = total = 0
  for axis in (0, 1):
    border = np.diff(hard, axis=axis) != 0
    either = np.logical_or(
      *(np.take(changed, np.arange(n, n + border.shape[axis]), axis) for n in (0, 1))
    )
    found += (border & either).sum()
    total += border.sum()
  assert found >= 0.98 * total, found / total


def specks(count=40):
  """Squares of a third of a pixel, a little turned, about pixel centres: all four neighbours of
  such a pixel blend into it, and their shares sum to more than one.
  """
  height, width = SIZE
  at = 5 * np.arange(count)
  row, column = 3 + 5 * (at // 50), 3 + at % 50
  centre = np.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], -1)
  angle = np.pi / 4 + 0.1 + np.arange(4) * np.pi / 2
  ring = 0.24 * 2 / np.array([width, height]) * np.stack([np.cos(angle), np.sin(angle)], -1)
  xy = (centre[:, None] + ring).reshape(-1, 2)
  first = 4 * np.arange(count)[:, None]
  faces = np.concatenate([first + [0, 1, 2], first + [0, 2, 3]])
  return np.concatenate([xy, np.ones((len(xy), 2))], -1).astype(np.float32), faces


@pytest.mark.parametrize('scene', ['head', 'specks'])
def test_blends_are_convex(scene):
  if scene == 'head':
    vertices, faces = bumpy_head(30, 35)
    clip, topology = padded(clip_coordinates(vertices, front_camera(SIZE)), faces)
  else:
    clip, topology = padded(*specks())
  image = np.random.default_rng(0).uniform(-1, 1, (*SIZE, 3)).astype(np.float32)
  soft = np.asarray(blended(clip, topology, image, ONES)[1])
  assert (soft != image).any()
  around = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode='edge')
  sides = [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]]
  cross = [image, *sides]
  assert (soft <= np.max(cross, 0) + 1e-6).all() and (soft >= np.min(cross, 0) - 1e-6).all()


SQUARE = np.array([[-0.31, -0.3], [0.33, -0.3], [0.33, 0.3], [-0.31, 0.3]])


@pytest.mark.long
def test_an_inner_silhouette_gets_a_gradient():
  """A square before a plane of the same mask: only the depth image knows its border."""
  faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
  near = np.concatenate([SQUARE, np.ones((4, 2))], -1)
  far = np.concatenate([np.sign(SQUARE) * 2 * 1.1, np.full((4, 2), 2.0)], -1)
  clip, topology = padded(np.concatenate([near, far]).astype(np.float32), faces)
  depth = np.where(np.asarray(seen(clip, topology))[..., None] < 2, ONES, 2 * ONES)
  by_clip = blended(clip, topology, depth, ONES)[3][0]
  # 24 whole rows, of 32 pixels a unit; the depth of three channels falls from 2 to 1 where the
  # square grows.
  np.testing.assert_allclose(by_clip[1, 0] + by_clip[2, 0], -3 * 24 * 32, rtol=1e-4)
  np.testing.assert_allclose(by_clip[0, 0] + by_clip[3, 0], 3 * 24 * 32, rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize('winding', [1, -1])
def test_culled_faces_have_no_edges(winding):
  """A square before a plane, seen from its front or from behind; the image knows both."""
  faces = np.array([[0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 7, 6]])
  faces[:2] = faces[:2, ::-winding]
  near = np.concatenate([SQUARE, np.ones((4, 2))], -1)
  far = np.concatenate([np.sign(SQUARE) * 2 * 0.9, np.full((4, 2), 2.0)], -1)
  clip, topology = padded(np.concatenate([near, far]).astype(np.float32), faces)
  ids = np.asarray(seen(clip, topology, 'back'))
  assert ((ids == 0) | (ids == 1)).any() == (winding == 1) and ((ids == 2) | (ids == 3)).any()
  depth = np.select([ids[..., None] < 0, ids[..., None] < 2], [3 * ONES, ONES], 2 * ONES)
  by_clip = np.asarray(blended(clip, topology, depth, ONES, 'back')[3][0])
  assert (by_clip[:4] != 0).any() == (winding == 1) and (by_clip[4:8, :2] != 0).any(1).all()


@pytest.mark.long
def test_a_culled_border_beside_an_outline_counts_for_nothing():
  """A square seen from behind, before a plane and a fifth of a pixel larger: outermost, but not
  drawn.
  """
  plane = np.sign(SQUARE) * 0.9
  square = plane + np.sign(SQUARE) * 0.4 / np.array(SIZE[::-1])
  clip = np.concatenate([np.c_[square, np.ones((4, 2))], 2 * np.c_[plane, np.ones((4, 2))]])
  faces = np.array([[0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 7, 6]])
  clip, topology = padded(clip.astype(np.float32), faces)
  image = masked(clip, topology, 'back')
  assert image.any() and set(np.unique(seen(clip, topology, 'back'))) == {-1, 2, 3}
  by_clip = np.asarray(blended(clip, topology, image, ONES, 'back')[3][0])
  assert (by_clip[:4] == 0).all() and (by_clip[4:8, :2] != 0).all()


@pytest.mark.parametrize('scene', ['triangle', 'speck'])
def test_gradients_of_a_blend_match_finite_differences(scene):
  """Frozen visibility, and a step so small that every crossing stays between its two pixels."""
  corners = [[-0.52, -0.61, 1, 1], [0.63, -0.33, 1, 1.2], [0.11, 0.72, 1, 0.8]]
  corners, faces = specks(1) if scene == 'speck' else (np.float32(corners), np.array([[0, 1, 2]]))
  clip, topology = padded(corners, faces)
  rng = np.random.default_rng(1)
  image, noise = (rng.normal(size=ONES.shape).astype(np.float32) for _ in range(2))
  # Smooth: a crossing half way between two pixels changes which of them is written.
  weights = np.float32(smooth_weights()[..., None] * [1, -0.5, 2])
  by_clip, by_image = blended(clip, topology, image, weights)[3]

  def value(moved, image):
    soft = blended_as_seen(clip, moved, topology, image, weights, 'none')[1]
    return (weights * np.asarray(soft, np.float64)).sum()

  slope = (value(clip, image + noise) - value(clip, image - noise)) / 2  # linear in the image
  np.testing.assert_allclose((by_image * noise).sum(), slope, rtol=1e-4)
  largest = float(np.abs(by_clip).max())
  for vertex in range(len(corners)):
    for axis in (0, 1, 3):
      step = np.zeros(clip.shape, np.float32)
      step[vertex, axis] = 1e-4
      slope = (value(clip + step, image) - value(clip - step, image)) / 2e-4
      np.testing.assert_allclose(by_clip[vertex, axis], slope, atol=0.01 * largest)
  assert (by_clip[:, 2] == 0).all()


@pytest.mark.long
def test_interior_gradients_match_finite_differences():
  """Float64, frozen visibility."""
  vertices, faces = bumpy_head(9, 11)
  topology = Topology.from_faces(faces)
  clip = np.asarray(clip_coordinates(vertices, front_camera((20, 24))))
  fragments = jax.jit(lambda c: rasterize(c, topology, (20, 24)))(jnp.asarray(clip))
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    weights = jnp.asarray(rng.normal(size=(20, 24, 2)))
    attributes, clip = jnp.asarray(rng.normal(size=(len(clip), 2))), jnp.asarray(clip, jnp.float64)
    of = lambda a, c: (weights * interpolate(a, c, topology, fragments)).sum()
    value_and_gradients = jax.jit(jax.value_and_grad(of, (0, 1)))
    gradients = value_and_gradients(attributes, clip)[1]
    moves = [np.asarray(rng.normal(size=x.shape)) for x in (attributes, clip)]
    at = lambda t: value_and_gradients(attributes + t * moves[0], clip + t * moves[1] * 1e-3)[0]
    found = (gradients[0] * moves[0]).sum() + (gradients[1] * moves[1]).sum() * 1e-3
    np.testing.assert_allclose(found, (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-5)


@jax.jit
def surface_of(vertices, topology):
  clip = clip_coordinates(vertices, front_camera(SIZE))
  fragments = rasterize(clip, topology, SIZE)
  weights = barycentrics(clip, topology, fragments)
  return fragments, weights, interpolate(clip, clip, topology, fragments)


@pytest.mark.long
def test_barycentrics_are_perspective_correct():
  """They reproduce the pixel's own position: sum b_k (x, y)_k / sum b_k w_k = (X, Y), and 1/w."""
  vertices, faces = bumpy_head(15, 18)
  fragments, weights, surface = surface_of(vertices, Topology.from_faces(faces))
  filled = np.asarray(fragments.face_id >= 0)
  np.testing.assert_allclose(weights.sum(-1), filled, atol=1e-5)
  assert weights.min() > -0.02  # snapping to 1/256 pixel in faces of a few pixels
  surface = np.asarray(surface)[filled]
  y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
  ndc = np.stack([x / SIZE[1] * 2 - 1, y / SIZE[0] * 2 - 1], -1)[filled]
  np.testing.assert_allclose(surface[:, :2] / surface[:, 3:], ndc, atol=2e-5)
  # 1/w of snapped vertices; at grazing faces 1/512 pixel is much depth.
  np.testing.assert_allclose(1 / surface[:, 3], np.asarray(fragments.inv_w)[filled], rtol=5e-3)


def gradient_of_maps(vertices, topology):
  def loss(vertices):
    maps = surface_maps(vertices, front_camera(SIZE), topology)
    return sum((smooth_weights()[..., None] * x**2).sum() for x in maps.values())

  return jax.value_and_grad(loss)(vertices)


compiled_gradient_of_maps = jax.jit(gradient_of_maps)


@pytest.mark.long
def test_vmapped_gradients_equal_single_ones():
  vertices, faces = bumpy_head(12, 15)
  topology = Topology.from_faces(faces)
  frames = vertices * jnp.array([1.0, 0.6, 1.3])[:, None, None]
  values, gradients = jax.jit(jax.vmap(gradient_of_maps, (0, None)))(frames, topology)
  for frame, value, gradient in zip(frames, values, gradients):
    expected, alone = compiled_gradient_of_maps(frame, topology)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, alone, atol=1e-5 * float(jnp.abs(alone).max()))


@pytest.mark.long
def test_broken_vertices_keep_values_and_gradients_finite():
  vertices, faces = bumpy_head(12, 15)
  vertices[5], vertices[40], vertices[90] = np.nan, np.inf, [0, 0, -0.7]  # the last: at the camera
  topology = Topology.from_faces(faces)
  value, gradient = compiled_gradient_of_maps(jnp.asarray(vertices), topology)
  assert np.isfinite(value) and value > 0
  assert np.isfinite(gradient).all() and (gradient != 0).any()


@pytest.mark.long
@pytest.mark.parametrize('case', ['no faces', 'beside the image', 'one pixel'])
def test_degenerate_scenes_keep_values_and_gradients_finite(case):
  vertices, faces = bumpy_head(5, 7)
  topology = Topology.from_faces(faces[:0] if case == 'no faces' else faces)
  size = (1, 1) if case == 'one pixel' else (9, 14)
  shift = 3.0 if case == 'beside the image' else 0.0

  def total(vertices):
    maps = surface_maps(vertices + jnp.array([shift, 0, 0]), front_camera(size), topology)
    return sum((x**2).sum() for x in maps.values())

  value, gradient = jax.jit(jax.value_and_grad(total))(jnp.asarray(vertices))
  assert np.isfinite(gradient).all()
  assert (value > 0) == (case == 'one pixel')


def test_sizes_must_fit():
  topology = Topology.from_faces(np.array([[0, 1, 2]]))
  fragments = Fragments(face_id=jnp.zeros((5, 4), jnp.int32), inv_w=jnp.zeros((5, 4)))
  with pytest.raises(ValueError, match='does not fit'):
    antialias(jnp.zeros((4, 5, 1)), jnp.ones((3, 4)), topology, fragments)
