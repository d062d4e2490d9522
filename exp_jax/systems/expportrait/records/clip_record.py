"""A clip and its fitted head as a clip record of `exp_jax.data.sources`."""

import numpy as np

from exp_jax.controls.channels import extra_maps
from exp_jax.controls.head_motion import head_motion, vectors_of
from exp_jax.controls.maps import control_maps, full_offsets, own_motion
from exp_jax.errors import UserError
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject
from exp_jax.heads.subject_squares import crops_of
from exp_jax.media.squares import Crop
from exp_jax.media.video import Clip


def cut_frames(frames: np.ndarray, subject: Subject, size: int) -> np.ndarray:
  """uint8 [T, H, W(, 3)] of the source -> [T, size, size(, 3)] of the subject's crop, cut as for
  the fit."""
  return np.stack(
    [
      crop.cut(frame)
      for crop, frame in zip(crops_of(subject, size, len(frames), frames.shape[1:3]), frames)
    ]
  )


def shown_pixels(
  crops: list[Crop], film: tuple[int, int], bars: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> np.ndarray:
  """uint8 [T, size, size]: 255 where a square shows the film, 0 beyond it and in its black bars
  (top, bottom, left, right)."""
  top, bottom, left, right = bars
  inner = (film[0] - top - bottom, film[1] - left - right)
  masks = {
    crop: Crop(crop.left - left, crop.top - top, crop.side, crop.size).inside(inner)
    for crop in set(crops)
  }
  return np.stack([np.uint8(255) * (masks[crop] > 0) for crop in crops])


def offsets_of(subject: Subject, transferred: bool) -> str:
  """What the head behind the maps is: 'none' (the linear model alone), 'static', 'full', or
  'transferred' dynamic offsets."""
  return 'transferred' if transferred and subject.detail != 'none' else subject.detail


def make_record(
  clip: Clip,
  subject: Subject,
  head: HeadModel,
  dense: Dense,
  *,
  size: int,
  matte: np.ndarray | None = None,
  cropped_matte: np.ndarray | None = None,
  dynamic: np.ndarray | None = None,
  extras: tuple[str, ...] = (),
  bars: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> dict:
  """One clip as a record; the reference is its first frame (training draws another one each time).

  Args:
    matte: uint8 [T, H, W] of the source; cropped_matte: or of the crop that the subject was fitted
      in. None of both: where the head model is drawn.
    dynamic: [T, N, 3] offsets in place of the subject's own.
    extras: names of further control channels (`controls.channels.EXTRAS`).
    bars: rows and columns of the film that are black (top, bottom, left, right).
  """
  if len(clip.frames) != subject.num_frames:
    raise UserError(
      f'the clip has {len(clip.frames)} frames, its subject {subject.num_frames}; fit it again'
    )
  film = clip.frames.shape[1:3]
  crops = crops_of(subject, size, len(clip.frames), film)
  video = np.stack([crop.cut(frame) for crop, frame in zip(crops, clip.frames)])
  offsets = full_offsets(subject) if dynamic is None else dynamic
  normals = control_maps(head, dense, subject, own_motion(subject), offsets, size=size)
  if matte is not None:
    if matte.shape[:1] != clip.frames.shape[:1] or matte.ndim != 3 or matte.dtype != np.uint8:
      raise UserError(
        f'its matte is {matte.dtype} {list(matte.shape)}, not uint8 with one image for each of '
        f'{len(clip.frames)} frames'
      )
    matte = cut_frames(matte, subject, size)
  elif cropped_matte is not None:
    whole = Crop(0.0, 0.0, float(cropped_matte.shape[1]), size)
    matte = np.stack([whole.cut(one) for one in cropped_matte])
  else:
    matte = np.where(normals.any(-1), 255, 0).astype(np.uint8)
  record = dict(
    video=video,
    normals=normals,
    matte=matte,
    reference=video[0],
    reference_normals=normals[0],
    valid=shown_pixels(crops, film, bars),
    turns=vectors_of(head_motion(head, subject).rotation).astype(np.float32),
    offsets=offsets_of(subject, dynamic is not None),
    clip_id=subject.subject_id,
    subject_id=subject.subject_id,
  )
  if extras:
    drawn = extra_maps(head, dense, subject, own_motion(subject), offsets, extras, size=size)
    record |= dict(extras=drawn, extra_names=','.join(extras))
  return record


def sheet(record: dict, columns: int = 4) -> np.ndarray:
  """uint8 picture: frames spread over a clip record, what the crop invented hatched, above their
  control maps."""
  chosen = np.unique(np.linspace(0, len(record['video']) - 1, columns).astype(int))
  rows, across = np.indices(record['video'].shape[1:3])
  hatch = (rows + across) // max(2, len(rows) // 64) % 4 == 0
  video = record['video'][chosen].copy()
  video[(record['valid'][chosen] == 0) & hatch] = (255, 0, 255)
  return np.concatenate(
    [np.concatenate(list(video), 1), np.concatenate(list(record['normals'][chosen]), 1)]
  )
