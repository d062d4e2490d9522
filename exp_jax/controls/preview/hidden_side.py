"""Colour for the side of a face that a portrait hides: that of the other side, in this side's light,
and what is still open spread over the surface.

Letters: N dense vertices, C channels.
"""

import numpy as np
import scipy.sparse
import scipy.spatial

from exp_jax.heads.densify import Dense

_ROUNDS = 400  # of averaging, by which what is known spreads over the surface
_SMOOTHED = 8  # rounds of averaging over neighbours
_MOST_LIGHT = 0.5  # natural logarithm of the ratio of the two sides, beyond what normals explain
_LIGHT_ROUNDS = 5  # of reweighting
_LIGHT_RANGE = (0.35, 1.6)  # of the mean brightness of seen skin
_EXPECTED = (-0.6, 0.25)  # natural logarithm of the ratio that normals may explain
_RIDGE = 1e-3  # keeps light from being read off skin that faces one way
_LEAST_SKIN = 50  # seen vertices that light can be told from


def neighbour_average(dense: Dense) -> scipy.sparse.csr_array:
  """[N, N] float32, each row the mean over a vertex's neighbours; `dense.neighbours` is padded with
  the vertex itself."""
  neighbours, degree = np.asarray(dense.neighbours), np.asarray(dense.degree).astype(int)
  used = np.arange(neighbours.shape[1]) < degree[:, None]
  rows = np.repeat(np.arange(len(neighbours)), degree)
  weights = np.repeat(1 / np.maximum(degree, 1), degree).astype(np.float32)
  return scipy.sparse.csr_array((weights, (rows, neighbours[used])), (len(neighbours),) * 2)


def diffuse(
  values: np.ndarray, known: np.ndarray, dense: Dense, *, rounds: int = _ROUNDS
) -> np.ndarray:
  """Spreads known vertex values [N, C] (trust `known` [N] in 0..1) over the surface by repeated
  averaging.

  Where nothing on a connected part is known, the part keeps its start, the trusted mean of all.
  """
  average = neighbour_average(dense)
  known = known[:, None].astype(np.float32)
  mean = (values * known).sum(0) / max(known.sum(), 1e-6)
  fixed = known * values
  filled = fixed + (1 - known) * mean
  for _ in range(rounds):
    filled = fixed + (1 - known) * (average @ filled)
  return filled


def with_mirrored(
  colours: np.ndarray,
  seen: np.ndarray,
  *,
  normals: np.ndarray,
  facing: np.ndarray,
  bare: np.ndarray,
  template: np.ndarray,
  dense: Dense,
) -> tuple[np.ndarray, np.ndarray]:
  """Colours [N, 3] of what was seen and of mirror images of it, and their trust [N] in 0..1.

  Args:
    colours: [N, 3] of the portrait.
    seen: [N] how much of a colour is the portrait's.
    normals: [N, 3] unit, in the portrait's pose; facing: [N] their cosine to the view.
    bare: [N] bool, bare skin of the face.
    template: [N, 3] rest vertices.
    dense: the mesh.
  """
  mirror = scipy.spatial.cKDTree(template).query(template * [-1, 1, 1])[1]
  from_mirror = (1 - seen) * seen[mirror] * 0.8
  known = np.minimum(seen, facing > 0.5)
  mirrored = lit_as_here(colours, mirror, known, dense, normals=normals, skin=bare)
  mixed = (seen[:, None] * colours + from_mirror[:, None] * mirrored) / np.maximum(
    seen + from_mirror, 1e-6
  )[:, None]
  return mixed, np.clip(seen + from_mirror, 0, 1)


def lit_as_here(
  colours: np.ndarray,
  mirror: np.ndarray,
  seen: np.ndarray,
  dense: Dense,
  *,
  normals: np.ndarray,
  skin: np.ndarray,
) -> np.ndarray:
  """Colours [N, 3] of mirror images in the light of where they are shown: brightened as far as skin
  that faces that way is brighter in the portrait.

  Most of it follows from the light on the face: the flank of a nose that is turned from a window is
  darker than the other flank. What that does not explain, shadows above all, is known where the
  portrait shows both sides, and spread from there over what it does not show.

  Args:
    colours: [N, 3] of the portrait; mirror: [N] the vertex on the other side.
    seen: [N] how much of a colour is the portrait's.
    dense: the mesh.
    normals: [N, 3] unit, in the portrait's pose.
    skin: [N] bool, bare skin of the face.
  """
  shading = np.log(_skin_light(colours.mean(-1), normals, seen * skin))[:, None]
  expected = np.clip(shading - shading[mirror], *_EXPECTED)
  ratio = np.log(np.maximum(colours, 0.03)) - np.log(np.maximum(colours[mirror], 0.03)) - expected
  both, average = (seen > 0.7) & (seen[mirror] > 0.7), neighbour_average(dense)
  known = both[:, None].astype(np.float32)
  for _ in range(_SMOOTHED):  # a mole on one cheek is not light
    weight = np.maximum(average @ known, 1e-6)
    ratio = np.where(both[:, None], (average @ (ratio * known)) / weight, ratio)
  light = diffuse(
    np.clip(ratio, -_MOST_LIGHT, _MOST_LIGHT).astype(np.float32), both.astype(np.float32), dense
  )
  found = colours[mirror] * np.exp(light + expected)
  shown = colours[(seen * skin) > 0.5].mean(-1)
  if len(shown):  # nothing is brighter than the brightest skin in view
    bright = found.mean(-1, keepdims=True)
    found = found * np.minimum(1, np.percentile(shown, 95) / np.maximum(bright, 1e-3))
  return np.clip(found, 0, 1)


def _skin_light(bright: np.ndarray, normals: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """[N] brightness of skin by the way it faces: a plane over normals (light from one side and light
  from everywhere), fitted to what was seen, robustly, since not all of it is evenly lit skin.

  Args:
    bright: [N]; normals: [N, 3] unit; weights: [N] how much each counts.
  """
  if weights.sum() < _LEAST_SKIN:
    return np.ones_like(bright)
  basis = np.concatenate([np.ones((len(normals), 1)), normals], 1)
  ridge = _RIDGE * weights.sum() * np.diag([0.0, 1.0, 1.0, 1.0])
  trust = weights
  for _ in range(_LIGHT_ROUNDS):
    weighed = trust[:, None] * basis
    plane = np.linalg.solve(basis.T @ weighed + ridge, weighed.T @ bright)
    missed = np.abs(bright - basis @ plane)
    spread = np.sqrt(np.average(np.minimum(missed, 0.3) ** 2, weights=weights))
    trust = weights / (1 + (missed / max(2 * spread, 1e-3)) ** 2)
  middle = np.average(basis @ plane, weights=weights)
  return np.clip(basis @ plane, *(each * middle for each in _LIGHT_RANGE))
