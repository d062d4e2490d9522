"""Landmarks in the picture and their derivatives, written out: what every step of the coarse solver
needs.

  x_k = sum_c b_kc (A_c v_c)   over the corners c of the landmark's face,   A_c = sum_j w_cj A_j
  v_c = template + shape_basis beta + expression_basis psi + correctives(pose)

is linear in beta and psi while the joints stand still, so those columns of the Jacobian are
products of constants with one 2 x 3 matrix a corner; the few angles and the translation are left to
forward differentiation. Columns come first and landmarks last, [P, 2, K], which is how the
processor likes to read them.
Letters: K landmarks, c corners, J joints, S shape, E expression, M angles and translation of one
frame.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.geometry.rotations import rotation_from_axis_angle
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import joint_transforms


@flax.struct.dataclass
class LandmarkHead:
  """A head as its landmarks see it. Corners are repeated where landmarks share them."""

  head: HeadModel  # for its joints; made by `landmark_head`
  template: jax.Array  # [3, 3, K] corner, axis
  shape: jax.Array  # [S, 3, 3, K]
  expression: jax.Array  # [E, 3, 3, K]
  correctives: jax.Array  # [9 (J - 1), 3, 3, K], or no rows
  weights: jax.Array  # [J, 3, K] barycentric share times skinning weight


def landmark_corners(head: HeadModel) -> LandmarkHead:
  """Gathers what `linearise` reads.

  `head` is cut down by `landmark_head` first; any head will do.
  """
  corners = np.asarray(head.faces)[np.asarray(head.landmark_faces)].T  # [3, K]
  shares = np.asarray(head.landmark_barycentric).T
  last = lambda basis: np.moveaxis(np.asarray(basis)[corners], (0, 1, 2, 3), (1, 3, 2, 0))
  pose_basis = np.zeros((len(head.template), 3, 0)) if head.pose_basis is None else head.pose_basis
  tables = dict(
    template=np.moveaxis(np.asarray(head.template)[corners], 2, 1),
    shape=last(head.shape_basis),
    expression=last(head.expression_basis),
    correctives=last(pose_basis),
    weights=np.moveaxis(np.asarray(head.weights)[corners], 2, 0) * shares,
  )
  return LandmarkHead(
    head=head,
    **jax.device_put(tables),
  )


def landmark_points(corners: LandmarkHead, params: HeadParams) -> jax.Array:
  """[3, K] metres, the landmarks of `params`: what `heads.head_landmarks` gives, transposed."""
  return _place(corners, params, joint_transforms(corners.head, params)[:, :3])


def _canonical(corners, params):
  """[3 corner, 3, K] before posing."""
  rest = (
    corners.template
    + jnp.einsum('scdk,s->cdk', corners.shape, params.shape)
    + jnp.einsum('ecdk,e->cdk', corners.expression, params.expression)
  )
  if corners.correctives.shape[0]:
    turns = rotation_from_axis_angle(params.pose[1:])
    rest = rest + jnp.einsum('pcdk,p->cdk', corners.correctives, (turns - jnp.eye(3)).reshape(-1))
  return rest


def _place(corners, params, transforms):
  """[3, K].

  Corners are summed before joints: the other way round is forty times slower to differentiate.
  """
  hung = jnp.einsum('jck,cdk->jdk', corners.weights, _canonical(corners, params))
  hung = jnp.concatenate([hung, corners.weights.sum(1)[:, None]], 1)
  return jnp.einsum('jab,jbk->ak', transforms, hung)


def linearise(
  corners: LandmarkHead,
  params: HeadParams,
  pose_of,
  motion: jax.Array,
  log_focal: jax.Array,
  project,
):
  """Pixels of the landmarks and their derivatives.

  Args:
    params: shape [S] and expression [E] are read; pose and translation come from `motion`.
    pose_of: motion [M] -> (pose [J, 3] axis-angle, translation [3]).
    motion: [M] angles and translation of the frame, in any parametrization that `pose_of`
      understands.
    log_focal: [] whatever `project` takes for the focal length.
    project: (points [3, K] in the head's frame, log_focal) -> pixels [2, K], each of its own point
      alone.

  Returns:
    pixels [2, K] and the Jacobians of shape [S, 2, K], log_focal [2, K], expression [E, 2, K],
    motion [M, 2, K].
  """

  def posed(motion):
    pose, translation = pose_of(motion)
    return params.replace(pose=pose, translation=translation)

  def moved(motion):
    return landmark_points(corners, posed(motion))

  def joints_of(shape, expression):
    return joint_transforms(
      corners.head, posed(motion).replace(shape=shape, expression=expression)
    )[:, :3]

  points, transforms = moved(motion), joints_of(params.shape, params.expression)
  pixels = project(points, log_focal)
  # [2, 3, K]: one 2 x 3 matrix a landmark
  lens = jnp.stack(
    [
      jax.jvp(lambda p: project(p, log_focal), (points,), (jnp.zeros_like(points).at[a].set(1),))[1]
      for a in range(3)
    ],
    1,
  )
  # sums of products over the landmarks: as contractions, a batch of tiny matrices, they are slow
  turns = jnp.einsum('jck,jab->abck', corners.weights, transforms[..., :3])  # [3, 3, c, K]
  slope = sum(lens[:, a, None, None] * turns[a] for a in range(3))  # [2, 3, c, K]
  share = corners.weights.sum(1)  # [J, K]

  def columns(basis, joints_move):
    """[B, 3, 3, K] and the moves of the joints' transforms [J, 3, B] -> [B, 2, K]"""
    result = jnp.stack(
      [
        sum(slope[x, d, c] * basis[:, c, d] for c in range(3) for d in range(3))
        for x in range(len(slope))
      ],
      1,
    )
    return result + sum(
      lens[:, a] * jnp.einsum('jb,jk->bk', joints_move[:, a], share)[:, None] for a in range(3)
    )

  by_shape, by_expression = jax.jacfwd(lambda s, e: joints_of(s, e)[..., 3], argnums=(0, 1))(
    params.shape, params.expression
  )
  # [M, 3, K]
  by_motion = jax.vmap(lambda tangent: jax.jvp(moved, (motion,), (tangent,))[1])(
    jnp.eye(len(motion))
  )
  return (
    pixels,
    columns(corners.shape, by_shape),
    jax.jvp(lambda f: project(points, f), (log_focal,), (jnp.ones_like(log_focal),))[1],
    columns(corners.expression, by_expression),
    sum(lens[:, a] * by_motion[:, None, a] for a in range(3)),
  )
