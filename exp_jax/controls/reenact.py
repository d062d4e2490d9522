"""Whose motion, whose face: the parameters of a reenacted clip from a reference and a driving
subject.

ExpPortrait sec. 3.2-3.3 with the spec's choices: shape, static offsets, camera and torso come from
the reference; expression, jaw, gaze and the head's absolute rotation in the camera come from the
driver; the head's change of place in the camera is the driver's, scaled by the ratio of distances.
`rotation='relative'` composes the driver's change of rotation since its first frame with the
reference's own rotation instead.

Rotation and place are those of the whole head (`head_motion`): how the driver's pose divides them
over its joints and its translation changes nothing in how the driven head moves. At the driver's
first frame the reference's torso lies where it is in the portrait; from there it follows the head's
change of place without turning, and the neck bends between both. A driver whose whole body leans or
turns therefore moves the shoulders along, but does not turn them, unless the turn is more than a
neck can do. With `drive_torso` the torso turns as the driver's, about a head that moves just the
same; only then it matters how the driver's fit shares the turn between torso and neck, and only for
the torso.
"""

import dataclasses

import numpy as np

from exp_jax.controls.driving_options import ReenactOptions
from exp_jax.controls.head_motion import (
  HeadMotion,
  chain_of,
  head_motion,
  place_of_bent,
  posed,
  rotations_of,
  vectors_of,
)
from exp_jax.controls.turn_limit import Reach, eyes_towards, limited
from exp_jax.errors import UserError
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject

_FROM_DRIVER = ('jaw', 'left_eye', 'right_eye')


@dataclasses.dataclass(frozen=True)
class Motion:
  """Parameters of T frames: expression [T, E], pose [T, J, 3] axis-angle, translation [T, 3]
  metres."""

  expression: np.ndarray
  pose: np.ndarray
  translation: np.ndarray


def reenact(
  reference: Subject,
  driving: Subject,
  head: HeadModel,
  options: ReenactOptions = ReenactOptions(),
  *,
  frame: int = 0,
  reach: Reach | None = None,
) -> Motion:
  """Drives the reference's frame `frame` with all frames of `driving`; both subjects are of `head`.

  Args:
    reference: whose head is driven.
    driving: who drives.
    head: of both.
    options: what is taken from the driver.
    frame: of the reference.
    reach: how far the head may turn from there; None: as far as it is driven.

  Raises:
    ValueError: for an unknown rotation or translation mode.
    UserError: the head model has no neck and head joint, or `drive_torso` is asked of one without a
      torso joint.
  """
  if options.rotation not in ('absolute', 'relative'):
    raise ValueError(f"rotation must be 'absolute' or 'relative', got {options.rotation!r}")
  if options.translation not in ('relative', 'none', 'absolute'):
    raise ValueError(
      f"translation must be 'relative', 'none' or 'absolute', got {options.translation!r}"
    )
  torso = chain_of(head).torso
  if options.drive_torso and not torso:
    raise UserError(
      f'the head model {head.name!r} has no joint below the neck, so its torso cannot be driven; '
      'leave drive_torso off'
    )
  reference = _frame_of(reference, frame)
  own, theirs = head_motion(head, reference), head_motion(head, driving)
  absolute = options.rotation == 'absolute'
  since_first = lambda rotations: rotations @ np.swapaxes(rotations[0], -1, -2)
  rotation = theirs.rotation if absolute else since_first(theirs.rotation) @ own.rotation
  wanted = rotation
  if reach is not None:
    rotation = limited(rotation, reach, own.place[0])

  count = driving.num_frames
  expression = np.asarray(driving.expression, np.float64) * options.expression_strength
  pose = np.repeat(np.asarray(reference.pose, np.float64), count, axis=0)
  for name in filter(head.has_joint, _FROM_DRIVER):
    joint = head.joint(name)
    pose[:, joint] = driving.pose[:, joint] * (options.expression_strength if name == 'jaw' else 1)
    if reach is not None and name != 'jaw':
      pose[:, joint] = eyes_towards(pose[:, joint], wanted, rotation)
  person = dict(head=head, shape=reference.shape, expression=expression, own=pose[0].copy())
  place = place_of_bent(
    pose=pose,
    translation=np.asarray(reference.translation, np.float64),
    rotation=rotation,
    **person,
  )
  if options.translation == 'relative':
    place = place[0] + _distance_ratio(reference, own, driving, theirs) * (
      theirs.place - theirs.place[0]
    )
  elif options.translation == 'absolute':
    place = theirs.place
  if options.drive_torso:
    for joint in torso:
      turned = rotations_of(driving.pose[:, joint])
      pose[:, joint] = vectors_of(
        turned if absolute else since_first(turned) @ rotations_of(reference.pose[0, joint])
      )
  pose, translation = posed(pose=pose, wanted=HeadMotion(rotation, place), **person)
  return Motion(
    expression.astype(np.float32), pose.astype(np.float32), translation.astype(np.float32)
  )


def _distance_ratio(
  reference: Subject, own: HeadMotion, driving: Subject, theirs: HeadMotion
) -> float:
  """By what a step of the driver is multiplied to look as large in the reference's picture.

  At equal focal lengths in image heights, distance sets the size on screen.
  """
  size = lambda subject, motion: (
    motion.place[0, 2] * subject.image_size[0] / float(subject.focal[0])
  )
  return size(reference, own) / size(driving, theirs)


def _frame_of(subject: Subject, frame: int) -> Subject:
  """One frame of a subject, as far as its motion goes."""
  cut = lambda values: None if values is None else np.asarray(values)[[frame]]
  return dataclasses.replace(
    subject,
    expression=cut(subject.expression),
    pose=cut(subject.pose),
    translation=cut(subject.translation),
    times=cut(subject.times),
    source_crop=cut(subject.source_crop),
  )
