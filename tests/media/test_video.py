import fractions
import os
import subprocess
import sys

import av
import numpy as np
import pytest
import scipy.ndimage

from exp_jax.errors import UserError
from exp_jax.media import encode, video
from tests.media.films import moments, moving_square, set_display_matrix, write_film

NTSC, FILM = fractions.Fraction(30000, 1001), fractions.Fraction(24000, 1001)


@pytest.mark.parametrize(
  'rate', [fractions.Fraction(25), NTSC, FILM, fractions.Fraction(120)], ids=str
)
def test_round_trip_keeps_pixels_count_and_exact_rate(tmp_path, rate):
  frames = moving_square()
  assert video.write_video(tmp_path / 'a.mp4', frames, rate) == 12
  clip = video.read_video(tmp_path / 'a.mp4')
  assert clip.rate == rate and clip.frames.shape == frames.shape
  np.testing.assert_allclose(clip.times, np.arange(12) / float(rate), atol=1e-6)
  assert np.abs(clip.frames.astype(int) - frames).mean() < 3  # the codec's loss
  assert [p.name for p in tmp_path.iterdir()] == ['a.mp4']


@pytest.mark.parametrize('height, width', [(256, 64), (96, 96), (64, 126)])
def test_equal_frames_make_equal_files(tmp_path, height, width):
  """Narrow ones, too, where an encoder that looks beyond the end of a row finds what others left."""
  frames = np.random.default_rng(0).integers(0, 255, (20, height, width, 3)).astype(np.float32)
  frames = scipy.ndimage.gaussian_filter(frames, (1, 2, 2, 0))
  frames = np.uint8(255 * (frames - frames.min()) / np.ptp(frames))
  found = set()
  for _ in range(12):
    video.write_video(tmp_path / 'a.mp4', frames, 25)
    found.add((tmp_path / 'a.mp4').read_bytes())
  assert len(found) == 1


@pytest.mark.parametrize('height, width', [(31, 45), (32, 45), (31, 46), (1, 1)])
def test_odd_sizes_are_padded_not_scaled_and_come_back_as_they_were(tmp_path, height, width):
  frames = moving_square(3, height, width)
  video.write_video(tmp_path / 'a.mp4', frames, 25, metadata={'comment': 'made by hand'})
  clip = video.read_video(tmp_path / 'a.mp4')
  assert clip.frames.shape == frames.shape and np.abs(clip.frames.astype(int) - frames).mean() < 4
  with av.open(str(tmp_path / 'a.mp4')) as container:  # what other readers see
    assert container.metadata['comment'] == 'made by hand'
    stored = next(container.decode(video=0)).to_ndarray(format='rgb24')
  assert stored.shape == (height + height % 2, width + width % 2, 3)
  np.testing.assert_allclose(stored[-1].astype(int), stored[height - 1], atol=8)


def test_a_false_size_tag_cuts_nothing(tmp_path):
  video.write_video(tmp_path / 'a.mp4', moving_square(2, 31, 45), 25)
  content = (tmp_path / 'a.mp4').read_bytes()
  for false in (b'44x31', b'45x29', b'0x000', b'99x99', b'junk!'):
    (tmp_path / 'b.mp4').write_bytes(content.replace(b'45x31', false))
    assert video.read_video(tmp_path / 'b.mp4').frames.shape == (2, 32, 46, 3)


def test_odd_sizes_are_read_as_they_are(tmp_path):
  frames = moving_square(3, 31, 45)
  write_film(
    tmp_path / 'a.mkv',
    [0, 1, 2],
    25,
    frames=frames,
    codec='ffv1',
    pix_fmt='bgr0',
    options={'level': '3'},
  )
  np.testing.assert_array_equal(video.read_video(tmp_path / 'a.mkv').frames, frames)


def _pace(kind, seconds):
  """Ticks, clock and nominal rate of a film."""
  if kind == 'variable':
    rng = np.random.default_rng(0)
    # 10 to 90 frames a second
    steps = rng.choice([1000, 1500, 3000, 9000], size=round(seconds * 90_000 / 3000))
    ticks = np.concatenate([[0], np.cumsum(steps)])
    return ticks[ticks < seconds * 90_000], 90_000, fractions.Fraction(30)
  return np.arange(int(seconds * kind)) * kind.denominator, kind.numerator, kind


@pytest.mark.long
@pytest.mark.parametrize('kind', [NTSC, FILM, fractions.Fraction(120), 'variable'], ids=str)
def test_sound_and_picture_stay_together_for_a_minute(tmp_path, kind):
  """Streamed from a film into another one: the last flash and the last click as far apart as
  before, to a frame."""
  ticks, clock, rate = _pace(kind, 60)
  source, target = tmp_path / 'source.mp4', tmp_path / 'target.mp4'
  write_film(source, ticks, clock, flashes=(1, 30, 59), seconds=60, rate=rate)
  timed = ((255 - frame, time) for frame, time in video.read_frames(source))
  timed = ((255 - frame, time) for frame, time in timed)
  count = video.write_timed_video(target, timed, video.video_rate(source), audio_from=source)
  assert count == len(ticks)
  (before, heard), (after, sound) = moments(source), moments(target)
  assert len(before) == len(after) == len(sound) == len(heard) == 3
  longest = np.diff(ticks).max() / clock if kind == 'variable' else 1 / float(rate)
  np.testing.assert_allclose(
    np.subtract(after, sound), np.subtract(before, heard), atol=min(longest, 1 / float(rate))
  )
  np.testing.assert_allclose(after, before, atol=1e-4)
  times = [time for _, time in video.read_frames(target)]
  np.testing.assert_allclose(
    times, (ticks - ticks[0]) / clock, atol=1e-5 if kind != 'variable' else 2e-5
  )
  if kind != 'variable':
    assert video.video_rate(target) == kind


@pytest.mark.long
@pytest.mark.parametrize('sound', ['aac', 'flac'])
@pytest.mark.parametrize('starts, first_frame', [(0.0, 12), (0.4, 0), (0.4, 12)])
def test_pictures_and_sound_that_begin_apart_stay_apart(tmp_path, starts, first_frame, sound):
  source, target = tmp_path / 'source.mkv', tmp_path / 'target.mp4'
  write_film(
    source,
    np.arange(first_frame, 75),
    25,
    flashes=(1.2, 2.4),
    seconds=3 - starts,
    sound_starts=starts,
    sound=sound,
  )
  video.write_timed_video(
    target, video.read_frames(source), 25, audio_from=source, warn=lambda words: None
  )
  (before, heard), (after, played) = moments(source), moments(target)
  np.testing.assert_allclose(np.subtract(after, played), np.subtract(before, heard), atol=0.04)
  assert after[0] == pytest.approx(before[0] - first_frame / 25, abs=1e-3)


@pytest.mark.parametrize('sound', ['aac', 'flac'])
def test_sound_after_a_hole_is_in_time(tmp_path, sound):
  source, target = tmp_path / 'source.mkv', tmp_path / 'target.mp4'
  write_film(source, np.arange(125), 25, flashes=(1, 4), seconds=5, sound=sound, hole=(2, 3))
  video.write_timed_video(
    target, video.read_frames(source), 25, audio_from=source, warn=lambda words: None
  )
  (before, heard), (after, played) = moments(source), moments(target)
  assert len(heard) == len(played) == 2 and heard[1] - heard[0] == pytest.approx(3, abs=0.04)
  np.testing.assert_allclose(np.subtract(after, played), np.subtract(before, heard), atol=0.04)


def test_sound_lasts_to_the_end_of_the_last_picture(tmp_path):
  """Of pictures that are shown for half a second each."""
  source, target = tmp_path / 'source.mp4', tmp_path / 'target.mp4'
  write_film(source, np.arange(6), 2, seconds=4, rate=2)
  video.write_video(target, moving_square(6), 2, audio_from=source)
  with av.open(str(target)) as container:
    track = container.streams.audio[0]
    assert float(track.duration * track.time_base) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(
  'codec, suffix', [('mp2', 'mkv'), ('pcm_s16le', 'mov'), ('libopus', 'webm'), ('flac', 'mkv')]
)
def test_sound_that_mp4_players_do_not_know_is_encoded_and_that_is_said(tmp_path, codec, suffix):
  source, target, said = tmp_path / f'source.{suffix}', tmp_path / 'target.mp4', []
  pictures = 'libvpx' if suffix == 'webm' else 'libx264'
  try:
    write_film(
      source,
      np.arange(75),
      25,
      flashes=(1, 2),
      seconds=3,
      sound=codec,
      codec=pictures,
      options={'deadline': 'realtime'} if suffix == 'webm' else None,
    )
  except (av.FFmpegError, ValueError) as error:
    pytest.skip(f'this libav does not write {codec}: {error}')
  video.write_timed_video(
    target, video.read_frames(source), 25, audio_from=source, warn=said.append
  )
  assert len(said) == 1 and 'encoded as AAC' in said[0] and str(source) in said[0]
  with av.open(str(target)) as container:
    assert container.streams.audio[0].codec_context.name == 'aac'
    assert float(
      container.streams.audio[0].duration * container.streams.audio[0].time_base
    ) == pytest.approx(3, abs=0.1)
  (before, heard), (after, sound) = moments(source), moments(target)
  np.testing.assert_allclose(np.subtract(after, sound), np.subtract(before, heard), atol=0.04)


def test_sound_is_copied_and_ends_with_the_pictures(tmp_path):
  source, target = tmp_path / 'driver.mp4', tmp_path / 'out.mp4'
  write_film(source, np.arange(75), 25, seconds=3, flashes=(1, 2))
  video.write_video(target, moving_square(30), 25, audio_from=source)
  assert video.has_sound(target) and not video.has_sound(tmp_path / 'nothing.png')
  with av.open(str(target)) as container:
    track = container.streams.audio[0]
    assert abs(float(track.duration * track.time_base) - 1.2) < 0.08
    copied = [bytes(p) for p in container.demux(track) if p.size]
  with av.open(str(source)) as container:
    original = [bytes(p) for p in container.demux(audio=0) if p.size]
  assert copied == original[: len(copied)] and len(copied) > 15


@pytest.mark.parametrize(
  'sound, layout, kept',
  [
    ('aac', '5.1', '5.1'),
    ('aac', 'stereo', 'stereo'),
    ('flac', '5.1', 'stereo'),
    ('flac', 'stereo', 'stereo'),
  ],
)
def test_channels_are_kept_or_mixed_to_two(tmp_path, sound, layout, kept):
  source, target = tmp_path / 'source.mkv', tmp_path / 'target.mp4'
  write_film(source, np.arange(75), 25, flashes=(1, 2), seconds=3, sound=sound, layout=layout)
  video.write_timed_video(
    target, video.read_frames(source), 25, audio_from=source, warn=lambda words: None
  )
  with av.open(str(target)) as container:
    assert container.streams.audio[0].codec_context.layout.name.startswith(kept)
  (before, heard), (after, played) = moments(source), moments(target)
  np.testing.assert_allclose(np.subtract(after, played), np.subtract(before, heard), atol=0.04)


def test_the_first_of_several_sound_tracks_is_kept_and_that_is_said(tmp_path):
  source, target, said = tmp_path / 'source.mkv', tmp_path / 'target.mp4', []
  write_film(source, np.arange(75), 25, flashes=(1, 2), seconds=3, tracks=3)
  video.write_timed_video(
    target, video.read_frames(source), 25, audio_from=source, warn=said.append
  )
  with av.open(str(target)) as container:
    assert len(container.streams.audio) == 1
  assert len(said) == 1 and '3 sound tracks' in said[0] and len(moments(target)[1]) == 2


@pytest.mark.parametrize('seconds', [1.0, 5.0])
def test_sound_of_another_length_changes_no_picture(tmp_path, seconds):
  source, target = tmp_path / 'source.mp4', tmp_path / 'target.mp4'
  write_film(source, np.arange(75), 25, flashes=(0.5,), seconds=seconds)
  assert video.write_timed_video(target, video.read_frames(source), 25, audio_from=source) == 75
  with av.open(str(target)) as container:
    track = container.streams.audio[0]
    assert float(track.duration * track.time_base) == pytest.approx(min(seconds, 3), abs=0.1)
  assert len(list(video.read_frames(target))) == 75


def test_a_film_without_sound_gives_a_silent_one(tmp_path):
  write_film(tmp_path / 'a.mp4', np.arange(5), 25)
  video.write_video(tmp_path / 'b.mp4', moving_square(5), 25, audio_from=tmp_path / 'a.mp4')
  assert not video.has_sound(tmp_path / 'b.mp4')


@pytest.mark.parametrize(
  'matrix, shown',
  [
    ((1, 0, 0, 1), lambda f: f),
    ((0, 1, -1, 0), lambda f: np.rot90(f, -1, (1, 2))),
    ((-1, 0, 0, -1), lambda f: f[:, ::-1, ::-1]),
    ((0, -1, 1, 0), lambda f: np.rot90(f, 1, (1, 2))),
    ((-1, 0, 0, 1), lambda f: f[:, :, ::-1]),
    ((1, 0, 0, -1), lambda f: f[:, ::-1]),
    ((0, 1, 1, 0), lambda f: f.swapaxes(1, 2)),
    ((0, -1, -1, 0), lambda f: f[:, ::-1, ::-1].swapaxes(1, 2)),
  ],
  ids=lambda value: str(value) if isinstance(value, tuple) else '',
)
def test_the_display_matrix_is_applied(tmp_path, matrix, shown):
  path = tmp_path / 'phone.mp4'
  video.write_video(path, moving_square(3), 25)
  plain = video.read_video(path).frames
  set_display_matrix(path, *matrix)
  np.testing.assert_array_equal(video.read_video(path).frames, shown(plain))


def test_pixels_become_square(tmp_path):
  write_film(
    tmp_path / 'a.mp4',
    np.arange(3),
    25,
    frames=moving_square(3, 46, 60),
    aspect=fractions.Fraction(4, 3),
  )
  assert video.read_video(tmp_path / 'a.mp4').frames.shape == (3, 46, 80, 3)


BARS = np.array(
  [
    [255, 255, 255],
    [255, 255, 0],
    [0, 255, 255],
    [0, 255, 0],
    [255, 0, 255],
    [255, 0, 0],
    [0, 0, 255],
    [0, 0, 0],
    [128, 128, 128],
    [190, 120, 90],
  ],
  np.uint8,
)


@pytest.mark.parametrize(
  'tags, pix_fmt',
  [
    ((1, 1, 1, 1), 'yuv420p'),
    ((1, 1, 1, 2), 'yuv420p'),
    ((6, 6, 6, 1), 'yuv420p'),
    ((5, 6, 5, 2), 'yuv444p'),
    ((1, 1, 1, 1), 'yuv422p10le'),
    ((9, 14, 9, 1), 'yuv420p10le'),
  ],
  ids=str,
)
def test_colours_of_any_tagged_matrix_and_range(tmp_path, tags, pix_fmt):
  frame = np.repeat(np.repeat(BARS[None], 64, 0), 16, 1).astype(np.uint8)
  options = {'preset': 'ultrafast', 'qp': '1'}
  write_film(
    tmp_path / 'bars.mkv',
    [0, 1],
    25,
    frames=[frame, frame],
    tags=tags,
    pix_fmt=pix_fmt,
    options=options,
  )
  seen = video.read_video(tmp_path / 'bars.mkv').frames[0][20:44]
  middle = seen[:, 8::16].astype(int)
  assert np.abs(middle - BARS).max() <= 3
  video.write_video(tmp_path / 'ours.mp4', [frame, frame], 25, crf=1)
  assert (
    np.abs(video.read_video(tmp_path / 'ours.mp4').frames[0][20:44, 8::16].astype(int) - BARS).max()
    <= 3
  )


@pytest.mark.parametrize('transfer, word', [(16, 'PQ'), (18, 'HLG')])
def test_hdr_is_refused_by_name(tmp_path, transfer, word):
  write_film(
    tmp_path / 'hdr.mp4',
    [0, 1],
    25,
    frames=moving_square(2),
    tags=(9, transfer, 9, 1),
    pix_fmt='yuv420p10le',
  )
  with pytest.raises(UserError, match=word):
    video.read_video(tmp_path / 'hdr.mp4')


def test_interlaced_pictures_are_told_of(tmp_path):
  said = []
  write_film(
    tmp_path / 'a.mp4',
    np.arange(4),
    25,
    frames=moving_square(4, 64, 64),
    options={'x264-params': 'interlaced=1'},
  )
  assert len(video.read_video(tmp_path / 'a.mp4', warn=said.append).frames) == 4
  assert len(said) == 1 and 'is interlaced' in said[0]


def _noise(count=40):
  return np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), np.uint8)


def test_bad_files_are_one_sentence(tmp_path):
  good = tmp_path / 'good.mp4'
  video.write_video(good, _noise(), 25)
  whole = good.read_bytes()
  write_film(tmp_path / 'good.mkv', np.arange(40), 25, frames=_noise(), seconds=1.6)
  flipped = bytearray(whole)
  half = len(whole) // 2
  flipped[half : half + 4000] = bytes(255 - b for b in flipped[half : half + 4000])
  with av.open(str(tmp_path / 'only.m4a'), 'w') as out:
    track = out.add_stream('aac', rate=16000, layout='mono')
    samples = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), format='fltp', layout='mono'
    )
    samples.sample_rate = 16000
    out.mux(track.encode(samples))
    out.mux(track.encode(None))
  spots = bytearray(whole)
  for i in np.random.default_rng(1).integers(half, len(whole), 200):  # decoders hide these
    spots[i] ^= 255
  cases = {
    'spots.mp4': (bytes(spots), 'damaged'),
    'text.mp4': (b'I am a text file, not a film.\n' * 20, 'not a video'),
    'empty.mp4': (b'', 'empty'),
    'cut.mp4': (whole[: int(0.6 * len(whole))], 'truncated|damaged'),
    'flipped.mp4': (bytes(flipped), 'damaged'),
    'noindex.mp4': (whole.replace(b'moov', b'xxxx'), 'not a video'),
    'cut.mkv': ((tmp_path / 'good.mkv').read_bytes()[:60_000], 'truncated|damaged'),
    'sound.mp4': ((tmp_path / 'only.m4a').read_bytes(), 'no picture'),
    'list.mp4': (f'#EXTM3U\n#EXTINF:1,\n{good}\n#EXT-X-ENDLIST\n'.encode(), 'not a video'),
    'concat.mp4': (f"ffconcat version 1.0\nfile '{good.name}'\n".encode(), 'not a video'),
  }
  for name, (content, word) in cases.items():
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=word) as error:
      video.read_video(tmp_path / name)
      raise AssertionError(name)
    assert name in str(error.value) and '\n' not in str(error.value)
  with pytest.raises(UserError, match='does not exist'):
    video.read_video(tmp_path / 'none.mp4')
  for name in ('cut.mp4', 'flipped.mp4', 'spots.mp4', 'cut.mkv'):
    said = []
    partial = video.read_video(tmp_path / name, allow_partial=True, warn=said.append)
    assert 1 <= len(partial.frames) < 40 and len(said) == 1 and 'are used' in said[0], name


@pytest.mark.parametrize('suffix', ['mp4', 'mkv'])
@pytest.mark.parametrize('begin', [0.01, 1.0, 2.52, 2.999])
def test_reading_from_the_middle_gives_the_same_frames(tmp_path, suffix, begin):
  path = tmp_path / f'a.{suffix}'
  write_film(
    path,
    np.arange(5, 90),
    25,
    frames=_noise(85),
    seconds=3,
    options={'preset': 'ultrafast', 'g': '12', 'bf': '2'},
  )
  whole = video.read_video(path)
  part = list(video.read_frames(path, begin=begin))
  first = np.flatnonzero(whole.times >= begin - 1e-6)[0]
  np.testing.assert_array_equal(np.stack([frame for frame, _ in part]), whole.frames[first:])
  np.testing.assert_allclose([time for _, time in part], whole.times[first:], atol=2e-3)
  with pytest.raises(UserError, match='from 60 s on'):
    list(video.read_frames(path, begin=60))


def test_times_that_stand_still_are_refused(tmp_path):
  """The table of durations says 0 for every frame."""
  path = tmp_path / 'still.mp4'
  write_film(
    path, np.arange(12), 25, frames=moving_square(), options={'preset': 'ultrafast', 'bf': '0'}
  )
  content = bytearray(path.read_bytes())
  at = content.index(b'stts') + 12  # version, flags and count passed over
  content[at + 4 : at + 8] = bytes(4)
  path.write_bytes(content)
  with pytest.raises(UserError, match='do not increase|truncated'):
    video.read_video(path)
  said = []
  assert (np.diff(video.read_video(path, allow_partial=True, warn=said.append).times) > 0).all()
  assert any('do not increase' in words or 'truncated' in words for words in said)


def test_a_clip_that_is_too_long_for_the_memory_is_refused_in_time(tmp_path):
  video.write_video(tmp_path / 'a.mp4', moving_square(12), 25)
  with pytest.raises(UserError, match='too long to hold'):
    video.read_video(tmp_path / 'a.mp4', max_bytes=5 * 46 * 62 * 3)


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path):
  def frames():
    yield from moving_square(3)
    raise RuntimeError('renderer broke')

  (tmp_path / 'a.mp4').write_bytes(b'before')
  with pytest.raises(RuntimeError):
    video.write_video(tmp_path / 'a.mp4', frames(), 25)
  with pytest.raises(ValueError, match='increase'):
    video.write_timed_video(tmp_path / 'a.mp4', zip(moving_square(2), (0.0, 0.0)), 25)
  with pytest.raises(ValueError, match='the first one'):
    video.write_video(tmp_path / 'a.mp4', [*moving_square(2), *moving_square(1, 32, 32)], 25)
  assert [p.name for p in tmp_path.iterdir()] == ['a.mp4'] and (
    tmp_path / 'a.mp4'
  ).read_bytes() == b'before'


NAMES = [
  'with space.mp4',
  'it\'s "quoted".mp4',
  '$(touch owned).mp4',
  '-i.mp4',
  '; touch owned.mp4',
  'http:clip.mp4',
  '%d.mp4',
  'ünïcode 人.mp4',
  '人' * 83 + 'ab.mp4',
  'x' * 251 + '.mp4',
  'line\nbreak.mp4',
]


@pytest.mark.parametrize('name', NAMES, ids=lambda name: name[:20])
def test_any_name_is_just_a_name(tmp_path, monkeypatch, name):
  assert len(os.fsencode(name)) <= 255
  monkeypatch.chdir(tmp_path)
  write_film('source.mp4', np.arange(5), 25, seconds=0.2)
  os.rename('source.mp4', name)
  video.write_video('out.mp4', moving_square(4), 25, audio_from=name)
  frames = video.read_video(name).frames
  os.makedirs('there')
  video.write_video(os.path.join('there', name), frames, video.video_rate(name), audio_from=name)
  assert video.has_sound(os.path.join('there', name)) and sorted(os.listdir()) == sorted(
    [name, 'out.mp4', 'there']
  )
  assert os.listdir('there') == [name]


def test_ticks_hold_every_common_rate():
  for rate in (
    fractions.Fraction(25),
    NTSC,
    FILM,
    fractions.Fraction(120),
    fractions.Fraction(120000, 1001),
    fractions.Fraction(2997, 100),
    fractions.Fraction(15),
  ):
    clock = encode.ticks_per_second(rate)
    assert clock / rate == int(clock / rate) and 48_000 <= clock <= 10_000_000


_STREAM = """
import resource, sys
import numpy as np
from exp_jax.media import video
count, folder = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
grain = rng.integers(0, 60, (230, 230, 3), np.uint8)
frames = (np.roll(grain, i, 1)[:192, :192] + np.uint8(i % 190) for i in range(count))
video.write_video(f'{folder}/a.mp4', frames, 25, crf=30)
timed = ((frame[::-1], time) for frame, time in video.read_frames(f'{folder}/a.mp4'))
video.write_timed_video(f'{folder}/b.mp4', timed, 25, audio_from=f'{folder}/a.mp4', crf=30)
print(sum(1 for _ in video.read_frames(f'{folder}/b.mp4')), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _peak(count, folder):
  done = subprocess.run(
    [sys.executable, '-c', _STREAM, str(count), str(folder)],
    capture_output=True,
    text=True,
    env=os.environ | {'PYTHONPATH': os.getcwd()},
  )
  assert done.returncode == 0, done.stderr
  frames, peak = map(int, done.stdout.split())
  assert frames == count
  return peak


@pytest.mark.long
def test_memory_does_not_grow_with_the_length(tmp_path):
  """2,000 frames of 192 x 192 are 221 MB; streaming them takes at most 1.2 times what 200 take."""
  assert _peak(2000, tmp_path) <= 1.2 * _peak(200, tmp_path)
