"""Face landmarks and person matte of images and clips, by MediaPipe in a process of its own.

Licence of the estimator: MediaPipe and the models its wheel carries are Apache-2.0. Its environment
is made by `exp_jax.observe.sidecar`; EXP_JAX_MEDIAPIPE names another interpreter that has it.
"""

import contextlib
import hashlib
import os
import pathlib
import struct
import time

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.array_cache import content_key
from exp_jax.files.resources import setup_command
from exp_jax.observe import sidecar
from exp_jax.observe.observation import (
  Observation,
  load_observation,
  make_observation,
  save_observation,
)
from exp_jax.observe.people import check_seen, follow, seen
from exp_jax.observe.sidecars.child_process import TIMEOUT, AnsweringProcess, NoAnswer, time_limit

ESTIMATOR = 'mediapipe 0.10.21 face_mesh refined + selfie_segmentation'
_NETWORKS = ('face_detection', 'face_landmark', 'selfie_segmentation')
# seconds for the first answer, for others, and for each million pixels
_START, _ANSWER, _PER_MEGAPIXEL = 40.0, 20.0, 5.0
_MOST_FACES, _MOST_FAILURES = 1000, 3
_WORKER = pathlib.Path(__file__).with_name('mediapipe_worker.py')


def interpreter() -> pathlib.Path:
  """The Python that has MediaPipe; UserError with the remedy if there is none."""
  path = sidecar.python()
  if not path.exists():
    raise UserError(
      f'the landmark estimator is not installed ({path} is missing); run {setup_command()}, '
      'or set EXP_JAX_MEDIAPIPE to a Python with mediapipe==0.10.21'
    )
  return path


def weights_digest() -> str:
  """sha256 over the networks that the sidecar's wheel carries, '' where they are not found beside
  it."""
  packages = interpreter().parent.parent.glob('lib/python*/site-packages/mediapipe/modules')
  networks = sorted(
    path for folder in packages for part in _NETWORKS for path in (folder / part).glob('*.tflite')
  )
  digest = hashlib.sha256()
  for path in networks:
    digest.update(path.name.encode() + path.read_bytes())
  return digest.hexdigest() if networks else ''


class EstimatorFailed(UserError):
  """The landmark estimator and not the picture is to blame, as far as can be told."""


class FaceEstimator:
  """A running MediaPipe process; use it as a context manager and call it with images.

  A process that hangs, dies or answers nonsense is ended and started again, once for an image; then
  a sentence says so. The time limit of an answer grows with the image, and is
  EXP_JAX_MEDIAPIPE_TIMEOUT seconds where that is set.
  """

  def __init__(self):
    self._process, self._is_new, self._failures = self._started(), True, 0

  @staticmethod
  def _started() -> AnsweringProcess:
    environment = {
      k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'VIRTUAL_ENV'))
    }
    environment |= {
      'GLOG_minloglevel': '3',
      'TF_CPP_MIN_LOG_LEVEL': '3',
      'CUDA_VISIBLE_DEVICES': '',
    }
    quiet = os.environ.get('EXP_JAX_MEDIAPIPE_QUIET', '1') == '1'
    return AnsweringProcess([str(interpreter()), str(_WORKER)], environment, quiet=quiet)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._process is not None:
      self._process.end()
      self._process = None

  def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds all faces of a uint8 RGB [H, W, 3] image.

    Returns:
      points: [faces, 478, 3] float32 pixels, largest face first.
      scores: [faces] detector scores.
      matte: [H, W] uint8.

    Raises:
      EstimatorFailed: the process failed twice; or three images before this one have ended so.
    """
    words = 'failed for several images'
    for _ in range(2 if self._failures < _MOST_FAILURES else 0):
      try:
        found = self._asked(np.ascontiguousarray(image, np.uint8))
        self._failures = 0
        return found
      except NoAnswer as error:
        words = str(error)
    self._failures += 1
    if 'cannot open shared object' in words:
      words = f'stopped: a system library is missing ({words.split("ImportError:")[-1].strip()})'
    raise EstimatorFailed(
      f'the landmark estimator {words}; run {setup_command()} again, or set {TIMEOUT} where it is '
      'only slow'
    )

  def _asked(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One request and its answer, checked; after anything else the process is ended.

    Raises NoAnswer.
    """
    if self._process is None:
      self._process, self._is_new = self._started(), True
    height, width = image.shape[:2]
    seconds = (_START if self._is_new else _ANSWER) + _PER_MEGAPIXEL * height * width / 1e6
    until, whole = time.monotonic() + time_limit(seconds), False
    try:
      self._process.send(struct.pack('<II', height, width), until)
      self._process.send(image.reshape(-1).data, until)
      (faces,) = struct.unpack('<I', self._process.read(4, until))
      if faces > _MOST_FACES:
        raise NoAnswer(f'answered nonsense: {faces} faces in one picture')
      points = np.frombuffer(self._process.read(faces * 478 * 3 * 4, until), np.float32).reshape(
        faces, 478, 3
      )
      scores = np.frombuffer(self._process.read(faces * 4, until), np.float32)
      matte = np.frombuffer(self._process.read(height * width, until), np.uint8).reshape(
        height, width
      )
      self._process.check_silence()
      if not (np.isfinite(points).all() and np.isfinite(scores).all()) or np.abs(points).max(
        initial=0
      ) > 100 * max(height, width):
        raise NoAnswer(
          'answered nonsense: points that are not finite, or far outside of the picture'
        )
      whole = True
    finally:
      if not whole:  # also after Ctrl-C: the rest of an answer would be taken for the next one
        self._process.end(0)
        self._process = None
    self._is_new = False
    return points, scores, matte


def observe(
  frames: np.ndarray,
  *,
  name: str,
  progress=lambda x: x,
  cache: pathlib.Path | None = None,
  estimator=None,
  face: int | None = None,
  near: tuple[float, float] | None = None,
) -> Observation:
  """Finds and follows one face of a clip.

  All faces of all frames are found first, then one is followed (`follow`), so that nobody who comes
  closer steals the track.

  Args:
    frames: [T, H, W, 3] uint8 RGB.
    name: what to call the input in messages.
    progress: wraps the frame iterator, such as tqdm.
    cache: folder of results by content hash.
    estimator: image -> faces [N, 478, 3], scores [N], matte [H, W] uint8 or None; None: MediaPipe's
      sidecar. Its `name`, `licence` and `digest` go into the record.
    face: which face of the first frame that has any, 0 the largest. near: or the one nearest to
      (x, y) pixels.

  Raises:
    UserError: no face in any frame, or in more than half of them, or no such face.
  """
  credit = {
    'estimator': getattr(estimator, 'name', ESTIMATOR),
    'licence': getattr(estimator, 'licence', 'Apache-2.0'),
    'digest': getattr(estimator, 'digest', ''),
  }
  key = content_key(
    frames,
    estimator=credit['estimator'],
    digest=credit['digest'],
    face=face,
    near=None if near is None else [float(n) for n in near],
  )
  stored = cache / f'{key}.npz' if cache else None
  if stored is not None and stored.is_file():
    with contextlib.suppress(UserError):  # a damaged file counts as absent
      return load_observation(stored)
  faces, mattes = [], []
  with contextlib.ExitStack() as stack:
    estimator = estimator or stack.enter_context(FaceEstimator())
    for image in progress(frames):
      points, _, matte = estimator(image)
      faces.append(np.asarray(points, np.float32)[:, :, :2])
      mattes.append(matte)
    if isinstance(estimator, FaceEstimator):
      credit['digest'] = weights_digest()
  points, warnings = follow(faces, name=name, face=face, near=near)
  found = seen(points)
  check_seen(found, name, least=0.5, what='picture')
  observation = make_observation(
    points,
    found=found,
    matte=None if mattes[0] is None else np.stack(mattes),
    name=name,
    image_size=frames.shape[1:3],
    estimator=credit['estimator'],
    warnings=warnings,
    provenance={'points': credit} | ({} if mattes[0] is None else {'matte': credit}),
  )
  if stored is not None:
    save_observation(stored, observation)
  return observation
