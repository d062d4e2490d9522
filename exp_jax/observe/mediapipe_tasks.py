"""Face landmarks by MediaPipe's Tasks API (mediapipe >= 1.2, optional) with the user's
face_landmarker.task.

A .task file is a zip that holds the networks; newer wheels carry none. Licence: Apache-2.0, code
and models.
"""

import os
import pathlib
import zipfile

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.digests import file_digest
from exp_jax.observe.face_tiles import tile_levels

_MEMBERS = ('face_detector.tflite', 'face_landmarks_detector.tflite')
_MAX_FACES = 4


def check_task(path: str | os.PathLike) -> str:
  """The sha256 of a face landmarker bundle.

  Raises:
    UserError: missing, not a zip, truncated, or a bundle for something else; names what is wrong.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'no such landmark model: {path}; download face_landmarker.task of MediaPipe')
  try:
    with zipfile.ZipFile(path) as bundle:
      members = {info.filename: info.file_size for info in bundle.infolist()}
      damaged = bundle.testzip()
  except (zipfile.BadZipFile, OSError, EOFError):
    raise UserError(
      f'{path} is not a .task bundle (a zip of networks) or is truncated; '
      'download face_landmarker.task again'
    ) from None
  if damaged:
    raise UserError(f'{path}: its part {damaged} is damaged; download face_landmarker.task again')
  missing = [member for member in _MEMBERS if not members.get(member)]
  if missing:
    raise UserError(
      f'{path} holds {sorted(members)} but no {" and no ".join(missing)}; '
      'face_landmarker.task is needed, not the bundle of another task'
    )
  return file_digest(path)


class TaskEstimator:
  """Callable like `landmarks.FaceEstimator`: image -> faces [N, 478, 3], scores [N], None (no
  matte)."""

  licence = 'Apache-2.0'

  def __init__(self, path: str | os.PathLike):
    self.digest = check_task(path)
    try:
      import mediapipe
      from mediapipe.tasks.python import BaseOptions, vision
    except ImportError:
      raise UserError(
        f'{path} needs mediapipe 1.2 or newer, which is not installed; run '
        '`pip install "mediapipe>=1.2,<2"`, or leave the model out to use the sidecar'
      ) from None
    self.name = f'mediapipe {getattr(mediapipe, "__version__", "")} face landmarker'
    self._mediapipe = mediapipe
    try:
      self._landmarker = vision.FaceLandmarker.create_from_options(
        vision.FaceLandmarkerOptions(
          base_options=BaseOptions(model_asset_path=str(path)),
          num_faces=_MAX_FACES,
          running_mode=vision.RunningMode.IMAGE,
        )
      )
    except (RuntimeError, ValueError) as error:
      raise UserError(
        f'{path} is refused by mediapipe: {str(error).splitlines()[0][:200]}'
      ) from None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._landmarker.close()

  def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
    """Finds up to four faces of a uint8 RGB [H, W, 3] image; x, y in pixels, z in the same scale.

    Where the whole picture shows none, overlapping parts of it are searched, from large to small
    ones.
    """
    points = self._faces(image)
    for tiles in tile_levels(*image.shape[:2]) if not len(points) else ():
      found = [
        self._faces(image[top : top + side, left : left + side]) + np.float32([left, top, 0])
        for top, left, side in tiles
      ]
      points = _apart(np.concatenate(found))[:_MAX_FACES]
      if len(points):
        break
    return points, np.ones(len(points), np.float32), None

  def _faces(self, image):
    """[N, 478, 3] of one picture."""
    height, width = image.shape[:2]
    picture = self._mediapipe.Image(
      image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image)
    )
    found = self._landmarker.detect(picture).face_landmarks
    points = np.array([[(p.x, p.y, p.z) for p in face] for face in found], np.float32)
    points = points.reshape(len(found), -1, 3) if len(found) else np.zeros((0, 478, 3), np.float32)
    if points.shape[1] != 478:
      raise UserError(
        f'the landmark model gives {points.shape[1]} points, 478 are needed; use '
        'face_landmarker.task with irises'
      )
    return points * np.float32([width, height, width])


def _apart(faces: np.ndarray) -> np.ndarray:
  """The largest of faces that lie on each other, largest first."""
  sizes = np.ptp(faces[..., :2], axis=1).max(-1)
  kept = []
  for number in np.argsort(-sizes, kind='stable'):
    center = faces[number, :, :2].mean(0)
    if all(
      np.abs(center - faces[other, :, :2].mean(0)).max() > 0.5 * sizes[other] for other in kept
    ):
      kept.append(number)
  return faces[kept]
