"""Videos in, through PyAV: RGB uint8 frames, upright, square pixels, sRGB range, exact rational
rate and times.

What the field's readers disagree on is decided here once:

  track         covers and thumbnails are not the video (`containers`)
  orientation   the display matrix is applied, quarter turns and mirror images
  pixels        the pixel aspect ratio is applied to the width
  size          of the first frame; later frames of another size are scaled to it, and that is said
  colour        matrix and range as tagged; untagged is BT.709 from 720 lines on, else BT.601, limited range; HDR is refused
  time          of each frame, seconds from the first one; what runs backward is refused
  whole or not  a file that ends early or is damaged is an error, unless the caller allows partial
  input and is reported
  names         a path is a file, never an address, a list or a pattern, whatever it looks like or holds
  animation     GIF, WebP, PNG and AVIF with several frames are clips (`animation`)
"""

import collections.abc
import dataclasses
import fractions
import os
import pathlib
import re

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.media.foreign import containers
from exp_jax.media.foreign.animation import animation_frames, is_animation
from exp_jax.media.foreign.containers import (
  declared_frames,
  open_media,
  open_video,
  start_time,
  tell,
  video_rate,
)
from exp_jax.media.foreign.failures import reason

__all__ = [
  'SIZE_TAG',
  'Clip',
  'declared_frames',
  'open_media',
  'open_video',
  'read_frames',
  'read_video',
  'start_time',
  'tell',
  'video_rate',
]
# H.273 matrix coefficients -> swscale's names of them
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_BT601, _BT709 = 5, 1
_LIMITED, _FULL = 1, 2
_LEAST_STEP = (
  5e-5  # seconds between frames; what is closer is one moment, also for the encoder's clock
)
_LARGE, _FEW_THREADS = 5_000_000, 4  # pixels of a frame
SIZE_TAG = 'exp_jax_size'  # WIDTHxHEIGHT that `encode` padded to even numbers


@dataclasses.dataclass(frozen=True)
class Clip:
  """Decoded video: frames [T, H, W, 3] uint8 RGB, times [T] seconds from the first frame, exact
  rate."""

  frames: np.ndarray
  times: np.ndarray
  rate: fractions.Fraction


def read_frames(
  path: str | os.PathLike,
  *,
  begin: float = 0.0,
  allow_partial: bool = False,
  warn: collections.abc.Callable[[str], None] = tell,
) -> collections.abc.Iterator[tuple[np.ndarray, float]]:
  """Streams a video, one frame in memory at a time.

  Args:
    begin: seconds; frames before are not given (nor decoded, but for those that the next ones
      need).
    allow_partial: a file that is damaged or ends early gives the frames before the damage, and a
      warning.
    warn: takes a sentence.

  Yields:
    frame: [H, W, 3] uint8 RGB, upright, square pixels; all of one size.
    time: seconds since the first frame of the file, increasing.

  Raises:
    UserError: missing, empty, no video, HDR, too large, or (unless allow_partial) truncated,
      damaged or with times that do not increase.
  """
  path = pathlib.Path(path)
  if is_animation(path):
    yield from _read_animation(path, begin, allow_partial, warn)
    return
  rate = video_rate(path)
  with open_video(path) as container:
    track = containers.picture_track(container)
    _tell_of_tracks(path, container, track, warn)
    track.thread_type = 'AUTO'
    if track.codec_context.width * track.codec_context.height > _LARGE:
      # each keeps frames of its own, on machines of many cores more than the memory
      track.thread_count = _FEW_THREADS
    upright = _Upright(path, track, container.metadata.get(SIZE_TAG, ''), warn)
    count, moved, start, last, complaint = 0, 0, None, None, None
    end = containers.Ends(container, track)
    if begin > 0:
      start = start_time(path)
      if (target := containers.seek_target(path, begin + start)) is not None:
        container.seek(target, stream=track)
    try:
      for frame, time in containers.decoded(container, track, end.saw):
        containers.refuse_hdr(path, frame.color_trc)
        time = float(count / rate) + (start or 0.0) if time is None else time
        start = time if start is None else start
        time -= start
        if time < begin - 1e-6:
          continue  # perhaps with parts missing, since it was decoded from the middle on
        if frame.is_corrupt:
          raise _Damaged('its data do not decode')
        if count == 0 and frame.interlaced_frame:
          warn(
            f'video {str(path)!r} is interlaced: moving edges are combs; deinterlace it for better '
            'results'
          )
        if last is not None and time < last + _LEAST_STEP:
          words = f'its frame times do not increase (frame {count} at {time:.4f} s, the one before at {last:.4f} s)'
          if not allow_partial:
            raise UserError(
              f'video {str(path)!r}: {words}; export it again with a constant frame rate'
            )
          if moved == 0:
            warn(f'video {str(path)!r}: {words}; such frames are shown 1 ms after the one before')
          time, moved = last + 1e-3, moved + 1
        yield upright(frame, count), time
        last, count = time, count + 1
    except UserError:
      raise
    except Exception as error:  # libav's, and whatever else its bindings raise
      complaint = f'is damaged after frame {count} ({reason(error)})'
    if count == 0:
      where = f' from {begin:g} s on' if begin > 0 else ''
      raise UserError(f'video {str(path)!r} holds no decodable frame{where}; export it again')
    complaint = complaint or end.missing(
      None if begin > 0 else count, (last or 0.0) + (start or 0.0), rate
    )
  _complain(path, complaint, count, allow_partial, warn)


class _Damaged(Exception):
  """Not an error of libav's, but as bad."""


def _complain(path, complaint, count, allow_partial, warn):
  if complaint and not allow_partial:
    raise UserError(f'video {str(path)!r} {complaint}; export it again or pass --allow_partial')
  if complaint:
    warn(f'video {str(path)!r} {complaint}; the {count} frames before that are used')


def _tell_of_tracks(path, container, track, warn):
  others = [
    s for s in container.streams.video if s.index != track.index and s.codec_context is not None
  ]
  if len([s for s in others if s.codec_context.width and containers.is_moving(s)]):
    warn(
      f'video {str(path)!r} has {len(others) + 1} picture tracks; number {track.index}, '
      f'{track.codec_context.width}x'
      f'{track.codec_context.height}, is used'
    )


def _read_animation(path, begin, allow_partial, warn):
  """`read_frames` of an animated picture."""
  time, count, size = fractions.Fraction(0), 0, None
  try:
    for pixels, shown in animation_frames(path):
      size = size or pixels.shape[:2]
      if time >= begin - 1e-6:
        yield pixels if pixels.shape[:2] == size else fitted(pixels, size), float(time)
        count += 1
      time += shown
  except UserError as error:
    if not allow_partial or not count:
      raise
    warn(f'{error}; the {count} frames before that are used')
  if count == 0:
    raise UserError(
      f'video {str(path)!r} holds no decodable frame from {begin:g} s on; export it again'
    )


class _Upright:
  """Frame of libav -> uint8 RGB [H, W, 3], upright, with square pixels, of the size of the first
  one."""

  def __init__(self, path, track, kept_size: str, warn):
    self._path, self._warn, self._size = path, warn, None
    self._aspect = fractions.Fraction(track.sample_aspect_ratio or 1)
    self._reformatter = VideoReformatter()
    found = re.fullmatch(r'(\d{1,6})x(\d{1,6})', kept_size)
    self._kept = (int(found[2]), int(found[1])) if found else None

  def __call__(self, frame: av.VideoFrame, number: int) -> np.ndarray:
    pixels = self._converted(frame)
    if self._size is None:
      self._size = pixels.shape[:2]
    if pixels.shape[:2] != self._size:
      if self._warn:
        self._warn(
          f'video {str(self._path)!r} changes its size at frame {number}, from '
          f'{self._size[1]}x{self._size[0]} to '
          f'{pixels.shape[1]}x{pixels.shape[0]}; all frames are scaled to the first size'
        )
        self._warn = None
      pixels = fitted(pixels, self._size)
    return pixels

  def _converted(self, frame):
    space = _MATRICES.get(frame.colorspace, _BT709 if frame.height >= 720 else _BT601)
    full = frame.color_range == _FULL or frame.format.name.startswith('yuvj') or frame.format.is_rgb
    width = max(1, round(frame.width * self._aspect))
    rgb = self._reformatter.reformat(
      frame,
      width=width,
      format='rgb24',
      src_colorspace=space,
      src_color_range=_FULL if full else _LIMITED,
      dst_color_range=_FULL,
    ).to_ndarray()
    if self._kept and all(has - kept in (0, 1) for has, kept in zip(rgb.shape, self._kept)):
      rgb = rgb[: self._kept[0], : self._kept[1]]
    return np.ascontiguousarray(_turned(rgb, _display_matrix(frame)))


def fitted(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """uint8 [h, w, 3] scaled into `size` = (height, width), its proportions kept to a percent, black
  beside it."""
  height, width = pixels.shape[:2]
  scale = min(size[0] / height, size[1] / width)
  inner = [min(full, max(1, round(n * scale))) for n, full in zip((height, width), size)]
  inner = [full if full - n <= max(1, 0.01 * full) else n for n, full in zip(inner, size)]
  small = np.asarray(Image.fromarray(pixels).resize((inner[1], inner[0]), Image.Resampling.LANCZOS))
  top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
  result = np.zeros((*size, 3), np.uint8)
  result[top : top + inner[0], left : left + inner[1]] = small
  return result


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
  """(a, b, c, d) with which a stored pixel (x, y) is shown at (a x + c y, b x + d y), up to a
  shift; None: as stored."""
  try:
    matrix = frame.side_data.get('DISPLAYMATRIX') if frame.side_data else None
  except (
    ValueError
  ):  # side data of a kind that PyAV's table lacks; it still tells the turn, counterclockwise
    return {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), -180: (-1, 0, 0, -1), -90: (0, 1, -1, 0)}.get(
      frame.rotation
    )
  if matrix is None:
    return None
  values = np.frombuffer(bytes(matrix), np.int32)
  return tuple(int(values[i]) for i in (0, 1, 3, 4)) if len(values) >= 9 else None


def _turned(rgb: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
  if matrix is None:
    return rgb
  a, b, c, d = matrix
  if abs(a) + abs(d) >= abs(b) + abs(c):
    across, down = a, d
  else:
    rgb, across, down = rgb.swapaxes(0, 1), c, b
  return rgb[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def read_video(
  path: str | os.PathLike,
  *,
  limit: int | None = None,
  allow_partial: bool = False,
  warn: collections.abc.Callable[[str], None] = tell,
  max_bytes: int | None = None,
) -> Clip:
  """Reads a whole video (or its first `limit` frames) into memory; errors as `read_frames`.

  Raises:
    UserError: also if the frames take more than `max_bytes`, before they do.
  """
  frames, times = [], []
  for frame, time in read_frames(path, allow_partial=allow_partial, warn=warn):
    frames.append(frame)
    times.append(time)
    if limit and len(frames) == limit:
      break
    if max_bytes and len(frames) * frame.nbytes > max_bytes:
      raise UserError(
        f'video {str(path)!r} is too long to hold in memory: {len(frames)} frames of '
        f'{frame.shape[1]}x'
        f'{frame.shape[0]} take {max_bytes >> 20} MB already; cut it into shorter clips'
      )
  return Clip(np.stack(frames), np.asarray(times), video_rate(path))
