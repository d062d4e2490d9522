"""Video in and out through PyAV: RGB uint8 frames, upright, square pixels, exact rational rate and times.

What the field's readers disagree on is decided here once: the display matrix and the pixel aspect ratio are
applied, HDR is refused, a file that ends early is an error unless the caller allows partial input, sound is
copied packet by packet, outputs appear under their name only when complete.
"""

import collections.abc
import dataclasses
import fractions
import os
import pathlib

import av
import numpy as np

from exp_jax.errors import UserError

_HDR_TRANSFERS = {16: 'PQ (HDR10)', 18: 'HLG'}  # ITU-T H.273 transfer characteristics
_BT601, _BT709 = 5, 1  # swscale's colour-space codes


@dataclasses.dataclass(frozen=True)
class Clip:
  """Decoded video: frames [T, H, W, 3] uint8 RGB, times [T] seconds from the first frame, exact rate."""
  frames: np.ndarray
  times: np.ndarray
  rate: fractions.Fraction


def _open(path: pathlib.Path) -> av.container.InputContainer:
  if not path.is_file():
    raise UserError(f'video {str(path)!r} does not exist; give the path of an mp4, mov, mkv or webm file')
  if path.stat().st_size == 0:
    raise UserError(f'video {str(path)!r} is empty (0 bytes); record or export it again')
  try:
    # The file: protocol keeps names such as 'http:...' or '-' from meaning anything but a file.
    container = av.open(f'file:{path}')
  except (av.FFmpegError, ValueError) as error:
    raise UserError(f'{str(path)!r} is not a video that can be read ({type(error).__name__}); '
                    'give an mp4, mov, mkv or webm file') from None
  stream = container.streams.video[0] if container.streams.video else None
  if stream is None or not stream.codec_context.width:
    container.close()
    raise UserError(f'{str(path)!r} holds no picture stream; give a file with video in it')
  if stream.codec_context.color_trc in _HDR_TRANSFERS:
    container.close()
    raise UserError(f'video {str(path)!r} is {_HDR_TRANSFERS[stream.codec_context.color_trc]}; '
                    'convert it to SDR (BT.709) first')
  return container


def video_rate(path: str | os.PathLike) -> fractions.Fraction:
  """Average frame rate of the first picture stream, frames per second, exact."""
  with _open(pathlib.Path(path)) as container:
    stream = container.streams.video[0]
    return fractions.Fraction(stream.average_rate or stream.guessed_rate or 25)


def read_frames(path: str | os.PathLike, *, allow_partial: bool = False
                ) -> collections.abc.Iterator[tuple[np.ndarray, float]]:
  """Streams a video, one frame in memory at a time.

  Yields:
    frame: [H, W, 3] uint8 RGB, upright, square pixels.
    time: seconds since the first frame.

  Raises:
    UserError: missing, empty, no video, HDR, or (unless allow_partial) truncated or damaged.
  """
  path = pathlib.Path(path)
  with _open(path) as container:
    stream = container.streams.video[0]
    stream.thread_type = 'AUTO'
    declared, count, start = stream.frames, 0, None
    aspect = stream.sample_aspect_ratio or fractions.Fraction(1)
    try:
      for frame in container.decode(stream):
        time = float(frame.time) if frame.time is not None else count / float(stream.average_rate or 25)
        start = time if start is None else start
        yield _upright(frame, aspect), time - start
        count += 1
    except av.FFmpegError as error:
      if not allow_partial:
        raise UserError(f'video {str(path)!r} is damaged after frame {count} ({error.strerror}); '
                        'export it again or pass --allow_partial') from None
    if count == 0:
      raise UserError(f'video {str(path)!r} holds no decodable frame; export it again')
    if declared and count < 0.98 * declared - 1 and not allow_partial:
      raise UserError(f'video {str(path)!r} is truncated: {count} of {declared} declared frames decode; '
                      'export it again or pass --allow_partial')


def _upright(frame: av.VideoFrame, aspect: fractions.Fraction) -> np.ndarray:
  space = frame.colorspace if frame.colorspace in (_BT601, _BT709, 6, 7, 9) else (
    _BT709 if frame.height >= 720 else _BT601)
  width = max(1, round(frame.width * aspect)) if aspect > 0 else frame.width
  rgb = frame.reformat(width=width, format='rgb24', src_colorspace=min(space, 7)).to_ndarray()
  return np.ascontiguousarray(np.rot90(rgb, k=round(frame.rotation / 90) % 4))


def read_video(path: str | os.PathLike, *, limit: int | None = None, allow_partial: bool = False) -> Clip:
  """Reads a whole video (or its first `limit` frames) into memory; errors as `read_frames`."""
  frames, times = [], []
  for frame, time in read_frames(path, allow_partial=allow_partial):
    frames.append(frame)
    times.append(time)
    if limit and len(frames) == limit:
      break
  return Clip(np.stack(frames), np.asarray(times), video_rate(path))


def write_video(path: str | os.PathLike, frames: collections.abc.Iterable[np.ndarray],
                rate: fractions.Fraction | float, *, audio_from: str | os.PathLike | None = None,
                crf: int = 16) -> int:
  """Encodes H.264 yuv420p, BT.709, fast-start mp4, which every player shows; atomic.

  Args:
    frames: iterable of [H, W, 3], uint8 or float in [0, 1], all of one size; odd sizes are padded by one
      repeated row or column, never rescaled.
    rate: frames per second.
    audio_from: a file whose first sound track is copied unchanged, if it has one.

  Returns:
    The number of frames written.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.stem[:100]}.{os.getpid()}.partial.mp4')
  rate = fractions.Fraction(rate).limit_denominator(100_000)
  count = 0
  try:
    with av.open(f'file:{partial}', 'w', options={'movflags': '+faststart'}) as output:
      stream = output.add_stream('libx264', rate=rate, options={'crf': str(crf), 'preset': 'medium'})
      stream.pix_fmt = 'yuv420p'
      context = stream.codec_context
      context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1
      sound = _sound_stream(output, audio_from)
      for pixels in frames:
        picture = _picture(pixels)
        if count == 0:
          stream.height, stream.width = picture.height, picture.width
        picture.pts, picture.time_base = count, 1 / rate
        output.mux(stream.encode(picture))
        count += 1
      if count == 0:
        raise ValueError(f'no frames to write to {str(path)!r}')
      output.mux(stream.encode(None))
      if sound:
        _copy_sound(output, *sound, until=count / rate)
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
  return count


def _picture(pixels: np.ndarray) -> av.VideoFrame:
  pixels = np.asarray(pixels)
  if pixels.dtype != np.uint8:
    pixels = np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
  height, width = pixels.shape[:2]
  pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
  frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format='rgb24')
  return frame.reformat(format='yuv420p', dst_colorspace=_BT709)


def _sound_stream(output, audio_from):
  if audio_from is None or pathlib.Path(audio_from).suffix.lower() in ('.npz', '.png', '.jpg', '.jpeg'):
    return None
  source = _open(pathlib.Path(audio_from))
  if not source.streams.audio:
    source.close()
    return None
  track = source.streams.audio[0]
  return source, track, output.add_stream_from_template(track)


def _copy_sound(output, source, track, target, *, until: fractions.Fraction):
  with source:
    for packet in source.demux(track):
      if packet.dts is None or packet.pts * track.time_base > until:
        continue
      packet.stream = target
      output.mux(packet)
