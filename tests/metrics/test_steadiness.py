import fractions

import av
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.media.video import write_video
from exp_jax.metrics import av_offset, jitter, seam_ratio
from exp_jax.metrics.evaluation.probes import Steadiness, Window
from exp_jax.metrics.steadiness import StreamTimes, stream_times

RNG = np.random.default_rng(0)


def test_jitter_is_zero_for_even_motion_and_scales_with_the_picture():
  time = np.arange(9)[:, None, None]
  even = RNG.uniform(0, 100, (1, 5, 2)) + time * [1.5, -0.5]
  assert jitter(even, (256, 256)).value < 1e-9
  shaken = even + RNG.normal(0, 0.2, even.shape)
  expected = np.sqrt(
    np.mean([np.sum((shaken[t + 1] - 2 * shaken[t] + shaken[t - 1]) ** 2, -1) for t in range(1, 8)])
  )
  assert jitter(shaken, (512, 300)).value == pytest.approx(expected)
  assert jitter(shaken, (256, 300)).value == pytest.approx(2 * expected)
  shaken[4] = np.nan
  score = jitter(shaken, (512, 512))
  assert score.count == 4 and score.coverage == pytest.approx(4 / 7)
  with pytest.raises(ValueError, match='three'):
    jitter(shaken[:2], (512, 512))


def test_seam_ratio_compares_seams_with_the_usual_change():
  changes = np.array([1.0, 1, 1, 4, 1, 1, 1, 2, 1])  # frames 4 and 8 open windows
  assert seam_ratio(changes, np.array([4, 8])).value == 3
  assert seam_ratio(changes, np.array([2, 6])).value == 1
  unknown = seam_ratio(changes, np.zeros(0, int))
  assert unknown.value == 4 and 'no seams given' in unknown.variant
  assert np.isnan(seam_ratio(np.zeros(5), np.array([2])).value)
  with pytest.raises(ValueError, match='1..9'):
    seam_ratio(changes, np.array([10]))


def test_windows_make_no_difference_to_steadiness():
  frames = RNG.integers(0, 255, (11, 6, 8, 3)).astype(np.uint8)
  points = RNG.uniform(0, 8, (11, 478, 2))
  window = lambda s: Window('self', frames[s], frames[s], points[s], points[s])
  _, whole = Steadiness()(window(np.s_[:]))
  parted, parts = Steadiness(), {}
  for s in (np.s_[:1], np.s_[1:2], np.s_[2:7], np.s_[7:]):
    for name, rows in parted(window(s))[1].items():
      parts.setdefault(name, []).append(rows)
  assert len(whole['changes']) == 10 and len(whole['second.result']) == 9
  for name, rows in whole.items():
    np.testing.assert_allclose(np.concatenate(parts[name]), rows)
  assert whole['changes'][3] == pytest.approx(
    np.abs(frames[4].astype(float) - frames[3]).mean() / 255, rel=1e-5
  )


def test_timestamps_are_read_without_decoding(tmp_path):
  write_video(tmp_path / 'a.mp4', np.zeros((13, 32, 48, 3), np.uint8), 30000 / 1001)
  times = stream_times(tmp_path / 'a.mp4')
  assert times.frames == 13 and times.rate == pytest.approx(30000 / 1001) and times.sound is None
  assert times.picture[1] - times.picture[0] == pytest.approx(13 * 1001 / 30000, abs=1e-3)
  for name, words in (
    ('nowhere.mp4', 'does not exist'),
    ('text.mp4', 'not a video'),
    ('empty.mp4', 'empty'),
  ):
    if name != 'nowhere.mp4':
      (tmp_path / name).write_text('' if name == 'empty.mp4' else 'words')
    with pytest.raises(UserError, match=words):
      stream_times(tmp_path / name)


def with_sound(path, *, pictures, late=0.0):
  """A clip of 25 frames a second with one second of tone that starts `late` seconds after the
  picture."""
  with av.open(str(path), 'w') as out:
    picture, sound = (
      out.add_stream('libx264', rate=25),
      out.add_stream('aac', rate=16000, layout='mono'),
    )
    picture.width = picture.height = 32
    picture.pix_fmt = 'yuv420p'
    for t in range(pictures):
      out.mux(
        picture.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * t, np.uint8), 'rgb24'))
      )
    out.mux(picture.encode(None))
    tone = av.AudioFrame.from_ndarray(
      np.sin(np.arange(16000) / 9)[None].astype(np.float32), 'fltp', 'mono'
    )
    tone.sample_rate, tone.pts, tone.time_base = (
      16000,
      round(16000 * late),
      fractions.Fraction(1, 16000),
    )
    out.mux(sound.encode(tone))
    out.mux(sound.encode(None))


def test_sound_that_starts_late_in_a_file_is_seen(tmp_path):
  for name, late in (('driver', 0.0), ('good', 0.0), ('late', 0.2)):
    with_sound(tmp_path / f'{name}.mp4', pictures=25, late=late)
  times = {name: stream_times(tmp_path / f'{name}.mp4') for name in ('driver', 'good', 'late')}
  assert times['driver'].sound is not None and times['driver'].frames == 25
  assert av_offset(times['good'], times['driver']).value < 1
  # packets of 64 ms
  assert av_offset(times['late'], times['driver']).value == pytest.approx(200, abs=65)


def test_sound_that_slips_is_measured_and_sound_that_outlasts_the_picture_is_no_drift():
  times = lambda sound: StreamTimes(50, 25.0, (0.0, 2.0), sound)
  assert av_offset(times((0.0, 2.0)), times((0.0, 2.0))).value == 0
  assert av_offset(times((0.0, 1.9)), times((0.0, 2.0))).value == pytest.approx(100)
  assert av_offset(times((0.05, 2.0)), times((0.0, 2.0))).value == pytest.approx(50)
  assert av_offset(times((0.0, 2.0)), times((0.0, 2.4))).value == 0
  assert np.isnan(av_offset(times(None), times((0.0, 2.0))).value)
