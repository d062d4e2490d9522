"""The sound of one file into another: copied packet by packet where mp4 players know the codec,
else encoded as AAC."""

import collections.abc
import errno
import fractions
import os
import pathlib

import av
import numpy as np

from exp_jax.media.foreign.containers import open_media, start_time
from exp_jax.media.foreign.failures import reason
from exp_jax.media.formats import PICTURE_SUFFIXES, picture_format

COPIED = ('aac', 'mp3', 'ac3', 'eac3', 'alac')  # what players of mp4 files play
_AAC_RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
# seconds; a longer hole in the sound is filled with silence, so that what follows stays in time
_GAP = 0.03
# not the sound's fault
OF_THE_PLACE = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO


def _is_silent(path: str | os.PathLike) -> bool:
  """Motion files, and pictures by their content; by the name if there is no such file."""
  path = pathlib.Path(path)
  if path.suffix.lower() == '.npz' or picture_format(path) is not None:
    return True
  return not path.exists() and path.suffix.lower() in PICTURE_SUFFIXES


class Sound:
  """The first sound track of a file on its way into an output; time 0 is the source's first
  picture.

  A file without sound, a photograph, or no file at all: `track` is None and nothing is written.
  """

  def __init__(
    self, output, path: str | os.PathLike | None, warn: collections.abc.Callable[[str], None]
  ):
    self.track, self._warn, self._path, self._pending = None, warn, path, None
    self._output, self._target, self._damage = output, None, None
    if path is None or _is_silent(path):
      return
    self._source = open_media(path)
    tracks = self._source.streams.audio
    if not tracks:
      self._source.close()
      return
    self.track = tracks[0]
    if len(tracks) > 1:
      warn(f'{str(path)!r} has {len(tracks)} sound tracks; the first one is used')
    codec = self.track.codec_context
    if codec is None:
      warn(f'the sound of {str(path)!r} is in an unknown codec; the result is silent')
      self.close()
      return
    self._start = start_time(path)
    try:
      self._packets = self._prepared(codec)
    except Exception as error:  # a header that says nothing usable, such as a rate of 0
      self._complain(error)

  def _prepared(self, codec):
    """Adds the track to the output; its packets with their seconds."""
    if codec.sample_rate < 1 or codec.layout.nb_channels < 1:
      raise ValueError(
        f'{codec.layout.nb_channels} channels at {codec.sample_rate} samples a second'
      )
    if codec.name in COPIED:
      self._target = self._output.add_stream_from_template(self.track)
      return self._copied()
    self._warn(
      f'the sound of {str(self._path)!r} is {codec.name}, which mp4 players do not know; it is '
      'encoded as AAC'
    )
    rate = next((r for r in _AAC_RATES if r <= codec.sample_rate), _AAC_RATES[-1])
    # the header may give a number without a name
    layout = 'mono' if codec.layout.nb_channels == 1 else 'stereo'
    self._target = self._output.add_stream('aac', rate=rate, layout=layout)
    self._target.codec_context.bit_rate = 96_000 * min(codec.layout.nb_channels, 2)
    return self._encoded(av.AudioResampler(format='fltp', layout=layout, rate=rate))

  @property
  def in_output(self) -> bool:
    """Whether the output has a sound track."""
    return self._target is not None

  def write(self, until: float) -> None:
    """Sends all packets that begin before `until` seconds."""
    if self.track is None:
      return
    try:
      while True:
        if self._pending is None:
          self._pending = next(self._packets, None)
        if self._pending is None or self._pending[0] >= until:
          return
        self._output.mux(self._pending[1])
        self._pending = None
    except (
      Exception
    ) as error:  # of the reader, the decoder, or the writer that cannot take such packets
      if getattr(error, 'errno', None) in OF_THE_PLACE:
        raise
      self._complain(error)

  def close(self) -> None:
    """Closes the source."""
    if self.track is not None:
      self.track = None
      self._source.close()

  def _complain(self, error: Exception) -> None:
    self._warn(
      f'the sound of {str(self._path)!r} is damaged ({reason(error)}); the result is silent from '
      'there on'
    )
    self.close()

  def _copied(self):
    base = self.track.time_base
    shift = round(self._start / base)
    for packet in self._source.demux(self.track):
      if packet.dts is None or packet.pts is None:
        continue
      if packet.pts + 2 * (packet.duration or 0) <= shift:
        # over before the first picture is shown, but for the one that decoders need before it
        continue
      time = float((packet.pts - shift) * base)
      packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, self._target
      yield time, packet

  def _encoded(self, resampler):
    rate, written = self._target.codec_context.sample_rate, None

    def send(frame):
      nonlocal written
      frame.pts, frame.time_base = written, fractions.Fraction(1, rate)
      written += frame.samples
      for packet in self._target.encode(frame):
        yield float((packet.pts or 0) * packet.time_base), packet

    def packets(frames):
      nonlocal written
      for frame in frames:
        if written is None:
          begins = round((float(frame.time or 0.0) - self._start) * rate)
          if begins + frame.samples <= 0:
            continue  # over before the first picture is shown
          if begins < 0:
            frame = _without(frame, -begins)
          written = max(begins, 0)
        elif frame.time is not None:
          missing = round((float(frame.time) - self._start) * rate) - written
          if missing > _GAP * rate:  # a recorder that lost some
            yield from send(_silence(frame, missing))
        yield from send(frame)

    try:
      for frame in self._source.decode(self.track):
        yield from packets(resampler.resample(frame))
      yield from packets(resampler.resample(None))
    except Exception as error:  # what was decoded before that is still written
      self._damage = error
    for packet in self._target.encode(None):
      yield float((packet.pts or 0) * packet.time_base), packet
    if self._damage is not None:
      raise self._damage


def _without(frame: av.AudioFrame, count: int) -> av.AudioFrame:
  """A frame of planar samples without its first `count` ones."""
  rest = av.AudioFrame.from_ndarray(
    np.ascontiguousarray(frame.to_ndarray()[:, count:]),
    format=frame.format.name,
    layout=frame.layout.name,
  )
  rest.sample_rate = frame.sample_rate
  return rest


def _silence(like: av.AudioFrame, count: int) -> av.AudioFrame:
  """`count` samples of planar silence."""
  frame = av.AudioFrame.from_ndarray(
    np.zeros((like.layout.nb_channels, count), np.float32),
    format=like.format.name,
    layout=like.layout.name,
  )
  frame.sample_rate = like.sample_rate
  return frame


def has_sound(path: str | os.PathLike) -> bool:
  """Whether a file has a sound track. UserError if it cannot be opened."""
  if _is_silent(path):
    return False
  with open_media(path) as container:
    return bool(container.streams.audio)
