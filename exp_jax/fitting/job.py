"""A list of photographs and clips: skip what is done, name what fails, go on; several in one program where that pays."""

import contextlib
import functools
import os
import pathlib
import sys

import jax.numpy as jnp
import tqdm

from exp_jax.errors import UserError
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
from exp_jax.observe.maps import load_map_estimator
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
  for name, low, high in (('levels', 0, 4), ('size', 64, 4096), ('limit', 0, None), ('steps', 1, None),
                          ('batch', 1, None), ('together', 0, None), ('focal', 0, None)):
    if config[name] < low or high is not None and config[name] > high:
      raise UserError(f'config.{name} must be {f"in {low}..{high}" if high else f"at least {low}"}, got {config[name]}')
  stems = [path.stem for path in inputs]
  if twice := next((s for s in stems if stems.count(s) > 1), None):
    raise UserError(f'two inputs are called {twice!r} and would be written to one file; rename one of them')


def fit_files(inputs: list[pathlib.Path], output: pathlib.Path, config, *, again: bool = False) -> list[str]:
  """Fits each input into output/<stem>.npz; returns the names of those that failed.

  Raises:
    UserError: for an unusable config (bad head, bad option) or inputs of equal names, before any is read.
  """
  _check(inputs, config)
  head = load_head(config.head)
  dense = densify(head, config.levels)
  networks = tuple(load_map_estimator(path) for path in config.networks.split(',') if path)
  failed = []
  together = batching.at_once(config.together)
  cache = pathlib.Path(config.cache) if config.cache else None

  def fail(path, error):
    tqdm.tqdm.write(f'error: {error}', file=sys.stderr)
    failed.append(os.fspath(path))

  def finish(waiting):
    """Fits and writes what was looked at; the subject file last: its presence says that all is done."""
    results = fit_clips(
      [clip for _, _, clip in waiting], head=head, dense=dense, map_estimators=networks, cache=cache,
      offsets={'auto': None, 'yes': True, 'no': False}[config.offsets],
      options=OffsetOptions(steps=config.steps, batch=config.batch))
    for (path, frames, _), fitted in zip(waiting, results):
      if isinstance(fitted, UserError):
        fail(path, fitted)
        continue
      target = output / f'{path.stem}.npz'
      preview = write_preview(output, fitted, frames, head, dense, still=is_image(path))
      save_subject(target, fitted.subject)
      error = 100 * float(jnp.median(fitted.coarse.error))
      for warning in fitted.observation.warnings:
        tqdm.tqdm.write(f'warning: {warning}', file=sys.stderr)
      tqdm.tqdm.write(f'{target}: landmark error {error:.1f} % of the eye distance; look at {preview}')
      if fitted.subject.detail == 'none':
        tqdm.tqdm.write(f'{target}: no personalized head, the linear model alone: nothing here sees the normals of a clip; name '
                        'networks by --config.networks, or say --config.offsets=yes to fit by outline and colours', file=sys.stderr)

  with contextlib.ExitStack() as stack:
    estimator, waiting = stack.enter_context(TaskEstimator(config.landmark_model)) if config.landmark_model else None, []
    for path in tqdm.tqdm(inputs, desc='fit', unit='input', disable=len(inputs) == 1):
      target = output / f'{path.stem}.npz'
      if target.is_file() and not again:
        tqdm.tqdm.write(f'{target} exists, skipped (--again fits it again)')
        continue
      try:
        clip = read_footage(path, limit=config.limit or None)
        if not config.observations:
          estimator = estimator or stack.enter_context(FaceEstimator())
        seen = pathlib.Path(config.observations) / f'{path.stem}.npz' if config.observations else None
        observation = None if seen is None else read_observation(
          seen, image_size=clip.frames.shape[1:3], num_frames=len(clip.frames), name=path.stem)
        waiting.append((path, clip.frames, look_at(
          clip.frames, name=path.stem, rate=float(clip.rate), size=config.size,
          face=config.face if config.face >= 0 else None, focal=config.focal or None, observation=observation, cache=cache,
          estimator=estimator,
          progress=functools.partial(tqdm.tqdm, desc=f'observe {path.name[:40]}', unit='frame', leave=False))))
      except UserError as error:
        fail(path, error)
      if len(waiting) >= together:
        finish(waiting)
        waiting = []
    if waiting:
      finish(waiting)
  return failed
