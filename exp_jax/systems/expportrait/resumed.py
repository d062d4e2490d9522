"""A motion and its dynamic offsets from a frame on, for an animation that was interrupted.

Offsets are made by blocks of the whole motion, so that frames are the same bits wherever drawing
begins.
"""

import dataclasses

import numpy as np

from exp_jax.controls.reenact import Motion
from exp_jax.fitting.tracked_driver import Driver
from exp_jax.performance.kept_frames import content_key
from exp_jax.systems.expportrait.portrait import Portrait
from exp_jax.systems.expportrait.retouch.retoucher import Retoucher


class _Later:
  """Dynamic offsets [T - first, N, 3] of a motion's later frames, made when asked for."""

  def __init__(self, dynamic, first: int):
    self._dynamic, self._first = dynamic, first

  def __len__(self):
    return len(self._dynamic) - self._first

  def __getitem__(self, frame: int) -> np.ndarray:
    return self._dynamic[int(frame) + self._first]


def from_frame(motion: Motion, dynamic, first: int) -> tuple[Motion, object]:
  """Frames `first`.. of a motion [T] and of its dynamic offsets [T, N, 3] or None."""
  cut = Motion(*(getattr(motion, field.name)[first:] for field in dataclasses.fields(Motion)))
  return cut, None if dynamic is None else _Later(dynamic, first)


def can_begin_anywhere(generator) -> bool:
  """Whether frames do not depend on those before them: of the textured preview (None) and of what
  repairs it, not of a video model, whose windows overlap."""
  return generator is None or isinstance(generator, Retoucher)


def frames_key(portraits: list[Portrait], motions, *about) -> str:
  """The key of what is kept of a result: by the numbers of portraits and motions (or of the driver)
  themselves, and what else there is to tell; see `performance.kept_frames.content_key`."""
  without_report = [  # which holds seconds
    dataclasses.replace(each, subject=dataclasses.replace(each.subject, report=''))
    for each in portraits
  ]
  return content_key(without_report, motions, *about)


def motion_of(driver: Driver) -> list:
  """What of a driver moves a portrait, for `frames_key`: as it is when it was read from a file
  again."""
  subject = driver.subject
  numbers = subject.shape, subject.expression, subject.pose, subject.translation
  return [*(np.asarray(each, np.float32) for each in numbers), driver.times, str(driver.rate)]
