"""The invisible mark: found after re-encoding, cropping and scaling; not found where there is none;
hardly there to the eye."""

import io

import av
import numpy as np
import pytest
from skimage import data

from exp_jax.media.images import resize
from exp_jax.provenance.mark import SCALES, SIDE, find, marked, tile


@pytest.fixture(scope='module')
def clip():
  """A photograph (public domain) in which the head moves, below a smooth sky; uint8 [12, 512, 512,
  3]."""
  photo = data.astronaut()
  frames = np.stack([photo] * 12)
  for t, frame in enumerate(frames):
    frame[60:250, 130 + t : 310 + t] = photo[60:250, 130:310]
  frames[:, :50] = np.uint8(np.linspace(120, 220, 50))[None, :, None, None]
  return frames


def encoded(frames, crf):
  """The frames as x264 hands them back."""
  memory = io.BytesIO()
  with av.open(memory, 'w', format='mp4') as output:
    stream = output.add_stream('libx264', rate=25, options={'crf': str(crf)})
    stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], 'yuv420p'
    for frame in frames:
      output.mux(
        stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format='rgb24'))
      )
    output.mux(stream.encode(None))
  memory.seek(0)
  with av.open(memory) as source:
    return [frame.to_ndarray(format='rgb24') for frame in source.decode(video=0)]


@pytest.mark.parametrize('identity', ('000000', 'ffffff', 'a1b2c3'))
def test_found_after_two_encodings_and_a_crop(clip, identity):
  square = tile(identity)
  once = encoded([marked(frame, square) for frame in clip], 16)
  cropped = [frame[17 : 17 + 460, 9 : 9 + 460] for frame in once]  # a tenth of each side
  found = find(encoded(cropped, 28))
  assert found.identity == identity and found.scale == 1


def test_found_at_another_size(clip):
  frames = [marked(frame, tile('0badf0')) for frame in clip]
  smaller = encoded([resize(frame, (384, 384)) for frame in frames], 20)
  assert find(smaller) is None
  found = find(smaller, SCALES)
  assert found.identity == '0badf0' and found.scale == 0.75


def test_not_found_where_there_is_none(clip):
  draw = np.random.default_rng(0)
  assert find(clip, SCALES) is None and find([]) is None
  assert find(np.uint8(draw.integers(0, 256, (3, 200, 200, 3)))) is None
  assert find(np.full((2, 140, 140, 3), 7, np.uint8)) is None
  assert find(np.zeros((2, 9, 5, 3), np.uint8)) is None  # smaller than anything that could hold one


def test_hardly_there(clip):
  after = np.stack([marked(frame, tile('a1b2c3')) for frame in clip])
  error = after.astype(float) - clip
  assert after.dtype == np.uint8 and after.shape == clip.shape
  assert 10 * np.log10(255**2 / (error**2).mean()) > 42
  # the sky: what an eye would see first
  assert np.sqrt((error[:, :48] ** 2).mean()) < 1 and np.abs(error[:, :48]).max() <= 4
  assert np.abs(error.mean()) < 0.05  # no change of brightness


def test_patterns_are_orthogonal_at_every_shift():
  one, other = (tile(i) for i in ('000000', '7fffff'))
  assert one.shape == (SIDE, SIDE) and abs((one**2).mean() - 1) < 1e-4
  shared = np.abs(np.fft.fft2(one)) > 1e-2, np.abs(np.fft.fft2(one - other)) > 1e-2
  assert shared[0].any() and shared[1].any()
  correlation = np.fft.ifft2(np.fft.fft2(one) * np.fft.fft2(other).conj()).real / SIDE**2
  assert correlation.max() < 0.75


def test_identities_are_six_hex_digits():
  np.testing.assert_array_equal(tile('ABCDEF'), tile('abcdef'))
  for wrong in ('abcd', 'abcdefab', 'xyzxyz'):
    with pytest.raises(ValueError):
      tile(wrong)
