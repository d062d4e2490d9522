"""What expression, jaw and eyes do to a resting head: Loki's deformation, which its driver maps and
HEF compare.

  D = X_local - X_shape     X_shape: the person's shape at rest;  X_local: the same with expression, jaw, eyes and what follows them

Turns of head and neck and the translation are no part of it. Letters: V vertices, E expression, J
joints, S shape.
Source: Loki (arXiv 2605.24176) and its metric code; correctives take R - I, not R - 2 I as the
public code of FLAME there does.
"""

import jax
import jax.numpy as jnp

from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import head_vertices

SIGMA = 0.0104  # metres, the unit of deformation in maps
LOCAL = ('jaw', 'left_eye', 'right_eye')  # joints that count; a head may lack the jaw


def local_joints(head: HeadModel) -> jax.Array:
  """[J, 1] 1 for the joints whose turns are deformation, 0 for the others."""
  return (
    jnp.zeros((len(head.parents), 1))
    .at[jnp.array([head.joint(n) for n in LOCAL if head.has_joint(n)], int)]
    .set(1)
  )


def deformation(
  head: HeadModel, shape: jax.Array, expression: jax.Array, pose: jax.Array
) -> jax.Array:
  """[V, 3] metres in the frame of the head at rest. Unbatched.

  Args:
    shape: [S]. expression: [E].
    pose: [J, 3] axis-angle; only the joints of `LOCAL` are looked at.
  """
  still = HeadParams(shape, 0 * expression, 0 * pose, jnp.zeros(3))
  rest = head_vertices(head, still)
  return (
    head_vertices(head, still.replace(expression=expression, pose=local_joints(head) * pose)) - rest
  )
