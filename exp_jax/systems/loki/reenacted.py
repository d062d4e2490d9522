"""A portrait's picture and the driver maps of its head under a driver's motion: what the generator
is given.

  map(t) = V(shape of the reference, expression, jaw, eyes, rotation, translation of the driver;
  camera of the reference)

Substituting coefficients before the head is drawn is all of cross-identity reenactment; no network
moves anything.
Letters: T frames, S pixels.
Source: Loki, arXiv 2605.24176, figure 3.
"""

import dataclasses

import numpy as np

from exp_jax.controls.driver_map import DriverSurface, driver_maps
from exp_jax.controls.framing import box_in_film, boxes_of, cameras_of
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject
from exp_jax.heads.subject_squares import crops_of
from exp_jax.media.squares import Crop
from exp_jax.systems.loki.model import shown_maps
from exp_jax.systems.loki.records import vector_of


@dataclasses.dataclass(frozen=True)
class Reenacted:
  """What is drawn.

  Attributes:
    photo: uint8 [S, S, 3] the portrait in its square.
    cut: the square, in pixels of the portrait's picture.
    box: the same in pixels of the fit's square.
    subject: the portrait's fit. motion: of T frames, laid onto it.
  """

  photo: np.ndarray
  cut: Crop
  box: Crop
  subject: Subject
  motion: Motion


def reenacted(
  image: np.ndarray, subject: Subject, motion: Motion, head: HeadModel, *, size: int, crop: str
) -> Reenacted:
  """One square for all frames: about the portrait's head and, of crop 'clip', about where the
  motion takes it.

  Args:
    image: uint8 [H, W, 3] that the subject, of one frame, was fitted to.
    crop: how the model's records were cropped.

  Raises:
    UserError: as of `boxes_of`.
  """
  own = Motion(subject.expression[:1], subject.pose[:1], subject.translation[:1])
  every = Motion(
    *(
      np.concatenate([getattr(part, field.name) for part in (own, motion)])
      for field in dataclasses.fields(Motion)
    )
  )
  box = boxes_of(head, subject, every if crop == 'clip' else own, crop)[0]
  (square,) = crops_of(subject, size, 1, image.shape[:2])
  cut = box_in_film(square, box, subject.image_size[0], size)
  return Reenacted(cut.cut(image), cut, box, subject, motion)


def maps_of(scene: Reenacted, head: HeadModel, surface: DriverSurface, kind: str, size: int):
  """(start, stop) -> what the encoder sees of those frames; drawn when it is asked for, so that
  memory is that of a window.

  Raises:
    UserError: the model is driven by frames, not by coefficients.
  """
  if kind == 'rgb':
    raise UserError(
      "this model was trained with condition.map='rgb', which shows it the driver's own frames: it "
      'reenacts nobody '
      'else and serves as a comparison in training alone'
    )

  def shown(start: int, stop: int) -> np.ndarray:
    part = Motion(
      *(getattr(scene.motion, field.name)[start:stop] for field in dataclasses.fields(Motion))
    )
    if kind == 'vector':
      return vector_of(head, scene.subject, part)
    cameras = cameras_of(scene.subject, [scene.box] * (stop - start), size)
    maps = driver_maps(head, surface, scene.subject, part, size=size, cameras=cameras)
    return np.asarray(shown_maps(kind, vars(maps)))

  return shown
