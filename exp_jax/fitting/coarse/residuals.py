"""How far landmarks lie from where they were observed, in pixels, and how much each of them counts.

Letters: K landmarks, S shape, P unknowns of one frame.
"""

import functools

import jax
import jax.numpy as jnp

from exp_jax.fitting.coarse.coarse_fit import FOCAL_PRIOR, make_camera
from exp_jax.fitting.coarse.landmark_jacobian import LandmarkHead, landmark_points, linearise
from exp_jax.fitting.coarse.unknowns import frame_arguments, params_of
from exp_jax.geometry import project

LANDMARK_SIGMA = 0.012  # of the inter-ocular distance
_ROBUST = 4.0  # residuals beyond this many sigmas lose their pull


def pixels_of(points: jax.Array, log_focal: jax.Array, camera_size: tuple[int, int]) -> jax.Array:
  """[3, K] in the head's frame -> [2, K] pixels; log_focal [] as among the shared unknowns."""
  return project(
    points.T, make_camera(FOCAL_PRIOR * camera_size[0] * jnp.exp(log_focal), camera_size)
  )[0].T


def distances(
  corners: LandmarkHead,
  shared: jax.Array,
  vector: jax.Array,
  points: jax.Array,
  camera_size: tuple[int, int],
) -> jax.Array:
  """[2, K] pixels: projected minus observed landmarks [2, K]."""
  return (
    pixels_of(landmark_points(corners, params_of(corners, shared, vector)), shared[-1], camera_size)
    - points
  )


def linearised(
  corners: LandmarkHead,
  shared: jax.Array,
  vector: jax.Array,
  points: jax.Array,
  camera_size: tuple[int, int],
):
  """Distances [2, K] and their Jacobians by shape and focal [S + 1, 2, K] and by the frame [P, 2,
  K]."""
  pixels, shape, focal, expression, motion = linearise(
    corners,
    *frame_arguments(corners, shared, vector),
    shared[-1],
    functools.partial(pixels_of, camera_size=camera_size),
  )
  return (
    pixels - points,
    jnp.concatenate([shape, focal[None]]),
    jnp.concatenate([expression, motion]),
  )


def robust_weights(squared: jax.Array, trust: jax.Array, scale: jax.Array) -> jax.Array:
  """Geman-McClure factors times trust, [K], of squared distances [K]; held fixed within one step
  (reweighting)."""
  return trust / (1 + squared * trust / scale**2 / _ROBUST**2) ** 2
