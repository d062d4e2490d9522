"""Clips + subjects -> training records (see `exp_jax.data.sources` for the keys)."""

import json
import os
import pathlib
import zipfile

import numpy as np
import tqdm
from PIL import Image

from exp_jax.controls.maps import control_maps, full_offsets, own_motion
from exp_jax.data.sources import from_bytes, to_bytes, write_records
from exp_jax.errors import UserError
from exp_jax.fitting.subject import fit_frames
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.model import HeadModel, load_head
from exp_jax.heads.personalized import Subject, check_head, load_subject, save_subject
from exp_jax.media.video import Clip, read_video

_VIDEO_SUFFIXES = ('.mp4', '.mov', '.mkv', '.webm', '.avi')


def cut_frames(frames: np.ndarray, subject: Subject, size: int) -> np.ndarray:
  """uint8 [T, H, W, 3] of the source -> [T, size, size, 3] of the subject's crop."""
  height, width = subject.image_size
  cut = []
  for i, frame in enumerate(frames):
    if subject.source_crop is None:
      if frame.shape[:2] != (height, width):
        raise UserError(f'the clip is {frame.shape[1]}x{frame.shape[0]}, its subject was fitted at {width}x{height}')
      box = (0, 0, width, height)
    else:
      back = np.linalg.inv(subject.source_crop[i])               # crop pixels -> source pixels
      left, top, _ = back @ [0, 0, 1]
      right, bottom, _ = back @ [width, height, 1]
      box = (max(left, 0), max(top, 0), min(right, frame.shape[1]), min(bottom, frame.shape[0]))
    cut.append(np.array(Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS, box=box)))
  return np.stack(cut)


def make_record(clip: Clip, subject: Subject, head: HeadModel, dense: Dense, *, size: int,
                matte: np.ndarray | None = None) -> dict:
  """One clip as a record; the reference is its first frame (training draws another one each time)."""
  if len(clip.frames) != subject.num_frames:
    raise UserError(f'the clip has {len(clip.frames)} frames, its subject {subject.num_frames}; fit it again')
  video = cut_frames(clip.frames, subject, size)
  normals = control_maps(head, dense, subject, own_motion(subject), full_offsets(subject), size=size)
  if matte is None:
    matte = np.where(normals.any(-1), 255, 0).astype(np.uint8)
  else:
    matte = np.stack([np.array(Image.fromarray(m).resize((size, size), Image.Resampling.BOX)) for m in matte])
  return dict(video=video, normals=normals, matte=matte, reference=video[0], reference_normals=normals[0],
              clip_id=subject.subject_id, subject_id=subject.subject_id)


def prepare_clips(clips: pathlib.Path, subjects: pathlib.Path, output: pathlib.Path, *, size: int, holdout: int,
                  mattes: pathlib.Path | None = None, head_name: str = 'makehuman'
                  ) -> tuple[int, list[tuple[str, str]]]:
  """Prepares a folder; returns how many clips are in the shards and (name, reason) of the others.

  Raises:
    UserError: no clips, or fewer than are held out.
  """
  files = sorted(p for p in clips.glob('*') if p.suffix.lower() in _VIDEO_SUFFIXES) if clips.is_dir() else []
  if not files:
    raise UserError(f'no videos in {str(clips)!r}; give a folder of {", ".join(_VIDEO_SUFFIXES)} files')
  if holdout >= len(files):
    raise UserError(f'{len(files)} clips cannot spare {holdout} held-out identities')
  head = load_head(head_name)
  meshes: dict[int, Dense] = {}
  parts, failed = output / 'parts', []
  parts.mkdir(parents=True, exist_ok=True)
  for file in tqdm.tqdm(files, desc='prepare', unit='clip'):
    part = parts / f'{file.stem}_{size}.npz'
    if part.is_file():
      continue
    try:
      clip = read_video(file)
      source = subjects / f'{file.stem}.npz'
      if source.is_file():
        subject = load_subject(source)
      else:
        dense = meshes.setdefault(1, densify(head, 1))
        subject = fit_frames(clip.frames, name=file.stem, rate=float(clip.rate), head=head, dense=dense).subject
        save_subject(source, subject)
      if subject.levels not in meshes:
        meshes[subject.levels] = densify(head, subject.levels)
      check_head(subject, head, meshes[subject.levels])
      record = make_record(clip, subject, head, meshes[subject.levels], size=size, matte=_matte(mattes, file.stem))
      partial = part.with_name(f'.{part.name}.{os.getpid()}.partial')
      partial.write_bytes(to_bytes(record))
      os.replace(partial, part)
    except UserError as error:
      failed.append((file.name, str(error)))
  reasons = dict(failed)
  lines = [json.dumps({'clip': f.name, 'status': reasons.get(f.name, 'ok')}) for f in files]
  (output / 'report.jsonl').write_text('\n'.join(lines) + '\n')
  good = [f.stem for f in files if f.name not in reasons]
  train, held_out = good[:len(good) - holdout], good[len(good) - holdout:]
  for name, stems in (('train', train), ('held_out', held_out)):
    if stems:
      write_records(output / f'{name}.array_record', (from_bytes((parts / f'{s}_{size}.npz').read_bytes())
                                                      for s in stems))
  return len(good), failed


def _matte(folder: pathlib.Path | None, name: str) -> np.ndarray | None:
  if folder is None or not (folder / f'{name}.npz').is_file():
    return None
  try:
    with np.load(folder / f'{name}.npz', allow_pickle=False) as arrays:
      return arrays['matte']
  except (KeyError, OSError, ValueError, zipfile.BadZipFile):
    raise UserError(f'{folder / name}.npz holds no matte or is damaged') from None
