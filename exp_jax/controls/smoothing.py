"""Motion without tremor: what a detector jitters is taken out, what a face does is left alone,
nothing is delayed.

Landmarks of every frame jitter by a fraction of a pixel, and so does what is fitted to them. Every
signal x(t) is compared with a smooth course s(t), the local parabola about each moment (weights: a
Gaussian over time, both ways), and drawn to it

  y = s + w (x - s),    w = max(0, 1 - 3 n^2 / p)

where p(t) is the local power of x - s, and n^2 the power that jitter alone would leave there: a
Wiener filter with a local estimate of the signal. Where x departs from s by no more than jitter
does, y is s. A blink departs from it by twenty times the jitter, so w is near 1 and the blink stays
as it is. n is read from the clip, from the median of fourth differences, which smooth motion hardly
has; it is never taken for more than detectors jitter (`JITTER`), so that a face that never rests is
not rounded off.

The rigid motion of the head is that in the camera (`head_motion`), as direction, distance and
rotation about a point between the eyes, where errors of place and rotation of a landmark fit are
independent of each other.
Source: the filter after Wiener; its local form as in Lee, Digital Image Enhancement and Noise
Filtering by Use of Local Statistics, PAMI 1980; local parabolas as in Savitzky & Golay, 1964.
Letters: T frames, C channels, E expressions, J joints.
"""

import dataclasses

import numpy as np
import scipy.ndimage
import scipy.special

from exp_jax.controls.driving_options import DEFAULT_SECONDS
from exp_jax.controls.head_motion import (
  HeadMotion,
  chain_of,
  head_motion,
  posed,
  rotations_of,
  vectors_of,
)
from exp_jax.geometry import nearest_rotation
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject

# The most that counts as jitter, standard deviation of one frame's value: two to three times what
# the landmark fit leaves on clips of people. Radians; shares of the distance; full facial actions.
JITTER = dict(
  direction=0.0004,
  log_distance=0.005,
  rotation=0.004,
  torso=0.01,
  jaw=0.005,
  eyes=0.006,
  expression=0.025,
)
_FEWEST = 5  # frames from which a fourth difference exists
_FOURTH = np.array([1.0, -4, 6, -4, 1])
_MARGIN = 3.0  # times the jitter's power that a departure must have to count


def smoothed(subject: Subject, head: HeadModel, seconds: float = DEFAULT_SECONDS) -> Subject:
  """The subject's motion without jitter: expression, jaw, eyes, torso, and the head's motion in the
  camera.

  Args:
    seconds: standard deviation of the weights over time; 0 changes nothing. More takes out slower
      jitter. How far a value moves is bound by the jitter, not by `seconds`.

  Returns:
    The subject with the turn of the head against the torso shared evenly by neck and head, as
    reenactment does. A clip of
    fewer than five frames comes back as it is: nothing there tells jitter from motion.

  Raises:
    ValueError: `seconds` is negative. UserError: as `head_motion`.
  """
  if seconds < 0:
    raise ValueError(f'seconds must not be negative, got {seconds}')
  sigma = seconds * subject.fps
  if sigma == 0 or subject.num_frames < _FEWEST:
    return subject
  chain = chain_of(head)
  motion = head_motion(head, subject)
  rotation = _without_jitter_rotations(motion.rotation, sigma, JITTER['rotation'])
  ahead = _between_eyes(head, subject)
  seen = motion.place + motion.rotation @ ahead
  log_distance = np.log(np.maximum(-seen[:, 2:], 1e-3))
  direction = without_jitter(seen[:, :2] * np.exp(-log_distance), sigma, JITTER['direction'])
  distance = np.exp(without_jitter(log_distance, sigma, JITTER['log_distance']))
  place = np.concatenate([direction * distance, -distance], 1) - rotation @ ahead

  expression = np.asarray(subject.expression, np.float64)
  expression = np.concatenate(
    [without_jitter(column[:, None], sigma, JITTER['expression']) for column in expression.T], 1
  )
  pose = np.array(subject.pose, np.float64)
  local = rotations_of(pose)
  named = (('jaw', 'jaw'), ('left_eye', 'eyes'), ('right_eye', 'eyes'))
  for joint, most in (
    *((head.joint(name), most) for name, most in named if head.has_joint(name)),
    *((joint, 'torso') for joint in chain.torso),
  ):
    pose[:, joint] = vectors_of(_without_jitter_rotations(local[:, joint], sigma, JITTER[most]))
  pose, translation = posed(
    head, subject.shape, expression, pose, HeadMotion(rotation, place), own=0 * pose[0]
  )
  crops = subject.source_crop
  return dataclasses.replace(
    subject,
    pose=pose.astype(np.float32),
    expression=expression.astype(np.float32),
    translation=translation.astype(np.float32),
    source_crop=None if crops is None else np.repeat(crops[:1], subject.num_frames, 0),
  )


def without_jitter(
  values: np.ndarray, sigma: float, most: float, *, freedom: int | None = None
) -> np.ndarray:
  """The filter at the top of this file, of one signal.

  Args:
    values: [T, C], T at least 5; the channels share the weight w.
    sigma: standard deviation of the weights over time, frames.
    most: the most that counts as jitter, standard deviation of a channel.
    freedom: of the C channels, how many vary independently; None: all.
  """
  freedom = freedom or values.shape[1]
  smooth, left = _local_parabola(values, sigma)
  fourth = np.sum(scipy.ndimage.convolve1d(values, _FOURTH, axis=0)[2:-2] ** 2, -1) / np.sum(
    _FOURTH**2
  )
  # The median of a sum of squares of normal numbers against their variance.
  jitter = min(np.median(fourth) / (2 * scipy.special.gammaincinv(freedom / 2, 0.5)), most**2)
  departure = values - smooth
  power = scipy.ndimage.gaussian_filter1d(np.sum(departure**2, -1), sigma, mode='nearest')
  expected = scipy.ndimage.gaussian_filter1d(freedom * jitter * left, sigma, mode='nearest')
  weight = np.clip(1 - _MARGIN * expected / np.maximum(power, 1e-30), 0, 1)
  return smooth + weight[:, None] * departure


def _local_parabola(values: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
  """[T, C] the parabola fitted about each frame, there; [T] share of white noise's variance in its
  departure."""
  count, reach = len(values), max(2, int(np.ceil(3 * sigma)))
  smooth, left = np.empty_like(values), np.empty(count)

  def row(frame: int) -> tuple[slice, np.ndarray, float]:
    window = slice(max(0, frame - reach), min(count, frame + reach + 1))
    steps = np.arange(window.start, window.stop) - frame
    design = np.vander(steps / reach, 3, increasing=True)
    weighted = design * np.exp(-0.5 * (steps / sigma) ** 2)[:, None]
    kernel = weighted @ np.linalg.solve(design.T @ weighted + 1e-9 * np.eye(3), np.eye(3)[0])
    return window, kernel, float(np.sum((kernel - (steps == 0)) ** 2))

  edges = [t for t in range(count) if t < reach or t >= count - reach]
  if len(edges) < count:
    _, kernel, share = row(reach)
    smooth[reach : count - reach] = scipy.ndimage.convolve1d(values, kernel[::-1], axis=0)[
      reach : count - reach
    ]
    left[:] = share
  for frame in edges:
    window, kernel, left[frame] = row(frame)
    smooth[frame] = kernel @ values[window]
  return smooth, left


def _without_jitter_rotations(rotations: np.ndarray, sigma: float, most: float) -> np.ndarray:
  """[T, 3, 3] -> the same by `without_jitter` of the nine entries, which an angle a changes by
  sqrt(2) a in all."""
  values = without_jitter(rotations.reshape(len(rotations), 9), sigma, np.sqrt(2) * most, freedom=3)
  return nearest_rotation(values.reshape(-1, 3, 3))


def _between_eyes(head: HeadModel, subject: Subject) -> np.ndarray:
  """[3] metres from the head's joint to the point between the eyeballs' joints, at rest."""
  joints = (
    np.asarray(head.joint_template, np.float64)
    + np.asarray(head.joint_shape, np.float64) @ subject.shape
  )
  return (joints[head.joint('left_eye')] + joints[head.joint('right_eye')]) / 2 - joints[
    head.joint('head')
  ]
