"""What may draw an animation beside the textured preview: exports of two tasks, told apart here and
nowhere else.

expportrait/dit       samples a video window by window, at the size that it was trained at
expportrait/retouch   repairs the preview frame by frame, at the portrait's own size
"""

import collections.abc
import dataclasses
import json
import os
import pathlib

import numpy as np

from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.systems.expportrait.drawing import dit_frames
from exp_jax.systems.expportrait.generator.loading import Generator, load_generator
from exp_jax.systems.expportrait.options import Options
from exp_jax.systems.expportrait.portrait import Portrait
from exp_jax.systems.expportrait.retouch.retoucher import (
  TASK,
  Retoucher,
  load_retoucher,
  retouched_frames,
)


def open_generator(path: str | os.PathLike, *, vae: str | None = None) -> Generator | Retoucher:
  """Loads an export of one of the two tasks, as its config says; `vae` replaces what a video
  model's config says of its autoencoder.

  Raises:
    UserError: it is missing, damaged or of another task; or an autoencoder is given to one that has
      none.
  """
  if _task(pathlib.Path(path)) != TASK:
    return load_generator(path, vae_path=vae)
  if vae is not None:
    raise UserError(
      f'--vae belongs to a video model of latents; {path} is an export of {TASK}, which has none'
    )
  return load_retoucher(path)


def _task(export: pathlib.Path) -> str:
  """What an export says it is of; '' where it does not, which its loader complains of."""
  try:
    return str(json.loads((export / 'config.json').read_text())['task'])
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return ''


def sampling_record(generator: Generator | Retoucher, sampling: dict) -> dict:
  """What a record says of how frames were sampled: {} of a generator that samples nothing.

  UserError as of its `sampling`.
  """
  chosen = generator.sampling(**sampling)
  return (
    {}
    if chosen is None
    else {
      'sampling': dataclasses.asdict(chosen) | {'negative_prompt': generator.negative is not None}
    }
  )


def generated_frames(
  generator: Generator | Retoucher,
  portrait: Portrait,
  motion: Motion,
  dynamic,
  head: HeadModel,
  dense: Dense,
  *,
  seed: int,
  sampling: dict,
) -> collections.abc.Iterator[np.ndarray]:
  """Yields the frames of a motion: float in 0..1 at the trained size of a video model, or uint8 at
  the portrait's size.

  Args:
    sampling: fields of `Sampling` that were chosen. The others as of `dit_frames` and
      `retouched_frames`.
  """
  if isinstance(generator, Retoucher):
    generator.sampling(**sampling)
    return retouched_frames(generator, portrait, motion, dynamic, head, dense)
  return dit_frames(
    generator,
    portrait,
    motion,
    dynamic,
    head,
    dense,
    seed=seed,
    **dataclasses.asdict(generator.sampling(**sampling)),
  )


def check_options(options: Options, generator) -> None:
  """UserError for what is no options, or what the loaded engine would not do."""
  if not isinstance(options, Options):
    raise UserError(
      f'options must be expportrait.options.Options, got {type(options).__qualname__}'
    )
  if generator is None and options.sampling:
    raise UserError(
      f'--{next(iter(options.sampling))} belongs to --engine dit, a video model; the textured '
      'preview samples nothing'
    )
  if generator is not None:
    if options.several:
      raise UserError(
        f'--face {options.face} is drawn by the textured preview (--engine proxy); a video model '
        'draws one face'
      )
    generator.sampling(**options.sampling)
