"""Silhouettes against supersampled truth; interpolation against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meshes_for_tests import bumpy_head, front_camera

from exp_jax.geometry import clip_coordinates
from exp_jax.rendering import (
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
def mask_and_depth(vertices, topology, *, image_size=SIZE, smooth=True):
  clip = clip_coordinates(vertices, front_camera(image_size))
  fragments = rasterize(clip, topology, image_size)
  depth = interpolate(clip[:, 3:], clip, topology, fragments, background=1.0)
  image = jnp.concatenate([mask_map(fragments), depth], -1)
  return antialias(image, clip, topology, fragments) if smooth else image


def supersampled(vertices, topology, image_size=SIZE):
  """The box-filtered image of the same camera with FINE x FINE samples a pixel."""
  height, width = image_size
  fine = mask_and_depth(vertices, topology, image_size=(height * FINE, width * FINE), smooth=False)
  return np.asarray(fine, np.float64).reshape(height, FINE, width, FINE, 2).mean((1, 3))


def smooth_weights(image_size, seed=0):
  height, width = image_size
  y, x = np.mgrid[:height, :width] / max(image_size)
  rng = np.random.default_rng(seed)
  waves = [np.cos(2 * np.pi * (k * x + l * y) + rng.uniform(0, 6)) for k in (0, 1) for l in (1, 2)]
  return 1 + 0.3 * sum(waves)


MOVES = (
  lambda v: v,
  lambda v: v * 0 + [0.1, 0, 0],
  lambda v: v * 0 + [0, 0.1, 0],
  lambda v: np.stack([0.1 * np.sin(20 * v[:, 1]), 0.1 * np.cos(15 * v[:, 0]), 0 * v[:, 2]], -1),
)


@pytest.mark.parametrize('rings', [pytest.param(9, marks=pytest.mark.slow), 90])
def test_directional_derivatives_match_supersampled_truth(rings):
  """Mask and depth functionals within 5 %, for faces larger and far smaller than a pixel."""
  vertices, faces = bumpy_head(rings, rings + 5)
  topology = Topology.from_faces(faces)
  weights = jnp.asarray(smooth_weights(SIZE)[..., None] * [1.0, 1.0], jnp.float32)
  gradient = jax.jit(jax.jacrev(lambda v: (weights * mask_and_depth(v, topology)).sum((0, 1))))(
    jnp.asarray(vertices)
  )
  step = 0.02  # 1.6 % of the head: more than a fine pixel, so that the truth has little noise
  found, truth = [], []
  for move in MOVES:
    direction = np.asarray(move(vertices), np.float32)
    ahead, behind = (supersampled(vertices + s * direction, topology) for s in (step, -step))
    truth.append((np.asarray(weights, np.float64) * (ahead - behind)).sum((0, 1)) / (2 * step))
    found.append(np.einsum('cvk,vk->c', np.asarray(gradient, np.float64), direction))
  # Relative to the length over all moves: what two sides of a head add to one of them may cancel.
  error = np.linalg.norm(np.subtract(found, truth), axis=0) / np.linalg.norm(truth, axis=0)
  assert (error < 0.05).all(), error


@pytest.mark.parametrize('rings', [9, 90])
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


@pytest.mark.parametrize('rings', [pytest.param(6, marks=pytest.mark.slow), 25, 90])
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


@jax.jit
def blended(vertices, topology, image):
  clip = clip_coordinates(vertices, front_camera(SIZE))
  return antialias(image, clip, topology, rasterize(clip, topology, SIZE))


def test_blends_are_convex():
  vertices, faces = bumpy_head(40, 45)
  image = np.random.default_rng(0).uniform(-1, 1, (*SIZE, 3)).astype(np.float32)
  soft = np.asarray(blended(vertices, Topology.from_faces(faces), image))
  assert (soft != image).any()
  padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode='edge')
  cross = [
    padded[1:-1, 1:-1],
    padded[:-2, 1:-1],
    padded[2:, 1:-1],
    padded[1:-1, :-2],
    padded[1:-1, 2:],
  ]
  assert (soft <= np.max(cross, 0) + 1e-6).all() and (soft >= np.min(cross, 0) - 1e-6).all()


def test_an_inner_silhouette_gets_a_gradient():
  """A square before a plane of the same mask: only the depth image knows its border."""
  square = np.array([[-0.31, -0.3], [0.33, -0.3], [0.33, 0.3], [-0.31, 0.3]])
  faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
  topology = Topology.from_faces(faces)

  def total_depth(x):
    near = jnp.concatenate(
      [square + x * np.array([[0, 0], [1, 0], [1, 0], [0, 0]]), np.ones((4, 2))], -1
    )
    far = jnp.concatenate([np.sign(square) * 2 * 1.1, np.full((4, 2), 2.0)], -1)
    clip = jnp.concatenate([near, far]).astype(jnp.float32)
    fragments = rasterize(clip, topology, (40, 40))
    depth = interpolate(clip[:, 3:], clip, topology, fragments)
    return antialias(depth, clip, topology, fragments).sum()

  # Twelve whole rows, 400 pixels per unit square of clip space; the depth falls from 2 to 1 where
  # the square grows.
  np.testing.assert_allclose(jax.jit(jax.grad(total_depth))(0.0), -0.6 * 400, rtol=1e-4)


def test_gradients_of_a_blend_match_finite_differences():
  """Frozen choice of edges: a small step keeps every crossing between its two pixels."""
  vertices = np.array(
    [[-0.52, -0.61, 1, 1], [0.63, -0.33, 1, 1.2], [0.11, 0.72, 1, 0.8]], np.float32
  )
  topology = Topology.from_faces(np.array([[0, 1, 2]]))
  rng = np.random.default_rng(1)
  image = jnp.asarray(rng.uniform(size=(13, 17, 2)), jnp.float32)
  weights = jnp.asarray(rng.uniform(size=(13, 17, 2)), jnp.float32)
  fragments = rasterize(jnp.asarray(vertices), topology, (13, 17))
  value = jax.jit(lambda c, i: (weights * antialias(i, c, topology, fragments)).sum())
  by_clip, by_image = jax.jit(jax.grad(value, (0, 1)))(jnp.asarray(vertices), image)
  noise = jnp.asarray(rng.normal(size=image.shape), jnp.float32)
  slope = (
    value(vertices, image + noise) - value(vertices, image - noise)
  ) / 2  # linear in the image
  np.testing.assert_allclose((by_image * noise).sum(), slope, rtol=1e-4)
  for vertex in range(3):
    for axis in (0, 1, 3):
      step = np.zeros_like(vertices)
      step[vertex, axis] = 1e-3
      slope = (value(vertices + step, image) - value(vertices - step, image)) / 2e-3
      np.testing.assert_allclose(by_clip[vertex, axis], slope, rtol=0.02, atol=0.02)
  assert (by_clip[:, 2] == 0).all()


def test_interior_gradients_match_finite_differences():
  """Float64, frozen visibility."""
  vertices, faces = bumpy_head(9, 11)
  topology = Topology.from_faces(faces)
  clip = np.asarray(clip_coordinates(vertices, front_camera((20, 24))))
  fragments = rasterize(jnp.asarray(clip), topology, (20, 24))
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    weights = jnp.asarray(rng.normal(size=(20, 24, 2)))
    attributes, clip = jnp.asarray(rng.normal(size=(len(clip), 2))), jnp.asarray(clip, jnp.float64)
    value = jax.jit(lambda a, c: (weights * interpolate(a, c, topology, fragments)).sum())
    gradients = jax.grad(value, (0, 1))(attributes, clip)
    moves = [jnp.asarray(rng.normal(size=x.shape)) for x in (attributes, clip)]
    found = sum((g * m).sum() for g, m in zip(gradients, moves))
    at = lambda t: value(attributes + t * moves[0], clip + t * moves[1] * 1e-3)
    found = (gradients[0] * moves[0]).sum() + (gradients[1] * moves[1]).sum() * 1e-3
    np.testing.assert_allclose(found, (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-5)


@jax.jit
def surface_of(vertices, topology):
  clip = clip_coordinates(vertices, front_camera(SIZE))
  fragments = rasterize(clip, topology, SIZE)
  weights = barycentrics(clip, topology, fragments)
  return fragments, weights, interpolate(clip, clip, topology, fragments)


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


def test_vmapped_gradients_equal_single_ones():
  vertices, faces = bumpy_head(10, 12)
  topology = Topology.from_faces(faces)
  gradient = lambda v: jax.grad(
    lambda v: (
      surface_maps(v, front_camera(SIZE), topology)['normal'] ** 2 * smooth_weights(SIZE)[..., None]
    ).sum()
  )(v)
  frames = vertices * jnp.array([1.0, 0.6, 1.3])[:, None, None]
  together = jax.jit(jax.vmap(gradient))(frames)
  for frame, found in zip(frames, together):
    alone = jax.jit(gradient)(frame)
    np.testing.assert_allclose(found, alone, atol=1e-5 * float(jnp.abs(alone).max()))


def test_broken_vertices_keep_values_and_gradients_finite():
  vertices, faces = bumpy_head(12, 15)
  vertices[5], vertices[40], vertices[90] = np.nan, np.inf, [0, 0, -0.7]  # the last: at the camera
  topology = Topology.from_faces(faces)
  loss = lambda v: sum((m**2).sum() for m in surface_maps(v, front_camera(SIZE), topology).values())
  value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(vertices))
  assert np.isfinite(value) and value > 0
  assert np.isfinite(gradient).all() and (gradient != 0).any()


def test_sizes_must_fit():
  topology = Topology.from_faces(np.array([[0, 1, 2]]))
  clip = jnp.ones((3, 4))
  with pytest.raises(ValueError, match='does not fit'):
    antialias(jnp.zeros((4, 5, 1)), clip, topology, rasterize(clip, topology, (5, 4)))
