"""Animated pictures are clips: all frames, at their times."""

import fractions

import numpy as np
import pytest
from PIL import Image

from exp_jax.errors import UserError
from exp_jax.media import footage, images, video
from tests.media.films import moving_square

SHOWN = (40, 80, 120, 40, 20)  # milliseconds
KINDS = {'gif': {}, 'webp': {'lossless': True}, 'png': {}, 'avif': {'quality': 95}}


def _animation(path, shown=SHOWN, **options):
  frames = moving_square(len(shown), 30, 42)
  first, *rest = (Image.fromarray(frame) for frame in frames)
  first.save(path, save_all=True, append_images=rest, duration=list(shown), loop=0, **options)
  return frames


@pytest.mark.parametrize('suffix', KINDS)
def test_frames_times_and_rate(tmp_path, suffix):
  path = tmp_path / f'a.{suffix}'
  frames = _animation(path, **KINDS[suffix])
  assert (
    not footage.is_image(path) and not video.has_sound(path) and video.declared_frames(path) == 5
  )
  clip = footage.read_footage(path)
  assert clip.frames.shape == frames.shape and np.abs(clip.frames.astype(int) - frames).mean() < 2
  np.testing.assert_allclose(clip.times, [0, 0.04, 0.12, 0.24, 0.28], atol=1e-9)
  assert clip.rate == fractions.Fraction(5, 1) / fractions.Fraction(300, 1000)
  part = list(video.read_frames(path, begin=0.1))
  assert [round(time, 6) for _, time in part] == [0.12, 0.24, 0.28]
  np.testing.assert_array_equal(images.read_image(path), clip.frames[0])
  assert (
    video.write_timed_video(
      tmp_path / 'out.mp4', video.read_frames(path), clip.rate, audio_from=path
    )
    == 5
  )


@pytest.mark.parametrize('suffix', KINDS)
def test_one_frame_is_a_photograph(tmp_path, suffix):
  Image.fromarray(moving_square(1)[0]).save(tmp_path / f'a.{suffix}')
  assert (
    footage.is_image(tmp_path / f'a.{suffix}')
    and len(footage.read_footage(tmp_path / f'a.{suffix}').frames) == 1
  )
  with pytest.raises(UserError, match='is a picture .*not a video'):
    video.read_video(tmp_path / f'a.{suffix}')


@pytest.mark.parametrize('suffix', ['gif', 'webp', 'png'])
def test_what_is_shown_for_no_time_is_shown_as_browsers_do(tmp_path, suffix):
  _animation(tmp_path / f'a.{suffix}', shown=(0, 10, 20), **KINDS[suffix])
  np.testing.assert_allclose(
    video.read_video(tmp_path / f'a.{suffix}').times, [0, 0.1, 0.2], atol=1e-9
  )


def test_the_picture_for_programs_without_animation_is_no_frame(tmp_path):
  frames = [Image.fromarray(frame) for frame in moving_square(3)]
  cover = Image.new('RGB', frames[0].size, 'green')
  cover.save(
    tmp_path / 'a.png', save_all=True, append_images=frames, default_image=True, duration=40
  )
  np.testing.assert_array_equal(video.read_video(tmp_path / 'a.png').frames, moving_square(3))
  cover.save(
    tmp_path / 'b.png', save_all=True, append_images=frames[:1], default_image=True, duration=40
  )
  assert footage.is_image(tmp_path / 'b.png')


def test_pages_of_a_tiff_are_no_animation(tmp_path):
  pages = [Image.fromarray(frame) for frame in moving_square(3)]
  pages[0].save(tmp_path / 'a.tif', save_all=True, append_images=pages[1:])
  assert footage.is_image(tmp_path / 'a.tif')


def test_a_damaged_animation_names_the_frame_and_gives_those_before(tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (4, 60, 60, 3), np.uint8)
  first, *rest = (Image.fromarray(frame) for frame in noise)
  first.save(tmp_path / 'a.png', save_all=True, append_images=rest, duration=40)
  whole = (tmp_path / 'a.png').read_bytes()
  (tmp_path / 'a.png').write_bytes(whole[: len(whole) * 5 // 8])
  with pytest.raises(UserError, match='a.png.*damaged after frame 2'):
    video.read_video(tmp_path / 'a.png')
  said = []
  clip = video.read_video(tmp_path / 'a.png', allow_partial=True, warn=said.append)
  np.testing.assert_array_equal(clip.frames, noise[:2])
  assert len(said) == 1 and 'the 2 frames before' in said[0]
