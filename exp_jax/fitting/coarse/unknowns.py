"""The unknowns of the coarse stage and what they say of a head.

Shared unknowns [S + 1] are shape and the logarithm of the focal length over its prior; those of a
frame [P] are named by
`unpack`. Letters: S shape, E expression, P unknowns of one frame, J joints.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.coarse.landmark_jacobian import LandmarkHead
from exp_jax.heads.model import HeadModel, HeadParams

_MOTION = (('head', (3,)), ('torso', (3,)), ('jaw', (3,)), ('eyes', (2, 2)), ('translation', (3,)))
PLACE = np.r_[-16:-13, -3:0]  # head and translation among the unknowns of a frame


def unpack(vector: jax.Array) -> dict:
  """[..., P] -> named unknowns of one frame: expression first, then _MOTION."""
  sizes = [int(np.prod(shape)) for _, shape in _MOTION]
  start = vector.shape[-1] - sum(sizes)
  parts = {'expression': vector[..., :start]}
  for (name, shape), size in zip(_MOTION, sizes):
    parts[name] = vector[..., start : start + size].reshape(*vector.shape[:-1], *shape)
    start += size
  return parts


def pose_from_unknowns(head: HeadModel, unknowns: dict) -> jax.Array:
  """[J, 3] axis-angle: the head's rotation is shared by neck and head, both eyes turn about x
  and y."""
  pose = jnp.zeros((len(head.joint_names), 3))
  pose = pose.at[0].set(unknowns['torso'])
  pose = (
    pose.at[head.joint('neck')]
    .set(0.5 * unknowns['head'])
    .at[head.joint('head')]
    .set(0.5 * unknowns['head'])
  )
  if head.has_joint('jaw'):  # without one, the priors draw its unknowns to zero
    pose = pose.at[head.joint('jaw')].set(unknowns['jaw'])
  for i, name in enumerate(('left_eye', 'right_eye')):
    pose = pose.at[head.joint(name), :2].set(unknowns['eyes'][i])
  return pose


def pose_of(head: HeadModel, motion: jax.Array) -> tuple[jax.Array, jax.Array]:
  """[P - E] motion of a frame -> pose [J, 3] axis-angle and translation [3] metres."""
  unknowns = unpack(motion)
  return pose_from_unknowns(head, unknowns), unknowns['translation']


def params_of(corners: LandmarkHead, shared: jax.Array, vector: jax.Array) -> HeadParams:
  """The parameters of one frame that shared unknowns [S + 1] and its own [P] stand for."""
  unknowns = unpack(vector)
  return HeadParams(
    shared[:-1],
    unknowns['expression'],
    pose_from_unknowns(corners.head, unknowns),
    unknowns['translation'],
  )


def frame_arguments(corners: LandmarkHead, shared: jax.Array, vector: jax.Array):
  """What `linearise` and `relief_equations` take of one frame: its parameters, `pose_of` the head,
  and its motion [P - E]."""
  params = params_of(corners, shared, vector)
  return params, functools.partial(pose_of, corners.head), vector[len(params.expression) :]
