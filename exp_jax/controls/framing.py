"""The square of the picture that a network sees, about the head.

A box holds the projected head (neither neck nor cloth) with a margin around it, its centre on whole
pixels.

  frame    a box of its own for every frame, as published: the head never moves in the picture while training
  clip     one box about the heads of all frames, in training and in use, so that motion in it is trained
  square   the square that the head was fitted in

Letters: T frames, V vertices.
Source: Loki's published code for the box; 'clip' is our choice, for that code crops frame by frame
in training and once in use.
"""

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.driver_map import of_head
from exp_jax.controls.maps import subject_camera
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.geometry import Camera, project
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_vertices
from exp_jax.media.squares import Crop

CROPS = ('clip', 'frame', 'square')
MARGIN = 0.2  # of the longer side, on each side of the head


@jax.jit
def _extent(head: HeadModel, own: jax.Array, params: HeadParams, camera: Camera):
  """([2] least, [2] largest) pixels of the vertices `own` [V] bool."""
  pixels, _ = project(head_vertices(head, params), camera)
  return jnp.where(own[:, None], pixels, jnp.inf).min(0), jnp.where(
    own[:, None], pixels, -jnp.inf
  ).max(0)


def box_about(low: np.ndarray, high: np.ndarray, size: int, margin: float = MARGIN) -> Crop:
  """The square about an extent [2], [2] of pixels."""
  middle, half = np.floor((low + high) / 2), np.floor((high - low).max() / 2 * (1 + margin))
  return Crop(float(middle[0] - half), float(middle[1] - half), float(2 * half), size)


def boxes_of(
  head: HeadModel, subject: Subject, motion: Motion, crop: str, *, margin: float = MARGIN
) -> list[Crop]:
  """A box a frame, in pixels of the subject's square; `size` of each is the square's.

  Args:
    crop: one of CROPS.
    margin: on each side of the head, as a share of its longer side's half.

  Raises:
    UserError: an unknown crop, a fit that is not square, or a head that is a point or behind the
      camera.
  """
  if crop not in CROPS:
    raise UserError(f'--crop is {crop!r}, choose from {", ".join(CROPS)}')
  height, width = subject.image_size
  if height != width:
    raise UserError(
      f'{subject.subject_id} was fitted at {width}x{height}; networks see squares: fit it again'
    )
  whole = Crop(0.0, 0.0, float(width), width)
  if crop == 'square':
    return [whole] * len(motion.expression)
  own, camera, extents = jnp.asarray(of_head(head)), subject_camera(subject), []
  for t in range(len(motion.expression)):
    params = HeadParams(
      *(
        jnp.asarray(a, jnp.float32)
        for a in (subject.shape, motion.expression[t], motion.pose[t], motion.translation[t])
      )
    )
    extents.append(np.asarray(_extent(head, own, params, camera)))
  extents = np.stack(extents)  # [T, 2, 2]
  if not np.isfinite(extents).all() or (extents[:, 1] - extents[:, 0]).max() < 2:
    raise UserError(f'{subject.subject_id}: the head cannot be seen by its camera; fit it again')
  if crop == 'clip':
    return [box_about(extents[:, 0].min(0), extents[:, 1].max(0), width, margin)] * len(extents)
  return [box_about(low, high, width, margin) for low, high in extents]


def box_in_film(square: Crop, box: Crop, pixels: int, size: int) -> Crop:
  """A box in pixels of a fit's square as one of the film that the square was cut from.

  Args:
    square: of the film. box: of `boxes_of`.
    pixels: of the fit's square. size: that the box is resampled to.
  """
  scale = square.side / pixels
  return Crop(square.left + scale * box.left, square.top + scale * box.top, scale * box.side, size)


def cameras_of(subject: Subject, boxes: list[Crop], size: int) -> list[Camera]:
  """The subject's camera as each box sees it, in a picture of `size` pixels."""
  camera = subject_camera(subject)
  found = []
  for box in boxes:
    scale = size / box.side
    corner = np.array([box.left, box.top], np.float32)
    found.append(
      camera.replace(
        focal=camera.focal * scale, center=(camera.center - corner) * scale, image_size=(size, size)
      )
    )
  return found
