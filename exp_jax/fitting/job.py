"""A list of photographs and clips fitted one after the other: skip what is done, name what fails, go on."""

import functools
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from PIL import Image, ImageDraw

from exp_jax.controls.maps import control_maps, full_offsets, own_motion
from exp_jax.errors import UserError
from exp_jax.fitting.offsets import OffsetOptions
from exp_jax.fitting.subject import FittedClip, fit_frames
from exp_jax.geometry import project
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.model import HeadModel, load_head
from exp_jax.heads.personalized import save_subject
from exp_jax.heads.skinning import head_landmarks
from exp_jax.media.footage import is_image, read_footage
from exp_jax.media.images import contact_sheet, write_image
from exp_jax.media.video import write_video
from exp_jax.observe.landmarks import FaceEstimator


def fit_files(inputs: list[pathlib.Path], output: pathlib.Path, config, *, again: bool = False) -> list[str]:
  """Fits each input into output/<stem>.npz; returns the names of those that failed.

  Raises:
    UserError: for an unusable config (bad head, bad option) or inputs of equal names, before any is read.
  """
  if config.offsets not in ('auto', 'yes', 'no'):
    raise UserError(f"config.offsets must be 'auto', 'yes' or 'no', got {config.offsets!r}")
  for name, low, high in (('levels', 0, 4), ('size', 64, 4096), ('limit', 0, None), ('steps', 1, None),
                          ('batch', 1, None)):
    if config[name] < low or high is not None and config[name] > high:
      raise UserError(f'config.{name} must be {f"in {low}..{high}" if high else f"at least {low}"}, got {config[name]}')
  stems = [path.stem for path in inputs]
  if twice := next((s for s in stems if stems.count(s) > 1), None):
    raise UserError(f'two inputs are called {twice!r} and would be written to one file; rename one of them')
  head = load_head(config.head)
  dense = densify(head, config.levels)
  failed, estimator = [], None
  try:
    for path in tqdm.tqdm(inputs, desc='fit', unit='input', disable=len(inputs) == 1):
      target = output / f'{path.stem}.npz'
      if target.is_file() and not again:
        tqdm.tqdm.write(f'{target} exists, skipped (--again fits it again)')
        continue
      try:
        clip = read_footage(path, limit=config.limit or None)
        estimator = estimator or FaceEstimator()
        fitted = fit_frames(
          clip.frames, name=path.stem, rate=float(clip.rate), head=head, dense=dense, size=config.size,
          offsets={'auto': None, 'yes': True, 'no': False}[config.offsets], estimator=estimator,
          options=OffsetOptions(steps=config.steps, batch=config.batch),
          progress=functools.partial(tqdm.tqdm, desc=f'observe {path.name[:40]}', unit='frame', leave=False))
        preview = write_preview(output, fitted, clip.frames, head, dense, still=is_image(path))
        save_subject(target, fitted.subject)   # last: its presence says that all is done
        error = 100 * float(jnp.median(fitted.coarse.error))
        tqdm.tqdm.write(f'{target}: landmark error {error:.1f} % of the eye distance; look at {preview}')
      except UserError as error:
        tqdm.tqdm.write(f'error: {error}', file=sys.stderr)
        failed.append(os.fspath(path))
  finally:
    if estimator is not None:
      estimator.__exit__()
  return failed


def overlay(photo: np.ndarray, normals: np.ndarray) -> np.ndarray:
  """The fitted head as translucent clay on the photograph, uint8 [H, W, 3]."""
  inside = normals.any(-1, keepdims=True)
  normal = normals.astype(np.float32) / 127.5 - 1
  light = np.clip(0.2 + 0.8 * np.clip(normal @ np.array([0.3, 0.35, 0.89]), 0, 1), 0, 1)[..., None] * 255
  return np.where(inside, 0.45 * photo + 0.55 * light, photo).astype(np.uint8)


def write_preview(output: pathlib.Path, fitted: FittedClip, frames: np.ndarray, head: HeadModel, dense: Dense, *,
                  still: bool) -> pathlib.Path:
  """Input, landmarks (green seen, red fitted), head over input, normals: one PNG or an mp4."""
  subject = fitted.subject
  normals = control_maps(head, dense, subject, own_motion(subject), full_offsets(subject), size=subject.image_size[0])
  project_landmarks = jax.jit(lambda params: project(head_landmarks(head, params), fitted.coarse.camera())[0])

  def row(i):
    photo = fitted.crop.cut(frames[i])
    marked = Image.fromarray(photo)
    draw = ImageDraw.Draw(marked)
    for points, colour in ((fitted.observation.points[i], (40, 220, 40)),
                           (np.asarray(project_landmarks(fitted.coarse.params(i))), (235, 40, 40))):
      for x, y in points:
        draw.ellipse([x - 1, y - 1, x + 1, y + 1], fill=colour)
    return [photo, np.array(marked), overlay(photo, normals[i]), normals[i]]

  if still:
    path = output / f'{subject.subject_id}_preview.png'
    write_image(path, contact_sheet(row(0), columns=4))
  else:
    path = output / f'{subject.subject_id}_preview.mp4'
    write_video(path, (np.concatenate(row(i), axis=1) for i in range(len(frames))), subject.fps)
  return path
