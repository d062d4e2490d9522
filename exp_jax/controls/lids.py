"""Blinks that close: a driver's eyelids on another person's eyes.

Tracked lids never quite meet (a detector leaves 0.18 to 0.26 of the usual gap, smoothing over time
adds to it), and the same coefficient leaves wide eyes open further. So what is carried over is the
gap relative to what is usual for each: when the driver's falls below 0.6 of its usual size, the
target's blink action is raised until its gap, which is linear in the action, is that small too, and
zero at 0.3. Eyes that merely squint are left alone. Letters: T frames, E expressions.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.reenact import Motion
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_landmarks
from exp_jax.layers.batching import in_blocks

# Upper and lower lid points opposite each other, and the corners, in MediaPipe's numbering.
_LIDS = {
  'Left': ((385, 380), (386, 374), (387, 373), (362, 263)),
  'Right': ((158, 153), (159, 145), (160, 144), (33, 133)),
}
_SHUT, _BLINKING, _AWAKE = 0.3, 0.6, 0.75  # of the usual gap
_USUAL = 80  # percentile over the clip
_STEP, _MOST = 0.5, 1.3  # of the blink action


@jax.jit
def _gaps(head: HeadModel, pairs: jax.Array, shape: jax.Array, expression: jax.Array) -> jax.Array:
  """[T] of `lid_gaps`.

  Head and person are arguments: what a traced function closes over stays in memory with its
  program.
  """
  pose, zero = jnp.zeros((len(head.parents), 3)), jnp.zeros(3)

  def gap(expression):
    points = head_landmarks(head, HeadParams(shape, expression, pose, zero))[pairs]
    # Signed along the eye's up direction: lids that cross have a negative gap.
    width = jnp.linalg.norm(points[3, 0] - points[3, 1])
    return jnp.mean(points[:3, 0] - points[:3, 1], 0)[1] / width

  return jax.lax.map(gap, expression)


def lid_gaps(head: HeadModel, shape: np.ndarray, expression: np.ndarray, side: str) -> np.ndarray:
  """[T] mean gap between the lids of one eye over its width, for expressions [T, E] of a person
  [S], head at rest."""
  index = {name: i for i, name in enumerate(head.landmark_names)}
  pairs = np.array([[index[str(a)], index[str(b)]] for a, b in _LIDS[side]])
  return in_blocks(lambda each: _gaps(head, pairs, np.asarray(shape), each), expression)


def wanted_share(share: np.ndarray) -> np.ndarray:
  """The driver's gap over its usual one -> the same for the target: 0 at `_SHUT`, unchanged from
  `_BLINKING` on."""
  below = _BLINKING * (share - _SHUT) / (_BLINKING - _SHUT)
  return np.where(share < _BLINKING, np.clip(below, 0, None), share)


def shut_eyes(head: HeadModel, shape: np.ndarray, expression: np.ndarray) -> np.ndarray | None:
  """Expressions [T, E] of a person [S] with their blink actions raised until the lids meet; None
  for heads without lids."""
  names = list(head.expression_names)
  points = {str(p) for lids in _LIDS.values() for pair in lids for p in pair}
  if not points <= set(head.landmark_names) or not {'eyeBlinkLeft', 'eyeBlinkRight'} <= set(names):
    return None
  shut = np.array(expression)
  for side in _LIDS:
    column, more = names.index(f'eyeBlink{side}'), np.array(shut)
    more[:, column] += _STEP
    gap = lid_gaps(head, shape, shut, side)
    slope = (gap - lid_gaps(head, shape, more, side)) / _STEP
    raised = shut[:, column] + np.clip(gap, 0, None) / np.maximum(slope, 1e-3)
    most = np.maximum(_MOST, shut[:, column])
    shut[:, column] = np.where(slope > 1e-3, np.minimum(raised, most), shut[:, column])
  return shut


def close_lids(head: HeadModel, reference: Subject, driving: Subject, motion: Motion) -> Motion:
  """`motion` of `reference` with blinks that close where the driver's do; heads without lid points
  are left unchanged."""
  names, known = list(head.expression_names), set(head.landmark_names)
  points = {str(p) for lids in _LIDS.values() for pair in lids for p in pair}
  if not points <= known or not {'eyeBlinkLeft', 'eyeBlinkRight'} <= set(names):
    return motion
  expression = np.array(motion.expression)
  for side in _LIDS:
    theirs = lid_gaps(head, driving.shape, driving.expression, side)
    share = theirs / max(np.percentile(theirs, _USUAL), 1e-3)
    own = lid_gaps(head, reference.shape, expression, side)
    column = names.index(f'eyeBlink{side}')
    more = np.array(expression)
    more[:, column] += _STEP
    # gap lost per unit of the action
    slope = (own - lid_gaps(head, reference.shape, more, side)) / _STEP
    missing = (own - wanted_share(share) * np.percentile(own, _USUAL)) / np.maximum(slope, 1e-3)
    t = np.clip((_AWAKE - share) / (_AWAKE - _BLINKING), 0, 1)
    raised = expression[:, column] + t * t * (3 - 2 * t) * np.clip(missing, 0, None)
    most = np.maximum(_MOST, expression[:, column])
    expression[:, column] = np.where(slope > 1e-3, np.minimum(raised, most), expression[:, column])
  return dataclasses.replace(motion, expression=expression.astype(np.float32))
