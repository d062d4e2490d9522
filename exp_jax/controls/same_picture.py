"""What two fits of one picture differ by is no motion, and is taken out of a driver that shows the
portrait's own picture.

A portrait is fitted to one picture and a driver to many, so that the same picture, the first of a
driver, say, is seen a degree or two turned, with another mouth. Whether a driver shows the
portrait's picture at all can be told: there both fits have their landmarks where the detector saw
them. With x the landmarks [K, 2] of a fit as its camera sees them, about their mean and in units of
their spread, and frame s the one with the least distance

  d = rms |x_driver(s) - x_portrait|,    w = 1 / (1 + (d / `ALIKE`)^6)

every frame of the driver is given w of what it lacks in frame s:

  rotation     G(t) B^w            B = G(s)^-1 G_portrait, which is constant in the head's own frame
  expression   psi(t) + w (psi_portrait - psi(s)), the same for jaw and eyes

The face stays where it is: the head turns about the mean of its landmarks. Another picture of the
same person is beyond `ALIKE`,
and another person is farther: there w vanishes. Figures: docs/results/retouch.md. Letters: T
frames, K landmarks, J joints.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.controls.driving_options import ReenactOptions
from exp_jax.controls.head_motion import HeadMotion, head_motion, posed
from exp_jax.controls.lids import close_lids
from exp_jax.controls.maps import subject_camera
from exp_jax.controls.reenact import Motion, reenact
from exp_jax.controls.turn_limit import Reach
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_landmarks, landmark_pixels, rest_joints

ALIKE = 0.03  # of the landmarks' spread
_NEGLIGIBLE = 1e-3  # of the weight w
_FACE = ('jaw', 'left_eye', 'right_eye')


def _seen(head: HeadModel, subject: Subject) -> np.ndarray:
  """[T, K, 2] landmarks about their mean in units of their spread."""
  numbers = subject.shape, subject.expression, subject.pose, subject.translation
  pixels = landmark_pixels(head, subject_camera(subject), *numbers).astype(np.float64)
  pixels = pixels - pixels.mean(1, keepdims=True)
  return pixels / np.maximum(np.sqrt((pixels**2).sum(-1).mean(1)), 1e-6)[:, None, None]


@jax.jit
def _ahead(head: HeadModel, shape: jax.Array) -> jax.Array:
  """[3] metres from the head's joint to the middle of the landmarks, at rest."""
  params = HeadParams(
    shape,
    jnp.zeros(head.expression_basis.shape[-1]),
    jnp.zeros((len(head.parents), 3)),
    jnp.zeros(3),
  )
  return head_landmarks(head, params).mean(0) - rest_joints(head, params)[head.joint('head')]


def picture_distances(head: HeadModel, reference: Subject, driving: Subject) -> np.ndarray:
  """[T] d above, of each frame of `driving` from the one frame of `reference`."""
  return np.sqrt(((_seen(head, driving) - _seen(head, reference)) ** 2).sum(-1).mean(-1))


def without_difference(head: HeadModel, reference: Subject, driving: Subject) -> Subject:
  """The driver as above; itself where it does not show the picture.

  Args:
    reference: one frame, the portrait.
    driving: T frames.

  Raises:
    UserError: as `head_motion`.
  """
  distances = picture_distances(head, reference, driving)
  same = int(np.argmin(distances))
  share = 1 / (1 + (distances[same] / ALIKE) ** 6)
  if share < _NEGLIGIBLE:
    return driving
  own, theirs = head_motion(head, reference), head_motion(head, driving)
  difference = Rotation.from_matrix(theirs.rotation[same].T @ own.rotation[0]) ** share
  rotation = theirs.rotation @ difference.as_matrix()
  expression = driving.expression + share * (reference.expression[0] - driving.expression[same])
  if not head.signed_expressions:
    expression = np.maximum(
      expression, np.minimum(0, np.minimum(driving.expression, reference.expression))
    )
  pose = np.array(driving.pose, np.float64)
  for joint in map(head.joint, filter(head.has_joint, _FACE)):
    pose[:, joint] += share * (reference.pose[0, joint] - driving.pose[same, joint])
  ahead = np.asarray(_ahead(head, np.asarray(driving.shape, np.float32)), np.float64)
  place = theirs.place + (theirs.rotation - rotation) @ ahead
  pose, translation = posed(
    head, driving.shape, expression, pose, HeadMotion(rotation, place), own=0 * pose[0]
  )
  crops = driving.source_crop
  return dataclasses.replace(
    driving,
    expression=expression.astype(np.float32),
    pose=pose.astype(np.float32),
    translation=translation.astype(np.float32),
    source_crop=None if crops is None else np.repeat(crops[:1], driving.num_frames, 0),
  )


def driven_motion(
  reference: Subject,
  driving: Subject,
  head: HeadModel,
  options: ReenactOptions = ReenactOptions(),
  *,
  reach: Reach | None = None,
) -> Motion:
  """The reference's motion under a driver, with blinks that close its own lids where the driver's
  close; arguments as of `reenact`.

  Where the driver shows the reference's own picture, what both fits of it differ by is taken out
  (`without_difference`).
  """
  driving = without_difference(head, reference, driving)
  motion = reenact(reference, driving, head, options, reach=reach)
  return close_lids(head, reference, driving, motion)
