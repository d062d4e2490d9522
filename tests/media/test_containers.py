"""Which track of a film is read, how fast, how long, and how large it may be."""

import errno
import fractions
import io
import struct

import av
import numpy as np
import pytest
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.media import decode, encode, footage, video
from tests.media.films import moments, write_film


def _growing(count, height=48, width=64):
  """[T, H, W, 3]: a bar grows from the left, so that each frame tells its number (in 64ths of the
  width)."""
  frames = np.full((count, height, width, 3), 30, np.uint8)
  for t in range(count):
    frames[t, :, : 2 * (t + 1)] = 220
  return frames


def _numbers(frames):
  """The numbers of `_growing` frames."""
  return np.rint((frames[:, 4:-4, :, 1].mean((1, 2)) - 30) / 190 * 32 - 1).astype(int).tolist()


def _box(kind, content):
  return struct.pack('>I4s', len(content) + 8, kind) + content


def _with_cover(source, target):
  """An mp4 whose cover picture lies before its tracks in the index; the media keep their places."""
  content = source.read_bytes()
  at = content.index(b'moov') - 4
  length = int.from_bytes(content[at : at + 4])
  assert content.index(b'mdat') < at
  cover = io.BytesIO()
  Image.new('RGB', (160, 120), 'green').save(cover, 'JPEG')
  data = _box(b'covr', _box(b'data', struct.pack('>II', 13, 0) + cover.getvalue()))
  meta = _box(
    b'meta', bytes(4) + _box(b'hdlr', bytes(8) + b'mdirappl' + bytes(9)) + _box(b'ilst', data)
  )
  header = int.from_bytes(content[at + 8 : at + 12])
  inner = (
    content[at + 8 : at + 8 + header] + _box(b'udta', meta) + content[at + 8 + header : at + length]
  )
  target.write_bytes(content[:at] + _box(b'moov', inner) + content[at + length :])


def _several_pictures(path, tracks):
  """A film of tracks (codec, frames, flag or None), in that order."""
  with av.open(str(path), 'w') as out:
    streams = []
    for codec, frames, flag in tracks:
      stream = out.add_stream(codec, rate=25)
      stream.height, stream.width = frames[0].shape[:2]
      stream.pix_fmt = 'yuvj420p' if codec == 'mjpeg' else 'yuv420p'
      if flag is not None:
        stream.disposition = flag
      streams.append(stream)
    for stream, (_, frames, _) in zip(streams, tracks):
      for frame in frames:
        out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
      out.mux(stream.encode(None))


def test_a_cover_before_the_tracks_is_not_the_video(tmp_path):
  write_film(tmp_path / 'a.mp4', np.arange(6), 25, frames=_growing(6))
  _with_cover(tmp_path / 'a.mp4', tmp_path / 'b.mp4')
  with av.open(str(tmp_path / 'b.mp4')) as container:
    assert container.streams.video[0].codec_context.name == 'mjpeg'
  clip = video.read_video(tmp_path / 'b.mp4')
  assert (
    clip.frames.shape == (6, 48, 64, 3)
    and clip.rate == 25
    and _numbers(clip.frames) == list(range(6))
  )
  assert video.declared_frames(tmp_path / 'b.mp4') == 6


def test_a_sound_with_a_cover_is_no_video(tmp_path):
  with av.open(str(tmp_path / 'a.m4a'), 'w', format='mp4') as out:
    cover = out.add_stream('mjpeg', rate=1)
    cover.width, cover.height, cover.pix_fmt = 64, 48, 'yuvj420p'
    cover.disposition = av.stream.Disposition.attached_pic
    track = out.add_stream('aac', rate=16000, layout='mono')
    out.mux(cover.encode(av.VideoFrame.from_ndarray(_growing(1)[0], format='rgb24')))
    samples = av.AudioFrame.from_ndarray(
      np.zeros((1, 4096), np.float32), format='fltp', layout='mono'
    )
    samples.sample_rate = 16000
    out.mux(track.encode(samples))
    out.mux(track.encode(None))
  with pytest.raises(UserError, match='no picture stream but a cover'):
    video.read_video(tmp_path / 'a.m4a')


@pytest.mark.parametrize('suffix', ['mov', 'mkv', 'mp4'])
@pytest.mark.parametrize(
  'preview, flag', [(('mjpeg', 1), None), (('mjpeg', 6), None), (('libx264', 6), None)], ids=str
)
def test_a_preview_track_is_passed_over_in_any_place(tmp_path, suffix, preview, flag):
  small, large = _growing(preview[1])[:, ::3, ::2], _growing(6)
  for order in (0, 1):
    tracks = [(preview[0], np.ascontiguousarray(small), flag), ('libx264', large, flag)]
    _several_pictures(tmp_path / f'a.{suffix}', tracks[::-1] if order else tracks)
    said = []
    clip = video.read_video(tmp_path / f'a.{suffix}', warn=said.append)
    assert clip.frames.shape == large.shape and _numbers(clip.frames) == list(range(6)), order
    assert all('2 picture tracks' in words for words in said)


def test_a_single_large_picture_is_a_cover_although_nothing_says_so(tmp_path):
  large = np.repeat(np.repeat(_growing(1), 2, 1), 2, 2)
  _several_pictures(tmp_path / 'a.mov', [('mjpeg', large, None), ('libx264', _growing(6), None)])
  assert video.read_video(tmp_path / 'a.mov', warn=lambda words: None).frames.shape == (
    6,
    48,
    64,
    3,
  )


def test_the_default_track_is_read_although_another_is_larger(tmp_path):
  default = av.stream.Disposition.default
  large = np.repeat(_growing(3), 2, 1)
  _several_pictures(
    tmp_path / 'a.mkv',
    [('libx264', large, av.stream.Disposition(0)), ('libx264', _growing(3), default)],
  )
  said = []
  assert video.read_video(tmp_path / 'a.mkv', warn=said.append).frames.shape == (3, 48, 64, 3)
  assert len(said) == 1 and '2 picture tracks; number 1, 64x48, is used' in said[0]


def _film_with_second_sound(path, first, second):
  write_film(
    path, np.arange(25), 25, frames=_growing(25), seconds=first, tracks=2, seconds_of_others=second
  )


def test_another_track_may_be_longer_than_the_picture(tmp_path):
  _film_with_second_sound(tmp_path / 'a.mkv', 1.0, 3.0)
  with av.open(str(tmp_path / 'a.mkv')) as container:
    assert container.duration > 2_900_000
  said = []
  assert len(video.read_video(tmp_path / 'a.mkv', warn=said.append).frames) == 25 and not said
  assert video.declared_frames(tmp_path / 'a.mkv') == 25


@pytest.mark.parametrize(
  'codec, options',
  [
    ('libx264', {'bf': '2', 'g': '7', 'preset': 'fast'}),
    ('mpeg4', {'bf': '2', 'g': '7'}),
    ('libx264', {'bf': '0', 'preset': 'ultrafast'}),
  ],
  ids=str,
)
@pytest.mark.parametrize('begin', [0, 0.3, 0.7])
def test_avi_with_pictures_out_of_order(tmp_path, codec, options, begin):
  write_film(
    tmp_path / 'a.avi',
    np.arange(24),
    24,
    frames=_growing(24),
    codec=codec,
    options=options,
    rate=24,
    aspect=None,
  )
  said, first = [], int(np.ceil(begin * 24 - 1e-6))
  read = list(video.read_frames(tmp_path / 'a.avi', begin=begin, warn=said.append))
  assert _numbers(np.stack([frame for frame, _ in read])) == list(range(first, 24)) and not said
  np.testing.assert_allclose([time for _, time in read], np.arange(first, 24) / 24, atol=1e-6)
  assert video.video_rate(tmp_path / 'a.avi') == 24


def test_a_rate_that_cannot_be_is_taken_from_the_frame_times(tmp_path):
  """libav gives 60000 as the average rate of raw DV."""
  frames = np.zeros((5, 576, 720, 3), np.uint8)
  write_film(
    tmp_path / 'a.dv',
    np.arange(5),
    25,
    frames=frames,
    codec='dvvideo',
    options={},
    rate=25,
    container='dv',
  )
  with av.open(str(tmp_path / 'a.dv')) as container:
    assert container.streams.video[0].average_rate > 1000
  assert video.video_rate(tmp_path / 'a.dv') == 25


def test_a_single_frame_of_a_fine_clock_has_a_usual_rate(tmp_path):
  write_film(tmp_path / 'a.mp4', [0], 90_000, frames=_growing(1), rate=90_000)
  assert video.video_rate(tmp_path / 'a.mp4') <= 1000


@pytest.mark.parametrize(
  'clock, ticks', [(10**6, np.arange(6)), (1, np.arange(6) * 8000)], ids=['too fast', 'too slow']
)
def test_frame_times_that_are_no_film_are_refused(tmp_path, clock, ticks):
  write_film(
    tmp_path / 'a.nut',
    ticks,
    clock,
    frames=_growing(6),
    options={'preset': 'ultrafast', 'bf': '0'},
    rate=clock,
  )
  with pytest.raises(UserError, match='a.nut.*frames are .* s apart'):
    video.read_video(tmp_path / 'a.nut')


@pytest.mark.parametrize('scale, rate', [(1, 0), (0, 25), (0, 0), (0xFFFFFFFF, 1), (1, 0xFFFFFFFF)])
def test_avi_rates_of_zero_and_infinity_are_one_sentence_or_right(tmp_path, scale, rate):
  write_film(tmp_path / 'a.avi', np.arange(6), 25, frames=_growing(6), rate=25)
  content = bytearray((tmp_path / 'a.avi').read_bytes())
  at = content.index(b'strh') + 8 + 20
  content[at : at + 8] = struct.pack('<II', scale, rate)
  (tmp_path / 'b.avi').write_bytes(content)
  try:
    assert 0 < video.video_rate(tmp_path / 'b.avi') <= 1000
    assert (
      len(video.read_video(tmp_path / 'b.avi', allow_partial=True, warn=lambda words: None).frames)
      == 6
    )
  except UserError as error:
    assert 'b.avi' in str(error) and '\n' not in str(error)


@pytest.mark.parametrize('across, down', [(2**31 - 1, 1), (1, 2**31 - 1), (9, 1)])
def test_pixels_that_are_no_pixels_are_refused(tmp_path, across, down):
  write_film(
    tmp_path / 'a.mp4', np.arange(3), 25, frames=_growing(3), aspect=fractions.Fraction(4, 3)
  )
  content = (tmp_path / 'a.mp4').read_bytes()
  at = content.index(b'pasp') + 4
  (tmp_path / 'b.mp4').write_bytes(
    content[:at] + struct.pack('>II', across, down) + content[at + 8 :]
  )
  # the picture's own header says the same
  with av.open(str(tmp_path / 'b.mp4')) as container:
    claimed = container.streams.video[0].sample_aspect_ratio
  if 1 / 8 <= claimed <= 8:
    pytest.skip('libav takes the ratio of the other header')
  with pytest.raises(UserError, match='b.mp4.*times as wide as high'):
    video.read_video(tmp_path / 'b.mp4')


def _call(path, *sizes):
  """A WebM whose size changes after every four frames, as calls record it."""
  stream, begin = None, 0
  with av.open(str(path), 'w') as out:
    for height, width in sizes:
      part = path.with_name('part.webm')
      frames = np.full((4, height, width, 3), (200, 120, 60), np.uint8)
      write_film(part, np.arange(4), 25, frames=frames, codec='libvpx', options={'b': '1M'})
      with av.open(str(part)) as container:
        stream = stream or out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(container.streams.video[0]):
          if packet.dts is not None:
            packet.pts, packet.dts, packet.stream = packet.pts + begin, packet.dts + begin, stream
            out.mux(packet)
      begin += 160


@pytest.mark.parametrize('second', [(32, 40), (64, 48), (48, 64)], ids=str)
def test_frames_of_another_size_are_scaled_to_the_first_and_that_is_said(tmp_path, second):
  _call(tmp_path / 'call.webm', (48, 64), second)
  said = []
  clip = video.read_video(tmp_path / 'call.webm', warn=said.append)
  assert clip.frames.shape == (8, 48, 64, 3)
  changed = (48, 64) != second
  assert len(said) == changed and all(
    'frame 4, from 64x48 to' in words and 'scaled to the first size' in words for words in said
  )
  assert np.abs(clip.frames[6, 24, 32].astype(int) - (200, 120, 60)).max() < 12
  beside = clip.frames[6, 24, 2]
  assert (
    (beside < 12).all()
    if second[0] > second[1]
    else np.abs(beside.astype(int) - (200, 120, 60)).max() < 12
  )


def test_frames_have_a_limit_before_they_are_decoded(tmp_path, monkeypatch):
  write_film(tmp_path / 'a.mp4', np.arange(3), 25, frames=_growing(3))
  monkeypatch.setattr(decode, 'VideoReformatter', lambda: pytest.fail('decoded'))
  monkeypatch.setenv('EXP_JAX_MAX_PIXELS', '3071')
  with pytest.raises(
    UserError, match=r'a.mp4.*64 x 48 pixels, more than the limit of 3,071.*EXP_JAX_MAX_PIXELS'
  ):
    video.read_video(tmp_path / 'a.mp4')
  monkeypatch.delenv('EXP_JAX_MAX_PIXELS')
  with av.open(str(tmp_path / 'large.mp4'), 'w') as out:
    stream = out.add_stream('libx264', rate=25, options={'preset': 'ultrafast'})
    stream.width, stream.height, stream.pix_fmt = 4096, 2304, 'yuv420p'
    # a new frame holds whatever was there
    flat = av.VideoFrame.from_ndarray(np.zeros((2304, 4096, 3), np.uint8), format='rgb24')
    out.mux(stream.encode(flat.reformat(format='yuv420p')))
    out.mux(stream.encode(None))
  with pytest.raises(
    UserError, match=r'large.mp4.*4096 x 2304 pixels in a file of .*EXP_JAX_MAX_MEDIA_MB=378'
  ):
    video.read_video(tmp_path / 'large.mp4')


def test_the_limit_holds_for_frames_that_become_larger_later(tmp_path, monkeypatch):
  _call(tmp_path / 'a.webm', (48, 64), (192, 256))
  with av.open(str(tmp_path / 'a.webm')) as container:
    assert container.streams.video[0].codec_context.width == 64
  assert len(video.read_video(tmp_path / 'a.webm', warn=lambda words: None).frames) == 8
  monkeypatch.setenv('EXP_JAX_MAX_PIXELS', '10000')
  with pytest.raises(UserError, match='a.webm.*damaged after frame 4'):
    video.read_video(tmp_path / 'a.webm')


@pytest.mark.parametrize(
  'error',
  [
    ValueError('no'),
    OSError('no'),
    AssertionError(),
    MemoryError(),
    RecursionError('deep'),
    struct.error('no'),
    ZeroDivisionError('no'),
    av.error.InvalidDataError(1094995529, 'no'),
  ],
  ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize('where', ['open', 'convert'])
def test_whatever_the_library_raises_is_one_sentence(tmp_path, monkeypatch, error, where):
  write_film(tmp_path / 'a.mp4', np.arange(3), 25, frames=_growing(3))

  class Fails:
    def reformat(self, *args, **kwargs):
      raise error

  if where == 'open':
    monkeypatch.setattr(av, 'open', Fails().reformat)
  else:
    monkeypatch.setattr(decode, 'VideoReformatter', Fails)
  with pytest.raises(UserError, match='a.mp4') as caught:
    video.read_video(tmp_path / 'a.mp4')
  assert '\n' not in str(caught.value)


def _shifted(source, target, seconds):
  """The same MPEG-TS with all times moved."""
  with (
    av.open(str(source)) as one,
    av.open(str(target), 'w', format='mpegts', options={'mpegts_copyts': '1'}) as out,
  ):
    streams = {s.index: out.add_stream_from_template(s) for s in one.streams}
    for packet in one.demux():
      if packet.dts is not None:
        shift = round(seconds / packet.time_base)
        packet.pts, packet.dts, packet.stream = (
          packet.pts + shift,
          packet.dts + shift,
          streams[packet.stream.index],
        )
        out.mux(packet)


@pytest.mark.parametrize('distance', ['20', '250'])
@pytest.mark.parametrize(
  'seconds', [0, 2**33 / 90_000 - 2.0, 2**33 / 90_000 - 0.02], ids=lambda s: f'{s:.2f}'
)
def test_a_clock_that_begins_anywhere_or_runs_over(tmp_path, seconds, distance):
  """The clock of MPEG-TS has 33 bits; a jump must not end behind the key frame that is needed."""
  options = {'preset': 'ultrafast', 'g': distance}
  write_film(
    tmp_path / 'a.ts',
    np.arange(30),
    15,
    frames=_growing(30),
    flashes=(1.0,),
    seconds=2,
    rate=15,
    options=options,
  )
  _shifted(tmp_path / 'a.ts', tmp_path / 'b.ts', seconds)
  read = list(video.read_frames(tmp_path / 'b.ts'))
  np.testing.assert_allclose([time for _, time in read], np.arange(30) / 15, atol=1e-4)
  assert video.video_rate(tmp_path / 'b.ts') == 15
  part = list(video.read_frames(tmp_path / 'b.ts', begin=1.2))
  assert _numbers(np.stack([frame for frame, _ in part])) == list(range(18, 30))
  video.write_timed_video(tmp_path / 'c.mp4', read, 15, audio_from=tmp_path / 'b.ts')
  click = moments(tmp_path / 'a.ts')[1][0] - _first_picture(tmp_path / 'a.ts')
  assert moments(tmp_path / 'c.mp4')[1] == pytest.approx([click], abs=0.03)


def _first_picture(path):
  with av.open(str(path)) as container:
    return float(next(container.decode(video=0)).time)


@pytest.mark.parametrize('sound', ['aac', 'mp2'])
def test_damaged_sound_is_a_sentence_and_the_pictures_are_kept(tmp_path, sound):
  write_film(
    tmp_path / 'a.ts',
    np.arange(25),
    25,
    frames=_growing(25),
    seconds=1,
    flashes=(0.1,),
    sound=sound,
  )
  content = bytearray((tmp_path / 'a.ts').read_bytes())
  with av.open(str(tmp_path / 'a.ts')) as container:
    heads = [bytes(packet)[:7] for packet in container.demux(audio=0) if packet.size]
  for head in heads[3:]:
    at = content.find(head)
    if at > 0:
      content[at : at + 7] = bytes(255 - b for b in head)
  (tmp_path / 'b.ts').write_bytes(content)
  said = []
  frames = ((frame, time) for frame, time in video.read_frames(tmp_path / 'b.ts'))
  assert (
    video.write_timed_video(
      tmp_path / 'c.mp4', frames, 25, audio_from=tmp_path / 'b.ts', warn=said.append
    )
    == 25
  )
  assert _numbers(video.read_video(tmp_path / 'c.mp4').frames) == list(range(25))
  assert any('the sound of' in words and 'is damaged' in words for words in said) or sound == 'mp2'


@pytest.mark.parametrize(
  'error, kept',
  [
    (ValueError('no'), True),
    (MemoryError(), True),
    (av.error.InvalidDataError(1094995529, 'no'), True),
    (OSError(errno.ENOSPC, 'disk full'), False),
  ],
  ids=lambda value: type(value).__name__,
)
def test_whatever_the_sound_raises_leaves_the_pictures_but_a_full_disk_is_told(
  tmp_path, monkeypatch, error, kept
):
  write_film(tmp_path / 'a.mkv', np.arange(5), 25, frames=_growing(5), seconds=0.3, sound='flac')

  class Fails:
    def resample(self, frame):
      raise error

  monkeypatch.setattr(av, 'AudioResampler', lambda **kwargs: Fails())
  said = []
  write = lambda: encode.write_video(
    tmp_path / 'b.mp4', _growing(5), 25, audio_from=tmp_path / 'a.mkv', warn=said.append
  )
  if kept:
    assert write() == 5 and any('is damaged' in words for words in said)
    assert len(footage.read_footage(tmp_path / 'b.mp4').frames) == 5
  else:
    with pytest.raises(OSError, match='disk full'):
      write()


def test_frames_that_h264_cannot_hold_are_refused_in_a_sentence(tmp_path):
  with pytest.raises(UserError, match='b.mp4.*16386 x 2 pixels.*at most 16384'):
    encode.write_video(tmp_path / 'b.mp4', np.zeros((1, 2, 16386, 3), np.uint8), 25)
  assert not list(tmp_path.iterdir())
