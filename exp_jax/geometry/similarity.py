"""Registration of corresponding points: similarities, rigid motions, and the nearest rotation.

With weights p_k that sum to one, means a of the source and b of the target, and the singular value
decomposition U diag(d) V' of sum_k p_k (y_k - b) (x_k - a)', the best rotation is R = U S V' with
S = diag(1, ..., 1, det(U V')), which is never a reflection; the best scale is
trace(diag(d) S) / sum_k p_k |x_k - a|^2, and the translation b - scale R a.

All functions take numpy arrays and return numpy arrays in their precision, on the host; where any
argument is a jax array they return jax arrays, can be traced and vmapped, and are differentiable
where the singular values differ from each other. Letters: K points, D dimensions (2 or 3).

Sources: Kabsch, A solution for the best rotation to relate two sets of vectors, 1976; Umeyama,
Least-squares estimation of transformation parameters between two point patterns, 1991, eq. 39-42.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array


def _namespace(*arrays: Any) -> ModuleType:
  return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def similarity(
  source: Array, target: Array, weights: Array | None = None
) -> tuple[Array, Array, Array]:
  """The scaled rotation and shift that bring `source` nearest to `target`: y ~ scale R x + t.

  Args:
    source: [..., K, D].
    target: [..., K, D].
    weights: [..., K] >= 0, of which some are positive; None weighs all points alike.

  Returns:
    scale [...], 1 where all source points lie at one place; rotation [..., D, D], of determinant 1;
    translation [..., D].

  Raises:
    ValueError: if source and target differ in shape, or there is not one weight per point.
  """
  xp = _namespace(source, target, weights)
  from_mean, to_mean, rotation, stretch, spread = _aligned(xp, source, target, weights)
  known = spread > 0
  scale = xp.where(known, stretch / xp.where(known, spread, 1.0), 1.0)
  return scale, rotation, to_mean - scale[..., None] * _apply(xp, rotation, from_mean)


def rigid_motion(source: Array, target: Array, weights: Array | None = None) -> tuple[Array, Array]:
  """As `similarity` without a scale: rotation [..., D, D] and translation [..., D], y ~ R x + t."""
  xp = _namespace(source, target, weights)
  from_mean, to_mean, rotation, _, _ = _aligned(xp, source, target, weights)
  return rotation, to_mean - _apply(xp, rotation, from_mean)


def nearest_rotation(matrices: Array) -> Array:
  """The rotations nearest to matrices [..., D, D] in the Frobenius norm, never a reflection."""
  return _nearest_rotation(_namespace(matrices), matrices)[0]


def _apply(xp, rotation, points):
  return xp.einsum('...ij,...j->...i', rotation, points)


def _nearest_rotation(xp, matrices):
  """The rotations [..., D, D], and the singular values [..., D] with the sign that each was
  given."""
  u, singular, vt = xp.linalg.svd(matrices)
  sign = xp.where(xp.linalg.det(u @ vt) < 0, -1.0, 1.0).astype(singular.dtype)[..., None]
  signs = xp.concatenate([xp.ones_like(singular[..., 1:]), sign], -1)
  return (u * signs[..., None, :]) @ vt, singular * signs


def _aligned(xp, source, target, weights):
  """Means [..., D] of both, rotation [..., D, D], trace(diag(d) S) [...], variance of the source
  [...]."""
  source, target = xp.asarray(source), xp.asarray(target)
  if source.shape != target.shape or source.ndim < 2:
    raise ValueError(
      f'source and target must both be [..., K, D], got {source.shape} and {target.shape}'
    )
  weights = xp.ones_like(source[..., 0]) if weights is None else xp.asarray(weights)
  if weights.shape[-1:] != source.shape[-2:-1]:
    raise ValueError(
      f'weights {weights.shape} must be one for each of the {source.shape[-2]} points'
    )
  share = (weights / weights.sum(-1, keepdims=True))[..., None]
  from_mean, to_mean = (share * source).sum(-2), (share * target).sum(-2)
  centred = source - from_mean[..., None, :]
  aimed = share * (target - to_mean[..., None, :])
  rotation, signed = _nearest_rotation(xp, xp.swapaxes(aimed, -1, -2) @ centred)
  return from_mean, to_mean, rotation, signed.sum(-1), (share * centred**2).sum((-2, -1))
