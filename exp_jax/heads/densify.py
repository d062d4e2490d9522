"""The dense mesh: a constant sparse operator that lifts a coarse head to vertices fine enough for
detail.

Each dense vertex lies in one coarse triangle and is a fixed mix of its three corners (at most three
non-zeros a row, rows sum to 1). Bases stay on the coarse mesh; the mix carries positions, skinning
weights, masks and uv up. Letters: V, F coarse; N, G dense vertices and faces; J joints.

  rest  = U canonical(shape, expression, pose) + static offsets + dynamic offsets
  posed = sum_j (U w)_j A_j rest

Source: ExpPortrait, sec. 3.1, eqs. 2-4; the subdivision order is that of PyTorch3D's
SubdivideMeshes.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from exp_jax.geometry.meshes import subdivide, unique_edges
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import canonical_vertices, joint_transforms, pose_vertices

MOST_LEVELS = 4  # 256 triangles for each of the head


@flax.struct.dataclass
class Dense:
  """How a coarse head is lifted; depends on the head model alone, never on the person."""

  coarse_ids: jax.Array  # [N, 3] int32 coarse vertices
  barycentric: jax.Array  # [N, 3] their shares, rows sum to 1
  faces: jax.Array  # [G, 3] int32
  weights: jax.Array  # [N, J] skinning weights
  neighbours: jax.Array  # [N, K] int32, padded with the vertex itself
  degree: jax.Array  # [N] float32, how many of them are real
  regions: dict[str, jax.Array]  # name -> [N] in 0..1
  uv: jax.Array | None  # [N, 2]
  levels: int = flax.struct.field(pytree_node=False)
  # regions refined; () = everywhere
  refined: tuple[str, ...] = flax.struct.field(pytree_node=False)


def densify(head: HeadModel, levels: int = 1, regions: tuple[str, ...] = ()) -> Dense:
  """Splits triangles `levels` times, everywhere or only where one of `regions` is above 0.5.

  Where refined and unrefined triangles meet, the latter are split in two or three, so that the
  surface has no cracks and no vertex on an edge.

  Raises:
    ValueError: negative or absurd `levels`, or a region that the head does not have.
  """
  if not 0 <= levels <= MOST_LEVELS:
    raise ValueError(f'levels must be 0..{MOST_LEVELS}, got {levels}')
  if missing := [name for name in regions if name not in head.regions]:
    raise ValueError(f'{head.name} has no region {missing}; it has {sorted(head.regions)}')
  faces = np.asarray(head.faces)
  operator = scipy.sparse.identity(head.template.shape[0], dtype=np.float64, format='csr')
  wanted = np.ones(head.template.shape[0], np.float64)
  if regions:
    wanted = np.max([np.asarray(head.regions[name]) for name in regions], 0).astype(np.float64)
  for _ in range(levels):
    step, faces = _split(faces, (operator @ wanted)[faces].max(1) > 0.5)
    operator = (step @ operator).tocsr()
  ids, shares = _three_corners(operator)
  lift = lambda values: np.einsum('nk...,nk->n...', np.asarray(values)[ids], shares)
  neighbours, degree = _neighbour_table(faces, len(ids))
  return Dense(
    coarse_ids=jnp.asarray(ids, jnp.int32),
    barycentric=jnp.asarray(shares, jnp.float32),
    faces=jnp.asarray(faces, jnp.int32),
    weights=jnp.asarray(lift(head.weights), jnp.float32),
    neighbours=jnp.asarray(neighbours, jnp.int32),
    degree=jnp.asarray(degree, jnp.float32),
    regions={k: jnp.asarray(lift(v), jnp.float32) for k, v in head.regions.items()},
    uv=None if head.uv is None else jnp.asarray(lift(head.uv), jnp.float32),
    levels=levels,
    refined=tuple(regions),
  )


def _split(faces: np.ndarray, marked: np.ndarray) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
  """One subdivision of the `marked` [F] triangles: sparse [N, V] operator, faces [G, 3]."""
  count = int(faces.max()) + 1
  step = subdivide(faces, count, marked)
  sources, weights = np.asarray(step.sources), np.asarray(step.weights, np.float64)
  rows = np.repeat(np.arange(len(sources)), 3)
  operator = scipy.sparse.csr_matrix(
    (weights.ravel(), (rows, sources.ravel())), shape=(len(sources), count)
  )
  operator.eliminate_zeros()
  return operator, np.asarray(step.faces)


def _three_corners(operator: scipy.sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
  """A sparse [N, V] operator with at most three entries a row as ids and shares [N, 3]."""
  count = np.diff(operator.indptr)
  assert count.max() <= 3, 'a dense vertex left its coarse triangle'
  column = np.arange(3)
  source = np.minimum(operator.indptr[:-1, None] + column, operator.indptr[1:, None] - 1)
  present = column < count[:, None]
  return operator.indices[source], np.where(present, operator.data[source], 0.0)


def _neighbour_table(faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  edges = unique_edges(faces)
  both = np.concatenate([edges, edges[:, ::-1]])
  both = both[np.argsort(both[:, 0], kind='stable')]
  degree = np.bincount(both[:, 0], minlength=count)
  table = np.repeat(np.arange(count)[:, None], degree.max(), 1)
  place = np.arange(len(both)) - np.repeat(np.cumsum(degree) - degree, degree)
  table[both[:, 0], place] = both[:, 1]
  return table, degree


@functools.partial(jax.jit, inline=True)
def lift(dense: Dense, values: jax.Array) -> jax.Array:
  """[V, ...] per coarse vertex -> [N, ...] per dense vertex."""
  return jnp.einsum('nk...,nk->n...', values[dense.coarse_ids], dense.barycentric)


def laplacian(dense: Dense, values: jax.Array) -> jax.Array:
  """[N, C] -> [N, C]: the mean of the neighbours minus the value (uniform weights)."""
  around = jnp.sum(values[dense.neighbours] - values[:, None], 1)  # padding contributes zero
  return around / jnp.maximum(dense.degree, 1)[:, None]


def rest_vertices(
  head: HeadModel,
  dense: Dense,
  params: HeadParams,
  static_offsets: jax.Array,
  dynamic_offsets: jax.Array,
) -> jax.Array:
  """[N, 3] metres, not posed: the lifted coarse head plus offsets [N, 3] each. Source: eq. 3'."""
  return lift(dense, canonical_vertices(head, params)) + static_offsets + dynamic_offsets


def dense_vertices(
  head: HeadModel,
  dense: Dense,
  params: HeadParams,
  static_offsets: jax.Array,
  dynamic_offsets: jax.Array,
) -> jax.Array:
  """[N, 3] metres, posed by the lifted skinning weights. Source: eq. 4."""
  rest = rest_vertices(head, dense, params, static_offsets, dynamic_offsets)
  return pose_vertices(rest, dense.weights, joint_transforms(head, params))


def smooth_operator(faces: np.ndarray, levels: int) -> scipy.sparse.csr_matrix:
  """Loop's smooth subdivision as a sparse [N, V] matrix; row order equals `densify` everywhere.

  Smooth minus lifted is a static offset that rounds off the flat coarse triangles.

  Source: Loop, Smooth Subdivision Surfaces Based on Triangles, 1987, with Warren's weights;
  the rim follows a cubic spline.
  """
  operator = None
  for _ in range(levels):
    step, finer = _loop_step(np.asarray(faces))
    operator, faces = step if operator is None else step @ operator, finer
  return operator


def rounding(head: HeadModel, dense: Dense) -> scipy.sparse.csr_matrix:
  """[N, V] sparse: its product with coarse vertices [V, 3] is the offset from flat triangles to the
  smooth surface.

  Zero on eyes, teeth and tongue, which keep their size, and on a mesh that is not split.
  """
  coarse = len(head.template)
  if not dense.levels:
    return scipy.sparse.csr_matrix((len(dense.coarse_ids), coarse))
  whole = densify(head, dense.levels) if dense.refined else dense
  ids, shares = np.asarray(whole.coarse_ids), np.asarray(whole.barycentric)
  flat = scipy.sparse.csr_matrix(
    (shares.ravel(), (np.repeat(np.arange(len(ids)), 3), ids.ravel())), (len(ids), coarse)
  )
  of = lambda name: np.asarray(whole.regions.get(name, np.zeros(len(ids))))
  soft = 1 - np.clip(of('eyeballs') + of('teeth') + of('tongue'), 0, 1)
  offset = (
    scipy.sparse.diags(soft) @ (smooth_operator(np.asarray(head.faces), dense.levels) - flat)
  ).tocsr()
  if not dense.refined:
    return offset
  # A partly refined mesh has some of the vertices of the whole one: the same coarse corners with
  # the same shares.
  key = lambda mesh: [
    tuple(sorted((int(i), int(round(4096 * float(s)))) for i, s in zip(*row) if s > 1e-6))
    for row in zip(np.asarray(mesh.coarse_ids), np.asarray(mesh.barycentric))
  ]
  row_of = {k: i for i, k in enumerate(key(whole))}
  return offset[[row_of[k] for k in key(dense)]]


def _loop_step(faces):
  edges = unique_edges(faces)
  count = int(faces.max()) + 1
  key = lambda pairs: np.sort(pairs, -1) @ np.array([count, 1], np.int64)
  sides = np.searchsorted(key(edges), key(faces[:, [[1, 2], [2, 0], [0, 1]]]))
  uses = np.bincount(sides.ravel(), minlength=len(edges))
  inside = uses == 2
  rows, columns, shares = [], [], []

  def add(row, column, share):
    rows.append(row), columns.append(column), shares.append(np.broadcast_to(share, row.shape))

  ids = np.arange(len(edges))
  add(count + np.repeat(ids, 2), edges.ravel(), np.repeat(np.where(inside, 0.375, 0.5), 2))
  opposite, side = faces.ravel(), sides.ravel()
  keep = inside[side]
  add(count + side[keep], opposite[keep], 0.125)

  border = np.zeros(count, bool)
  border[edges[~inside]] = True
  degree = np.bincount(edges.ravel(), minlength=count)
  share = np.where(degree == 3, 3 / 16, 3 / (8 * np.maximum(degree, 1)))
  for a, b in (edges.T, edges.T[::-1]):
    soft = ~border[a]
    add(a[soft], b[soft], share[a[soft]])
    rim = border[a] & ~inside
    add(a[rim], b[rim], 0.125)
  vertex = np.arange(count)
  add(vertex, vertex, np.where(border, 0.75, 1 - degree * share))
  operator = scipy.sparse.csr_matrix(
    (np.concatenate(shares), (np.concatenate(rows), np.concatenate(columns))),
    shape=(count + len(edges), count),
  )
  return operator, _split(faces, np.ones(len(faces), bool))[1]
