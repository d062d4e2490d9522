"""Rotations: axis-angle, matrices, look-at cameras. Angles in radians, right-handed, column
vectors.

All functions broadcast over leading axes and have finite gradients at the identity (double-where).

Sources: Rodrigues' formula; Zhou et al., On the Continuity of Rotation Representations in Neural
Networks, CVPR 2019 (six numbers).
"""

import jax
import jax.numpy as jnp

_SMALL = 1e-4  # radians squared; below it a Taylor series is exact to float32


def skew(vectors: jax.Array) -> jax.Array:
  """[..., 3] -> [..., 3, 3] with skew(a) @ b = a x b."""
  x, y, z = jnp.moveaxis(vectors, -1, 0)
  zero = jnp.zeros_like(x)
  rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
  return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def rotation_from_axis_angle(axis_angle: jax.Array) -> jax.Array:
  """Exponential map: [..., 3] axis times angle -> [..., 3, 3]."""
  square = jnp.sum(axis_angle**2, -1)[..., None, None]
  small = square < _SMALL
  angle = jnp.sqrt(jnp.where(small, 1.0, square))
  sinc = jnp.where(small, 1 - square / 6, jnp.sin(angle) / angle)
  # (1 - cos a) / a^2 without cancellation.
  half = jnp.sin(angle / 2) / angle
  versine = jnp.where(small, 0.5 - square / 24, 2 * half**2)
  cross = skew(axis_angle)
  return jnp.eye(3, dtype=axis_angle.dtype) + sinc * cross + versine * (cross @ cross)


def axis_angle_from_rotation(rotation: jax.Array) -> jax.Array:
  """Logarithm: [..., 3, 3] -> [..., 3] with angle in [0, pi].

  At pi the axis has two signs, of which one is returned, and no derivative exists: the gradient
  stays finite but means nothing there.
  """
  quaternion = quaternion_from_rotation(rotation)
  real, imaginary = quaternion[..., :1], quaternion[..., 1:]
  square = jnp.sum(imaginary**2, -1, keepdims=True)
  small = square < _SMALL
  sine = jnp.sqrt(jnp.where(small, 1.0, square))
  scale = 2 * jnp.arctan2(sine, real) / sine
  # asin(s) / s = 1 + s^2 / 6 + ...; real >= 0, so a small sine means a small angle.
  return imaginary * jnp.where(small, 2 + square / 3, scale)


def quaternion_from_rotation(rotation: jax.Array) -> jax.Array:
  """[..., 3, 3] -> [..., 4] unit (real, i, j, k) with real part >= 0.

  Takes the largest of the four components as pivot (Shepperd, 1978), so that no square root comes
  near 0.
  """
  m = lambda i, j: rotation[..., i, j]
  trace = m(0, 0) + m(1, 1) + m(2, 2)
  # Row p holds 4 * q[p] * (q[0], q[1], q[2], q[3]).
  products = jnp.stack(
    [
      jnp.stack([1 + trace, m(2, 1) - m(1, 2), m(0, 2) - m(2, 0), m(1, 0) - m(0, 1)], -1),
      jnp.stack(
        [m(2, 1) - m(1, 2), 1 + 2 * m(0, 0) - trace, m(0, 1) + m(1, 0), m(0, 2) + m(2, 0)], -1
      ),
      jnp.stack(
        [m(0, 2) - m(2, 0), m(0, 1) + m(1, 0), 1 + 2 * m(1, 1) - trace, m(1, 2) + m(2, 1)], -1
      ),
      jnp.stack(
        [m(1, 0) - m(0, 1), m(0, 2) + m(2, 0), m(1, 2) + m(2, 1), 1 + 2 * m(2, 2) - trace], -1
      ),
    ],
    -2,
  )
  squares = jnp.diagonal(products, axis1=-2, axis2=-1)
  pivot = jnp.argmax(squares, -1)[..., None, None]
  row = jnp.take_along_axis(products, pivot, -2)[..., 0, :]
  quaternion = row / jnp.sqrt(jnp.sum(row**2, -1, keepdims=True))
  return jnp.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def compose(first: jax.Array, second: jax.Array) -> jax.Array:
  """Axis-angle [..., 3] of the rotation that applies `first` [..., 3] and then `second` [...,
  3].
  """
  matrices = rotation_from_axis_angle(second) @ rotation_from_axis_angle(first)
  return axis_angle_from_rotation(matrices)


def look_at(eye: jax.Array, target: jax.Array, up: jax.Array) -> tuple[jax.Array, jax.Array]:
  """World-to-camera pose of a camera at `eye` that looks at `target`, OpenCV axes (y down).

  Args:
    eye, target: [..., 3] world positions, metres, not equal.
    up: [..., 3] world direction that shall point up in the image, not along the line of sight.

  Returns:
    rotation [..., 3, 3] and translation [..., 3] for `Camera`.
  """
  normalize = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  forward = normalize(target - eye)
  right = normalize(jnp.cross(forward, up))
  down = jnp.cross(forward, right)
  rotation = jnp.stack([right, down, forward], -2)
  return rotation, -jnp.einsum('...ij,...j->...i', rotation, eye)
