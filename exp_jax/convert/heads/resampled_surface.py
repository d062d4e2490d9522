"""A head's skin and eyeballs on other triangles: where a triangulation must be another and the
surface the same.

Short edges are collapsed, long ones are split, at random, until the number of vertices is met.
Every new vertex is a mix of old ones, so that whatever is known of the old mesh (bases, weights,
regions, landmarks) is known of the new one.
Letters: V, F vertices and faces of the head; N, G of the new mesh.
"""

import dataclasses
import heapq

import numpy as np
import scipy.sparse

from exp_jax.heads.model import HeadModel

_INSIDE = ('teeth', 'tongue', 'inner_mouth')
_LEAST_TURN = 0.2  # cosine: a collapse may not turn a triangle further


@dataclasses.dataclass(frozen=True)
class Resampled:
  """The new mesh.

  Attributes:
    mix: sparse [N, V], rows sum to 1: new vertices of old ones.
    faces: [G, 3].
    part: [N] 0 skin, 1 left eyeball, 2 right eyeball; vertices are in that order.
  """

  mix: scipy.sparse.csr_matrix
  faces: np.ndarray
  part: np.ndarray


def resampled(
  head: HeadModel,
  *,
  skin: int,
  ball: int,
  rim: int | None = None,
  without: tuple[str, ...] = (),
  coarse: float = 0.72,
  seed: int = 0,
) -> Resampled:
  """Skin and eyeballs of a head on other triangles; teeth, tongue and the bag of the mouth are left
  out.

  Args:
    head: with regions 'eyeballs', 'teeth', 'tongue' and 'inner_mouth'.
    skin: vertices of the skin, wanted.
    ball: vertices of each eyeball.
    rim: edges of the skin that have one face, wanted; None: as it comes.
    without: further regions to leave out.
    coarse: share of `skin` to which the old mesh is reduced before long edges are split.
    seed: of the choice of edges.
  """
  rng, template, faces = (
    np.random.default_rng(seed),
    np.asarray(head.template, np.float64),
    np.asarray(head.faces),
  )
  above = lambda name: np.asarray(head.regions[name]) > 0.5
  dropped = np.any([above(name) for name in (*_INSIDE, *without)], 0)
  balls = above('eyeballs')
  sides = [(~balls & ~dropped), balls & (template[:, 0] > 0), balls & (template[:, 0] <= 0)]
  mixes, triangles, part, first = [], [], [], 0
  for k, (member, count) in enumerate(zip(sides, (skin, ball, ball))):
    mesh = _Mesh(template, faces[member[faces].all(1)], rng)
    if k == 0:
      mesh.collapse_to(int(coarse * count))
    if k == 0 and rim is not None:
      mesh.shorten_to(rim)
    mesh.split_to(count, rim if k == 0 else None)
    mix, local = mesh.result(len(template))
    mixes.append(mix), triangles.append(local + first), part.append(np.full(count, k))
    first += count
  return Resampled(
    scipy.sparse.vstack(mixes).tocsr(), np.concatenate(triangles), np.concatenate(part)
  )


class _Mesh:
  """Triangles that change one edge at a time.

  Vertices are rows of mixtures, {old vertex: share}.
  """

  def __init__(self, template, faces, rng):
    self._rng, self._rows = rng, {int(v): {int(v): 1.0} for v in np.unique(faces)}
    self._place = {v: template[v] for v in self._rows}
    self._faces = {k: tuple(map(int, face)) for k, face in enumerate(faces)}
    self._at = {v: set() for v in self._rows}
    for k, face in self._faces.items():
      for v in face:
        self._at[v].add(k)
    self._next_face, self._next_vertex = len(faces), len(template)

  def _around(self, v) -> set[int]:
    return {w for k in self._at[v] for w in self._faces[k]} - {v}

  def _sides(self, a, b) -> set[int]:
    return self._at[a] & self._at[b]

  def _on_rim(self, v) -> bool:
    return any(len(self._sides(v, w)) == 1 for w in self._around(v))

  def _length(self, a, b) -> float:
    return float(np.linalg.norm(self._place[a] - self._place[b]))

  def _edges(self):
    return {
      tuple(sorted((face[i], face[i - 1]))) for face in self._faces.values() for i in range(3)
    }

  def _normal(self, face):
    a, b, c = (self._place[v] for v in face)
    return np.cross(b - a, c - a)

  def _replace(self, k, face):
    for v in self._faces.pop(k):
      self._at[v].discard(k)
    if face is not None:
      self._faces[k] = face
      for v in face:
        self._at[v].add(k)

  def _add(self, face):
    self._faces[self._next_face] = face
    for v in face:
      self._at[v].add(self._next_face)
    self._next_face += 1

  def collapse_to(self, count):
    """Merges a vertex into a neighbour, short edges first, where neither the rim nor a fold stands
    in the way."""
    queue = [
      (self._length(a, b) * self._rng.uniform(0.6, 1.4), a, b) for a, b in sorted(self._edges())
    ]
    heapq.heapify(queue)
    while len(self._rows) > count and queue:
      _, gone, stays = heapq.heappop(queue)
      if (
        gone not in self._rows
        or stays not in self._rows
        or len(self._sides(gone, stays)) != 2
        or self._on_rim(gone)
      ):
        continue
      if len(self._around(gone) & self._around(stays)) != 2 or not self._keeps_its_sides(
        gone, stays
      ):
        continue
      self._merge(gone, stays)
      for w in sorted(self._around(stays)):
        heapq.heappush(
          queue,
          (
            self._length(stays, w) * self._rng.uniform(0.6, 1.4),
            *self._rng.permutation([stays, w]).tolist(),
          ),
        )

  def _keeps_its_sides(self, gone, stays) -> bool:
    for k in self._at[gone] - self._at[stays]:
      before = self._normal(self._faces[k])
      after = self._normal([stays if v == gone else v for v in self._faces[k]])
      if before @ after < _LEAST_TURN * np.linalg.norm(before) * np.linalg.norm(after):
        return False
    return True

  def _rim(self):
    return {
      (face[i - 1], face[i])
      for face in self._faces.values()
      for i in range(3)
      if len(self._sides(face[i], face[i - 1])) == 1
    }

  def shorten_to(self, rim):
    """Merges neighbours along the openings, short edges first, until no more than `rim` edges are
    open."""
    while len(edges := self._rim()) > rim:
      for gone, stays in sorted(edges, key=lambda edge: self._length(*edge)):
        if len(self._around(gone) & self._around(stays)) == 1 and self._keeps_its_sides(
          gone, stays
        ):
          self._merge(gone, stays)
          break
      else:
        raise ValueError(f'openings of {len(edges)} edges cannot be shortened to {rim}')

  def _merge(self, gone, stays):
    for k in list(self._at[gone]):
      face = self._faces[k]
      self._replace(k, None if stays in face else tuple(stays if v == gone else v for v in face))
    del self._rows[gone], self._place[gone], self._at[gone]

  def split_to(self, count, rim):
    """Splits long edges in the middle: of the rim until it has `rim` edges, then inside until there
    are `count` vertices."""
    missing = 0 if rim is None else rim - len(self._rim())
    for _ in range(missing):
      self._split(*max(sorted(self._rim()), key=lambda edge: self._length(*edge)))
    queue = [(-self._length(a, b), a, b) for a, b in sorted(self._edges())]
    heapq.heapify(queue)
    while len(self._rows) < count:
      _, a, b = heapq.heappop(queue)
      if len(self._sides(a, b)) != 2:
        continue
      middle = self._split(a, b)
      for w in sorted(self._around(middle)):
        heapq.heappush(queue, (-self._length(middle, w) * self._rng.uniform(0.7, 1.0), middle, w))

  def _split(self, a, b) -> int:
    middle = self._next_vertex
    self._next_vertex += 1
    share = self._rng.uniform(0.35, 0.65)
    row = {}
    for vertex, part in ((a, share), (b, 1 - share)):
      for old, value in self._rows[vertex].items():
        row[old] = row.get(old, 0.0) + part * value
    self._rows[middle], self._at[middle] = row, set()
    self._place[middle] = share * self._place[a] + (1 - share) * self._place[b]
    for k in list(self._sides(a, b)):
      face = self._faces[k]
      self._replace(k, tuple(middle if v == a else v for v in face))
      self._add(tuple(middle if v == b else v for v in face))
    return middle

  def result(self, old: int):
    """(mix [N, V], faces [G, 3])."""
    number = {v: k for k, v in enumerate(self._rows)}
    cells = [(number[v], w, share) for v, row in self._rows.items() for w, share in row.items()]
    rows, columns, shares = zip(*cells)
    mix = scipy.sparse.csr_matrix((shares, (rows, columns)), (len(number), old))
    return mix, np.array([[number[v] for v in face] for face in self._faces.values()])
