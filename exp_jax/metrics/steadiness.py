"""Does it tremble, jump or drift from its sound: jitter, seam ratio, offset of sound and picture.

`stream_times` reads a file's timestamps without decoding it. Letters: T frames, K points.
"""

import contextlib
import dataclasses
import os

import av
import numpy as np

from exp_jax.geometry.second_differences import second_differences
from exp_jax.media.foreign.containers import open_video, picture_track
from exp_jax.metrics.score import Score, mean_score, root_score


def squared_jitter(points: np.ndarray) -> np.ndarray:
  """[T, K, 2] -> [T - 2] (none of fewer than three) mean over points of the squared second
  difference, pixels^2.

  NaN about frames without a face.
  """
  return np.sum(second_differences(np.asarray(points, np.float64)) ** 2, -1).mean(-1)


def jitter_score(squares: np.ndarray) -> Score:
  """Of squared second differences [T - 2] of points scaled to a picture 512 high."""
  return root_score(squares, 'landmarks, root mean square second difference, pixels at 512')


def jitter(points: np.ndarray, image_size: tuple[int, int]) -> Score:
  """Root mean square second difference of landmarks [T, K, 2], in pixels of a picture 512 high.

  Motion counts as well: compare with the driver's own.

  Raises:
    ValueError: fewer than three frames.
  """
  if len(points) < 3:
    raise ValueError(f'jitter needs three frames, got {len(points)}')
  return jitter_score(squared_jitter(points) * (512 / image_size[0]) ** 2)


def seam_ratio(changes: np.ndarray, seams: np.ndarray) -> Score:
  """How much more the picture changes at seams of windows than it usually does: 1 is seamless.

  Args:
    changes: [T - 1] mean absolute difference of frame t + 1 and t.
    seams: numbers of the frames that open a window, without 0; where none are known, the largest
      change stands for them.
  """
  changes, seams = np.asarray(changes, np.float64), np.asarray(seams, int)
  if not len(changes) or len(seams) and not (1 <= seams.min() and seams.max() <= len(changes)):
    raise ValueError(f'seams must lie in 1..{len(changes)}, got {seams[:5]}')
  usual = np.median(changes)
  if usual <= 0:
    return Score(float('nan'), 'change at seams over the median change; nothing moves', 0, 0.0)
  if len(seams):
    return mean_score(changes[seams - 1] / usual, 'change at seams over the median change')
  return Score(
    float(changes.max() / usual),
    'largest change over the median change (no seams given)',
    len(changes),
    1.0,
  )


@dataclasses.dataclass(frozen=True)
class StreamTimes:
  """frames: pictures in the file; rate: a second; picture, sound: (start, end) in seconds, sound
  None if there is none."""

  frames: int
  rate: float
  picture: tuple[float, float]
  sound: tuple[float, float] | None


def stream_times(path: str | os.PathLike) -> StreamTimes:
  """Timestamps of the first picture and sound stream, packets counted, nothing decoded.

  Raises:
    UserError: as of `media.containers.open_video`.
  """
  with open_video(path) as container:
    picture = picture_track(container)
    sound = next((s for s in container.streams.audio if s.codec_context is not None), None)
    spans, count = {}, 0
    with contextlib.suppress(av.FFmpegError):  # damage is reported where it is decoded
      for packet in container.demux([s for s in (picture, sound) if s is not None]):
        if packet.pts is None or packet.is_discard:
          continue
        count += packet.stream.index == picture.index
        start, end = (
          packet.pts * packet.time_base,
          (packet.pts + (packet.duration or 0)) * packet.time_base,
        )
        old = spans.get(packet.stream.index, (start, end))
        spans[packet.stream.index] = min(old[0], start), max(old[1], end)
    span = lambda stream: tuple(float(t) for t in spans[stream.index])
    return StreamTimes(
      count,
      float(picture.average_rate or picture.guessed_rate or 25),
      span(picture) if count else (0.0, 0.0),
      span(sound) if sound is not None and sound.index in spans else None,
    )


def av_offset(result: StreamTimes, source: StreamTimes) -> Score:
  """How far sound and picture moved against each other from the source to the result, milliseconds,
  the worse of both ends.

  NaN where one of them has no sound.
  """
  variant = 'sound against picture, relative to the source, worse of start and end, ms'
  if result.sound is None or source.sound is None:
    return Score(float('nan'), variant, 0, 0.0)
  lead = lambda times, end: times.sound[end] - times.picture[end]
  # A sound that outlasts the picture is cut there by the muxer: that is no drift.
  ends = [lead(result, 0) - lead(source, 0), min(lead(result, 1), 0) - min(lead(source, 1), 0)]
  return Score(1e3 * max(map(abs, ends)), variant, result.frames, 1.0)
