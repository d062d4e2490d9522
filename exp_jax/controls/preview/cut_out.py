"""The cut-out of the textured preview: what is behind the person, the person's colours, and a fine
grid over the matte that moves hair, clothes and everything that the head model does not have.

Letters: H, W image, N dense vertices, J joints, G grid points.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg

from exp_jax.media.fill import push_pull
from exp_jax.rendering import Topology, barycentrics, interpolate

_STEP = 4 / 512  # between grid points; this and the next two are shares of the picture's height
_REACH = 24 / 512  # over which the skin's own deformation fades out of the cut-out
_MARGIN = 8 / 512  # that the cut-out reaches beyond the picture
_PINNED = 0.24  # share of the picture's height over which the cut-out comes to rest at the border
_EAR_FLAT = 3.0  # grid points over which the depth of an ear is smoothed
_ALIKE = 0.12  # difference of colours, 0..1, over which what hangs together becomes doubtful
_interpolate = jax.jit(interpolate)  # one program for all portraits


def inpaint_background(photo: np.ndarray, matte: np.ndarray) -> np.ndarray:
  """[H, W, 3] and [H, W] in 0..1 -> the picture without the person, filled from what surrounds
  them."""
  person = scipy.ndimage.binary_dilation(matte > 0.08, iterations=max(2, photo.shape[0] // 64))
  if person.all():
    return np.broadcast_to(photo.reshape(-1, 3).mean(0), photo.shape).astype(np.float32)
  filled = push_pull(photo, ~person)
  # The hole is filled with the surroundings' own fine grain, so that it does not look like fog.
  detail = photo - scipy.ndimage.gaussian_filter(photo, (3, 3, 0))
  grain = np.std(detail[~person]) * np.random.default_rng(0).normal(size=photo.shape[:2])
  grain = np.clip(scipy.ndimage.gaussian_filter(grain, 0.7)[..., None] * 1.5, -0.02, 0.02)
  return np.clip(np.where(person[..., None], filled + grain, photo), 0, 1).astype(np.float32)


def person_colours(photo: np.ndarray, matte: np.ndarray, background: np.ndarray) -> np.ndarray:
  """[H, W, 4]: the colour F of the person by I = matte F + (1 - matte) background, and the matte.

  Where little of the person is in a pixel, F is not to be had from it: it is that of the person
  further inside. Without this, hair that moves takes a rim of the old background along.
  """
  sure = scipy.ndimage.minimum_filter(matte, 2 * round(photo.shape[0] / 256) + 1) > 0.97
  if not sure.any():
    return np.concatenate([photo, matte[..., None]], -1)
  share = matte[..., None]
  own = np.clip((photo - (1 - share) * background) / np.maximum(share, 0.05), 0, 1)
  t = np.clip((share - 0.4) / 0.55, 0, 1)
  inner = push_pull(photo, sure.astype(np.float32))
  return np.concatenate([inner + t * t * (3 - 2 * t) * (own - inner), share], -1).astype(np.float32)


def make_grid(photo, matte, *, dense, vertices, opacity, camera, clip, topology, fragments) -> dict:
  """The cut-out: a grid over the matte, with depth and joints of the skin below or beside it."""
  height, width = matte.shape
  step, margin = max(1, round(_STEP * height)), max(2, round(_MARGIN * height))
  rows, columns = (np.arange(-margin, extent + margin + 1, step) for extent in (height, width))
  at = np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))
  face_id = np.asarray(fragments.face_id)
  inside = (face_id >= 0) & (matte > 0.5)
  seen = inside[at]
  body = sum(
    jnp.asarray(dense.regions.get(name, jnp.zeros(len(vertices))))
    for name in ('clothing', 'scalp', 'ears')
  )
  ears = jnp.asarray(dense.regions.get('ears', jnp.zeros(len(vertices))))
  depth_weights = jnp.concatenate(
    [-vertices[:, 2:], dense.weights, body[:, None], opacity[:, None], ears[:, None]], -1
  )
  maps = np.asarray(_interpolate(depth_weights, clip, topology, fragments))
  maps, ear = maps[..., :-1], seen & (maps[at][..., -1] > 0.5)
  loose = ~seen | (maps[at][..., -1] < 0.5)
  maps = maps[..., :-1]
  core = scipy.ndimage.binary_erosion(inside, iterations=max(1, round(1.5 * _STEP * height)))[at]
  depth = sheet_depth(maps[at][..., 0], seen, core, ear)
  weights = spread_weights(
    maps[at][..., 1:-1], seen & (~loose | (maps[at][..., -1] > 0.5)), photo[at]
  )
  pixels = np.stack(np.meshgrid(columns, rows), -1).astype(np.float32)
  offset = (pixels - np.asarray(camera.center)) / np.asarray(camera.focal) * depth[..., None]
  points = np.stack([offset[..., 0], -offset[..., 1], -depth], -1)
  kept = scipy.ndimage.binary_dilation(matte > 0.02, iterations=step + max(1, step // 2))[at]
  index = np.arange(kept.size).reshape(kept.shape)
  corner = [index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]]
  cell = (kept[:-1, :-1] & kept[:-1, 1:] & kept[1:, 1:] & kept[1:, :-1]).ravel()
  quads = np.stack([c.ravel() for c in corner], -1)[cell]
  faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
  # Filled up with faces of no area to as many as the grid could have, so that all portraits of a
  # size share a compiled program. Nothing asks for its edges.
  faces = np.pad(faces, ((0, 2 * cell.size - len(faces)), (0, 0)))
  no_edges = jnp.zeros((0, 2), jnp.int32)
  under = np.asarray(dense.faces)[np.maximum(face_id[at], 0)].reshape(-1, 3)
  bary = np.asarray(jax.jit(barycentrics)(clip, topology, fragments))[at].reshape(-1, 3)
  away = scipy.ndimage.distance_transform_edt(~seen) * step
  flat = lambda values: jnp.asarray(values.reshape(len(under), -1), jnp.float32)
  return dict(
    grid_topology=Topology(jnp.asarray(faces, jnp.int32), no_edges, no_edges),
    grid_points=flat(points),
    grid_pixels=flat(pixels),
    grid_weights=flat(weights),
    grid_free=flat(_free(pixels, width, height)),
    grid_loose=flat(loose),
    grid_faces=jnp.asarray(under),
    grid_barycentric=jnp.asarray(bary),
    grid_seen=seen.astype(np.float32),
    grid_fade=np.exp(-((away / (_REACH * height)) ** 2)).astype(np.float32),
  )


def sheet_depth(
  depth: np.ndarray, seen: np.ndarray, core: np.ndarray, ear: np.ndarray
) -> np.ndarray:
  """Depths [rows, columns] of the cut-out's grid, positive.

  Near the model's silhouette depth falls away steeply; hair continues at the depth a little further
  inside. Ears stand behind the cheek and are a sheet of their own that continues at its own depth:
  at that of the cheek the ear of a head that turns would be folded over by the cells around it.

  Args:
    depth: [rows, columns] of the head model, any value where it is not `seen` [rows, columns] bool.
    core: [rows, columns] bool, well within the model's silhouette; ear: [rows, columns] bool, on
      its ears.
  """
  core = core & ~ear if (core & ~ear).any() else seen & ~ear
  soft = lambda values: scipy.ndimage.gaussian_filter(values.astype(np.float32), _EAR_FLAT)
  flat = soft(np.where(ear, depth, 0)) / np.maximum(soft(ear), 1e-6)
  known = np.where(ear, flat, depth)
  spread = push_pull(np.maximum(known, 1e-3)[..., None], (core | ear).astype(np.float32))[..., 0]
  spread = np.where(seen & ~ear, depth, spread)
  return np.where(core, depth, scipy.ndimage.gaussian_filter(spread, 2))


def spread_weights(weights: np.ndarray, known: np.ndarray, colours: np.ndarray) -> np.ndarray:
  """Joints of grid points that no part of the head model lies under, from those of points that look
  alike and hang together.

  Known weights are spread as heat spreads through a sheet that conducts well between points of one
  colour: a collar moves with the clothes below it and not with the neck before it.

  Args:
    weights: [rows, columns, J]; known: [rows, columns] bool, where they hold; colours: [rows,
      columns, 3] in 0..1.
  """
  if known.all() or not known.any():
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-6)
  index = np.arange(known.size).reshape(known.shape)
  flat = colours.reshape(-1, 3)
  pairs = np.concatenate(
    [[index[:, :-1].ravel(), index[:, 1:].ravel()], [index[:-1].ravel(), index[1:].ravel()]], 1
  )
  flow = np.exp(-((flat[pairs[0]] - flat[pairs[1]]) ** 2).sum(-1) / _ALIKE**2) + 0.02
  sheet = scipy.sparse.coo_array(
    (np.tile(flow, 2), np.concatenate([pairs, pairs[::-1]], 1)), (known.size,) * 2
  ).tocsr()
  laplacian = (scipy.sparse.diags_array(sheet.sum(0)) - sheet).tocsr()
  free, fixed = np.flatnonzero(~known.ravel()), np.flatnonzero(known.ravel())
  found = weights.reshape(known.size, -1).astype(np.float64)
  found[free] = scipy.sparse.linalg.spsolve(
    laplacian[free][:, free].tocsc(), -laplacian[free][:, fixed] @ found[fixed]
  )
  found = np.clip(found, 0, None).reshape(weights.shape)
  return found / found.sum(-1, keepdims=True)


def _free(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
  """[..., 2] pixels -> [...] 0 at the left, right and lower border, 1 well inside."""
  away = np.minimum(np.minimum(pixels[..., 0], width - pixels[..., 0]), height - pixels[..., 1])
  t = np.clip(away / (_PINNED * height), 0, 1)
  return t * t * (3 - 2 * t)
