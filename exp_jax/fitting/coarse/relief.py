"""The linear head against maps of normals and depth: what tells the relief of a face, to which
landmarks are nearly blind.

  normals  (n_m - N(x_m)) / sigma_n             n_m of triangle m, N the map, x_m the pixel of the triangle's middle
  depth    (a + b z_m - D(x_m)) / (c sigma_d)   a, b the best line of the frame, since estimated depth is relative;
                                                c what b was when the step began, which makes metres
                                                of it

Both are also differentiated through the pixel at which the maps are read: where a map bends (nose,
lips, jaw) that tells how far the head must slide, to which a triangle's own normal is blind. The
line is solved for within the residual (variable projection, Golub & Pereyra 1973, with the Jacobian
of Kaufman 1975), so that no unknown is added. What differs grossly is hair, a beard or an occluder
and loses its pull (Geman-McClure). Standard deviations are far above an
estimator's noise: what the linear head cannot be (wrinkles, brows) is alike from frame to frame and
does not average out. MediaPipe's landmarks lie 3.4 % of the eye distance beside the truth, all of a
face in the same sense, which the linear head explains: beside them maps count ten times as much as
beside exact ones (one picture fitted to good maps: 7.7 degrees instead of 10.0,
`docs/results/estimator.md`).
Source: ExpPortrait sec. 3.1.2, eqs. 6a and 6b, here for the linear model alone.
Letters: M triangles, S shape, P unknowns of a frame, R residuals, C channels, H x W pixels of a
map.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.spatial

from exp_jax.fitting.coarse.landmark_jacobian import (
  LandmarkHead,
  landmark_corners,
  landmark_points,
  linearise,
)
from exp_jax.fitting.coarse.normal_jacobian import linearise_normals
from exp_jax.heads.densify import densify, rounding
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.observe.observation import Observation

_SIZE = 256  # pixels of the maps; at half of it the neutral head is a quarter farther off
_MOST = 1000  # triangles; more tell nothing new
_HAIRLINE = 0.015  # metres from the scalp within which hair is drawn into the face
SIGMA_NORMAL, SIGMA_DEPTH = 0.35, 0.004  # of unit normals, and metres
# differences, too, beyond which a triangle loses its pull
_GROSS_NORMAL, _GROSS_DEPTH = 0.35, 0.010
_TOWARDS, _FACING = 0.3, 0.5  # cosines to the viewer between which a triangle begins to count
_ROUGH, _ROUGH_MARKS = 10.0, 'mediapipe'  # times that maps count, and beside whose landmarks
_EDGE = 5  # times the usual change of depth among neighbouring pixels: a step, not a slope
_LEVEL = 0.01  # of depth's spread, the least that is usual: maps of 256 levels are flat in places
_LINE_ROUNDS = 3  # of reweighting the line of depth
_HARD = ('eyeballs', 'teeth', 'tongue', 'inner_mouth', 'lids')


@flax.struct.dataclass
class ReliefMaps:
  """What was estimated of some frames, float16, since a clip's rest on the device."""

  normals: jax.Array  # [..., H, W, 3] unit, x right, y up, z to the viewer
  believed: jax.Array  # [..., H, W] at least 0; 1 is a pixel of exact maps beside exact landmarks
  # [..., H, W] mean 0 and spread 1, known up to scale and shift; None: not estimated
  depth: jax.Array | None


def relief_maps(observation: Observation, frames: np.ndarray) -> ReliefMaps:
  """Maps of those frames [T] of an observation with normals, as means of blocks of pixels; beside
  rough landmarks they count more."""
  step = max(1, observation.normals.shape[1] // _SIZE)
  cut = lambda a: np.asarray(
    a[frames][:, : a.shape[1] // step * step, : a.shape[2] // step * step], np.float32
  )
  blocks = lambda a: a.reshape(
    len(a), a.shape[1] // step, step, a.shape[2] // step, step, *a.shape[3:]
  ).mean((2, 4))
  weights = cut(observation.normal_weights)
  believed, depth = blocks(weights), None
  normals = (
    blocks(cut(observation.normals) * weights[..., None]) / np.maximum(believed, 1e-6)[..., None]
  )
  length = np.linalg.norm(normals, axis=-1, keepdims=True)
  normals, believed = normals / np.maximum(length, 1e-6), believed * (length[..., 0] > 0.3)
  if observation.depth is not None:
    weights = weights * cut(observation.depth_weights)
    known = blocks(weights)
    depth = blocks(cut(observation.depth) * weights) / np.maximum(known, 1e-6)
    believed = np.minimum(believed, known)
    total = np.maximum(believed.sum((1, 2), keepdims=True), 1e-6)
    depth = depth - (believed * depth).sum((1, 2), keepdims=True) / total
    depth = depth / np.maximum(
      np.sqrt((believed * depth**2).sum((1, 2), keepdims=True) / total), 1e-9
    )
    believed = believed * ~_edges(depth, believed)
  # belief, which is read smoothly, is to be gone before what is not believed is read as well
  believed = scipy.ndimage.minimum_filter(believed, (1, 3, 3), mode='constant', cval=0.0)
  depth = None if depth is None else np.float16(np.clip(_filled(depth, believed), -100, 100))
  believed = believed * (_ROUGH if observation.estimator.startswith(_ROUGH_MARKS) else 1.0)
  return ReliefMaps(np.float16(_filled(normals, believed)), np.float16(believed), depth)


def _edges(depth, believed):
  """[T, H, W] true where one surface ends before another (jaw before neck): a triangle that slides
  over it jumps."""
  change = scipy.ndimage.maximum_filter(depth, (1, 3, 3)) - scipy.ndimage.minimum_filter(
    depth, (1, 3, 3)
  )
  usual = [
    np.median(each[known]) if known.any() else np.inf for each, known in zip(change, believed > 0)
  ]
  return change > _EDGE * np.maximum(usual, _LEVEL)[:, None, None]


def _filled(values, believed):
  """Pixels that are not believed take the value of the nearest that is, so that maps have no cliff
  where belief ends."""
  filled = values.copy()
  for frame, known in zip(filled, believed > 0):
    if known.any():
      frame[~known] = frame[
        tuple(
          scipy.ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        )
      ][~known]
  return filled


def relief_triangles(head: HeadModel) -> LandmarkHead:
  """Up to 1000 triangles of the skin of the face, spread evenly; their middles are the 'landmarks'
  of the record.

  The surface that maps show is round: its triangles are the head's, split once and rounded off
  (`heads.densify.rounding`). Flat ones would pull at every nose that is sharper than its surface.
  Near the scalp hair is drawn into the face.
  """
  dense = densify(head, 1)
  ids, shares = np.asarray(dense.coarse_ids), np.asarray(dense.barycentric)
  region = lambda name: np.asarray(dense.regions.get(name, np.zeros(len(ids))))
  lift = lambda values, some=slice(None): np.einsum(
    'nk...,nk->n...', np.asarray(values)[ids[some]], shares[some]
  )
  soft = region('face') - sum(region(name) for name in _HARD)
  chosen = np.asarray(dense.faces)
  chosen = chosen[soft[chosen].min(1) > 0.5]
  if (scalp := region('scalp') > 0.5).any():
    place = lift(head.template)
    away = scipy.spatial.cKDTree(place[scalp]).query(place)[0]
    chosen = chosen[away[chosen].min(1) > _HAIRLINE]
  chosen = chosen[np.linspace(0, len(chosen) - 1, min(_MOST, len(chosen))).round().astype(int)]
  kept, local = np.unique(chosen, return_inverse=True)
  offset = rounding(head, dense)[kept]

  def rounded(values):
    values = np.asarray(values)
    return jnp.asarray(
      lift(values, kept)
      + (offset @ values.reshape(len(values), -1)).reshape(-1, *values.shape[1:]),
      jnp.float32,
    )

  flat = lambda values: jnp.asarray(lift(values, kept), jnp.float32)
  return landmark_corners(
    head.replace(
      template=rounded(head.template),
      shape_basis=rounded(head.shape_basis),
      expression_basis=flat(head.expression_basis),
      weights=flat(head.weights),
      pose_basis=None if head.pose_basis is None else flat(head.pose_basis),
      faces=jnp.asarray(local.reshape(-1, 3), jnp.int32),
      landmark_faces=jnp.arange(len(chosen), dtype=jnp.int32),
      landmark_barycentric=jnp.full((len(chosen), 3), 1 / 3, jnp.float32),
      uv=None,
      regions={},
      contour_faces=None,
      contour_barycentric=None,
    )
  )


def relief_cost(
  triangles: LandmarkHead, params: HeadParams, project, maps: ReliefMaps, weights
) -> jax.Array:
  """[] sum of squares; weights, of `relief_equations`, held fixed. project: points [3, M] -> pixels
  [2, M] of the maps."""
  still = lambda motion: (params.pose, params.translation)
  own = linearise_normals(triangles, params, still, jnp.zeros(1))[0]
  points = landmark_points(triangles, params)
  seen, _ = _read(maps, project(points))
  of_normals, of_depth = weights
  total = jnp.sum(of_normals * (own - seen[:3]) ** 2) / SIGMA_NORMAL**2
  if maps.depth is None:
    return total
  shift, slope = _line(of_depth, -points[2], seen[3])
  return total + jnp.sum(of_depth * (shift - slope * points[2] - seen[3]) ** 2) / SIGMA_DEPTH**2


def relief_equations(
  triangles: LandmarkHead,
  params: HeadParams,
  pose_of,
  motion: jax.Array,
  log_focal: jax.Array,
  *,
  project,
  maps: ReliefMaps,
):
  """Residuals and their derivatives; arguments as of `landmark_jacobian.linearise`, pixels as of
  the maps.

  Returns:
    weights of normals and depth, [M] each, residuals [R], and the Jacobians of shape and focal
    length [S + 1, R] and of the frame [P, R], expression first; times the roots of the weights.
  """
  with_depth = lambda points, focal: jnp.concatenate([project(points, focal), -points[2:]])
  places, by_shape, by_focal, *by_frame = linearise(
    triangles, params, pose_of, motion, log_focal, with_depth
  )
  own, turn_shape, *turn_frame = linearise_normals(triangles, params, pose_of, motion)
  places_by = jnp.concatenate([by_shape, by_focal[None]]), jnp.concatenate(by_frame)
  own_by = (
    jnp.concatenate([turn_shape, jnp.zeros_like(turn_shape[:1])]),
    jnp.concatenate(turn_frame),
  )
  pixels, depth = places[:2], places[2]
  seen, believed = _read(maps, pixels)
  slopes = [
    jax.jvp(lambda p: _read(maps, p)[0], (pixels,), (jnp.zeros_like(pixels).at[axis].set(1),))[1]
    for axis in (0, 1)
  ]
  # [P, M]
  slide = lambda by, channel: by[:, 0] * slopes[0][channel] + by[:, 1] * slopes[1][channel]
  weights = _weights(own, depth, seen, believed)
  root = jnp.sqrt(weights[0]) / SIGMA_NORMAL
  residual = [root * (own[c] - seen[c]) for c in range(3)]
  columns = [
    [root * (turned[:, c] - slide(by, c)) for c in range(3)]
    for turned, by in zip(own_by, places_by)
  ]
  if maps.depth is not None:
    root = jnp.sqrt(weights[1]) / SIGMA_DEPTH
    shift, slope = _line(weights[1], depth, seen[3])
    one = _unit(root)
    line = one, _unit(root * depth - one * jnp.sum(one * root * depth))
    freed = lambda rows: rows - sum((rows @ direction)[:, None] * direction for direction in line)
    residual.append(root * (shift + slope * depth - seen[3]))
    for rows, by in zip(columns, places_by):
      rows.append(freed(root * (slope * by[:, 2] - slide(by, 3))))
  return weights, jnp.concatenate(residual), *(jnp.concatenate(rows, -1) for rows in columns)


def _weights(own, depth, seen, believed):
  """[M] of normals and [M] of depth, over its slope squared: 0 for what is turned away, not
  believed, or grossly different."""
  base = believed * jnp.clip((own[2] - _TOWARDS) / (_FACING - _TOWARDS), 0, 1)
  normals = base / (1 + jnp.sum((own - seen[:3]) ** 2, 0) / _GROSS_NORMAL**2) ** 2
  if len(seen) == 3:
    return normals, jnp.zeros_like(normals)
  near = jnp.ones_like(base)
  for _ in range(_LINE_ROUNDS):
    shift, slope = _line(normals * near, depth, seen[3])
    near = 1 / (1 + ((shift + slope * depth - seen[3]) / slope / _GROSS_DEPTH) ** 2) ** 2
  return normals * near, base * near / slope**2


def _line(weights, depth, seen):
  """Shift and slope of the line over `depth` that is nearest to `seen`, [M] each."""
  total = jnp.maximum(weights.sum(), 1e-6)
  mean, goal = jnp.sum(weights * depth) / total, jnp.sum(weights * seen) / total
  slope = jnp.sum(weights * (depth - mean) * (seen - goal)) / jnp.maximum(
    jnp.sum(weights * (depth - mean) ** 2), 1e-9
  )
  slope = jnp.where(jnp.abs(slope) > 1e-3, slope, 1e-3)  # a plane: no residual will be believed
  return goal - slope * mean, slope


def _read(maps, pixels):
  """[C, M] normals and, where there is one, depth at [2, M], and their belief [M]: quadratic
  B-splines of 3 x 3 pixels.

  Their slope has no jumps from pixel to pixel, between which a solver would go to and fro.
  """
  height, width = maps.believed.shape
  place = pixels - 0.5
  middle = jax.lax.stop_gradient(
    jnp.clip(jnp.round(place), 1, jnp.array([[width - 2.0], [height - 2.0]]))
  )
  off = jnp.clip(place - middle, -0.5, 0.5)
  shares = jnp.stack([0.5 * (0.5 - off) ** 2, 0.75 - off**2, 0.5 * (0.5 + off) ** 2])  # [3, 2, M]
  column, row = middle.astype(jnp.int32)
  layers = [
    maps.normals,
    *([] if maps.depth is None else [maps.depth[..., None]]),
    maps.believed[..., None],
  ]
  layers = jnp.concatenate(layers, -1)
  at = lambda dy, dx: layers[row + dy - 1, column + dx - 1].T.astype(jnp.float32)
  value = sum(shares[dy, 1] * sum(shares[dx, 0] * at(dy, dx) for dx in range(3)) for dy in range(3))
  inside = (place[0] >= 0) & (place[0] <= width - 1) & (place[1] >= 0) & (place[1] <= height - 1)
  return value[:-1], value[-1] * inside


def _unit(vector):
  return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-9)
