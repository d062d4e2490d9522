"""What is shown of a portrait before anything is rendered: the fitted head drawn over it, and a
number at every face."""

import json
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from exp_jax.controls.maps import control_maps, full_offsets, own_motion
from exp_jax.files.atomic import write_text
from exp_jax.fitting.preview import overlay
from exp_jax.heads.densify import densify
from exp_jax.heads.personalized import save_subject
from exp_jax.media.images import write_image
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.observe.people import face_box
from exp_jax.progress import Watch
from exp_jax.systems.expportrait.drawing import pasted, square_of

_CHOSEN, _OTHER = (255, 170, 40), (120, 200, 255)


def numbered(picture: np.ndarray, boxes: list, chosen: int | None) -> np.ndarray:
  """The picture with a frame and a number at each face.

  Args:
    picture: uint8 [H, W, 3].
    boxes: (left, top, right, bottom) of each face in pixels, the largest face first.
    chosen: the number of the face that is animated, drawn in another colour.
  """
  image = Image.fromarray(picture)
  draw = ImageDraw.Draw(image)
  line, letters = max(2, min(image.size) // 250), max(14, min(image.size) // 24)
  font = ImageFont.load_default(letters)
  for number, (left, top, right, bottom) in enumerate(boxes):
    colour = _CHOSEN if number == chosen else _OTHER
    draw.rectangle([left, top, right, bottom], outline=colour, width=line)
    draw.rectangle([left, top - 1.2 * letters, left + 0.9 * letters, top], fill=colour)
    draw.text((left + 0.2 * letters, top - 1.2 * letters), str(number), fill=(0, 0, 0), font=font)
  return np.asarray(image)


def write_fitted_picture(
  model,
  portrait: pathlib.Path,
  folder: pathlib.Path,
  *,
  options,
  progress: Callable,
  cancel: Callable,
) -> dict:
  """Writes head.png, subject.npz and faces.json.

  Args:
    model: ExpPortrait, loaded.
    portrait: the file.
    folder: where they are written.
    options: of the model; `face`, `size` and `source_frame` matter.
    progress: called with (stage, done, total or None).
    cancel: ends the work with `Cancelled` when it answers true.

  Raises:
    UserError: no face, a face that is too small, a bad file.
    Cancelled: by `cancel`.
  """
  opened = model.portrait(portrait, options=options, progress=progress, cancel=cancel)
  subject, watch = opened.portrait.subject, Watch(progress, cancel)

  def draw():
    dense = densify(model.head, subject.levels)
    normals = next(
      iter(
        control_maps(
          model.head, dense, subject, own_motion(subject), full_offsets(subject), size=options.size
        )
      )
    )
    clay = overlay(opened.portrait.photo, np.asarray(normals))
    whole = next(iter(pasted(iter([clay]), opened.portrait, opened.image)))
    with FaceEstimator() as estimator:
      faces = estimator(opened.image)[0][..., :2]
    middle = np.asarray(
      square_of(opened.portrait, opened.image).inverse() @ [clay.shape[1] / 2, clay.shape[0] / 2, 1]
    )
    return whole, faces, middle

  whole, faces, middle = watch.wait_for(draw, 'picture')
  boxes = [[round(float(v), 1) for v in face_box(points)] for points in faces]
  away = [
    np.hypot((left + right) / 2 - middle[0], (top + bottom) / 2 - middle[1])
    for left, top, right, bottom in boxes
  ]
  write_image(folder / 'head.png', numbered(whole, boxes, int(np.argmin(away)) if away else None))
  save_subject(folder / 'subject.npz', subject)
  write_text(
    folder / 'faces.json',
    json.dumps({'size': [int(n) for n in opened.image.shape[:2]], 'faces': boxes}),
  )
  return {'faces': len(boxes)}
