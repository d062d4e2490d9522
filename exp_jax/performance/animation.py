"""What `model.animate` gives: frames, one at a time, and the record of how they were made; and the
files made of them.

Letters: T frames.
"""

import contextlib
import dataclasses
import fractions
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from exp_jax.errors import UserError
from exp_jax.performance.kept_frames import KeptFrames
from exp_jax.performance.results import SideBySide, write_record
from exp_jax.progress import SILENT, Watch
from exp_jax.provenance.stamp import UNSIGNED, Stamp


def as_bytes(frame: np.ndarray) -> np.ndarray:
  """[H, W, 3] uint8 of a frame that is uint8, or float in [0, 1]; as the video writer rounds."""
  frame = np.asarray(frame)
  return (
    frame
    if frame.dtype == np.uint8
    else np.rint(np.clip(np.nan_to_num(frame), 0, 1) * 255).astype(np.uint8)
  )


def _shown_to(columns: SideBySide, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
  for frame in frames:
    columns.add(frame)
    yield frame


class Stopwatch:
  """Seconds of each stage of a computation."""

  def __init__(self):
    self.seconds, self._started = {}, time.perf_counter()

  def took(self, stage: str) -> None:
    """Ends a stage and begins the next."""
    now = time.perf_counter()
    self.seconds[stage], self._started = round(now - self._started, 2), now


@dataclasses.dataclass
class Animation:
  """Frames of a result, drawn when they are asked for: iterate once, or `save`, or `frames()`.

  Attributes:
    drawn: yields [H, W, 3], uint8 or float in [0, 1].
    times: [T] seconds of the frames from the first one.
    rate: frames a second, average or nominal.
    picture: uint8 [H, W, 3] of the source, shown at the left of a side by side.
    record: how it was made: options, figures of the fits, digests of weights; `seconds` of the last
      stage are added at the end.
    driving: the driver's file where there is one to show, else None.
    kept: [T] the driver's frame that each frame follows, or None: one by one.
    audio: the file whose sound fits, or None.
    write_motion: writes the driver's motion to a file (.npz) that can be used as a driver.
    stage: what drawing is called in progress reports.
    watch: follows the frames, and may cancel.
    stopwatch: of the stages before.
    provenance: `save` marks the frames and signs the video; iterating and `frames` give them
      unmarked.
    kept_frames: what an interruption leaves of the frames; `save` removes it when all is there.
  """

  drawn: Iterator[np.ndarray]
  times: np.ndarray
  rate: fractions.Fraction
  picture: np.ndarray
  record: dict
  driving: pathlib.Path | None = None
  kept: np.ndarray | None = None
  audio: pathlib.Path | None = None
  write_motion: Callable[[pathlib.Path], None] | None = None
  stage: str = 'draw'
  watch: Watch = SILENT
  stopwatch: Stopwatch = dataclasses.field(default_factory=Stopwatch)
  provenance: bool = True
  kept_frames: KeptFrames | None = None
  _used: bool = False

  def __len__(self) -> int:
    return len(self.times)

  def __iter__(self) -> Iterator[np.ndarray]:
    if self._used:
      raise UserError(
        'the frames of this animation were taken already; animate again, or keep them'
      )
    self._used = True
    for frame in self.watch.each_slowly(self.drawn, self.stage, len(self.times)):
      yield as_bytes(frame)
    self.stopwatch.took(self.stage)
    self.record |= {
      'frames': len(self.times),
      'rate': str(self.rate),
      'seconds': self.stopwatch.seconds,
    }
    if self.kept_frames is not None and self.kept_frames.known:
      self.record['frames_drawn_before'] = self.kept_frames.known

  def frames(self) -> np.ndarray:
    """All frames, uint8 [T, H, W, 3]."""
    return np.stack(list(self))

  def save(self, output: str | os.PathLike, *, beside: bool = True) -> int:
    """Writes the video (H.264 mp4, with sound), and beside it the side by side, the contact sheet
    and the record.

    Every file appears whole or not at all, the record last; after a cancellation or an error none
    is left half-made. Frames carry an invisible mark and videos are signed (`exp_jax.provenance`),
    unless `provenance` is False, which is warned of.

    Args:
      output: ends in .mp4.
      beside: False: the video and its record alone.

    Returns:
      The number of frames.
    """
    from exp_jax.media.video import write_timed_video

    output = pathlib.Path(output)
    if output.suffix.lower() != '.mp4':
      raise UserError(f'the output {str(output)!r} must end in .mp4')
    stamp = Stamp(self.record) if self.provenance else None
    finish = None if stamp is None else stamp.sign
    if stamp is None:
      self.watch.warn(UNSIGNED)
    with contextlib.ExitStack() as stack:
      frames = stack.enter_context(contextlib.closing(iter(self)))
      if stamp is not None:
        frames = stamp.frames(frames)
      if beside:
        columns = stack.enter_context(
          SideBySide(
            output,
            self.picture,
            self.driving,
            times=self.times,
            rate=self.rate,
            kept=self.kept,
            finish=finish,
          )
        )
        frames = _shown_to(columns, frames)
      count = write_timed_video(
        output, zip(frames, self.times), self.rate, audio_from=self.audio, finish=finish
      )
      if beside:
        self.watch.wait_for(columns.finish, 'side by side')
    write_record(output, self.record | ({} if stamp is None else stamp.record))
    if self.kept_frames is not None:
      self.kept_frames.forget()
    return count


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What an animation will cost, from what this model has measured so far, or typical figures of
  two CPU cores.

  Attributes:
    frames: of the result.
    seconds: in all.
    first_frame: seconds until the first frame is there.
    video_bytes: of the mp4 file.
    memory_bytes: of the process at its peak.
    measured: whether the figures come from this model's own work.
  """

  frames: int
  seconds: float
  first_frame: float
  video_bytes: int
  memory_bytes: int
  measured: bool
