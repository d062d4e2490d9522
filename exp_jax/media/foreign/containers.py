"""Opening films through PyAV: which track is the picture, how fast it runs, and how long the file
says it is.

track    covers, thumbnails and stills are passed over; previews too; of several pictures the default one, then the largest
rate     the header's average if the frame times allow it, else from the frame times
length   only of formats that state it, on the clock of all their tracks
"""

import collections.abc
import fractions
import itertools
import os
import pathlib
import re
import sys

import av
from av.stream import Disposition

from exp_jax.errors import UserError, one_line
from exp_jax.media.foreign.animation import animation_rate, is_animation
from exp_jax.media.foreign.animation import declared_frames as animation_length
from exp_jax.media.foreign.failures import one_sentence
from exp_jax.media.foreign.limits import check_size, max_pixels, memory_budget
from exp_jax.media.formats import picture_format

_HDR_TRANSFERS = {16: 'PQ (HDR10)', 18: 'HLG'}  # ITU-T H.273 transfer characteristics
# No play lists: they could name other files.
_FORMATS = (
  'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif,apng,h264,hevc,m4v,mjpeg,rawvideo,y4m,'
  'yuv4mpegpipe,ivf,wav,mp3,aac,flac,nut,mxf,dv'
)
# formats that state a length; libav guesses that of others
_STATING = {'mov', 'matroska', 'avi', 'flv', 'asf', 'nut', 'mxf'}
_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_PICTURE_CODECS = ('mjpeg', 'png', 'bmp', 'gif', 'webp')
_PREVIEW = 4  # a track with a quarter of another one's pixels or less is its preview
_DISTANCES = (0, 12, 60)  # seconds; key frames are seldom further apart than 10
_MOST_RATE, _USUAL_RATE = 1000, 25  # frames per second
_FIRST = 100  # packets that are compared with the header's rate
_LEAST_RATE = fractions.Fraction(1, 3600)
_MOST_ASPECT = (
  8  # width of a pixel over its height, or the other way round; anamorphic films have 2
)
BYTES_PER_PIXEL = (
  40  # of a video frame, with those that the decoder keeps: H.264 on 25 megapixels takes 38 to 43
)


def tell(words: str) -> None:
  """Where warnings go if the caller does not say."""
  print(f'warning: {one_line(words)}', file=sys.stderr)


def most_pixels(path: str | os.PathLike) -> int:
  """The largest frame of a film that may be decoded, pixels."""
  return min(max_pixels(), memory_budget(path) // BYTES_PER_PIXEL)


def open_media(path: str | os.PathLike) -> av.container.InputContainer:
  """Opens a file of any kind. UserError: missing, empty, or not a film or sound."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(
      f'video {str(path)!r} does not exist; give the path of an mp4, mov, mkv or webm file'
    )
  if path.stat().st_size == 0:
    raise UserError(f'video {str(path)!r} is empty (0 bytes); record or export it again')
  if kind := picture_format(path):
    raise UserError(
      f'{str(path)!r} is a picture ({kind}), not a video; give an mp4, mov, mkv or webm file'
    )
  options = {
    'protocol_whitelist': 'file',
    'format_whitelist': _FORMATS,
    'max_pixels': str(max_pixels()),
  }
  try:
    return av.open(f'file:{path}', options=options)
  except PermissionError:
    raise UserError(f'video {str(path)!r} may not be read; change its rights') from None
  except Exception as error:
    raise UserError(
      f'{str(path)!r} is not a video that can be read, or its index is cut off '
      f'({type(error).__name__}); '
      'give an mp4, mov, mkv or webm file'
    ) from None


def open_video(path: str | os.PathLike) -> av.container.InputContainer:
  """`open_media`, if there is a picture track that can be decoded and is not HDR.

  The track is `picture_track`.
  """
  container = open_media(path)
  try:
    with one_sentence(path, 'video'):
      _check_track(path, container)
  except UserError:
    container.close()
    raise
  return container


def _check_track(path, container):
  track = picture_track(container)
  if track is None:
    only = ' but a cover or thumbnail' if any(_pictured(s) for s in container.streams.video) else ''
    if not only and any(s.codec_context is not None for s in container.streams.video):
      only = (
        f' whose size is known and within the limit of {max_pixels():,} pixels (EXP_JAX_MAX_PIXELS)'
      )
    raise UserError(f'{str(path)!r} holds no picture stream{only}; give a file with video in it')
  context = track.codec_context
  refuse_hdr(path, context.color_trc)
  if not track.time_base:
    raise UserError(f'video {str(path)!r} has a clock of rate 0; export it again')
  aspect = track.sample_aspect_ratio or 1
  if not 1 / _MOST_ASPECT <= aspect <= _MOST_ASPECT:
    raise UserError(
      f'video {str(path)!r} says that its pixels are {float(aspect):.4g} times as wide as high; '
      'export it again '
      'with square pixels'
    )
  check_size(
    path, 'video', (max(1, round(context.width * aspect)), context.height), BYTES_PER_PIXEL
  )
  # the header's size may be another one than that of the data
  context.options = {'max_pixels': str(most_pixels(path))}


def _pictured(track) -> bool:
  return track.codec_context is not None and bool(track.codec_context.width)


def picture_track(container) -> av.video.stream.VideoStream | None:
  """The track that players show; None if there is none, or only covers and thumbnails."""
  found = [
    track
    for track in container.streams.video
    if _pictured(track) and not track.disposition & _STILLS
  ]
  size = lambda track: track.codec_context.width * track.codec_context.height
  largest = max((size(track) for track in found), default=0)
  best = lambda track: (
    is_moving(track),
    _PREVIEW * size(track) > largest,
    bool(track.disposition & Disposition.default),
    size(track),
    -track.index,
  )
  return max(found, key=best, default=None)


def is_moving(track) -> bool:
  """False for covers and thumbnails, by their disposition or as a single compressed picture."""
  return not track.disposition & _STILLS and not (
    track.codec_context.name in _PICTURE_CODECS and track.frames == 1
  )


def refuse_hdr(path: str | os.PathLike, transfer: int) -> None:
  """UserError if a transfer characteristic of ITU-T H.273 is one of HDR."""
  if transfer in _HDR_TRANSFERS:
    raise UserError(
      f'video {str(path)!r} is {_HDR_TRANSFERS[transfer]}; convert it to SDR (BT.709) first'
    )


def video_rate(path: str | os.PathLike) -> fractions.Fraction:
  """Average frame rate of the picture track, frames per second, exact; 25 where a file of one frame
  says nothing that can be."""
  if is_animation(path):
    return animation_rate(path)
  with open_video(path) as container, one_sentence(path, 'video'):
    rate = _rate(container, picture_track(container))
    if not _LEAST_RATE <= rate <= _MOST_RATE:
      raise UserError(
        f'video {str(path)!r} says that its frames are {float(1 / rate):.4g} s apart; export it '
        'again with a constant '
        'frame rate'
      )
    return rate


def _rate(container, track) -> fractions.Fraction:
  average, guessed = (
    fractions.Fraction(r) if r and 0 < r <= _MOST_RATE else None
    for r in (track.average_rate, track.guessed_rate)
  )
  packets = _packet_times(container, track)
  times = list(itertools.islice(packets, _FIRST))
  gaps = _gaps(times)
  if average and gaps and _allowed(average * track.time_base, gaps):
    return average  # exact, and the first frames do not contradict it
  gaps = _gaps([*times, *packets])
  if not gaps:
    return guessed or average or fractions.Fraction(_USUAL_RATE)
  if average and _allowed(average * track.time_base, gaps):
    return average
  measured = len(gaps) / (sum(gaps) * fractions.Fraction(track.time_base))
  if guessed and abs(guessed - measured) <= measured / 200:
    return guessed
  return measured.limit_denominator(100_000) if _LEAST_RATE <= measured <= _MOST_RATE else measured


def _gaps(times: list[int]) -> list[int]:
  """Ticks from each picture to the next one shown."""
  times = sorted(times)
  return [after - before for before, after in zip(times, times[1:]) if after > before]


def _allowed(rate: fractions.Fraction, gaps: list[int]) -> bool:
  """Whether pictures so many ticks apart can have an average rate, per tick.

  Each half of an interlaced picture may be a packet.
  """
  return 0.49 / max(gaps) <= rate <= 1.01 / min(gaps)


def _packet_times(container, track) -> collections.abc.Iterator[int]:
  """Ticks of all pictures, in the order of the file, as far as it can be read."""
  try:
    for packet in container.demux(track):
      if packet.size and (ticks := packet.dts if packet.pts is None else packet.pts) is not None:
        yield ticks
  except av.FFmpegError:
    return


def declared_frames(path: str | os.PathLike) -> int | None:
  """How many frames a file says it has, for progress bars: by its index, else by length and rate;
  None where it says neither."""
  if is_animation(path):
    return animation_length(path)
  with open_video(path) as container, one_sentence(path, 'video'):
    track = picture_track(container)
    frames, seconds = track.frames, _seconds(container, track)
  return frames or round(seconds * video_rate(path)) or None


def _seconds(container, track) -> float:
  """How long the pictures last by the header: their own length, where it is stated, else that of
  the file; 0: not stated."""
  if track.duration:
    return float(track.duration * track.time_base)
  # of Matroska
  own = re.fullmatch(r'(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)', track.metadata.get('DURATION', ''))
  if own:
    return 3600 * int(own[1]) + 60 * int(own[2]) + float(own[3])
  return (container.duration or 0) / av.time_base


def start_time(path: str | os.PathLike) -> float:
  """Seconds at which the first frame is shown, on the file's own clock, which its sound shares; 0
  without pictures."""
  with open_media(path) as container:
    track = picture_track(container)
    if track is None or not track.time_base:
      return 0.0
    track.codec_context.options = {'max_pixels': str(most_pixels(path))}
    try:
      return float(next(decoded(container, track))[1] or 0.0)
    except Exception:  # noqa: BLE001
      return 0.0  # nothing that can be shown; reading the pictures says so


def in_decoding_order(container, track) -> bool:
  """Whether the file's times are those of decoding, not of showing: AVI with pictures that refer to
  later ones."""
  return container.format.name == 'avi' and bool(track.codec_context.has_b_frames)


def seek_target(path: str | os.PathLike, seconds: float) -> int | None:
  """Ticks to jump to, so that decoding gives the frame at `seconds` of the file's clock; None: only
  from the beginning on.

  Formats with an index jump to the key frame before. In others, such as MPEG-TS, a jump may end
  behind it, and nothing would
  decode until the next one: there it is tried, and with a larger distance again.
  """
  with open_video(path) as container, one_sentence(path, 'video'):
    track = picture_track(container)
    if in_decoding_order(container, track):
      return None  # after a jump their times would not be known
    if _name(container) in _STATING:
      return int(seconds / track.time_base)
    for distance in _DISTANCES:
      ticks = int((seconds - distance) / track.time_base)
      try:
        container.seek(ticks, stream=track)
        time = next(decoded(container, track))[1]
      except (av.FFmpegError, StopIteration):
        continue
      if time is not None and time <= seconds + 1e-6:
        return ticks
  return None


def _name(container) -> str:
  return container.format.name.split(',')[0]


def decoded(
  container, track, saw: collections.abc.Callable = lambda packet: None
) -> collections.abc.Iterator[tuple[av.VideoFrame, float | None]]:
  """The frames of a track with their seconds on the file's clock, None where it has none; `saw` is
  given every packet."""
  waiting = collections.deque() if in_decoding_order(container, track) else None
  for packet in container.demux():
    saw(packet)
    if packet.stream.index != track.index:
      continue
    if waiting is not None and packet.size and packet.dts is not None:
      waiting.append(float(packet.dts * track.time_base))
    for frame in packet.decode():
      if waiting is None:
        yield frame, None if frame.time is None else float(frame.time)
      else:
        # As many are shown as are decoded, at the same times, only in another order.
        yield frame, waiting.popleft() if waiting else None


class Ends:
  """What the file says of its length, and how far its packets reach."""

  def __init__(self, container, track):
    self.declared = track.frames
    stating = _name(container) in _STATING
    # Whether a late start counts in is not the same for all formats: it is taken as if it did, the
    # milder way.
    self.stream_end = float(track.duration * track.time_base) if track.duration else None
    self.container_end = (
      container.duration / av.time_base if container.duration and stating else None
    )
    self._stills = {s.index for s in container.streams.video if s.index != track.index}
    self.reached = 0.0

  def saw(self, packet) -> None:
    """Counts a packet of any track: a file is as long as the longest one."""
    if packet.pts is not None and packet.time_base and packet.stream.index not in self._stills:
      self.reached = max(
        self.reached, float((packet.pts + (packet.duration or 0)) * packet.time_base)
      )

  def missing(self, count: int | None, last: float, rate: fractions.Fraction) -> str | None:
    """A complaint if frames are missing.

    An edit list may hide declared frames, so the clock must agree.

    Args:
      count: of the frames; None if reading did not begin at the beginning: then the clock alone
        decides.
      last: seconds of the last frame on the file's clock.
    """
    short = lambda end, reached: (
      end is not None and reached < min(0.98 * end, end - 2 / float(rate) - 0.1)
    )
    if self.declared and (count is None or count < 0.98 * self.declared - 1):
      ends = [e for e in (self.stream_end, self.container_end) if e is not None]
      if short(min(ends), last + 1 / float(rate)) if ends else count is not None:
        got = 'not all' if count is None else f'{count}'
        return f'is truncated: {got} of {self.declared} declared frames decode'
    if not self.declared and short(self.container_end, max(self.reached, last)):
      return (
        f'is truncated: it ends at {max(self.reached, last):.2f} s of {self.container_end:.2f} s'
      )
    return None
