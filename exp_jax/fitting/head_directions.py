"""How a posed head is turned, and where its eyes look. Letters: T frames, J joints."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from exp_jax.geometry.rotations import rotation_from_axis_angle
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import joint_transforms

_EYES = ('left_eye', 'right_eye')


def head_directions(head: HeadModel) -> Callable:
  """A compiled function of a clip's parameters.

  Returns:
    (shape [S], expression [T, E], pose [T, J, 3], translation [T, 3]) -> rotation of the head in
    the head frame [T, 3, 3], and unit directions of the left and the right eye [T, 2, 3].

  Raises:
    UserError: the head has no joint of an eye.
  """
  skull, eyes = head.joint('head'), [head.joint(eye) for eye in _EYES]

  def one(shape, expression, pose, translation):
    turned = joint_transforms(head, HeadParams(shape, expression, pose, translation))[:, :3, :3]
    return turned[skull], jnp.stack(
      [turned[skull] @ rotation_from_axis_angle(pose[eye])[:, 2] for eye in eyes]
    )

  return jax.jit(jax.vmap(one, in_axes=(None, 0, 0, 0)))
