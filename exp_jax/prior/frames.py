"""Frames of clips as training records of the prior: {video uint8 [T, S, S, 3], clip_id,
subject_id}, one a clip.

Records of other kinds that hold a `video` of the same size serve as well: those of
`exp_jax.prepare`, and Loki's.
Letters: T frames, S pixels.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from exp_jax.errors import UserError
from exp_jax.files import record_bytes
from exp_jax.files.array_records import ArrayRecords, DamagedRecord
from exp_jax.media.images import resize
from exp_jax.media.video import read_video


class FrameRecords(ArrayRecords):
  """Random access to the videos of records; see `ArrayRecords` for `path` and errors."""

  def __init__(self, path: str):
    super().__init__(
      path,
      f'no frames at {path!r}: make them with `python -m exp_jax prior.frames`, and set '
      'config.data.path',
    )

  def __getitem__(self, index: int) -> np.ndarray:
    """uint8 [T, S, S, 3]."""
    file, local = self.place(index)
    try:
      video = record_bytes.unpack(self.packed(index), ('video',))['video']
    except (KeyError, ValueError) as error:
      raise DamagedRecord(f'record {local} of {file} has no video: {error}') from error
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not len(video):
      raise DamagedRecord(
        f'record {local} of {file}: its video is {video.dtype} {video.shape}, not uint8 [T, S, S, '
        '3]'
      )
    return video


class SyntheticFrames:
  """Discs of two colours on a ground of a third, by number, for smoke runs: [2, S, S, 3] each."""

  def __init__(self, size: int, count: int = 16):
    self.size, self.count, self.fingerprint = size, count, repr((size, count))

  def __len__(self):
    return self.count

  def __getitem__(self, index: int) -> np.ndarray:
    rng = np.random.default_rng([17, int(index)])
    y, x = np.mgrid[: self.size, : self.size] / self.size - 0.5
    frames = []
    for _ in range(2):
      radius = np.hypot(x - rng.uniform(-0.1, 0.1), y - rng.uniform(-0.1, 0.1))
      frames.append(
        np.where((radius < 0.35)[..., None], rng.uniform(0, 255, 3), rng.uniform(0, 255, 3))
      )
    return np.stack(frames).astype(np.uint8)


def packed_frames(clips: list[pathlib.Path], size: int, limit: int = 0) -> Iterator[bytes]:
  """A record of each clip, its frames resized; `limit` frames of each at most, 0: all.

  Raises:
    UserError: a clip cannot be read, or is not square.
  """
  for path in clips:
    frames = read_video(path).frames
    if frames.shape[1] != frames.shape[2]:
      raise UserError(
        f'{path.name} is {frames.shape[2]}x{frames.shape[1]}: the prior is trained on squares; cut '
        'the clip'
      )
    frames = frames[:limit] if limit else frames
    yield record_bytes.pack(
      dict(
        video=np.stack([resize(frame, (size, size)) for frame in frames]),
        clip_id=path.stem,
        subject_id=path.stem,
      )
    )
