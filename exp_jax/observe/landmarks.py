"""Face landmarks and person matte of images and clips, by MediaPipe in a process of its own.

Licence of the estimator: MediaPipe and the models its wheel carries are Apache-2.0. `make setup` installs the
pinned wheel into .venv-mediapipe; EXP_JAX_MEDIAPIPE names another interpreter that has it.
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
from exp_jax.observe.observation import Observation, load_observation, save_observation

ESTIMATOR = 'mediapipe 0.10.21 face_mesh refined + selfie_segmentation'
_ROOT = pathlib.Path(__file__).parents[2]
_WORKER = pathlib.Path(__file__).with_name('mediapipe_worker.py')


def interpreter() -> pathlib.Path:
  """The Python that has MediaPipe; UserError with the remedy if there is none."""
  path = pathlib.Path(os.environ.get('EXP_JAX_MEDIAPIPE', _ROOT / '.venv-mediapipe' / 'bin' / 'python'))
  if not path.exists():
    raise UserError(f'the landmark estimator is not installed ({path.name} of .venv-mediapipe is missing); '
                    'run `make setup`, or set EXP_JAX_MEDIAPIPE to a Python with mediapipe==0.10.21')
  return path


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
      raise UserError(f'the landmark estimator stopped: {self._last_words()}; run `make setup` again') from None
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
            estimator: FaceEstimator | None = None) -> Observation:
  """Follows the largest face of a clip.

  In the first frame the largest face is taken; afterwards the one nearest to the last position, so that a
  second person who comes closer does not steal the track.

  Args:
    frames: [T, H, W, 3] uint8 RGB.
    name: what to call the input in messages.
    progress: wraps the frame iterator, such as tqdm.
    cache: folder of results by content hash.

  Raises:
    UserError: no face in any frame, or in more than half of them.
  """
  digest = hashlib.sha256(ESTIMATOR.encode() + np.ascontiguousarray(frames).tobytes()).hexdigest()[:24]
  stored = cache / f'{digest}.npz' if cache else None
  if stored is not None and stored.is_file():
    return load_observation(stored)
  points, mattes = [], []
  with contextlib.ExitStack() as stack:
    estimator = estimator or stack.enter_context(FaceEstimator())
    last = None
    for image in progress(frames):
      faces, _, matte = estimator(image)
      mattes.append(matte)
      if len(faces):
        centers = faces[:, :, :2].mean(1)
        last = faces[0 if last is None else np.argmin(np.linalg.norm(centers - last, axis=1))][:, :2]
        points.append(last)
        last = last.mean(0)
      else:
        points.append(None)
  found = np.array([p is not None for p in points])
  if not found.any():
    raise UserError(f'no face found in {name}; use a picture where one face is clearly visible')
  if found.mean() < 0.5:
    raise UserError(f'a face was found in only {found.sum()} of {len(found)} frames of {name}; '
                    'cut the clip to where the face is visible')
  seen = np.flatnonzero(found)
  nearest = seen[np.abs(np.arange(len(points))[:, None] - seen[None]).argmin(1)]
  observation = Observation(np.stack([points[i] for i in nearest]), found, np.stack(mattes),
                            tuple(frames.shape[1:3]), ESTIMATOR)
  if stored is not None:
    save_observation(stored, observation)
  return observation
