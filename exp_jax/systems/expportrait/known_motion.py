"""Drivers whose motion is known already: a motion file, or a clip with its subject file."""

import dataclasses
import itertools
import pathlib

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.digests import file_digest
from exp_jax.fitting.tracked_driver import Driver
from exp_jax.performance.inputs import Footage


@dataclasses.dataclass(frozen=True)
class KnownMotion:
  """A driver whose motion is known: its subject file, and the clip it was fitted to where that is
  at hand."""

  path: pathlib.Path
  clip: Footage | None

  @property
  def digest(self) -> str:
    return file_digest(self.path) if self.clip is None else self.clip.digest


def times_of(driver: Driver, clip: Footage, limit: int | None, stride: int) -> Driver:
  """A clip that was fitted before, with the exact times of its frames.

  Raises:
    UserError: the clip has another number of frames than its subject.
  """
  times = np.array(
    [
      time
      for _, time in itertools.islice(
        clip.frames(), 0, None if limit is None else stride * limit, stride
      )
    ]
  )
  if len(times) != len(driver.times):
    raise UserError(
      f'{clip.name} has {len(times)} frames, its subject file {len(driver.times)}; fit it again'
    )
  return dataclasses.replace(driver, times=times, rate=clip.rate / stride)
