"""Films for tests, made by libav alone, not by the writer under test; each with a flash and a click
at known moments."""

import fractions
import struct

import av
import numpy as np

SAMPLES = 16_000  # a second


def moving_square(count=12, height=46, width=62):
  """[T, H, W, 3] uint8."""
  frames = np.full((count, height, width, 3), 40, np.uint8)
  for t in range(count):
    frames[t, 10:26, (4 + 3 * t) % 40 : (4 + 3 * t) % 40 + 16] = (200, 120, 60)
  return frames


def write_film(
  path,
  ticks,
  clock,
  *,
  frames=None,
  flashes=(),
  size=(32, 32),
  sound='aac',
  seconds=0.0,
  sound_starts=0.0,
  codec='libx264',
  options=None,
  pix_fmt='yuv420p',
  tags=(),
  aspect=None,
  rate=None,
  container=None,
  tracks=1,
  layout='mono',
  hole=(0, 0),
  seconds_of_others=None,
):
  """A film whose frame i is shown at ticks[i] / clock seconds.

  Args:
    flashes: seconds at which the picture is white for a frame and the sound clicks (a silent track
      if there are none).
    sound: codec of the sound; its length is `seconds`, none if that is 0; its first sample is at
      `sound_starts`. Of several `tracks` only the first one clicks; the others last
      `seconds_of_others`, if that is given.
    layout: of the channels, all alike. hole: seconds of sound that are not there.
    tags: (primaries, transfer, matrix, range) of the pictures, libav's numbers.
  """
  base = fractions.Fraction(1, clock)
  flashing = {int(np.argmin(np.abs(np.asarray(ticks) / clock - at))) for at in flashes}
  with av.open(str(path), 'w', format=container) as out:
    pictures = out.add_stream(codec, rate=rate or 25, options=options or {'preset': 'ultrafast'})
    height, width = size if frames is None else frames[0].shape[:2]
    pictures.width, pictures.height, pictures.pix_fmt = width, height, pix_fmt
    pictures.codec_context.time_base = base
    if aspect:
      pictures.codec_context.sample_aspect_ratio = aspect
    if tags:
      context = pictures.codec_context
      context.color_primaries, context.color_trc, context.colorspace, context.color_range = tags
    sounds = [
      out.add_stream(sound, rate=SAMPLES, layout=layout) for _ in range(tracks if seconds else 0)
    ]
    for i, tick in enumerate(ticks):
      pixels = (
        frames[i]
        if frames is not None
        else np.full((height, width, 3), 255 if i in flashing else 0, np.uint8)
      )
      picture = av.VideoFrame.from_ndarray(pixels, format='rgb24')
      if tags:
        picture = picture.reformat(
          format=pix_fmt, dst_colorspace={1: 1, 5: 5, 6: 5, 9: 9}[tags[2]], dst_color_range=tags[3]
        )
        picture.color_range = tags[3]
      picture.pts, picture.time_base = int(tick), base
      out.mux(pictures.encode(picture))
    out.mux(pictures.encode(None))
    for number, track in enumerate(sounds):
      lasts = seconds if number == 0 or seconds_of_others is None else seconds_of_others
      wave = np.zeros(round(lasts * SAMPLES), np.float32)
      for at in flashes if number == 0 else ():
        begin = round((at - sound_starts) * SAMPLES)
        wave[begin : begin + 160] = 0.9 * np.sin(np.arange(len(wave[begin : begin + 160])) * 0.8)
      step = 1024
      for begin in range(0, len(wave), step):
        block = wave[begin : begin + step]
        if hole[0] <= begin / SAMPLES < hole[1]:
          continue
        kind = track.codec_context.format.name if track.codec_context.format else 'fltp'
        channels = track.codec_context.layout.nb_channels
        if 'flt' in kind:
          samples = av.AudioFrame.from_ndarray(
            np.repeat(block[None], channels, 0), format='fltp', layout=layout
          )
        else:
          packed = np.repeat(np.int16(block * 32767), channels)[None]
          samples = av.AudioFrame.from_ndarray(packed, format='s16', layout=layout)
        samples.sample_rate, samples.pts = SAMPLES, begin + round(sound_starts * SAMPLES)
        samples.time_base = fractions.Fraction(1, SAMPLES)
        out.mux(track.encode(samples))
      out.mux(track.encode(None))


def moments(path):
  """Seconds of the flashes and of the clicks of a film, by libav alone, on its own clock."""
  flashes, clicks = [], []
  with av.open(str(path)) as container:
    for frame in container.decode(video=0):
      if frame.to_ndarray(format='gray').mean() > 128:
        flashes.append(float(frame.time))
  with av.open(str(path)) as container:
    for frame in container.decode(audio=0):
      wave = np.abs(frame.to_ndarray().astype(np.float64))
      wave = (
        wave.max(0) if frame.format.is_planar else wave.reshape(-1, frame.layout.nb_channels).max(1)
      )
      wave = wave / 32768 if frame.format.name.startswith('s16') else wave
      loud = np.flatnonzero(wave > 0.4)
      if len(loud):
        at = float(frame.time) + loud[0] / frame.sample_rate
        if not clicks or at - clicks[-1] > 0.2:
          clicks.append(at)
  return flashes, clicks


def set_display_matrix(path, a, b, c, d):
  """Overwrites the matrix of the first track header of an mp4 file: a stored (x, y) is shown at
  (ax + cy, bx + dy)."""
  content = bytearray(path.read_bytes())
  at = content.index(b'tkhd') + 4
  at += 40 if content[at] == 0 else 52  # version 0 or 1
  content[at : at + 36] = struct.pack(
    '>9i', a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30
  )
  path.write_bytes(content)
