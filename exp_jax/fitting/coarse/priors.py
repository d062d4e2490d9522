"""What is expected of a head before any picture is looked at, in standard deviations.

Letters: S shape, E expression, P unknowns of one frame, C numbers of a course, R residuals.
"""

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.coarse.unknowns import pose_from_unknowns, unpack
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import joint_transforms

_SIGMA = dict(
  shape=0.7, expression=0.5, range=0.08, torso=0.12, jaw_side=0.03, jaw=0.25, eyes=0.35, gaze=0.05
)
_SMOOTH = dict(expression=0.06, rotation=0.02, place=0.002)  # a frame against its neighbours' mean
_COMPONENTS = 2.0  # what expressions that are components spread by, over those that are actions


def course(head: HeadModel, shape: jax.Array, vector: jax.Array) -> jax.Array:
  """[C] what the temporal prior compares between frames, each in standard deviations of `_SMOOTH`.

  Expression, torso, jaw and eyes, the head's rotation matrix in the camera over sqrt(2), which
  measures its angle, and where its joint is carried.
  """
  unknowns, head_joint = unpack(vector), head.joint('head')
  carried = _transforms(head, shape, unknowns)[head_joint]
  joint = head.joint_template[head_joint] + head.joint_shape[head_joint] @ shape
  angles = [unknowns[name].ravel() for name in ('torso', 'jaw', 'eyes')] + [
    carried[:3, :3].ravel() / np.sqrt(2)
  ]
  usual = _SMOOTH['expression'] * (_COMPONENTS if head.signed_expressions else 1.0)
  return jnp.concatenate(
    [
      unknowns['expression'] / usual,
      jnp.concatenate(angles) / _SMOOTH['rotation'],
      (carried[:3, :3] @ joint + carried[:3, 3]) / _SMOOTH['place'],
    ]
  )


def frame_priors(
  vector: jax.Array,
  shape: jax.Array,
  goal: jax.Array | None,
  *,
  head: HeadModel,
  gaze: jax.Array,
  watched: jax.Array,
) -> jax.Array:
  """[R] what one frame is expected to be, in standard deviations.

  `goal` [C] is the `course` it is drawn towards, None: none; where `watched` [] is 1 the eyes look
  along `gaze` [2, 3].
  """
  unknowns = unpack(vector)
  psi = unknowns['expression']
  if head.signed_expressions:
    expected = [psi / (_COMPONENTS * _SIGMA['expression'])]
  else:
    out_of_range = jnp.minimum(psi, 0) + jnp.maximum(psi - 1, 0)
    expected = [psi / _SIGMA['expression'], out_of_range / _SIGMA['range']]
  temporal = [] if goal is None else [course(head, shape, vector) - goal]
  return jnp.concatenate(
    [
      *expected,
      unknowns['torso'] / _SIGMA['torso'],
      unknowns['jaw'][1:] / _SIGMA['jaw_side'],
      jnp.minimum(unknowns['jaw'][:1], 0) / 0.01,
      unknowns['jaw'][:1] / _SIGMA['jaw'],
      unknowns['eyes'].ravel() / _SIGMA['eyes'],
      (unknowns['eyes'][0] - unknowns['eyes'][1]) / 0.1,  # both eyes look at about the same thing
      *temporal,
      watched * (_gaze(head, shape, unknowns) - gaze).ravel() / _SIGMA['gaze'],
    ]
  )


def _transforms(head, shape, unknowns):
  """[J, 4, 4] rest-relative transforms of the joints, expression aside."""
  params = HeadParams(
    shape,
    jnp.zeros(head.expression_basis.shape[-1]),
    pose_from_unknowns(head, unknowns),
    unknowns['translation'],
  )
  return joint_transforms(head, params)


def _gaze(head, shape, unknowns):
  """[2, 3] where left and right eye look, in the head's frame, which is that of
  `Observation.gaze`."""
  eyes = jnp.array([head.joint(name) for name in ('left_eye', 'right_eye')])
  return _transforms(head, shape, unknowns)[eyes, :3, 2]  # at rest they look along z


def shared_priors(shared: jax.Array, camera: jax.Array) -> jax.Array:
  """[S + 1] residuals of shape and focal length; camera [2]: its expected logarithm and the
  standard deviation."""
  return jnp.concatenate([shared[:-1] / _SIGMA['shape'], (shared[-1:] - camera[0]) / camera[1]])
