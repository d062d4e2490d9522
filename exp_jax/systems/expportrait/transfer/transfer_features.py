"""What the expression transfer sees of a person: the neutral geometry and its relief.

A wrinkle that comes with an expression comes where the skin has folded before: its trace is in the
neutral geometry, as
fine relief. `relief` is that: how far the personal detail x of the neutral head stands out, along
the normal, of itself smoothed by diffusion over the template.

  relief_s(v) = n(v) . (x - S_s x)(v),    S_s = (M + s^2/2 L)^-1 M

x are the static offsets, without what only rounds off the model's triangles (Loop's subdivision): a
face is smooth where a triangle is flat, and that difference, 60 to 90 micrometres where faces
wrinkle, would drown the lines of the young (4 to 20).
How much of it an offset field has is asked of the field: all of it in a head with the whole truth,
none in one that was fitted to landmarks alone.

M and L are mass and cotangent Laplacian of the template: scales s are metres of skin, whatever the
triangles. Where triangles are as large as a scale the values still depend on them (a quarter at 3
mm between edges of 2.8 and 1.4 mm), so a module that runs on another densification than its own
measures relief there and carries it over: `Resample`.
Letters: N dense vertices, P of them that move, S scales.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from exp_jax.geometry.meshes import subdivide, vertex_normals
from exp_jax.heads.densify import Dense, densify, lift, rounding
from exp_jax.heads.model import HeadModel
from exp_jax.heads.regions import region_or_zero

SCALES = (0.003, 0.006, 0.012)  # metres of skin
_LEAST = 0.02  # of the mask; below, a vertex does not move
_STEEP = 20.0  # largest cotangent: slivers count as less sharp than they are


@dataclasses.dataclass(frozen=True)
class Surface:
  """The skin that moves with expressions, on the head model's template: the same for all people.

  See `surface_of`.
  """

  ids: np.ndarray  # [P] int32 dense vertices
  place: np.ndarray  # [P, 3] float32 metres about the head joint, on the template
  area: np.ndarray  # [P] float32 share of the skin's area, sums to 1
  mask: np.ndarray  # [P] float32 in 0..1
  faces: np.ndarray  # [F, 3] int32 triangles among the P vertices
  count: int  # N
  # [P, V] from the model's coarse vertices to the rounded surface minus the flat one
  rounding: scipy.sparse.csr_matrix
  smooth: tuple[Callable, ...]  # per scale: [P, C] -> [P, C]


@dataclasses.dataclass(frozen=True)
class Neutral:
  """One person at rest on a `Surface`: neutral [P, 3] metres about the own head joint, unit normals
  [P, 3], relief [P, S]."""

  neutral: np.ndarray
  normals: np.ndarray
  relief: np.ndarray


def _laplacian(
  vertices: np.ndarray, faces: np.ndarray
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
  """Cotangent Laplacian (positive semi-definite) and lumped area of each vertex, square metres."""
  count = len(vertices)
  rows, columns, weights, area = [], [], [], np.zeros(count)
  for k in range(3):
    corner, left, right = faces[:, k], faces[:, (k + 1) % 3], faces[:, (k + 2) % 3]
    a, b = vertices[left] - vertices[corner], vertices[right] - vertices[corner]
    twice = np.linalg.norm(np.cross(a, b), axis=1)
    cotangent = np.clip(np.einsum('fc,fc->f', a, b) / np.maximum(twice, 1e-12), 0, _STEEP) / 2
    rows += [left, right]
    columns += [right, left]
    weights += [cotangent, cotangent]
    np.add.at(area, corner, twice / 6)
  around = scipy.sparse.coo_matrix(
    (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), (count,) * 2
  )
  return (scipy.sparse.diags(np.asarray(around.sum(1)).ravel()) - around).tocsr(), np.maximum(
    area, 1e-12
  )


def surface_of(head: HeadModel, dense: Dense) -> Surface:
  """The moving skin of a dense head.

  Factorizes three sparse matrices: a second for 10 000 vertices; keep the result.
  """
  skin = np.clip(
    sum(np.asarray(region_or_zero(dense.regions, n, dense.degree)) for n in ('face', 'lids')), 0, 1
  )
  mask = skin * (1 - np.asarray(region_or_zero(dense.regions, 'eyeballs', dense.degree)))
  ids = np.flatnonzero(mask > _LEAST).astype(np.int32)
  template = np.asarray(lift(dense, head.template), np.float64)
  inside = np.full(len(mask), -1)
  inside[ids] = np.arange(len(ids))
  faces = inside[np.asarray(dense.faces)]
  faces = faces[(faces >= 0).all(1)].astype(np.int32)
  laplacian, area = _laplacian(template[ids], faces)
  mass = scipy.sparse.diags(area)
  solvers = [
    scipy.sparse.linalg.splu((mass + 0.5 * scale**2 * laplacian).tocsc()) for scale in SCALES
  ]
  joint = np.asarray(head.joint_template)[head.joint('head')]
  return Surface(
    ids,
    (template[ids] - joint).astype(np.float32),
    (area / area.sum()).astype(np.float32),
    mask[ids].astype(np.float32),
    faces,
    len(mask),
    rounding(head, dense)[ids],
    tuple(functools.partial(_solve, solver, area) for solver in solvers),
  )


def _solve(solver, area: np.ndarray, values: np.ndarray) -> np.ndarray:
  return solver.solve(area[:, None] * values)


def neutral_of(
  head: HeadModel, dense: Dense, surface: Surface, shape: np.ndarray, static_offsets: np.ndarray
) -> Neutral:
  """What the transfer sees of a person.

  Args:
    shape: [S] coefficients of the head model.
    static_offsets: [N, 3] metres, rest pose: Delta_g.
  """
  coarse = np.asarray(head.template) + np.asarray(head.shape_basis) @ np.asarray(shape, np.float32)
  vertices = np.asarray(lift(dense, jnp.asarray(coarse))) + static_offsets
  normals = np.asarray(vertex_normals(jnp.asarray(vertices, jnp.float32), dense.faces))[surface.ids]
  joint = head.joint('head')
  own = np.asarray(head.joint_template)[joint] + np.asarray(head.joint_shape)[joint] @ shape
  rounded = surface.rounding @ coarse.astype(np.float64)
  return Neutral(
    (vertices[surface.ids] - own).astype(np.float32),
    normals.astype(np.float32),
    _without(
      relief_of(surface, normals, np.asarray(static_offsets, np.float64)[surface.ids]),
      relief_of(surface, normals, rounded),
    ),
  )


def _without(relief: np.ndarray, other: np.ndarray) -> np.ndarray:
  """[P, S] relief less the share of `other` [P, S] in it, 0 to 1, by least squares at the finest
  scale."""
  size = np.sum(other[:, 0] ** 2)
  share = np.clip(np.sum(relief[:, 0] * other[:, 0]) / size, 0, 1) if size else 0.0
  return (relief - np.float32(share) * other).astype(np.float32)


def relief_of(surface: Surface, normals: np.ndarray, detail: np.ndarray) -> np.ndarray:
  """[P, S] float32 metres: how far `detail` [P, 3] stands out along `normals` [P, 3] of itself
  smoothed at each scale."""
  found = [np.einsum('pc,pc->p', normals, detail - smooth(detail)) for smooth in surface.smooth]
  return np.stack(found, 1).astype(np.float32)


class Resample:
  """Relief measured at another number of subdivisions, `levels`, for a mesh that is subdivided
  everywhere.

  The vertices of a mesh are the first ones of every finer one, so going down is to leave out, going
  up is to interpolate.
  """

  def __init__(self, head: HeadModel, dense: Dense, levels: int):
    meshes = {
      k: densify(head, k) for k in range(min(levels, dense.levels), max(levels, dense.levels))
    }
    self._up = [subdivide(np.asarray(mesh.faces), len(mesh.coarse_ids)) for mesh in meshes.values()]
    self._head, self._dense, self._finer = head, densify(head, levels), levels > dense.levels
    self._count = len(dense.coarse_ids)
    self.surface = surface_of(head, self._dense)

  def _raised(self, values: np.ndarray) -> np.ndarray:
    for step in self._up:
      values = np.einsum('nk,nkc->nc', np.asarray(step.weights), values[np.asarray(step.sources)])
    return values

  def __call__(self, shape: np.ndarray, static_offsets: np.ndarray) -> tuple[np.ndarray, Neutral]:
    """(relief [N, S] at the mesh's own vertices, the person on the other mesh's `surface`)."""
    static = self._raised(static_offsets) if self._finer else static_offsets[: self.surface.count]
    seen = neutral_of(self._head, self._dense, self.surface, shape, static)
    relief = np.zeros((self.surface.count, seen.relief.shape[1]), np.float32)
    relief[self.surface.ids] = seen.relief
    relief = relief[: self._count] if self._finer else self._raised(relief)
    return relief.astype(np.float32), seen
