"""Sliders: smiles, winks, gaze and turns added to any motion.

Each slider moves a few keypoints' expression by a constant times its value; the signs of some
depend on the value's.
Source: the published pipeline's editing table, measured on its weights by its authors.
"""

import numpy as np

from exp_jax.systems.liveportrait.motion.driving import EYES, NEUTRAL
from exp_jax.systems.liveportrait.networks.keypoints import (
  degrees_from_rotation,
  rotation_from_degrees,
)
from exp_jax.systems.liveportrait.networks.motion import KEYPOINTS, Motion
from exp_jax.systems.liveportrait.pipeline_options import check_sliders

X, Y, Z = 0, 1, 2
OPENNESS = ('eyes_open', 'lip_open')  # by the retargeting networks, not here


def _rows(name: str, s: float) -> tuple[tuple[int, int, float], ...]:
  """(keypoint, axis, offset) of a slider at value s."""
  if name == 'gaze_x':
    near, far = (7e-4, 1e-3) if s > 0 else (1e-3, 7e-4)
    return (11, X, near * s), (15, X, far * s)
  if name == 'gaze_y':
    lid = -s / 2
    return (
      (11, Y, -1e-3 * s - 1e-3 * lid),
      (15, Y, -1e-3 * s - 1e-3 * lid),
      (13, Y, 3e-4 * lid),
      (16, Y, 3e-4 * lid),
    )
  if name == 'eyebrow':
    if s > 0:
      return (1, Y, 1e-3 * s), (2, Y, -1e-3 * s)
    return (1, X, -1e-3 * s), (2, X, 1e-3 * s), (1, Y, 3e-4 * s), (2, Y, -3e-4 * s)
  table = {
    'smile': (
      (20, Y, -0.01),
      (14, Y, -0.02),
      (17, Y, 0.0065),
      (17, Z, 0.003),
      (13, Y, -0.00275),
      (16, Y, -0.00275),
      (3, Y, -0.0035),
      (7, Y, -0.0035),
    ),
    'wink': ((11, Y, 1e-3), (13, Y, -3e-4), (17, X, 3e-4), (17, Y, 3e-4), (3, Y, -3e-4)),
    'pout': ((19, X, 1.0),),
    'purse': ((14, Y, 1e-3), (3, Y, -5e-4), (7, Y, -5e-4), (17, Z, -5e-4)),
    'grin': ((20, Z, -1e-3), (20, Y, -1e-3), (14, Y, -1e-3)),
    'lip': ((19, Y, 1e-3), (19, Z, 1e-4), (17, Y, -1e-4)),
    'move_x': ((5, X, -1.0),),
    'move_y': ((5, Y, 1.0),),
  }
  return tuple((k, axis, c * s) for k, axis, c in table[name])


def expression_offset(values: dict[str, float]) -> np.ndarray:
  """[K, 3] to be added to the expression, for sliders by name; those that turn or scale the head
  add nothing.

  Raises:
    ValueError: for an unknown slider, or a value out of its range.
  """
  out = np.zeros((KEYPOINTS, 3), np.float32)
  check_sliders(values)
  for name, value in values.items():
    if name not in ('move_z', 'pitch', 'yaw', 'roll', *OPENNESS):
      for keypoint, axis, offset in _rows(name, value):
        out[keypoint, axis] += offset
  return out


def edit(motion: Motion, values: dict[str, float]) -> Motion:
  """A motion [T] with the sliders added: expression, turns in degrees, scale.

  Openness is left to the caller.
  """
  offset = expression_offset(values)
  turn = np.array([values.get(n, 0.0) for n in ('pitch', 'yaw', 'roll')], np.float32)
  rotation = motion.rotation
  if turn.any():
    rotation = np.asarray(rotation_from_degrees(degrees_from_rotation(rotation) + turn))
  return motion.replace(
    rotation=rotation,
    expression=motion.expression + offset,
    scale=motion.scale * np.float32(values.get('move_z', 1.0)),
  )


def lips_silent(motion: Motion) -> Motion:
  """The neutral expression everywhere but in the eyes, which stay: for a source that talks while it
  should listen."""
  still = np.broadcast_to(NEUTRAL, motion.expression.shape).copy()
  still[:, EYES] = motion.expression[:, EYES]
  return motion.replace(expression=still)
