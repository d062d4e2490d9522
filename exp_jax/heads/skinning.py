"""Parameters to vertices: linear bases, a joint chain, linear blend skinning.

Unbatched; vmap lifts it.

  v_shaped = template + shape_basis b + expression_basis e     J the same, from the joint bases
  v_canonical = v_shaped + pose_basis vec(R_1.. - I)
  G_j = G_parent [R_j | J_j - J_parent],   A_j = G_j [I | -J_j]
  v = sum_j w_vj A_j v_canonical + translation

Source: Loper et al., SMPL, 2015, eqs. 1-10; Pavlakos et al., SMPL-X, 2019 (other joints).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.geometry import project
from exp_jax.geometry.cameras import Camera
from exp_jax.geometry.rotations import rotation_from_axis_angle
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.layers.batching import in_blocks


@functools.partial(jax.jit, inline=True)  # one program where it is called by itself
def canonical_vertices(head: HeadModel, params: HeadParams) -> jax.Array:
  """[V, 3] metres: shape, expression and pose correctives applied, nothing posed yet."""
  vertices = (
    head.template
    + jnp.einsum('vcs,s->vc', head.shape_basis, params.shape)
    + jnp.einsum('vce,e->vc', head.expression_basis, params.expression)
  )
  if head.pose_basis is not None:
    rotations = rotation_from_axis_angle(params.pose[1:])
    feature = (rotations - jnp.eye(3, dtype=rotations.dtype)).reshape(-1)
    vertices = vertices + jnp.einsum('vcp,p->vc', head.pose_basis, feature)
  return vertices


def rest_joints(head: HeadModel, params: HeadParams) -> jax.Array:
  """[J, 3] metres: where the joints of this person are before posing."""
  return (
    head.joint_template
    + jnp.einsum('jcs,s->jc', head.joint_shape, params.shape)
    + jnp.einsum('jce,e->jc', head.joint_expression, params.expression)
  )


def _chain(head: HeadModel, params: HeadParams) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Global rotation [J, 3, 3] and position [J, 3] of each joint (no translation), and rest joints
  [J, 3]."""
  joints = rest_joints(head, params)
  local = rotation_from_axis_angle(params.pose)
  rotations, positions = [local[0]], [joints[0]]
  for joint, parent in enumerate(head.parents[1:], start=1):
    rotations.append(rotations[parent] @ local[joint])
    positions.append(positions[parent] + rotations[parent] @ (joints[joint] - joints[parent]))
  return jnp.stack(rotations), jnp.stack(positions), joints


@functools.partial(jax.jit, inline=True)
def joint_transforms(head: HeadModel, params: HeadParams) -> jax.Array:
  """[J, 4, 4] rest-relative transforms A_j, the translation of `params` included: at rest, the
  identity."""
  rotations, positions, joints = _chain(head, params)
  moved = positions - jnp.einsum('jab,jb->ja', rotations, joints) + params.translation
  upper = jnp.concatenate([rotations, moved[..., None]], -1)
  bottom = jnp.broadcast_to(jnp.array([0, 0, 0, 1], upper.dtype), (*upper.shape[:-2], 1, 4))
  return jnp.concatenate([upper, bottom], -2)


def pose_vertices(vertices: jax.Array, weights: jax.Array, transforms: jax.Array) -> jax.Array:
  """Linear blend skinning: [N, 3] canonical, [N, J] weights, [J, 4, 4] transforms -> [N, 3]
  posed."""
  blended = jnp.einsum('nj,jab->nab', weights, transforms[:, :3])
  return jnp.einsum('nab,nb->na', blended[..., :3], vertices) + blended[..., 3]


@functools.partial(jax.jit, inline=True)
def head_vertices(head: HeadModel, params: HeadParams) -> jax.Array:
  """[V, 3] posed vertices, metres, in the frame of the head model."""
  return pose_vertices(
    canonical_vertices(head, params), head.weights, joint_transforms(head, params)
  )


@functools.partial(jax.jit, inline=True)
def head_joints(head: HeadModel, params: HeadParams) -> jax.Array:
  """[J, 3] posed joints, metres."""
  return _chain(head, params)[1] + params.translation


@functools.partial(jax.jit, inline=True)
def points_on_faces(
  vertices: jax.Array, faces: jax.Array, face_ids: jax.Array, barycentric: jax.Array
) -> jax.Array:
  """[N, C] vertices, [F, 3], [K], [K, 3] -> [K, C]: points given by a face and weights of its
  corners."""
  return jnp.einsum('kcd,kc->kd', vertices[faces[face_ids]], barycentric)


@functools.partial(jax.jit, inline=True)
def head_landmarks(head: HeadModel, params: HeadParams) -> jax.Array:
  """[K, 3] posed landmarks, metres."""
  return points_on_faces(
    head_vertices(head, params), head.faces, head.landmark_faces, head.landmark_barycentric
  )


@jax.jit
def _pixels(head: HeadModel, camera: Camera, shape, expression, pose, translation) -> jax.Array:
  one = lambda each: project(head_landmarks(head, HeadParams(shape, *each)), camera)[0]
  return jax.lax.map(one, (expression, pose, translation))


def landmark_pixels(
  head: HeadModel,
  camera: Camera,
  shape: np.ndarray,
  expression: np.ndarray,
  pose: np.ndarray,
  translation: np.ndarray,
) -> np.ndarray:
  """[T, K, 2] pixels of the posed landmarks in a camera; one program for clips of any length.

  Args:
    shape: [S]; expression: [T, E]; pose: [T, J, 3]; translation: [T, 3].
  """
  shape = np.asarray(shape, np.float32)
  frames = (np.asarray(each, np.float32) for each in (expression, pose, translation))
  return in_blocks(lambda *each: _pixels(head, camera, shape, *each), *frames)


def contour_landmarks(head: HeadModel, params: HeadParams) -> jax.Array:
  """[C, 3] metres: the jaw line that is the outline at this turn of the head (iBUG 0-16 for FLAME
  and SMPL-X).

  The tables of FLAME and SMPL-X list the points at whole degrees of yaw, and their own code rounds
  to a row. Here the points of the four rows about the yaw are blended by a Catmull-Rom spline:
  equal to the table at whole degrees, with continuous first derivatives for yaw between them, and
  level at +-39 degrees, where it stops. The yaw is that of `contour_joint` in the frame of the head
  model, the root's turn included; positive is toward the person's right.

  Raises:
    ValueError: the head has no contour.
  """
  if head.contour_faces is None:
    raise ValueError(f'{head.name} has no contour landmarks')
  rotation = _chain(head, params)[0][head.contour_joint]
  # |cos yaw|, 0 at 90 degrees
  level = jnp.sqrt(jnp.maximum(rotation[0, 0] ** 2 + rotation[1, 0] ** 2, 1e-12))
  degrees = jnp.degrees(jnp.arctan2(rotation[2, 0], level))
  last = head.contour_faces.shape[0] - 1
  place = jnp.clip(degrees + last / 2, 0, last)
  first = jnp.clip(jnp.floor(jax.lax.stop_gradient(place)), 0, last - 1)
  t, first = place - first, first.astype(jnp.int32)
  # rows beyond either end are mirrored there, which makes the curve level
  rows = last - jnp.abs(last - jnp.abs(first + jnp.arange(-1, 3)))
  points = points_on_faces(
    head_vertices(head, params),
    head.faces,
    head.contour_faces[rows].reshape(-1),
    head.contour_barycentric[rows].reshape(-1, 3),
  ).reshape(4, -1, 3)
  blend = jnp.stack(
    [t * (-1 + t * (2 - t)), 2 + t * t * (3 * t - 5), t * (1 + t * (4 - 3 * t)), t * t * (t - 1)]
  )
  return jnp.einsum('r,rcd->cd', blend / 2, points)


def fold_shape(head: HeadModel, shape: jax.Array) -> HeadModel:
  """`head` with the shape [S] built into its template; its own S is 0.

  Several times cheaper to pose.
  """
  return head.replace(
    template=head.template + jnp.einsum('vcs,s->vc', head.shape_basis, shape),
    joint_template=head.joint_template + jnp.einsum('jcs,s->jc', head.joint_shape, shape),
    shape_basis=head.shape_basis[..., :0],
    joint_shape=head.joint_shape[..., :0],
    shape_names=(),
  )
