"""A picture or a clip is the same input whether it comes as a path or as arrays."""

import fractions

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.media.images import write_image
from exp_jax.media.video import read_video, write_video
from exp_jax.performance.inputs import first_picture, footage, frame_of

CLIP = np.random.default_rng(0).integers(0, 255, (4, 16, 24, 3)).astype(np.uint8)


def test_a_clip_by_path_and_by_array(tmp_path):
  write_video(tmp_path / 'c.mp4', CLIP, 10)
  frames = read_video(tmp_path / 'c.mp4').frames
  by_path, by_array = footage(tmp_path / 'c.mp4'), footage(frames, rate=10)
  for clip in (by_path, by_array):
    assert not clip.still and clip.count == 4 and clip.rate == 10 and len(clip.digest) == 64
    read = list(clip.frames())
    np.testing.assert_array_equal(np.stack([f for f, _ in read]), frames)
    np.testing.assert_allclose([t for _, t in read], [0, 0.1, 0.2, 0.3], atol=1e-9)
    np.testing.assert_array_equal(frame_of(clip, 2), frames[2])
    assert len(list(clip.frames())) == 4, 'it opens again'
  assert (
    by_path.path == tmp_path / 'c.mp4' and by_array.path is None and footage(by_array) is by_array
  )
  assert by_path.name == 'c.mp4' and by_path.stem == 'c'


def test_a_picture_by_path_and_by_array(tmp_path):
  write_image(tmp_path / 'p.png', CLIP[0])
  for source in (tmp_path / 'p.png', str(tmp_path / 'p.png'), CLIP[0]):
    picture = footage(source)
    assert picture.still and picture.count == 1 and picture.rate == fractions.Fraction(25)
    np.testing.assert_array_equal(first_picture(picture), CLIP[0])


def test_the_digest_is_of_the_content():
  assert footage(CLIP).digest == footage(CLIP.copy()).digest
  others = (CLIP[:3], CLIP[..., ::-1], CLIP.reshape(4, 24, 16, 3))
  assert (
    len({footage(CLIP).digest, footage(CLIP, rate=30).digest, *(footage(c).digest for c in others)})
    == 5
  )


@pytest.mark.parametrize(
  'source, words',
  [
    (np.zeros((4, 4, 3)), 'uint8'),
    (np.zeros((4, 4), np.uint8), r'\[4, 4\]'),
    (np.zeros((0, 4, 4, 3), np.uint8), 'the clip must be'),
    ('nowhere.mp4', "'nowhere.mp4' does not exist"),
  ],
)
def test_what_is_neither_is_named(source, words):
  with pytest.raises(UserError, match=words):
    footage(source, name='the clip')


def test_a_frame_that_is_not_there():
  with pytest.raises(UserError, match='4 frames, there is no frame 7'):
    frame_of(footage(CLIP), 7)
