"""Tracked drivers in a folder, so that an animation that was interrupted does not watch its clip
again.

DIR/<key>.frames.npz   times [T] seconds, kept [T] frame numbers, rate (text), whole: what a subject file does not hold exactly
DIR/<key>.npz          the subject file, written last: where it is, both are
"""

import contextlib
import fractions
import json
import pathlib
from collections.abc import Callable

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz, write_npz
from exp_jax.fitting.tracked_driver import Driver
from exp_jax.heads.personalized import load_subject, save_subject


def kept_driver(
  folder: pathlib.Path, key: str, make: Callable[[], Driver], warn: Callable[[str], None]
) -> Driver:
  """The driver of that key out of the folder, the same bits; or made now and put there.

  Args:
    folder: made if it is missing.
    key: of `digests.key_of`.
    make: tracks the driver.
    warn: is told again what was said when it was tracked.
  """
  path, frames = folder / f'{key}.npz', folder / f'{key}.frames.npz'
  if path.is_file() and frames.is_file():
    with contextlib.suppress(UserError, KeyError, ValueError):  # damaged counts as absent
      subject, found = load_subject(path), read_npz(frames)
      driver = Driver(
        subject,
        found['times'].astype(np.float64),
        fractions.Fraction(str(found['rate'])),
        found['kept'].astype(int),
        bool(found['whole']),
      )
      if len(driver.times) == len(driver.kept) == subject.num_frames:
        for words in json.loads(subject.report).get('warnings', []):
          warn(words)
        return driver
  driver = make()
  write_npz(
    frames,
    {
      'times': np.asarray(driver.times, np.float64),
      'kept': np.asarray(driver.kept),
      'rate': np.array(str(driver.rate)),
      'whole': np.array(driver.whole),
    },
  )
  save_subject(path, driver.subject)
  return driver
