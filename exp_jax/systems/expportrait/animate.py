"""Files in, files out: a portrait and a driver to a video, by the textured preview or the video model."""

import dataclasses
import fractions
import hashlib
import json
import os
import pathlib

import jax
import numpy as np
import tqdm

import exp_jax
from exp_jax.controls import maps
from exp_jax.controls.reenact import Motion, ReenactOptions
from exp_jax.fitting.subject import fit_frames
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.model import HeadModel, load_head
from exp_jax.heads.personalized import Subject, check_head, load_subject
from exp_jax.media.images import contact_sheet, read_image, resize, write_image
from exp_jax.media.video import read_video, video_rate, write_video
from exp_jax.observe.landmarks import FaceEstimator
from exp_jax.systems.expportrait.portrait import Portrait, drive, open_portrait, preview_frames, scaled
from exp_jax.systems.expportrait.sample import generate, load_generator
from exp_jax.systems.expportrait.transfer import Transfer


def track(path: pathlib.Path, *, head: HeadModel, dense: Dense, size: int, limit: int | None = None,
          estimator: FaceEstimator | None = None) -> Subject:
  """The motion of a clip: a subject file is read, a video is observed and fitted (coarse stage)."""
  if path.suffix == '.npz':
    subject = load_subject(path)
    check_head(subject, head)
    return subject if limit is None else first_frames(subject, limit)
  clip = read_video(path, limit=limit)
  return fit_frames(clip.frames, name=path.stem, rate=float(clip.rate), head=head, dense=dense, size=size,
                    offsets=False, estimator=estimator,
                    progress=lambda x: tqdm.tqdm(x, desc='track', unit='frame', leave=False)).subject


def first_frames(subject: Subject, count: int) -> Subject:
  """The first `count` frames of a subject, or all if it has fewer."""
  per_frame = ('expression', 'pose', 'translation', 'times', 'dynamic_offsets', 'source_crop')
  return dataclasses.replace(subject, **{name: value[:count] for name in per_frame
                                         if (value := getattr(subject, name)) is not None})


def dit_frames(generator, portrait: Portrait, motion: Motion, dynamic: np.ndarray | None, head: HeadModel,
               dense: Dense, *, seed: int, steps: int, guidance: float) -> np.ndarray:
  """Frames [T, H, W, 3] float in 0..1 by the video model, at the size it was trained at."""
  size = generator.size[0]
  portrait = scaled(portrait, size)
  subject = portrait.subject
  unit = lambda images: images.astype(np.float32) / 255
  normals = maps.control_maps(head, dense, subject, motion, dynamic, size=size)
  own = maps.control_maps(head, dense, subject, maps.own_motion(subject), maps.full_offsets(subject), size=size)
  previews = np.stack(list(preview_frames(portrait, motion, dynamic, head, dense))) if generator.model.preview else None
  return generate(generator, unit(portrait.photo), unit(own[0]), unit(normals), jax.random.key(seed), steps=steps,
                  guidance=guidance, previews=None if previews is None else unit(previews))


def animate_files(args) -> int:
  """Runs `python -m exp_jax.animate` with its parsed arguments; returns the number of frames."""
  head = load_head('makehuman')
  dense = densify(head, 1)
  generator = load_generator(args.export, vae_path=args.vae and str(args.vae)) if args.engine == 'dit' else None
  transfer = Transfer(args.transfer, head, dense) if args.transfer else None
  photo = read_image(args.source)
  with FaceEstimator() as estimator:
    driving = track(_fitted(args.subjects, args.driving) or args.driving, head=head, dense=dense, size=args.size,
                    limit=args.limit, estimator=estimator)
    known = _fitted(args.subjects, args.source)
    known = known and load_subject(known)
    if known is not None:
      check_head(known, head, dense)
    portrait = open_portrait(photo, name=args.source.stem, head=head, dense=dense, size=args.size,
                             estimator=estimator, subject=known)
  options = ReenactOptions(rotation=args.rotation, expression_strength=args.expression_strength,
                           drive_torso=args.drive_torso)
  motion, dynamic = drive(portrait, driving, head, options=options, transfer=transfer)
  if generator is None:
    frames = tqdm.tqdm(preview_frames(portrait, motion, dynamic, head, dense), desc='draw', unit='frame',
                       total=len(motion.pose), leave=False)
  else:
    frames = dit_frames(generator, portrait, motion, dynamic, head, dense, seed=args.seed, steps=args.steps,
                        guidance=args.guidance)
  from_clip = args.driving.suffix != '.npz'
  rate = video_rate(args.driving) if from_clip else fractions.Fraction(driving.fps).limit_denominator(1001)
  kept = []

  def keep(frame):
    kept.append(np.asarray(frame))
    return frame

  count = write_video(args.output, (keep(f) for f in frames), rate, audio_from=args.driving if from_clip else None)
  _side_by_side(args, portrait, kept, rate, from_clip)
  settings = {k: v for k, v in vars(args).items() if isinstance(v, (str, int, float, bool))}
  sidecar = settings | {
    'program': f'exp_jax {exp_jax.__version__}', 'frames': count, 'rate': str(rate),
    'source_sha256': _digest(args.source), 'driving_sha256': _digest(args.driving), 'output_sha256': _digest(args.output),
    'portrait_fit': json.loads(portrait.subject.report), 'driving_fit': json.loads(driving.report)}
  path = args.output.with_suffix('.json')
  partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
  partial.write_text(json.dumps(sidecar, indent=1) + '\n')
  os.replace(partial, path)
  return count


def _fitted(folder: pathlib.Path | None, path: pathlib.Path) -> pathlib.Path | None:
  """The subject file of an input in a folder of `exp_jax.fit`, if there is one."""
  found = folder and folder / f'{path.stem}.npz'
  return found if found and found.is_file() else None


def _side_by_side(args, portrait: Portrait, frames: list[np.ndarray], rate, from_clip: bool) -> None:
  """Portrait, driver and result beside each other, and a contact sheet of twelve moments."""
  height = frames[0].shape[0]
  frames = [f if f.dtype == np.uint8 else np.rint(np.clip(f, 0, 1) * 255).astype(np.uint8) for f in frames]
  still = resize(portrait.photo, frames[0].shape[:2])
  columns = [np.stack([still] * len(frames)), np.stack(frames)]
  if from_clip:
    driver = read_video(args.driving, limit=len(frames)).frames
    columns.insert(1, np.stack([resize(f, (height, round(f.shape[1] * height / f.shape[0]))) for f in driver]))
  rows = [np.concatenate([c[i] for c in columns], axis=1) for i in range(len(frames))]
  name = args.output.stem
  write_video(args.output.with_name(f'{name}_side_by_side.mp4'), rows, rate)
  moments = np.unique(np.linspace(0, len(rows) - 1, 12).round().astype(int))
  write_image(args.output.with_name(f'{name}_sheet.png'), contact_sheet([rows[i] for i in moments], columns=2))


def _digest(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()
