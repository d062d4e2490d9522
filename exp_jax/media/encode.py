"""Videos out, through PyAV: H.264 yuv420p, BT.709, fast-start mp4, which every player shows, with
the driver's sound.

One frame in memory at a time; sound is interleaved as the pictures are written. Outputs appear
under their name only when they are complete.
"""

import collections.abc
import fractions
import itertools
import os
import pathlib

import av
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files.atomic import replacing
from exp_jax.media.decode import SIZE_TAG, tell
from exp_jax.media.foreign.failures import reason
from exp_jax.media.sound import OF_THE_PLACE, Sound

_BT709, _LIMITED = 1, 1
# Pixels. x264's mb-tree reads memory that nobody wrote where a row has fewer than 8 macroblocks of
# 16: the same frames gave another file every few times. Seen at widths of 32 to 112 and any height,
# not from 126 on.
_NARROW = 112
_MOST_SIDE = 16_384
# ticks a second at least, so that times of clips with a variable rate are kept to 1/96000 s
_FINE = 48_000


def ticks_per_second(rate: fractions.Fraction) -> int:
  """A clock on which frames of `rate` fall on whole ticks, fine enough for times between them."""
  fine = rate.numerator * -(-_FINE // rate.numerator)
  return fine if fine <= 10_000_000 else 90_000


def write_video(
  path: str | os.PathLike,
  frames: collections.abc.Iterable[np.ndarray],
  rate: fractions.Fraction | float,
  *,
  audio_from: str | os.PathLike | None = None,
  crf: int = 16,
  metadata: dict[str, str] | None = None,
  warn: collections.abc.Callable[[str], None] = tell,
) -> int:
  """Encodes frames at a constant rate; atomic.

  Args:
    frames: iterable of [H, W, 3], uint8 or float in [0, 1], all of one size. H.264 has even sizes:
      odd ones are padded by one repeated row or column, never rescaled, and a tag says so;
      `read_frames` takes the padding off again.
    rate: frames per second.
    audio_from: a file whose first sound track is kept, from the file's first picture on: copied
      unchanged where mp4 players know its codec, else encoded as AAC with a warning.
    crf: quality of x264, smaller is better.
    metadata: tags of the file, such as {'comment': '...'}.
    warn: takes a sentence.

  Returns:
    The number of frames written.
  """
  rate = fractions.Fraction(rate).limit_denominator(100_000)
  timed = ((frame, i / rate) for i, frame in enumerate(frames))
  return write_timed_video(
    path, timed, rate, audio_from=audio_from, crf=crf, metadata=metadata, warn=warn
  )


def write_timed_video(
  path: str | os.PathLike,
  timed_frames: collections.abc.Iterable[tuple[np.ndarray, float | fractions.Fraction]],
  rate: fractions.Fraction | float,
  *,
  audio_from: str | os.PathLike | None = None,
  crf: int = 16,
  metadata: dict[str, str] | None = None,
  warn: collections.abc.Callable[[str], None] = tell,
  finish: collections.abc.Callable[[pathlib.Path], None] | None = None,
) -> int:
  """Encodes frames with a time each, as `read_frames` yields them, so that a variable rate is kept;
  else as `write_video`.

  Args:
    timed_frames: (frame, seconds from the first one); times increase.
    rate: the average or nominal rate; times that are whole multiples of 1 / rate are kept exactly.
    finish: is given the whole file before it takes its name, such as to sign it.

  Raises:
    ValueError: no frames, times that do not increase, or frames of several sizes.
    UserError: the sound cannot be stored, or frames are too large for H.264.
  """
  rate = fractions.Fraction(rate).limit_denominator(100_000)
  clock = ticks_per_second(rate)
  timed_frames = iter(timed_frames)
  first = next(timed_frames, None)
  if first is None:
    raise ValueError(f'no frames to write to {str(path)!r}')
  size = _checked_size(path, np.shape(first[0]))
  odd = size[0] % 2 or size[1] % 2
  count, tick, sound = 0, -1, None
  with replacing(path) as partial:
    try:
      flags = '+faststart+use_metadata_tags' if odd else '+faststart'
      with av.open(f'file:{partial}', 'w', format='mp4', options={'movflags': flags}) as output:
        output.metadata.update(metadata or {})
        if odd:
          output.metadata[SIZE_TAG] = f'{size[1]}x{size[0]}'
        stream = _h264(output, size, rate, crf)
        context = stream.codec_context
        context.time_base = fractions.Fraction(1, clock)
        sound = Sound(output, audio_from, warn)
        for pixels, time in itertools.chain([first], timed_frames):
          pixels = np.asarray(pixels)
          if pixels.shape != size:
            raise ValueError(f'frame {count} is {pixels.shape}, the first one {size}')
          now = round(time * clock)
          if now <= tick:
            raise ValueError(
              f'times must increase: frame {count} at {float(time)} s, the one before at '
              f'{tick / clock} s'
            )
          tick = now
          picture = _picture(pixels)
          picture.pts, picture.time_base = tick, context.time_base
          picture.duration = max(1, round(clock / rate))
          output.mux(stream.encode(picture))
          sound.write(tick / clock)
          count += 1
        output.mux(stream.encode(None))
        sound.write(tick / clock + float(1 / rate))
    except av.FFmpegError as error:
      if sound is None or not sound.in_output or error.errno in OF_THE_PLACE:
        raise
      raise UserError(
        f'{str(path)!r} cannot be written with the sound of {str(audio_from)!r} ({reason(error)}); '
        'that sound is '
        'damaged: export that file again, or take its sound away'
      ) from error
    finally:
      if sound is not None:
        sound.close()
    if finish is not None:
      finish(partial)
  return count


def _checked_size(path, size: tuple[int, ...]) -> tuple[int, ...]:
  """The same; UserError beyond what H.264 holds."""
  if max(size[:2]) > _MOST_SIDE:
    raise UserError(
      f'{str(path)!r} would have {size[1]} x {size[0]} pixels, and H.264 holds at most '
      f'{_MOST_SIDE} a side; scale the source down'
    )
  return size


def _h264(output, size: tuple[int, ...], rate: fractions.Fraction, crf: int):
  """A stream of pictures in BT.709, of even sides."""
  height, width = size[0] + size[0] % 2, size[1] + size[1] % 2
  options = {'crf': str(crf), 'preset': 'medium'}
  if width <= _NARROW:
    options['x264-params'] = 'mbtree=0'
  stream = output.add_stream('libx264', rate=rate, options=options)
  stream.height, stream.width = height, width
  stream.pix_fmt, context = 'yuv420p', stream.codec_context
  context.colorspace = context.color_primaries = context.color_trc = 1
  context.color_range = _LIMITED
  return stream


def _picture(pixels: np.ndarray) -> av.VideoFrame:
  if pixels.dtype != np.uint8:
    pixels = np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
  height, width = pixels.shape[:2]
  if height % 2 or width % 2:
    pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')
  frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format='rgb24')
  return frame.reformat(format='yuv420p', dst_colorspace=_BT709, dst_color_range=_LIMITED)
