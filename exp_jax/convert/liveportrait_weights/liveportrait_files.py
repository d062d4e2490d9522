"""LivePortrait's files: dictionaries of dictionaries of tensors, and motion templates.

Nothing in them is run.

A .pth is read by `torch_files`; it may hold dictionaries inside, whose names are joined by dots.

A template is a pickle {n_frames, output_fps, motion: [{scale (1, 1), R (1, 3, 3), exp (1, 21, 3), t
(1, 3), kp, x_s}], c_eyes_lst [(1, 2)], c_lip_lst [(1, 1)]}. Older ones say R_d, c_d_eyes_lst and
c_d_lip_lst; those of animals have no ratios.
"""

import fractions
import io
import os
import pathlib

import numpy as np

from exp_jax.convert.foreign.pickle_reader import Inert, Reader, Refused, refusing
from exp_jax.convert.wan_weights.wan_files import Checkpoint, is_torch, open_checkpoint, open_torch
from exp_jax.errors import UserError
from exp_jax.systems.liveportrait.motion.templates import Template
from exp_jax.systems.liveportrait.networks.motion import KEYPOINTS, Motion

_MOST_FRAMES = 1_000_000


def open_nested(path: pathlib.Path) -> Checkpoint:
  """A file of torch.save or .safetensors as one flat dictionary of tensors; UserError if it is
  neither."""
  return open_torch(path, joined=True) if is_torch(path) else open_checkpoint(path)


def read_template(path: str | os.PathLike) -> Template:
  """A motion template out of its pickle.

  Raises:
    UserError: no such file, not a template, values that are missing, of another shape or not
      finite.
  """
  try:
    content = pathlib.Path(path).read_bytes()
  except (FileNotFoundError, IsADirectoryError):
    raise UserError(f'no such file: {path}') from None
  with refusing(path, 'a motion template'):
    loaded = Reader(io.BytesIO(content), len(content)).load()
  if (
    not isinstance(loaded, dict)
    or not isinstance(loaded.get('motion'), list)
    or not loaded['motion']
  ):
    raise UserError(f'{path} is no motion template: it holds no list of motions')
  frames = loaded['motion'][:_MOST_FRAMES]

  def column(keys, shape, rows, what):
    out = []
    for i, row in enumerate(rows):
      value = next((row[k] for k in keys if k in row), None) if isinstance(row, dict) else row
      value = value.real() if hasattr(value, 'real') and isinstance(value, Inert) else value
      array = (
        np.asarray(value, np.float32) if isinstance(value, np.ndarray) else np.zeros(0, np.float32)
      )
      if array.size != int(np.prod(shape)) or not np.isfinite(array).all():
        raise UserError(f'{path}: {what} of frame {i} is missing, of another shape or not finite')
      out.append(array.reshape(shape))
    return np.stack(out)

  some = lambda *keys: next(
    (loaded[k] for k in keys if isinstance(loaded.get(k), list) and loaded[k]), None
  )
  eyes, lip = some('c_eyes_lst', 'c_d_eyes_lst'), some('c_lip_lst', 'c_d_lip_lst')
  points = (KEYPOINTS, 3)
  canonical = (
    column(('kp',), points, frames, 'kp')
    if 'kp' in frames[0]
    else np.zeros((len(frames), *points), np.float32)
  )
  try:
    motion = Motion(
      canonical,
      column(('R', 'R_d'), (3, 3), frames, 'R'),
      column(('exp',), points, frames, 'exp'),
      column(('scale',), (), frames, 'scale'),
      column(('t',), (3,), frames, 't'),
    )
    eyes = eyes and column((), (2,), eyes[: len(frames)], 'the eye ratio')
    lip = lip and column((), (), lip[: len(frames)], 'the lip ratio')
  except Refused as error:
    raise UserError(f'{path} is refused as a motion template: {error}') from None
  rate = loaded.get('output_fps', 25)
  rate = rate.real() if isinstance(rate, Inert) and hasattr(rate, 'real') else rate
  if not isinstance(rate, (int, float, np.number)) or not 0 < float(rate) <= 1000:
    raise UserError(f'{path}: output_fps is {rate!r}, expected frames a second')
  return Template(motion, fractions.Fraction(float(rate)).limit_denominator(100_000), eyes, lip)
