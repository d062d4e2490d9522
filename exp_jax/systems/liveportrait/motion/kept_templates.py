"""Drivers that were read, in a folder, so that an animation that was interrupted does not watch its
clip again.

DIR/<key>.frames.npz   kept [T] numbers of the clip's frames; words: what was said when it was read
DIR/<key>.npz          the motion template, written last: where it is, both are
"""

import contextlib
import pathlib
from collections.abc import Callable

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.npz import read_npz, write_npz
from exp_jax.systems.liveportrait.motion.templates import Template, load_template, save_template


def kept_template(
  folder: pathlib.Path,
  key: str,
  make: Callable[[Callable[[str], None]], tuple[Template, np.ndarray]],
  warn: Callable[[str], None],
) -> tuple[Template, np.ndarray]:
  """The motion of that key out of the folder, the same bits; or read now and put there.

  Args:
    folder: made if it is missing.
    key: of `digests.key_of`.
    make: reads the driver, given whom to warn: (template, [T] numbers of the frames that are in
      it).
    warn: called again with what was said when it was read.
  """
  path, frames = folder / f'{key}.npz', folder / f'{key}.frames.npz'
  if path.is_file() and frames.is_file():
    with contextlib.suppress(UserError, KeyError, ValueError):  # damaged counts as absent
      template, found = load_template(path), read_npz(frames)
      if found['kept'].shape == (len(template),):
        for words in found['words'].tolist():
          warn(words)
        return template, found['kept']
  said = []

  def told(words):
    said.append(words)
    warn(words)

  template, kept = make(told)
  folder.mkdir(parents=True, exist_ok=True)
  write_npz(frames, {'kept': np.asarray(kept), 'words': np.array(said, 'U')})
  save_template(path, template)
  return template, kept
