"""Normals of triangles of the linear head and their derivatives, written out as those of landmarks
are.

  n = unit(R (e_1 x e_2)),   e = edges of a triangle before posing, linear in beta and psi;   R blended rotation

Columns come first and triangles last, as in `landmark_jacobian`.
Letters: M triangles, c corners, S shape, E expression.
"""

import jax
import jax.numpy as jnp

from exp_jax.fitting.coarse.landmark_jacobian import LandmarkHead
from exp_jax.heads.model import HeadParams
from exp_jax.heads.skinning import joint_transforms


def linearise_normals(triangles: LandmarkHead, params: HeadParams, pose_of, motion: jax.Array):
  """Unit normals and their derivatives; arguments as of `landmark_jacobian.linearise`.

  Returns:
    normals [3, M] in the head's frame (x right, y up, z to the viewer), and the Jacobians of shape
    [S, 3, M], expression [E, 3, M] and motion [M', 3, M]. Shape moves joints, but turns none.
  """
  rest = (
    triangles.template
    + jnp.einsum('scdm,s->cdm', triangles.shape, params.shape)
    + jnp.einsum('ecdm,e->cdm', triangles.expression, params.expression)
  )
  first, second = rest[1] - rest[0], rest[2] - rest[0]  # [3, M]
  across = _cross(first, second)
  length = jnp.sqrt(jnp.maximum(jnp.sum(across**2, 0), 1e-20))
  flat = across / length
  share = triangles.weights.sum(1)  # [J, M]

  def turned(motion, vectors):
    pose, translation = pose_of(motion)
    turns = joint_transforms(triangles.head, params.replace(pose=pose, translation=translation))[
      :, :3, :3
    ]
    blended = jnp.einsum('jab,jm->abm', turns, share)
    return sum(blended[:, b] * vectors[..., b, :][..., None, :] for b in range(3))  # [..., 3, M]

  normals = turned(motion, flat)
  size = jnp.sqrt(jnp.maximum(jnp.sum(normals**2, 0), 1e-12))  # blends of rotations shrink a little
  unit = lambda change: (
    (change - normals / size * jnp.sum(normals / size * change, -2, keepdims=True)) / size
  )

  def columns(basis):
    """[B, 3, 3, M] -> [B, 3, M]"""
    one, two = basis[:, 1] - basis[:, 0], basis[:, 2] - basis[:, 0]
    change = (_cross(one, second) + _cross(first, two)) / length
    return unit(turned(motion, change - flat * jnp.sum(flat * change, -2, keepdims=True)))

  by_motion = jax.vmap(
    lambda tangent: jax.jvp(lambda m: turned(m, flat), (motion,), (tangent,))[1]
  )(jnp.eye(len(motion)))
  return normals / size, columns(triangles.shape), columns(triangles.expression), unit(by_motion)


def _cross(a, b):
  """[..., 3, M] x [..., 3, M]"""
  a, b = (jnp.moveaxis(x, -2, 0) for x in (a, b))
  return jnp.stack(
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]], -2
  )
