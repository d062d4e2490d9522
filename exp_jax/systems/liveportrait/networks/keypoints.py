"""Rotations and the transformation of keypoints: Eqs. 1, 2 and 7 of the paper, over any leading
axes.

  x = s (x_c R + delta) + (t_x, t_y, 0)             Eq. 2: expression after rotation, before scale; rows times R
  R = (R_z R_y R_x)^T                                of pitch about x, yaw about y, roll about z

Functions of two kinds of array: numpy's (driving, offline) and jax's (networks, training).
Letters: K keypoints. Source: LivePortrait (arXiv 2407.03168), section 3.2.
"""

import jax
import jax.numpy as jnp
import numpy as np


def rotation_from_degrees(angles: jax.Array) -> jax.Array:
  """[..., 3] pitch, yaw, roll in degrees -> [..., 3, 3]."""
  radians = jnp.deg2rad(angles.astype(jnp.float32))
  (cp, cy, cr), (sp, sy, sr) = (jnp.moveaxis(f(radians), -1, 0) for f in (jnp.cos, jnp.sin))
  rows = (
    (cy * cr, cy * sr, -sy),
    (sp * sy * cr - cp * sr, sp * sy * sr + cp * cr, sp * cy),
    (cp * sy * cr + sp * sr, cp * sy * sr - sp * cr, cp * cy),
  )
  return jnp.stack([jnp.stack(row, -1) for row in rows], -2)  # (Rz Ry Rx)^T written out


def degrees_from_rotation(rotation: np.ndarray) -> np.ndarray:
  """[..., 3, 3] -> [..., 3] pitch, yaw, roll in degrees, yaw within +-90."""
  rotation = np.asarray(rotation, np.float64)
  yaw = np.arcsin(np.clip(-rotation[..., 0, 2], -1, 1))
  pitch = np.arctan2(rotation[..., 1, 2], rotation[..., 2, 2])
  roll = np.arctan2(rotation[..., 0, 1], rotation[..., 0, 0])
  return np.rad2deg(np.stack([pitch, yaw, roll], -1)).astype(np.float32)


def transform(canonical, rotation, expression, scale, translation):
  """Eq. 2.

  Args:
    canonical: [..., K, 3].
    rotation: [..., 3, 3].
    expression: [..., K, 3].
    scale: [...].
    translation: [..., 3]; its z is dropped.

  Returns:
    [..., K, 3] crop-normalized keypoints.
  """
  flat = translation * np.array([1.0, 1.0, 0.0], np.float32)
  return scale[..., None, None] * (canonical @ rotation + expression) + flat[..., None, :]


def posed(motion):
  """`transform` of a `Motion` by itself."""
  return transform(
    motion.canonical, motion.rotation, motion.expression, motion.scale, motion.translation
  )
