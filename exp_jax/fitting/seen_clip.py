"""A photograph or clip before it is fitted: the face is found and cut out. Letters: T frames."""

import dataclasses
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.fitting.landmark_head import inter_ocular
from exp_jax.observe.face_crop import Crop, crop_observation, head_crop
from exp_jax.observe.landmarks import FaceEstimator, observe
from exp_jax.observe.observation import Observation

_MIN_FACE = 40  # pixels; below, landmarks say nothing of the expression
_EYES = 0.09  # metres between the outer corners of the eyes
_NEAREST, _FARTHEST = 0.12, 30.0  # metres at which faces are filmed


@dataclasses.dataclass(frozen=True)
class SeenClip:
  """A photograph or clip before it is fitted: pictures [T, size, size, 3] uint8, observation in
  their pixels."""

  name: str
  rate: float  # frames per second
  crop: Crop  # where the pictures were cut
  pictures: np.ndarray
  observation: Observation
  eyes: float  # median distance of the outer corners of the eyes, pixels of the source
  focal: float | None = None  # of a camera that is known, crop pixels
  shown: np.ndarray | None = (
    None  # [size, size] 1 where pictures show the source, 0 beyond its border; None: everywhere
  )


def look_at(
  frames: np.ndarray,
  *,
  name: str,
  rate: float,
  size: int = 512,
  cache: pathlib.Path | None = None,
  estimator: FaceEstimator | None = None,
  face: int | None = None,
  near: tuple[float, float] | None = None,
  observation: Observation | None = None,
  focal: float | None = None,
  progress=lambda x: x,
) -> SeenClip:
  """Finds the face of a photograph (T = 1) or a clip and cuts it out.

  Args:
    frames: [T, H, W, 3] uint8 RGB.
    name: subject id, also used in messages.
    rate: frames per second.
    size: pixels of the square crop that everything refers to.
    cache: folder of observations by content hash.
    estimator: of faces; None: MediaPipe's.
    face: which face, 0 the largest; None follows the largest and warns of rivals.
    near: or the one nearest to (x, y) pixels.
    observation: what was seen elsewhere (`observe.sources.read_observation`); None observes the
      frames.
    focal: focal length of the camera, pixels of the source; None: found.
    progress: wraps what is iterated over.

  Raises:
    UserError: no face, a face that is too small, or a focal length that puts it where no camera is.
  """
  if observation is None:
    observation = observe(
      frames, name=name, cache=cache, estimator=estimator, face=face, near=near, progress=progress
    )
  eyes = float(np.median(inter_ocular(observation.points[observation.found])))
  if complaint := face_too_small(name, eyes):
    raise UserError(complaint)
  if focal is not None and (complaint := odd_camera(name, eyes, focal)):
    raise UserError(complaint)
  crop = head_crop(observation, size=size)
  pictures = np.stack([crop.cut(frame) for frame in frames])
  return SeenClip(
    name,
    rate,
    crop,
    pictures,
    crop_observation(observation, crop),
    eyes,
    None if focal is None else focal * crop.scale,
    crop.inside(frames.shape[1:3]),
  )


def face_too_small(name: str, eyes: float) -> str:
  """What is wrong with a face whose eyes are `eyes` pixels apart; '' if nothing is."""
  if eyes >= _MIN_FACE * 0.45:
    return ''
  return (
    f'the face in {name} is only about {eyes / 0.45:.0f} pixels high, at least {_MIN_FACE} are '
    'needed; use a larger picture'
  )


def odd_camera(name: str, eyes: float, focal: float) -> str:
  """What is wrong with a focal length in pixels, if the eyes' outer corners are `eyes` pixels
  apart; '' if nothing is."""
  away = focal * _EYES / eyes
  if _NEAREST <= away <= _FARTHEST:
    return ''
  return (
    f'a focal length of {focal:g} pixels would put the face in {name} {away:.2g} m from the '
    'camera; give it in pixels '
    'of the input, not in millimetres or of another size, or leave it 0 to have it found'
  )
