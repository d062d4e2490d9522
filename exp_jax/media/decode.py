"""Videos in, through PyAV: RGB uint8 frames, upright, square pixels, sRGB range, exact rational rate and times.

What the field's readers disagree on is decided here once:

  orientation   the display matrix is applied, quarter turns and mirror images
  pixels        the pixel aspect ratio is applied to the width
  colour        matrix and range as tagged; untagged is BT.709 from 720 lines on, else BT.601, limited range; HDR is refused
  time          of each frame, seconds from the first one; what runs backward is refused
  whole or not  a file that ends early or is damaged is an error, unless the caller allows partial input and is told
  names         a path is a file, never an address, a list or a pattern, whatever it looks like or holds
"""

import collections.abc
import dataclasses
import fractions
import os
import pathlib
import re
import sys

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from exp_jax.errors import UserError

_HDR_TRANSFERS = {16: 'PQ (HDR10)', 18: 'HLG'}               # ITU-T H.273 transfer characteristics
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}      # H.273 matrix coefficients -> swscale's names of them
_BT601, _BT709 = 5, 1
_LIMITED, _FULL = 1, 2
SIZE_TAG = 'exp_jax_size'  # WIDTHxHEIGHT that `encode` padded to even numbers
# No play lists: they could name other files.
_FORMATS = ('mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif,apng,h264,hevc,m4v,mjpeg,rawvideo,y4m,'
            'yuv4mpegpipe,ivf,wav,mp3,aac,flac,nut,mxf,dv')


@dataclasses.dataclass(frozen=True)
class Clip:
  """Decoded video: frames [T, H, W, 3] uint8 RGB, times [T] seconds from the first frame, exact rate."""
  frames: np.ndarray
  times: np.ndarray
  rate: fractions.Fraction


def tell(words: str) -> None:
  """Where warnings go if the caller does not say."""
  print(f'warning: {words}', file=sys.stderr)


def open_media(path: str | os.PathLike) -> av.container.InputContainer:
  """Opens a file of any kind. UserError: missing, empty, or not a film or sound."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'video {str(path)!r} does not exist; give the path of an mp4, mov, mkv or webm file')
  if path.stat().st_size == 0:
    raise UserError(f'video {str(path)!r} is empty (0 bytes); record or export it again')
  try:
    return av.open(f'file:{path}', options={'protocol_whitelist': 'file', 'format_whitelist': _FORMATS})
  except (av.FFmpegError, ValueError) as error:
    raise UserError(f'{str(path)!r} is not a video that can be read, or its index is cut off ({type(error).__name__}); '
                    'give an mp4, mov, mkv or webm file') from None


def open_video(path: str | os.PathLike) -> av.container.InputContainer:
  """`open_media`, if there is a picture stream that is not HDR."""
  container = open_media(path)
  stream = next((s for s in container.streams.video if s.codec_context is not None), None)
  try:
    if stream is None or not stream.codec_context.width:
      raise UserError(f'{str(path)!r} holds no picture stream; give a file with video in it')
    _refuse_hdr(path, stream.codec_context.color_trc)
  except UserError:
    container.close()
    raise
  return container


def _refuse_hdr(path, transfer) -> None:
  if transfer in _HDR_TRANSFERS:
    raise UserError(f'video {str(path)!r} is {_HDR_TRANSFERS[transfer]}; convert it to SDR (BT.709) first')


def video_rate(path: str | os.PathLike) -> fractions.Fraction:
  """Average frame rate of the first picture stream, frames per second, exact."""
  with open_video(path) as container:
    return _rate(container.streams.video[0])


def declared_frames(path: str | os.PathLike) -> int | None:
  """How many frames a file says it has, for progress bars: by its index, else by length and rate; None where it says neither."""
  with open_video(path) as container:
    stream = container.streams.video[0]
    return stream.frames or (container.duration and round(container.duration / av.time_base * _rate(stream))) or None


def _rate(stream) -> fractions.Fraction:
  return fractions.Fraction(stream.average_rate or stream.guessed_rate or 25)


def start_time(path: str | os.PathLike) -> float:
  """Seconds at which the first frame is shown, on the file's own clock, which its sound shares; 0 without pictures."""
  with open_media(path) as container:
    if not container.streams.video:
      return 0.0
    try:
      return float(next(container.decode(container.streams.video[0])).time or 0.0)
    except (StopIteration, av.FFmpegError):
      return 0.0


def read_frames(path: str | os.PathLike, *, begin: float = 0.0, allow_partial: bool = False,
                warn: collections.abc.Callable[[str], None] = tell
                ) -> collections.abc.Iterator[tuple[np.ndarray, float]]:
  """Streams a video, one frame in memory at a time.

  Args:
    begin: seconds; frames before are not given (nor decoded, but for those that the next ones need).
    allow_partial: a file that is damaged or ends early gives the frames before the damage, and a warning.
    warn: takes a sentence.

  Yields:
    frame: [H, W, 3] uint8 RGB, upright, square pixels; all of one size.
    time: seconds since the first frame of the file, increasing.

  Raises:
    UserError: missing, empty, no video, HDR, or (unless allow_partial) truncated, damaged or with times that do not increase.
  """
  path = pathlib.Path(path)
  with open_video(path) as container:
    stream = container.streams.video[0]
    stream.thread_type = 'AUTO'
    upright, rate = _Upright(stream, container.metadata.get(SIZE_TAG, '')), _rate(stream)
    count, start, last, size, complaint = 0, None, None, None, None
    end = _Ends(container, stream)
    if begin > 0:
      start = start_time(path)
      container.seek(max(0, int((begin + start) / stream.time_base)), stream=stream)
    try:
      for frame in _decoded(container, stream, end):
        _refuse_hdr(path, frame.color_trc)
        time = float(frame.time) if frame.time is not None else float(count / rate) + (start or 0.0)
        start = time if start is None else start
        time -= start
        if time < begin - 1e-6:
          continue                       # perhaps with parts missing, since it was decoded from the middle on
        if frame.is_corrupt:
          raise _Damaged('its data do not decode')
        if count == 0 and frame.interlaced_frame:
          warn(f'video {str(path)!r} is interlaced: moving edges are combs; deinterlace it for better results')
        if last is not None and time <= last:
          if not allow_partial:
            raise UserError(f'video {str(path)!r}: its frame times do not increase (frame {count} at {time:.4f} s, the one '
                            f'before at {last:.4f} s); export it again with a constant frame rate')
          time = last + 1e-3
        pixels = upright(frame)
        if size is not None and pixels.shape != size:
          raise UserError(f'video {str(path)!r} changes its size at frame {count}, from {size[1]}x{size[0]} to '
                          f'{pixels.shape[1]}x{pixels.shape[0]}; export it again at one size')
        yield pixels, time
        last, size, count = time, pixels.shape, count + 1
    except (av.FFmpegError, _Damaged) as error:
      complaint = f'is damaged after frame {count} ({getattr(error, "strerror", None) or error})'
    if count == 0:
      where = f' from {begin:g} s on' if begin > 0 else ''
      raise UserError(f'video {str(path)!r} holds no decodable frame{where}; export it again')
    complaint = complaint or end.missing(None if begin > 0 else count, (last or 0.0) + (start or 0.0), rate)
    if complaint and not allow_partial:
      raise UserError(f'video {str(path)!r} {complaint}; export it again or pass --allow_partial')
    if complaint:
      warn(f'video {str(path)!r} {complaint}; the {count} frames before that are used')


class _Damaged(Exception):
  """Not an error of libav's, but as bad."""


class _Ends:
  """What the file says of its length, and how far its packets reach."""

  def __init__(self, container, stream):
    self.declared = stream.frames
    # Whether a late start counts in is not the same for all formats: it is taken as if it did, the milder way.
    self.stream_end = float(stream.duration * stream.time_base) if stream.duration else None
    self.container_end = container.duration / av.time_base if container.duration else None
    self.reached = 0.0

  def saw(self, packet) -> None:
    if packet.pts is not None:
      self.reached = max(self.reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))

  def missing(self, count: int | None, last: float, rate: fractions.Fraction) -> str | None:
    """A complaint if frames are missing. An edit list may hide declared frames, so the clock must agree.

    `count` is None if reading did not begin at the beginning: then the clock alone decides.
    """
    short = lambda end, reached: end is not None and reached < min(0.98 * end, end - 2 / float(rate) - 0.1)
    if self.declared and (count is None or count < 0.98 * self.declared - 1):
      ends = [e for e in (self.stream_end, self.container_end) if e is not None]
      if short(min(ends), last + 1 / float(rate)) if ends else count is not None:
        got = 'not all' if count is None else f'{count}'
        return f'is truncated: {got} of {self.declared} declared frames decode'
    if not self.declared and short(self.container_end, max(self.reached, last)):
      return f'is truncated: it ends at {max(self.reached, last):.2f} s of {self.container_end:.2f} s'
    return None


def _decoded(container, stream, ends):
  """The frames of a stream; packets of the sound are only looked at, to see how far the file reaches."""
  watched = [stream, *container.streams.audio[:1]]
  for packet in container.demux(watched):
    ends.saw(packet)
    if packet.stream.index == stream.index:
      yield from packet.decode()


class _Upright:
  """Frame of libav -> uint8 RGB [H, W, 3], upright, with square pixels."""

  def __init__(self, stream, kept_size: str):
    self._aspect = fractions.Fraction(stream.sample_aspect_ratio or 1)
    self._reformatter = VideoReformatter()
    found = re.fullmatch(r'(\d{1,6})x(\d{1,6})', kept_size)
    self._kept = (int(found[2]), int(found[1])) if found else None

  def __call__(self, frame: av.VideoFrame) -> np.ndarray:
    space = _MATRICES.get(frame.colorspace, _BT709 if frame.height >= 720 else _BT601)
    full = frame.color_range == _FULL or frame.format.name.startswith('yuvj') or frame.format.is_rgb
    width = max(1, round(frame.width * self._aspect)) if self._aspect > 0 else frame.width
    rgb = self._reformatter.reformat(
      frame, width=width, format='rgb24', src_colorspace=space, src_color_range=_FULL if full else _LIMITED,
      dst_color_range=_FULL).to_ndarray()
    if self._kept and all(has - kept in (0, 1) for has, kept in zip(rgb.shape, self._kept)):
      rgb = rgb[:self._kept[0], :self._kept[1]]
    return np.ascontiguousarray(_turned(rgb, _display_matrix(frame)))


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
  """(a, b, c, d) with which a stored pixel (x, y) is shown at (a x + c y, b x + d y), up to a shift; None: as stored."""
  matrix = frame.side_data.get('DISPLAYMATRIX') if frame.side_data else None
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
  return rgb[::-1 if down < 0 else 1, ::-1 if across < 0 else 1]


def read_video(path: str | os.PathLike, *, limit: int | None = None, allow_partial: bool = False,
               warn: collections.abc.Callable[[str], None] = tell, max_bytes: int | None = None) -> Clip:
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
      raise UserError(f'video {str(path)!r} is too long to hold in memory: {len(frames)} frames of {frame.shape[1]}x'
                      f'{frame.shape[0]} take {max_bytes >> 20} MB already; cut it into shorter clips')
  return Clip(np.stack(frames), np.asarray(times), video_rate(path))
