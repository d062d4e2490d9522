"""Which point of one head is which point of another: exact lists of vertices, or found by shape.

A correspondence pairs points on triangles, so it serves vertices, landmarks and points inside faces
alike. Found by shape, it starts from the landmarks both heads have, and then alternates, on the
templates: nearest points of the source's outer surface with agreeing normals, a similarity, and the
target's shape coefficients that bring its
vertices there. Letters: K pairs; V, F of the head named.

Sources: Umeyama, Least-squares estimation of transformation parameters, 1991; Amberg et al.,
Optimal step nonrigid ICP, 2007 (the idea; here the target's own shape space does the bending).
"""

import dataclasses

import numpy as np
from scipy.spatial import cKDTree

from exp_jax.errors import UserError
from exp_jax.geometry import similarity
from exp_jax.heads.landmark_sets import landmark_subset
from exp_jax.heads.model import HeadModel

_FARTHEST = 0.02  # metres; a nearest point beyond it is no counterpart
_AGREE = 0.5  # cosine of the largest angle between normals
_INSIDE = ('eyeballs', 'teeth', 'tongue', 'inner_mouth')
_ROUNDS = 6
_SLIDE = 0.1  # pull of a nearest point along the surface, over its pull towards it
_MOST_PAIRS = 2500


@dataclasses.dataclass(frozen=True)
class Correspondence:
  """K pairs of points, each a mix of three vertices of its head."""

  source_ids: np.ndarray  # [K, 3]
  source_shares: np.ndarray  # [K, 3] rows sum to 1
  target_ids: np.ndarray  # [K, 3]
  target_shares: np.ndarray  # [K, 3]
  weights: np.ndarray  # [K] how much each pair counts
  exact: bool  # the same vertices by definition, or counterparts that were found

  def swapped(self) -> 'Correspondence':
    """The other way round."""
    return Correspondence(
      self.target_ids,
      self.target_shares,
      self.source_ids,
      self.source_shares,
      self.weights,
      self.exact,
    )


def from_vertex_ids(source_ids: np.ndarray, target_ids: np.ndarray) -> Correspondence:
  """Vertices [K] of the source that are vertices [K] of the target."""
  corner = np.tile([1.0, 0, 0], (len(source_ids), 1))
  triple = lambda ids: np.repeat(np.asarray(ids)[:, None], 3, 1)
  return Correspondence(
    triple(source_ids), corner, triple(target_ids), corner, np.ones(len(corner)), True
  )


def nearest_on_triangles(
  points: np.ndarray, normals: np.ndarray, vertices: np.ndarray, faces: np.ndarray
):
  """For [K, 3] points the nearest of the surface whose normal agrees: face [K], weights [K, 3],
  distance [K].

  Exact among the sixteen triangles with the nearest centres; the distance is infinite where no
  normal agrees.
  """
  corners = vertices[faces]
  cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
  facing = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-20)
  _, near = cKDTree(corners.mean(1)).query(points, k=min(16, len(faces)))
  shares = _closest_shares(points[:, None], *np.moveaxis(corners[near], 2, 0))
  distance = np.linalg.norm(
    np.einsum('knc,kncd->knd', shares, corners[near]) - points[:, None], axis=-1
  )
  agrees = np.einsum('knd,kd->kn', facing[near], normals) > _AGREE
  distance = np.where(agrees, distance, np.inf)
  best = distance.argmin(1)
  row = np.arange(len(points))
  return near[row, best], shares[row, best], distance[row, best]


def _closest_shares(p, a, b, c):
  """Barycentric weights of the closest point of triangles.

  Source: Ericson, Real-Time Collision Detection, 5.1.5.
  """
  dot = lambda x, y: np.einsum('...d,...d->...', x, y)
  ab, ac, bc = b - a, c - a, c - b
  d1, d2, d3 = dot(ab, ab), dot(ab, ac), dot(ac, ac)
  e1, e2 = dot(ab, p - a), dot(ac, p - a)
  scale = np.maximum(d1 * d3 - d2 * d2, 1e-30)
  v, w = (d3 * e1 - d2 * e2) / scale, (d1 * e2 - d2 * e1) / scale
  inside = np.stack([1 - v - w, v, w], -1)
  along = lambda t: np.clip(t, 0, 1)
  s, t, r = (
    along(e1 / np.maximum(d1, 1e-30)),
    along(e2 / np.maximum(d3, 1e-30)),
    along(dot(bc, p - b) / np.maximum(dot(bc, bc), 1e-30)),
  )
  zero = np.zeros_like(s)
  sides = np.stack(
    [np.stack([1 - s, s, zero], -1), np.stack([1 - t, zero, t], -1), np.stack([zero, 1 - r, r], -1)]
  )
  there = sides[..., :1] * a + sides[..., 1:2] * b + sides[..., 2:] * c
  side = np.linalg.norm(there - p, axis=-1).argmin(0)
  edge = np.take_along_axis(sides, side[None, ..., None], 0)[0]
  return np.where((inside >= 0).all(-1, keepdims=True), inside, edge)


def normals_of(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """[V, 3] unit vertex normals, float64."""
  cross = np.cross(
    vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
  )
  sums = np.zeros_like(vertices)
  for k in range(3):
    np.add.at(sums, faces[:, k], cross)
  return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-20)


@dataclasses.dataclass(frozen=True)
class Bent:
  """A target brought onto a source by its own shape, in the target's frame; see `bend`.

  Attributes:
    vertices: [V, 3] of the target, bent, metres.
    moved: [V', 3] of the source, laid upon it by a similarity.
    transform: (scale, rotation [3, 3], shift [3]) of that similarity.
    marks: vertex ids [K, 3] and weights [K, 3] of the shared landmarks, for the source and for the
      target.
    open_faces: [F, 3] of the source, without what is inside of it.
    importance: [V] how much each vertex of the target counts.
    chosen: the vertices of the target that count.
    nearest: of those, face among `open_faces`, weights [., 3] and whether a counterpart was found,
      before the last step.
  """

  vertices: np.ndarray
  moved: np.ndarray
  transform: tuple
  marks: list
  open_faces: np.ndarray
  importance: np.ndarray
  chosen: np.ndarray
  nearest: tuple


def bend(source: HeadModel, target: HeadModel, *, rounds: int = _ROUNDS) -> Bent:
  """Lays the source on the target by a similarity while the target's shape coefficients bring it
  there.

  Raises:
    UserError: the heads share fewer than four landmarks.
  """
  get = lambda head, name: np.asarray(getattr(head, name), np.float64)
  marks = _shared_landmarks(source, target)
  a, b = get(source, 'template'), get(target, 'template')
  source_faces, target_faces = np.asarray(source.faces), np.asarray(target.faces)
  open_faces = source_faces[~inside_of(source)[source_faces].any(1)]
  importance = _importance(target)
  chosen = np.flatnonzero(importance > 0.01)
  basis = get(target, 'shape_basis')
  point = lambda vertices, ids, shares: np.einsum('kcd,kc->kd', vertices[ids], shares)
  on_source, on_target = (point(v, *m) for v, m in zip((a, b), marks))
  scale, rotation, shift = similarity(on_source, on_target, np.ones(len(on_source)))
  coefficients = np.zeros(basis.shape[-1])
  rows = np.concatenate(
    [
      basis[chosen].reshape(-1, basis.shape[-1]),
      np.einsum('kcds,kc->kds', basis[marks[1][0]], marks[1][1]).reshape(-1, basis.shape[-1]),
    ]
  )
  rest = np.concatenate([b[chosen], on_target])
  for k in range(rounds):
    bent = b + basis @ coefficients
    moved = scale * a @ rotation.T + shift
    normals = normals_of(bent, target_faces)[chosen]
    face, shares, distance = nearest_on_triangles(bent[chosen], normals, moved, open_faces)
    good = distance < _FARTHEST * (2 if k < 2 else 1)
    weights = np.concatenate(
      [importance[chosen] * good, np.full(len(on_source), 0.05 * importance.sum() / len(on_source))]
    )
    goal = np.concatenate([point(moved, open_faces[face], shares), point(moved, *marks[0])])
    places = rest + (rows @ coefficients).reshape(-1, 3)
    # the pairs' weights sum to one and count in square millimetres: one unit of a coefficient costs
    # 0.05
    free = _similarities(places)
    system = np.concatenate([rows, free.reshape(-1, 7)], 1).reshape(len(rest), 3, -1)
    pull = np.concatenate(
      [_along(normals, _SLIDE), np.broadcast_to(np.eye(3), (len(on_source), 3, 3))]
    )
    pull = pull * (1e3 * np.sqrt(weights / weights.sum()))[:, None, None]
    system = (pull @ system).reshape(-1, system.shape[-1])
    right = np.einsum('kab,kb->ka', pull, goal - rest).reshape(-1)
    prior = np.append(np.full(len(coefficients), 0.05), np.full(7, 1e-6))
    solved = np.linalg.solve(system.T @ system + np.diag(prior), system.T @ right)
    coefficients = solved[:-7]
    # what was a similarity is given to the source, the other way round
    places = rest + (rows @ coefficients).reshape(-1, 3)
    step = similarity(places + free @ solved[-7:], places, np.ones(len(places)))
    scale, rotation, shift = (
      step[0] * scale,
      step[1] @ rotation,
      step[0] * step[1] @ shift + step[2],
    )
  return Bent(
    b + basis @ coefficients,
    scale * a @ rotation.T + shift,
    (scale, rotation, shift),
    marks,
    open_faces,
    importance,
    chosen,
    (face, shares, good),
  )


def _along(normals: np.ndarray, slide: float) -> np.ndarray:
  """[K, 3, 3]: leaves what is along unit normals [K, 3] and multiplies by `slide` what is across
  them."""
  outer = normals[:, :, None] * normals[:, None]
  return slide * np.eye(3) + (1 - slide) * outer


def _similarities(points: np.ndarray) -> np.ndarray:
  """[K, 3, 7] how points move with a centimetre along each axis, a tenth of a radian about each, a
  tenth of their size."""
  about = points - points.mean(0)
  turns = [np.cross(axis, about) for axis in np.eye(3)]
  shifts = [np.broadcast_to(0.01 * axis, points.shape) for axis in np.eye(3)]
  return np.stack([*shifts, *(0.1 * turn for turn in turns), 0.1 * about], -1)


def register(source: HeadModel, target: HeadModel, *, rounds: int = _ROUNDS) -> Correspondence:
  """Pairs the outer skin of `target` with points on that of `source`, by shape.

  Face, lips, lids and ears count fully, scalp and neck a third; eyeballs, teeth, tongue and
  clothing not at all.

  Raises:
    UserError: the heads share fewer than four landmarks.
  """
  bent = bend(source, target, rounds=rounds)
  face, shares, good = bent.nearest
  marks, chosen, importance, open_faces = bent.marks, bent.chosen, bent.importance, bent.open_faces
  keep = np.flatnonzero(good)
  # vertices lie close enough together to leave some out
  keep = keep[:: 1 + len(keep) // _MOST_PAIRS]
  corner = np.tile([1.0, 0, 0], (len(keep), 1))
  count = len(marks[0][0])
  mark_weight = np.full(count, 0.05 * importance[chosen[keep]].sum() / count)
  return Correspondence(
    source_ids=np.concatenate([open_faces[face[keep]], marks[0][0]]),
    source_shares=np.concatenate([shares[keep], marks[0][1]]),
    target_ids=np.concatenate([np.repeat(chosen[keep, None], 3, 1), marks[1][0]]),
    target_shares=np.concatenate([corner, marks[1][1]]),
    weights=np.concatenate([importance[chosen[keep]], mark_weight]),
    exact=False,
  )


def _shared_landmarks(source, target):
  """The landmarks both have, but for the outline: vertex ids [K, 3] and weights [K, 3] on each
  head."""
  table = []
  for head in (source, target):
    try:
      names, ids = landmark_subset(head, 'ibug68')
    except ValueError as error:
      raise UserError(f'{error}; registration needs landmarks') from None
    table.append({n: i for n, i in zip(names, ids) if int(n) >= 17 or n == '8'})
  shared = [name for name in table[0] if name in table[1]]
  if len(shared) < 4:
    raise UserError(
      f'{source.name} and {target.name} share {len(shared)} landmarks, at least 4 are needed'
    )
  marks = []
  for head, rows in zip((source, target), table):
    ids = np.array([rows[name] for name in shared])
    faces = np.asarray(head.faces)[np.asarray(head.landmark_faces)[ids]]
    marks.append((faces, np.asarray(head.landmark_barycentric, np.float64)[ids]))
  return marks


def inside_of(head: HeadModel) -> np.ndarray:
  """[V] bool: eyeballs, teeth, tongue and the bag of the mouth, as far as the head has them."""
  masks = [np.asarray(head.regions[name]) > 0.5 for name in _INSIDE if name in head.regions]
  return np.any(masks, 0) if masks else np.zeros(head.template.shape[0], bool)


def _importance(head) -> np.ndarray:
  """[V] how much each vertex of the target counts."""
  region = lambda name: np.asarray(
    head.regions.get(name, np.zeros(head.template.shape[0])), np.float64
  )
  whole = np.max([region(name) for name in ('face', 'lips', 'lids', 'ears')], 0)
  part = np.max([region('scalp'), region('neck')], 0) / 3
  return np.maximum(whole, part) * (1 - region('clothing')) * ~inside_of(head)
