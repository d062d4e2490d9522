"""A list of photographs and clips: skip what is done, name what fails, go on; several in one
program where that pays."""

import contextlib
import functools
import os
import pathlib
import sys

import numpy as np
import tqdm

from exp_jax.errors import UserError, item_failure, one_line
from exp_jax.files.locks import only_one
from exp_jax.files.names import existing
from exp_jax.fitting.mesh_levels import BY_PIXELS, levels_for
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.preview import write_preview
from exp_jax.fitting.seen_clip import look_at
from exp_jax.fitting.subject import fit_clips
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import save_subject
from exp_jax.layers import batching
from exp_jax.media.footage import is_image, read_footage
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.observe.maps.map_sources import open_map_estimators
from exp_jax.observe.mediapipe_tasks import TaskEstimator
from exp_jax.observe.sources import read_observation


def part_of(inputs: list, part: str) -> list:
  """The inputs of part 'K/N', 0 <= K < N. Raises UserError for anything else."""
  first, _, count = part.partition('/')
  if not (first.isdecimal() and count.isdecimal() and int(first) < int(count)):
    raise UserError(f'--part must be K/N with 0 <= K < N, such as 0/4, got {part!r}')
  return inputs[int(first) :: int(count)]


def _check(inputs: list[pathlib.Path], config) -> None:
  """Raises UserError for an option out of range or two inputs of one name."""
  if config.offsets not in ('auto', 'yes', 'no'):
    raise UserError(f"config.offsets must be 'auto', 'yes' or 'no', got {config.offsets!r}")
  for name, low, high in (
    ('levels', BY_PIXELS, 4),
    ('size', 64, 4096),
    ('limit', 0, None),
    ('steps', 1, None),
    ('batch', 1, None),
    ('together', 0, None),
    ('focal', 0, None),
  ):
    if config[name] < low or high is not None and config[name] > high:
      raise UserError(
        f'config.{name} must be {f"in {low}..{high}" if high else f"at least {low}"}, got '
        f'{config[name]}'
      )
  stems = [path.stem for path in inputs]
  if twice := next((s for s in stems if stems.count(s) > 1), None):
    raise UserError(
      f'two inputs are called {twice!r} and would be written to one file; rename one of them'
    )


def _look(path: pathlib.Path, config, given, start, cache: pathlib.Path | None):
  """(path, frames, `SeenClip`) of one input.

  Without a folder of observations `start()` gives the estimator, else it is `given`.
  """
  clip = read_footage(path, limit=config.limit or None)
  estimator = given if config.observations else start()
  seen = (
    existing(pathlib.Path(config.observations) / f'{path.stem}.npz')
    if config.observations
    else None
  )
  observation = (
    None
    if seen is None
    else read_observation(
      seen, image_size=clip.frames.shape[1:3], num_frames=len(clip.frames), name=path.stem
    )
  )
  return (
    path,
    clip.frames,
    look_at(
      clip.frames,
      name=path.stem,
      rate=float(clip.rate),
      size=config.size,
      face=config.face if config.face >= 0 else None,
      focal=config.focal or None,
      observation=observation,
      cache=cache,
      estimator=estimator,
      progress=functools.partial(
        tqdm.tqdm, desc=f'observe {path.name[:40]}', unit='frame', leave=False
      ),
    ),
  )


def fit_files(
  inputs: list[pathlib.Path], output: pathlib.Path, config, *, again: bool = False
) -> list[str]:
  """Fits each input into output/<stem>.npz; returns the names of those that failed.

  Raises:
    UserError: for an unusable config (bad head, bad option), inputs of equal names, or one that
      another process fits into that folder, before any is read.
  """
  _check(inputs, config)
  head = load_head(config.head)
  dense = densify(head, levels_for(head, config.size, config.levels))
  networks = open_map_estimators(config.networks)
  todo, failed = [], []
  together = batching.at_once(config.together)
  cache = pathlib.Path(config.cache) if config.cache else None

  def fail(path, error):
    tqdm.tqdm.write(f'error: {item_failure(path.name, error)}', file=sys.stderr)
    failed.append(os.fspath(path))

  write = functools.partial(_write, output, head, dense)

  def finish(waiting):
    """Fits and writes what was looked at; where that fails for several together, one by one, to
    tell whose fault it is."""
    try:
      results = fit_clips(
        [clip for _, _, clip in waiting],
        head=head,
        dense=dense,
        map_estimators=networks,
        cache=cache,
        offsets={'auto': None, 'yes': True, 'no': False}[config.offsets],
        options=OffsetOptions(steps=config.steps, batch=config.batch),
      )
    except Exception as error:
      if len(waiting) > 1:
        for one in waiting:
          finish([one])
        return
      results = [error]
    for (path, frames, _), fitted in zip(waiting, results):
      try:
        if isinstance(fitted, Exception):
          raise fitted
        write(path, frames, fitted)
      except Exception as error:  # the item's failure, whatever a library raises; the others go on
        fail(path, error)

  with contextlib.ExitStack() as stack:
    for path in inputs:
      target = output / f'{path.stem}.npz'
      if target.is_file() and not again:
        tqdm.tqdm.write(f'{one_line(target)} exists, skipped (--again fits it again)')
        continue
      stack.enter_context(only_one(target, folder=False))
      todo.append(path)
    given, waiting = (
      stack.enter_context(TaskEstimator(config.landmark_model)) if config.landmark_model else None,
      [],
    )
    start = functools.cache(lambda: given or stack.enter_context(FaceEstimator()))
    for path in tqdm.tqdm(todo, desc='fit', unit='input', disable=len(todo) == 1):
      try:
        waiting.append(_look(path, config, given, start, cache))
      except Exception as error:  # as in `finish`
        fail(path, error)
      if len(waiting) >= together:
        finish(waiting)
        waiting = []
    if waiting:
      finish(waiting)
  return failed


def _write(output: pathlib.Path, head, dense, path: pathlib.Path, frames, fitted) -> None:
  """The preview, then the subject file: its presence says that all is done."""
  target = output / f'{path.stem}.npz'
  preview = write_preview(output, fitted, frames, head, dense, still=is_image(path))
  save_subject(target, fitted.subject)
  error = 100 * float(np.median(fitted.coarse.error))
  for warning in fitted.observation.warnings:
    tqdm.tqdm.write(one_line(f'warning: {warning}'), file=sys.stderr)
  tqdm.tqdm.write(
    one_line(f'{target}: landmark error {error:.1f} % of the eye distance; look at {preview}')
  )
  if fitted.subject.detail == 'none':
    tqdm.tqdm.write(
      f'{one_line(target)}: no personalized head, the linear model alone: nothing here sees the '
      'normals of a clip; name networks by --config.networks, or say --config.offsets=yes to fit '
      'by outline and colours',
      file=sys.stderr,
    )
