"""A portrait's picture and the maps of its head under a driver's motion: what the generator is
given.

  structured   V(shape, place, size, camera, albedo and light of the portrait; expression, jaw, eyes and rotation of the driver)
  none         V(everything of the driver) in the driver's own picture: the paper's comparison, whose maps do not fit the portrait

Letters: T frames, S pixels.
Source: MagicPortrait, arXiv 2504.21497, equation 1.
"""

import dataclasses

import numpy as np

from exp_jax.controls.framing import box_in_film, boxes_of, cameras_of
from exp_jax.controls.maps import own_motion
from exp_jax.controls.reenact import Motion
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject
from exp_jax.heads.subject_squares import crops_of
from exp_jax.media.squares import Crop
from exp_jax.rendering import Topology
from exp_jax.systems.magicportrait.maps import Appearance, Conventions, guidance_maps
from exp_jax.systems.magicportrait.records import MARGIN


@dataclasses.dataclass(frozen=True)
class Reenacted:
  """What is drawn.

  Attributes:
    photo: uint8 [S, S, 3] the portrait in its square.
    cut: the square, in pixels of the portrait's picture.
    subject: the portrait's fit.
    shown: whose head the maps show, the portrait's or, unaligned, the driver's. motion: of T
      frames, laid onto it.
    boxes: one a frame, what the maps show, in pixels of the square that `shown` was fitted in.
  """

  photo: np.ndarray
  cut: Crop
  subject: Subject
  shown: Subject
  motion: Motion
  boxes: list[Crop]


def reenacted(
  image: np.ndarray,
  subject: Subject,
  motion: Motion,
  head: HeadModel,
  *,
  size: int,
  crop: str,
  driver: Subject | None = None,
) -> Reenacted:
  """One square for all frames: about the portrait's head and, of crop 'clip', about where the
  motion takes it.

  Args:
    image: uint8 [H, W, 3] that the subject, of one frame, was fitted to.
    crop: how the model's records were cropped.
    driver: show its head in place of the portrait's: no alignment. `motion` is then its own.

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
  seen = every if crop == 'clip' and driver is None else own
  box = boxes_of(head, subject, seen, crop, margin=MARGIN)[0]
  (square,) = crops_of(subject, size, 1, image.shape[:2])
  cut, count = box_in_film(square, box, subject.image_size[0], size), len(motion.expression)
  if driver is None:
    return Reenacted(cut.cut(image), cut, subject, subject, motion, [box] * count)
  motion = own_motion(driver)
  boxes = boxes_of(head, driver, motion, 'square' if crop == 'square' else 'clip', margin=MARGIN)
  return Reenacted(cut.cut(image), cut, subject, driver, motion, boxes)


def maps_of(
  scene: Reenacted,
  head: HeadModel,
  surface: Topology,
  names: tuple[str, ...],
  *,
  conventions: Conventions,
  appearance: Appearance,
  size: int,
):
  """(start, stop) -> {map: uint8 [stop - start, size, size(, 3)]}; drawn when it is asked for, so
  that memory is that of a part."""

  def shown(start: int, stop: int) -> dict[str, np.ndarray]:
    part = Motion(
      *(getattr(scene.motion, field.name)[start:stop] for field in dataclasses.fields(Motion))
    )
    cameras = cameras_of(scene.shown, scene.boxes[start:stop], size)
    maps = guidance_maps(
      head,
      surface,
      scene.shown,
      part,
      size=size,
      conventions=conventions,
      appearance=appearance,
      cameras=cameras,
    )
    return {name: getattr(maps, name) for name in names}

  return shown
