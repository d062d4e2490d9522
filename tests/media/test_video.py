import fractions

import av
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.media import video


def _moving_square(count=12, height=46, width=62):
  frames = np.full((count, height, width, 3), 40, np.uint8)
  for t in range(count):
    frames[t, 10:26, 4 + 3 * t:20 + 3 * t] = (200, 120, 60)
  return frames


@pytest.mark.parametrize('rate', [fractions.Fraction(25), fractions.Fraction(30000, 1001)])
def test_round_trip_keeps_pixels_count_and_exact_rate(tmp_path, rate):
  frames = _moving_square()
  assert video.write_video(tmp_path / 'a.mp4', frames, rate) == 12
  clip = video.read_video(tmp_path / 'a.mp4')
  assert clip.rate == rate and clip.frames.shape == frames.shape
  np.testing.assert_allclose(clip.times, np.arange(12) / float(rate), atol=1e-4)
  assert np.abs(clip.frames.astype(int) - frames).mean() < 3      # the codec's loss
  assert [p.name for p in tmp_path.iterdir()] == ['a.mp4']


def test_odd_sizes_are_padded_not_scaled(tmp_path):
  frames = _moving_square(3, 31, 45)
  video.write_video(tmp_path / 'a.mp4', frames, 25)
  clip = video.read_video(tmp_path / 'a.mp4')
  assert clip.frames.shape == (3, 32, 46, 3)
  assert np.abs(clip.frames[:, :31, :45].astype(int) - frames).mean() < 4


def _with_sound(path):
  with av.open(str(path), 'w') as out:
    pictures = out.add_stream('libx264', rate=25)
    pictures.width, pictures.height, pictures.pix_fmt = 62, 46, 'yuv420p'
    sound = out.add_stream('aac', rate=16000, layout='mono')
    for i, frame in enumerate(_moving_square()):
      picture = av.VideoFrame.from_ndarray(frame, format='rgb24')
      picture.pts = i
      out.mux(pictures.encode(picture))
    out.mux(pictures.encode(None))
    for i in range(8):
      samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
      samples.sample_rate, samples.pts = 16000, i * 1024
      out.mux(sound.encode(samples))
    out.mux(sound.encode(None))


def test_sound_is_copied(tmp_path):
  _with_sound(tmp_path / 'driver.mp4')
  video.write_video(tmp_path / 'out.mp4', _moving_square(), 25, audio_from=tmp_path / 'driver.mp4')
  with av.open(str(tmp_path / 'out.mp4')) as container:
    assert len(container.streams.audio) == 1
    track = container.streams.audio[0]
    assert abs(float(track.duration * track.time_base) - 0.48) < 0.08


def test_bad_files_are_one_sentence(tmp_path):
  good = tmp_path / 'good.mp4'
  video.write_video(good, np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8), 25)
  whole = good.read_bytes()
  cases = {'text.mp4': b'I am a text file, not a film.\n' * 20, 'empty.mp4': b'',
           'cut.mp4': whole[:int(0.6 * len(whole))]}
  words = {'text.mp4': 'not a video', 'empty.mp4': 'empty', 'cut.mp4': 'truncated|damaged'}
  for name, content in cases.items():
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words[name]) as error:
      video.read_video(tmp_path / name)
    assert name in str(error.value) and '\n' not in str(error.value)
  with pytest.raises(UserError, match='does not exist'):
    video.read_video(tmp_path / 'none.mp4')
  partial = video.read_video(tmp_path / 'cut.mp4', allow_partial=True)
  assert 1 <= len(partial.frames) < 40


def test_a_failed_write_leaves_nothing(tmp_path):
  def frames():
    yield from _moving_square(3)
    raise RuntimeError('renderer broke')
  with pytest.raises(RuntimeError):
    video.write_video(tmp_path / 'a.mp4', frames(), 25)
  assert not list(tmp_path.iterdir())
