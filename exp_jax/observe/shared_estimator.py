"""One landmark estimator for all threads of a process."""

import threading

import numpy as np

from exp_jax.errors import UserError
from exp_jax.observe.landmarks import FaceEstimator


class SharedEstimator:
  """A landmark estimator that starts when it is first asked, answers one thread at a time, and
  starts anew after a failure; see `FaceEstimator` for what it answers."""

  def __init__(self):
    self._lock, self._own = threading.Lock(), None

  def __call__(self, image: np.ndarray):
    with self._lock:
      self._own = self._own or FaceEstimator()
      try:
        return self._own(image)
      except UserError:
        self._end()
        raise

  def close(self) -> None:
    with self._lock:
      self._end()

  def _end(self) -> None:
    if self._own is not None:
      own, self._own = self._own, None
      own.__exit__()
