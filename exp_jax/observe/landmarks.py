"""Face landmarks and person matte of images and clips, by MediaPipe in a process of its own.

Licence of the estimator: MediaPipe and the models its wheel carries are Apache-2.0. Its environment is made by
`exp_jax.observe.sidecar`; EXP_JAX_MEDIAPIPE names another interpreter that has it.
"""

import contextlib
import hashlib
import os
import pathlib
import struct
import subprocess
import threading

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.array_cache import content_key
from exp_jax.files.resources import setup_command
from exp_jax.observe import sidecar
from exp_jax.observe.observation import Observation, load_observation, make_observation, save_observation
from exp_jax.observe.people import check_seen, follow, seen

ESTIMATOR = 'mediapipe 0.10.21 face_mesh refined + selfie_segmentation'
_NETWORKS = ('face_detection', 'face_landmark', 'selfie_segmentation')
_WORKER = pathlib.Path(__file__).with_name('mediapipe_worker.py')


def interpreter() -> pathlib.Path:
  """The Python that has MediaPipe; UserError with the remedy if there is none."""
  path = sidecar.python()
  if not path.exists():
    raise UserError(f'the landmark estimator is not installed ({path} is missing); run {setup_command()}, '
                    'or set EXP_JAX_MEDIAPIPE to a Python with mediapipe==0.10.21')
  return path


def weights_digest() -> str:
  """sha256 over the networks that the sidecar's wheel carries, '' where they are not found beside it."""
  packages = interpreter().parent.parent.glob('lib/python*/site-packages/mediapipe/modules')
  networks = sorted(path for folder in packages for part in _NETWORKS for path in (folder / part).glob('*.tflite'))
  digest = hashlib.sha256()
  for path in networks:
    digest.update(path.name.encode() + path.read_bytes())
  return digest.hexdigest() if networks else ''


class FaceEstimator:
  """A running MediaPipe process; use it as a context manager and call it with images."""

  def __init__(self):
    answers, sink = os.pipe()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'VIRTUAL_ENV'))}
    environment |= {'GLOG_minloglevel': '3', 'TF_CPP_MIN_LOG_LEVEL': '3', 'CUDA_VISIBLE_DEVICES': ''}
    self._process = subprocess.Popen(
      [str(interpreter()), str(_WORKER), str(sink)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE if os.environ.get('EXP_JAX_MEDIAPIPE_QUIET', '1') == '1' else None,
      pass_fds=(sink,), env=environment)
    os.close(sink)
    self._answers = os.fdopen(answers, 'rb')
    # MediaPipe is talkative; a full pipe would stop it, so its words are kept short by a reader thread.
    self._words = _Tail(self._process.stderr) if self._process.stderr else None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._answers.close()
    try:
      self._process.wait(5)
    except subprocess.TimeoutExpired:
      self._process.kill()

  def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds all faces of a uint8 RGB [H, W, 3] image.

    Returns:
      points: [faces, 478, 3] float32 pixels, largest face first.
      scores: [faces] detector scores.
      matte: [H, W] uint8.
    """
    height, width = image.shape[:2]
    try:
      self._process.stdin.write(struct.pack('<II', height, width) + np.ascontiguousarray(image).tobytes())
      self._process.stdin.flush()
      (faces,) = struct.unpack('<I', self._read(4))
    except (BrokenPipeError, struct.error):
      raise UserError(f'the landmark estimator stopped: {self._last_words()}; run {setup_command()} again') from None
    points = np.frombuffer(self._read(faces * 478 * 3 * 4), np.float32).reshape(faces, 478, 3)
    scores = np.frombuffer(self._read(faces * 4), np.float32)
    matte = np.frombuffer(self._read(height * width), np.uint8).reshape(height, width)
    return points, scores, matte

  def _read(self, count: int) -> bytes:
    return self._answers.read(count) if count else b''

  def _last_words(self) -> str:
    words = self._words.last() if self._words else ''
    if 'cannot open shared object' in words:
      return f'a system library is missing ({words.split("ImportError:")[-1].strip()})'
    return words or f'exit status {self._process.wait(5)}'


class _Tail:
  """Drains a pipe in the background and remembers its last line."""

  def __init__(self, pipe):
    self._line = ''
    self._thread = threading.Thread(target=self._drain, args=(pipe,), daemon=True)
    self._thread.start()

  def _drain(self, pipe):
    for line in pipe:
      self._line = line.decode(errors='replace').strip() or self._line

  def last(self) -> str:
    self._thread.join(2)
    return self._line


def observe(frames: np.ndarray, *, name: str, progress=lambda x: x, cache: pathlib.Path | None = None,
            estimator=None, face: int | None = None, near: tuple[float, float] | None = None) -> Observation:
  """Finds and follows one face of a clip.

  All faces of all frames are found first, then one is followed (`follow`), so that nobody who comes closer
  steals the track.

  Args:
    frames: [T, H, W, 3] uint8 RGB.
    name: what to call the input in messages.
    progress: wraps the frame iterator, such as tqdm.
    cache: folder of results by content hash.
    estimator: image -> faces [N, 478, 3], scores [N], matte [H, W] uint8 or None; None: MediaPipe's sidecar.
      Its `name`, `licence` and `digest` go into the record.
    face: which face of the first frame that has any, 0 the largest. near: or the one nearest to (x, y) pixels.

  Raises:
    UserError: no face in any frame, or in more than half of them, or no such face.
  """
  credit = {'estimator': getattr(estimator, 'name', ESTIMATOR),
            'licence': getattr(estimator, 'licence', 'Apache-2.0'), 'digest': getattr(estimator, 'digest', '')}
  key = content_key(frames, estimator=credit['estimator'], digest=credit['digest'], face=face,
                    near=None if near is None else [float(n) for n in near])
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
    points, found=found, matte=None if mattes[0] is None else np.stack(mattes), name=name,
    image_size=frames.shape[1:3], estimator=credit['estimator'], warnings=warnings,
    provenance={'points': credit} | ({} if mattes[0] is None else {'matte': credit}))
  if stored is not None:
    save_observation(stored, observation)
  return observation
