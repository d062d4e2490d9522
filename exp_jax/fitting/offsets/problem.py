"""One subject as the offset stage takes it: coarse fit, landmarks and maps of a padded clip, and
what offsets start from.

Letters: T frames, K landmarks, V coarse and N dense vertices.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from exp_jax.fitting.coarse.coarse_fit import CoarseFit
from exp_jax.fitting.coarse.fit import landmark_trust
from exp_jax.fitting.landmark_head import landmark_weights
from exp_jax.fitting.offsets.fields import Meshes
from exp_jax.fitting.offsets.hair_shell import hair_shell
from exp_jax.fitting.offsets.static_field import initial_static
from exp_jax.fitting.offsets.targets import Targets
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import lift
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import canonical_vertices


@flax.struct.dataclass
class Problem:
  """What differs from subject to subject; T frames, of which those with valid = 1 exist."""

  params: HeadParams  # shape [S], the rest [T, ...]
  focal: jax.Array  # []
  points: jax.Array  # [T, K, 2]
  weights: jax.Array  # [T, K]
  valid: jax.Array  # [T]
  targets: Targets
  rounded: jax.Array  # [N, 3] what rounds the coarse fit off
  start: jax.Array  # [N, 3] static offsets, beside rounding, to start from
  along: jax.Array  # [N, 3] directions of the coarse fit at rest, along which the fine field moves
  rng: jax.Array

  @property
  def shape_seen(self) -> bool:
    """Whether there is evidence for detail: the normals of more than one frame."""
    return len(self.points) > 1 and self.targets.normals is not None


def make_problem(
  meshes: Meshes,
  rounder: scipy.sparse.csr_matrix,
  fit: CoarseFit,
  points: np.ndarray,
  found: np.ndarray,
  targets: Targets,
  *,
  length: int,
  rng: jax.Array,
) -> Problem:
  """A subject made ready for the stage, its clip padded to `length`; the other arguments as of
  `fit_offsets`.

  Args:
    meshes: of the head model.
    rounder: [N, V] of `heads.densify.rounding`.
    fit: the coarse fit.
    points: [T, 478, 2].
    found: [T] or [T, 478].
    targets: maps of the same T frames.
    length: of `bucket`.
    rng: what batches are drawn by.
  """
  head, dense = meshes.head, meshes.dense
  count = len(points)
  extend = lambda a: (
    jnp.concatenate([a, jnp.repeat(a[-1:], length - count, 0)]) if length > count else a
  )
  neutral = HeadParams(
    fit.shape, jnp.zeros_like(fit.expression[0]), jnp.zeros_like(fit.pose[0]), jnp.zeros(3)
  )
  vertices = canonical_vertices(head, neutral)
  along = vertex_normals(lift(dense, vertices), dense.faces)
  start = initial_static(dense, along)
  if count > 1 and targets.normals is not None and targets.depth is not None:
    start, along = hair_shell(meshes, fit, vertices, along, targets)
  found = np.asarray(found, np.float32)
  trust = landmark_weights() * (found[:, None] if found.ndim == 1 else found)
  trust = trust * landmark_trust(head, fit, points)
  return Problem(
    params=HeadParams(fit.shape, extend(fit.expression), extend(fit.pose), extend(fit.translation)),
    focal=fit.focal,
    points=extend(jnp.asarray(points, jnp.float32)),
    weights=extend(jnp.asarray(trust)),
    valid=(jnp.arange(length) < count).astype(jnp.float32),
    targets=jax.tree.map(extend, targets),
    rounded=jnp.asarray(rounder @ np.asarray(vertices, np.float64), jnp.float32),
    start=start,
    along=along,
    rng=rng,
  )
