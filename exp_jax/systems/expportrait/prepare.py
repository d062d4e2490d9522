"""Clips + subjects -> training records (see `exp_jax.data.sources` for the keys)."""

import json
import os
import pathlib
import zipfile

import numpy as np
import tqdm

from exp_jax.controls.maps import control_and_place_maps, full_offsets, own_motion
from exp_jax.data.sources import from_bytes, to_bytes, write_records
from exp_jax.errors import UserError
from exp_jax.fitting.subject import fit_frames
from exp_jax.heads.densify import Dense, densify
from exp_jax.heads.model import HeadModel, load_head
from exp_jax.heads.personalized import Subject, check_head, load_subject, save_subject
from exp_jax.media.video import Clip, read_video
from exp_jax.observe.face_crop import Crop

_VIDEO_SUFFIXES = ('.mp4', '.mov', '.mkv', '.webm', '.avi')


def cut_frames(frames: np.ndarray, subject: Subject, size: int) -> np.ndarray:
  """uint8 [T, H, W(, 3)] of the source -> [T, size, size(, 3)] of the subject's crop, cut as for the fit."""
  height, width = subject.image_size
  if height != width:
    raise UserError(f'the subject was fitted at {width}x{height}, training frames are square')
  cut = []
  for i, frame in enumerate(frames):
    if subject.source_crop is None:
      if frame.shape[:2] != (height, width):
        raise UserError(f'the clip is {frame.shape[1]}x{frame.shape[0]}, its subject was fitted at {width}x{height}')
      crop = Crop(0.0, 0.0, float(width), size)
    else:
      back = np.linalg.inv(subject.source_crop[i])               # crop pixels -> source pixels
      crop = Crop(float(back[0, 2]), float(back[1, 2]), float(back[0, 0] * width), size)
    cut.append(crop.cut(frame))
  return np.stack(cut)


def make_record(clip: Clip, subject: Subject, head: HeadModel, dense: Dense, *, size: int,
                matte: np.ndarray | None = None) -> dict:
  """One clip as a record; the reference is its first frame (training draws another one each time)."""
  if len(clip.frames) != subject.num_frames:
    raise UserError(f'the clip has {len(clip.frames)} frames, its subject {subject.num_frames}; fit it again')
  video = cut_frames(clip.frames, subject, size)
  normals, places = control_and_place_maps(head, dense, subject, own_motion(subject), full_offsets(subject), size=size)
  if matte is None:
    matte = np.where(normals.any(-1), 255, 0).astype(np.uint8)
  else:
    if matte.shape[:1] != clip.frames.shape[:1] or matte.ndim != 3 or matte.dtype != np.uint8:
      raise UserError(f'its matte is {matte.dtype} {list(matte.shape)}, not uint8 with one image for each of '
                      f'{len(clip.frames)} frames')
    matte = cut_frames(matte, subject, size)
  return dict(video=video, normals=normals, matte=matte, places=places, reference=video[0],
              reference_normals=normals[0], reference_places=places[0], clip_id=subject.subject_id,
              subject_id=subject.subject_id)


def prepare_clips(clips: pathlib.Path, subjects: pathlib.Path, output: pathlib.Path, *, size: int, holdout: int,
                  mattes: pathlib.Path | None = None, head_name: str = 'makehuman'
                  ) -> tuple[int, list[tuple[str, str]]]:
  """Prepares a folder; returns how many clips are in the shards and (name, reason) of the others.

  Raises:
    UserError: no clips, two of one name, or not more than are held out.
  """
  files = sorted(p for p in clips.glob('*') if p.suffix.lower() in _VIDEO_SUFFIXES) if clips.is_dir() else []
  if not files:
    raise UserError(f'no videos in {str(clips)!r}; give a folder of {", ".join(_VIDEO_SUFFIXES)} files')
  if holdout >= len(files):
    raise UserError(f'{len(files)} clips cannot spare {holdout} held-out identities')
  stems = [file.stem for file in files]
  if twice := next((s for s in stems if stems.count(s) > 1), None):
    raise UserError(f'two clips in {str(clips)!r} are called {twice!r}; rename one of them')
  head = load_head(head_name)
  meshes: dict[int, Dense] = {}
  parts, failed = output / 'parts', []
  parts.mkdir(parents=True, exist_ok=True)
  for file in tqdm.tqdm(files, desc='prepare', unit='clip'):
    part = parts / f'{file.stem}_{size}.npz'
    if _is_fresh(part, file, subjects / f'{file.stem}.npz', *[mattes / f'{file.stem}.npz'] if mattes else []):
      continue
    part.unlink(missing_ok=True)
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
  # Split before failures are left out: repairing a clip must not move another person across the border.
  for name, share in (('train', files[:len(files) - holdout]), ('held_out', files[len(files) - holdout:])):
    good = [parts / f'{f.stem}_{size}.npz' for f in share if f.name not in reasons]
    if good:
      write_records(output / f'{name}.array_record', map(_read_part, good))
    else:
      (output / f'{name}.array_record').unlink(missing_ok=True)
  return len(files) - len(failed), failed


def _is_fresh(part: pathlib.Path, *sources: pathlib.Path) -> bool:
  """Whether a part is there and none of what it was made from is younger."""
  return part.is_file() and all(source.stat().st_mtime_ns <= part.stat().st_mtime_ns
                                for source in sources if source.is_file())


def _read_part(part: pathlib.Path) -> dict:
  try:
    return from_bytes(part.read_bytes())
  except ValueError as error:
    raise UserError(f'{part} is damaged ({error}); delete it and run the same command again') from None


def _matte(folder: pathlib.Path | None, name: str) -> np.ndarray | None:
  if folder is None or not (folder / f'{name}.npz').is_file():
    return None
  try:
    with np.load(folder / f'{name}.npz', allow_pickle=False) as arrays:
      return arrays['matte']
  except (KeyError, OSError, ValueError, zipfile.BadZipFile):
    raise UserError(f'{folder / name}.npz holds no matte or is damaged') from None
