"""Whose motion, whose face: the parameters of a reenacted clip from a reference and a driving subject.

ExpPortrait sec. 3.2-3.3 with the spec's choices: shape, static offsets, camera and torso come from the reference;
expression, jaw, gaze and the absolute rotation of neck and head come from the driver; translation is relative,
scaled by the ratio of distances. `rotation='relative'` composes the driver's change of rotation since its first
frame with the reference's own rotation instead.
"""

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.heads.personalized import Subject

_TURNING = ('neck', 'head')
_FROM_DRIVER = ('jaw', 'left_eye', 'right_eye')


@dataclasses.dataclass(frozen=True)
class Motion:
  """Parameters of T frames: expression [T, E], pose [T, J, 3] axis-angle, translation [T, 3] metres."""
  expression: np.ndarray
  pose: np.ndarray
  translation: np.ndarray


@dataclasses.dataclass(frozen=True)
class ReenactOptions:
  """rotation: 'absolute' or 'relative'; translation: 'relative' or 'none'; expression_strength scales psi and jaw;
  drive_torso also takes joint 0."""
  rotation: str = 'absolute'
  expression_strength: float = 1.0
  drive_torso: bool = False
  translation: str = 'relative'


def reenact(reference: Subject, driving: Subject, joint_names: tuple[str, ...],
            options: ReenactOptions = ReenactOptions(), *, frame: int = 0) -> Motion:
  """Drives the reference's frame `frame` with all frames of `driving`.

  Raises:
    ValueError: for an unknown rotation or translation mode.
  """
  if options.rotation not in ('absolute', 'relative'):
    raise ValueError(f"rotation must be 'absolute' or 'relative', got {options.rotation!r}")
  if options.translation not in ('relative', 'none'):
    raise ValueError(f"translation must be 'relative' or 'none', got {options.translation!r}")
  index = {name: i for i, name in enumerate(joint_names)}
  driver, own = np.asarray(driving.pose, np.float64), np.asarray(reference.pose, np.float64)[frame]
  pose = np.repeat(own[None], len(driver), axis=0)
  for name in _TURNING:
    joint = index[name]
    if options.rotation == 'absolute':
      pose[:, joint] = driver[:, joint]
    else:
      change = Rotation.from_rotvec(driver[:, joint]) * Rotation.from_rotvec(driver[0, joint]).inv()
      pose[:, joint] = (change * Rotation.from_rotvec(own[joint])).as_rotvec()
  for name in _FROM_DRIVER:
    pose[:, index[name]] = driver[:, index[name]] * (options.expression_strength if name == 'jaw' else 1)
  if options.drive_torso:
    pose[:, 0] = driver[:, 0]
  tau_reference, tau_driver = np.asarray(reference.translation)[frame], np.asarray(driving.translation)
  # At equal focal lengths in image heights, distance sets the size on screen.
  per_height = [float(s.focal[0]) / s.image_size[0] for s in (reference, driving)]
  ratio = (tau_reference[2] / per_height[0]) / (tau_driver[0, 2] / per_height[1])
  moved = tau_driver - tau_driver[0] if options.translation == 'relative' else np.zeros_like(tau_driver)
  translation = tau_reference + ratio * moved
  return Motion(expression=(np.asarray(driving.expression) * options.expression_strength).astype(np.float32),
                pose=pose.astype(np.float32), translation=translation.astype(np.float32))
