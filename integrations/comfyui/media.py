"""Pictures and sound of ComfyUI to files and back.

Letters: T frames, H, W pixels, C channels, S samples.

IMAGE is float [T, H, W, 3] in [0, 1]; AUDIO is {'waveform': float [1, C, S], 'sample_rate': samples
a second}. Here both are numpy's.
"""

import fractions
import io

import av
import numpy as np
from PIL import Image


def as_bytes(images: np.ndarray) -> np.ndarray:
  """uint8 [T, H, W, 3] of an IMAGE."""
  return np.rint(np.clip(images[..., :3], 0, 1) * 255).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
  """A PNG file of one picture [H, W, 3] of an IMAGE."""
  stream = io.BytesIO()
  Image.fromarray(as_bytes(image)).save(stream, 'PNG')
  return stream.getvalue()


def clip(images: np.ndarray, rate: float, sound: dict | None = None) -> bytes:
  """A Matroska file that keeps every bit of the frames, with the sound.

  Args:
    images: an IMAGE of at least one frame.
    rate: frames a second.
    sound: an AUDIO, or None.
  """
  stream, frames = io.BytesIO(), as_bytes(images)
  with av.open(stream, 'w', format='matroska') as container:
    video = container.add_stream('ffv1', rate=fractions.Fraction(rate).limit_denominator(100_000))
    video.height, video.width, video.pix_fmt = *frames.shape[1:3], 'bgr0'
    audio = None if sound is None else _sound_stream(container, sound)
    for frame in frames:
      for packet in video.encode(
        av.VideoFrame.from_ndarray(frame, format='rgb24').reformat(format='bgr0')
      ):
        container.mux(packet)
    container.mux(video.encode())
    if audio is not None:
      _write_sound(container, audio, sound)
  return stream.getvalue()


def _sound_stream(container, sound: dict):
  channels = sound['waveform'].shape[1]
  return container.add_stream(
    'flac', rate=int(sound['sample_rate']), layout='mono' if channels == 1 else 'stereo'
  )


def _write_sound(container, stream, sound: dict) -> None:
  samples = np.clip(sound['waveform'][0][:2], -1, 1)
  whole = np.rint(samples * 32767).astype(np.int16)
  for start in range(0, whole.shape[1], 4096):
    part = np.ascontiguousarray(whole[:, start : start + 4096].T.reshape(1, -1))
    frame = av.AudioFrame.from_ndarray(part, format='s16', layout=stream.layout.name)
    frame.sample_rate, frame.pts = int(sound['sample_rate']), start
    container.mux(stream.encode(frame))
  container.mux(stream.encode())


def read(content: bytes) -> tuple[np.ndarray, float, dict | None]:
  """Of a video file: frames as an IMAGE, frames a second, its sound as an AUDIO or None."""
  with av.open(io.BytesIO(content)) as container:
    rate = float(container.streams.video[0].average_rate or 25)
    frames = np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])
  return frames.astype(np.float32) / 255, rate, _read_sound(content)


def _read_sound(content: bytes) -> dict | None:
  with av.open(io.BytesIO(content)) as container:
    if not container.streams.audio:
      return None
    rate, resample = container.streams.audio[0].rate, av.AudioResampler(format='fltp')
    parts = [
      part.to_ndarray() for frame in container.decode(audio=0) for part in resample.resample(frame)
    ]
    parts += [part.to_ndarray() for part in resample.resample(None)]
  return {'waveform': np.concatenate(parts, 1)[None], 'sample_rate': rate}
