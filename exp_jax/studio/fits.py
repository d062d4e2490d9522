"""A subject made or read by a job, and its normals frame by frame, with and without what moves:
normals.zip.

full/0000.png ...      the personalized head of frame 0, 1, ...: static and dynamic offsets
static/0000.png ...    the same without dynamic offsets
frames.json            {'frames': numbers of the subject's frames, 'all': how many it has, 'detail':
none, static or full}
"""

import io
import json
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np
from PIL import Image

from exp_jax import api
from exp_jax.controls.maps import each_control_map, full_offsets, own_motion, to_bytes
from exp_jax.errors import UserError
from exp_jax.files.atomic import replacing
from exp_jax.fitting.tracked_driver import frames_of
from exp_jax.heads.densify import densify
from exp_jax.heads.personalized import Subject, check_head, load_subject, save_subject
from exp_jax.performance.inputs import footage
from exp_jax.progress import Watch

NORMALS, KINDS = 'normals.zip', ('full', 'static')
_MOST = 120  # frames that are drawn, spread over longer clips
_SIZE = 384  # pixels


def fitted(model, source: pathlib.Path, *, options, watch: Watch) -> Subject:
  """The subject of a picture, a clip or a subject file.

  Raises:
    UserError: no face, a face that is too small, a bad file, or a subject of another head model.
    Cancelled: by the watch.
  """
  if source.suffix.lower() == '.npz':
    return load_subject(source)
  if footage(source).still:
    return model.portrait(
      source, options=options, progress=watch.progress, cancel=watch.cancel
    ).portrait.subject
  if options.face != 'largest':
    raise UserError(
      'a clip is fitted to its largest face: leave --face out, or cut the clip to the face '
      'that you mean'
    )
  return api.fit(
    source, size=options.size, limit=options.limit, progress=watch.progress, cancel=watch.cancel
  )


def write_normals(model, subject: Subject, path: pathlib.Path, watch: Watch) -> dict:
  """Draws a subject's normals into a zip; returns what its frames.json says.

  Args:
    model: ExpPortrait, loaded.
    subject: of its head model.
    path: of the zip; it appears whole or not at all.
    watch: is told of frames, and may cancel.

  Raises:
    UserError: the subject is of another head model.
    Cancelled: by the watch.
  """
  dense = densify(model.head, subject.levels)
  check_head(subject, model.head, dense)
  count = subject.num_frames
  numbers = np.unique(np.linspace(0, count - 1, min(count, _MOST)).round().astype(int))
  chosen = frames_of(subject, numbers)
  about = {'frames': numbers.tolist(), 'all': count, 'detail': subject.detail}
  size = min(_SIZE, max(subject.image_size))
  with (
    replacing(path) as partial,
    zipfile.ZipFile(partial, 'w') as archive,
  ):  # PNGs are packed already
    for kind, dynamic in (('full', full_offsets(chosen)), ('static', None)):
      drawn = each_control_map(model.head, dense, chosen, own_motion(chosen), dynamic, size=size)
      for number, picture in enumerate(watch.each_slowly(drawn, f'{kind} normals', len(numbers))):
        made = io.BytesIO()
        Image.fromarray(to_bytes([picture])[0]).save(made, 'PNG')
        archive.writestr(f'{kind}/{number:04d}.png', made.getvalue())
    archive.writestr('frames.json', json.dumps(about))
  return about


def run_fit(
  model, request: dict, options, reports: Callable, say: Callable, cancel: Callable
) -> dict:
  """The subject and its normals, in the folder of a job."""
  folder, watch = pathlib.Path(request['folder']), Watch(reports, cancel)
  subject = fitted(model, pathlib.Path(request['portrait']), options=options, watch=watch)
  save_subject(folder / 'subject.npz', subject)
  return write_normals(model, subject, folder / NORMALS, watch)


def frames_in(path: pathlib.Path) -> dict:
  """What frames.json of a zip of normals says."""
  with zipfile.ZipFile(path) as archive:
    return json.loads(archive.read('frames.json'))


def normals_in(path: pathlib.Path, kind: str, number: int) -> np.ndarray:
  """uint8 [S, S, 3]: picture `number` of a zip of normals, of kind 'full' or 'static'."""
  with (
    zipfile.ZipFile(path) as archive,
    Image.open(io.BytesIO(archive.read(f'{kind}/{number:04d}.png')), formats=('PNG',)) as image,
  ):
    return np.asarray(image.convert('RGB'))
