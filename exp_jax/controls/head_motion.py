"""How a head moves in the camera, however its pose divides the motion over root, neck, head and
translation.

A fit and a tracker choose freely how much of one turn is done by the root, how much by the neck and
how much by the head joint, and the translation makes up for the choice. What can be seen is only
the product: the head's rotation G in the camera and the place p of its joint,

  G = R_root ... R_neck R_head          v = G (v_rest - j) + p   for what is rigidly bound to the head,

where j is the head joint of the person at rest without expression. `head_motion` reads both;
`posed` finds joint rotations and the translation that give a wanted G and p. There the turn C =
T^-1 G of the head against the torso T is shared by neck and head:

  R_neck = C^(1/2) K,   R_head = K^-1 C^(1/2),   K = C_own^(-1/2) R_neck,own

so the neck of a person whose pose is unchanged stays as it is. A neck bends by `MOST_BEND` at most;
the torso makes the rest of the turn, about the same axis, which is unique below half a turn against
the torso.
Everything is float64. Letters: T frames, J joints, E expressions.
"""

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.errors import UserError
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject

# radians between torso and head, about what a neck can do in any direction
MOST_BEND = np.deg2rad(70)
_NECK_SHARE = 0.5  # of the turn against the torso, as the fit shares it


@dataclasses.dataclass(frozen=True)
class HeadMotion:
  """rotation: [T, 3, 3] of the head in the camera; place: [T, 3] metres, of its joint.

  In the frame of subject files.
  """

  rotation: np.ndarray
  place: np.ndarray


@dataclasses.dataclass(frozen=True)
class Chain:
  """Numbers of the joints from the root to the head: those of the torso (none for FLAME, whose root
  is the neck), neck, head."""

  torso: tuple[int, ...]
  neck: int
  head: int


def chain_of(head: HeadModel) -> Chain:
  """The joints between root and head.

  Raises:
    UserError: the head model has no joint 'head' whose parent is a joint 'neck'.
  """
  joint = head.joint('head') if head.has_joint('head') else 0
  path = []
  while joint >= 0:
    path.insert(0, joint)
    joint = head.parents[joint]
  if [head.joint_names[j] for j in path[-2:]] != ['neck', 'head']:
    raise UserError(
      f'the head model {head.name!r} has joints {head.joint_names}; driving a head needs a joint '
      "'head' "
      "whose parent is a joint 'neck'"
    )
  return Chain(tuple(path[:-2]), path[-2], path[-1])


def rotations_of(vectors: np.ndarray) -> np.ndarray:
  """[..., 3] axis-angle -> [..., 3, 3] float64."""
  vectors = np.asarray(vectors, np.float64)
  return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*vectors.shape, 3)


def vectors_of(matrices: np.ndarray) -> np.ndarray:
  """[..., 3, 3] rotations -> [..., 3] axis-angle."""
  return Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_rotvec().reshape(matrices.shape[:-1])


def head_motion(head: HeadModel, subject: Subject) -> HeadMotion:
  """The head's motion over a subject's frames, seen by one camera.

  Where the crop follows the head (`source_crop` differs between frames), the motion is that in the
  camera of the first
  frame's crop: place, size and roll are put back from each frame's crop through the source picture.

  Raises:
    UserError: a crop that mirrors or flattens the picture.
  """
  rotation, place = _carried(head, subject.shape, subject.expression, rotations_of(subject.pose))
  place = place + np.asarray(subject.translation, np.float64)
  crops = subject.source_crop
  if crops is not None and np.ptp(np.asarray(crops), axis=0).max() > 0:
    rotation, place = _in_first_crop(subject, rotation, place)
  return HeadMotion(rotation, place)


def head_rotation(head: HeadModel, pose: np.ndarray) -> np.ndarray:
  """[T, J, 3] axis-angle -> [T, 3, 3] rotation of the head in the camera, all joints from the root
  on together."""
  chain, local = chain_of(head), rotations_of(pose)
  return _product(
    [local[:, joint] for joint in (*chain.torso, chain.neck, chain.head)], local.shape[:1]
  )


def _in_first_crop(
  subject: Subject, rotation: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Rotation and place as the camera of the first frame's crop sees them."""
  crops = np.asarray(subject.source_crop, np.float64)
  onto = crops[0] @ np.linalg.inv(crops)  # [T, 3, 3] pixels of a crop -> of the first
  if not (np.linalg.det(onto[:, :2, :2]) > 0).all():
    raise UserError(
      f'{subject.subject_id}: source_crop mirrors or flattens some frames; import the clip again'
    )
  scale = np.sqrt(np.linalg.det(onto[:, :2, :2]))
  focal, center = (np.asarray(a, np.float64) for a in (subject.focal, subject.center))
  pixels = center + focal * place[:, :2] / -place[:, 2:] * [1, -1]
  pixels = np.einsum('tij,tj->ti', onto[:, :2, :2], pixels) + onto[:, :2, 2]
  depth = -place[:, 2:] / scale[:, None]
  place = np.concatenate([(pixels - center) / focal * depth * [1, -1], -depth], 1)
  turn = np.arctan2(onto[:, 1, 0], onto[:, 0, 0])  # clockwise on the screen, whose y points down
  roll = Rotation.from_rotvec(-turn[:, None] * [0.0, 0, 1]).as_matrix()
  return roll @ rotation, place


def _carried(
  head: HeadModel, shape: np.ndarray, expression: np.ndarray, local: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Rotation [T, 3, 3] and place [T, 3] of the head without translation; local [T, J, 3, 3] joint
  rotations."""
  shape, expression = np.asarray(shape, np.float64), np.asarray(expression, np.float64)
  neutral = (
    np.asarray(head.joint_template, np.float64) + np.asarray(head.joint_shape, np.float64) @ shape
  )
  joints = neutral + np.einsum(
    'jce,te->tjc', np.asarray(head.joint_expression, np.float64), expression
  )
  chain = chain_of(head)
  path = (*chain.torso, chain.neck, chain.head)
  rotation, place = local[:, path[0]], joints[:, path[0]]
  for parent, joint in zip(path, path[1:]):
    place = place + np.einsum('tij,tj->ti', rotation, joints[:, joint] - joints[:, parent])
    rotation = rotation @ local[:, joint]
  return rotation, place + np.einsum(
    'tij,tj->ti', rotation, neutral[chain.head] - joints[:, chain.head]
  )


def place_of_bent(
  head: HeadModel,
  shape: np.ndarray,
  expression: np.ndarray,
  pose: np.ndarray,
  translation: np.ndarray,
  rotation: np.ndarray,
  *,
  own: np.ndarray,
) -> np.ndarray:
  """[T, 3] where the head's joint comes to lie if the head takes `rotation` [T, 3, 3] and the torso
  stays at `translation`.

  Arguments as of `posed`.
  """
  return (
    _carried(head, shape, expression, _bent(head, rotations_of(pose), rotation, rotations_of(own)))[
      1
    ]
    + translation
  )


def posed(
  head: HeadModel,
  shape: np.ndarray,
  expression: np.ndarray,
  pose: np.ndarray,
  wanted: HeadMotion,
  *,
  own: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Joint rotations and translation that give the head a wanted motion.

  Args:
    shape: [S]. expression: [T, E].
    pose: [T, J, 3] axis-angle; those of neck and head are replaced, and the root's where the neck
      cannot bend so far.
    own: [J, 3] axis-angle, the pose in which the person's neck is at home (K above).

  Returns:
    pose [T, J, 3] axis-angle and translation [T, 3] metres.
  """
  local = _bent(head, rotations_of(pose), wanted.rotation, rotations_of(own))
  _, place = _carried(head, shape, expression, local)
  changed, chain = np.array(pose, np.float64), chain_of(head)
  for joint in (*chain.torso[:1], chain.neck, chain.head):
    changed[:, joint] = vectors_of(local[:, joint])
  return changed, wanted.place - place


def _bent(head: HeadModel, local: np.ndarray, rotation: np.ndarray, own: np.ndarray) -> np.ndarray:
  """Joint rotations [T, J, 3, 3] with neck, head and, beyond `MOST_BEND`, root such that the head
  has `rotation`."""
  chain, local = chain_of(head), np.array(local)
  torso = lambda of: _product([of[..., j, :, :] for j in chain.torso], of.shape[:-3])
  turn = Rotation.from_matrix(np.swapaxes(torso(local), -1, -2) @ rotation)
  usual = Rotation.from_matrix(own[chain.neck] @ own[chain.head])
  extra = (usual**-_NECK_SHARE) * Rotation.from_matrix(own[chain.neck])  # K
  if chain.torso:
    angle, most = turn.magnitude(), max(MOST_BEND, usual.magnitude())
    share = np.minimum(1, most / np.maximum(angle, 1e-9))
    bent = Rotation.from_rotvec(share[:, None] * turn.as_rotvec())
    stays = torso(local)
    rest = stays @ (turn * bent.inv()).as_matrix() @ np.swapaxes(stays, -1, -2)
    over = angle > most
    local[over, chain.torso[0]] = (rest @ local[:, chain.torso[0]])[over]
    turn = bent
  half = Rotation.from_rotvec(_NECK_SHARE * turn.as_rotvec())
  local[:, chain.neck] = (half * extra).as_matrix()
  local[:, chain.head] = (extra.inv() * half.inv() * turn).as_matrix()
  return local


def _product(matrices: list[np.ndarray], leading: tuple[int, ...]) -> np.ndarray:
  """Their product from the left; the identity [*leading, 3, 3] of none."""
  product = np.broadcast_to(np.eye(3), (*leading, 3, 3))
  for matrix in matrices:
    product = product @ matrix
  return product
