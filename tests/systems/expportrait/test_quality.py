"""Figures of clips against pictures whose truth is known, and the sentence that each limit says."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
import skimage.data

from exp_jax.media.images import resize
from exp_jax.media.squares import Crop
from exp_jax.systems.expportrait.records.clip_record import shown_pixels
from exp_jax.systems.expportrait.records.quality import (
  Limits,
  black_bars,
  complaint,
  figures_of,
  motion,
  sharpness,
)

FACE = skimage.data.astronaut()[:320, 60:380]
FINE = dict(frames=9, sharpness=0.6, motion=5.0, invented=0.1, face_pixels=200)


def enlarged(times):
  small = resize(FACE, (320 // times,) * 2)
  return resize(small, (320, 320))[None]


def test_sharpness_falls_with_enlargement_and_blur_and_not_with_light_or_size():
  sharp = sharpness(FACE[None])
  found = [sharpness(enlarged(n)) for n in (1, 2, 3, 4)]
  assert (
    found[0] == sharp > 0.45
    and 0.25 < found[1] < 0.45
    and found[2] < 0.25
    and found[3] < Limits().least_sharpness
  )
  blurred = np.uint8(scipy.ndimage.gaussian_filter(FACE.astype(float), (3, 3, 0)))[None]
  assert sharpness(blurred) < Limits().least_sharpness
  assert sharpness(FACE[None] // 3) == pytest.approx(sharp, rel=0.1)
  assert sharpness(np.full((2, 64, 64, 3), 90, np.uint8)) == 0


def test_bars_are_rows_and_columns_that_are_black_in_every_frame():
  frames = np.stack([resize(FACE, (100, 120))] * 3) // 2 + 60
  frames[:, :13] = 5
  frames[:, -7:] = 16
  frames[:, :, :4] = 0
  assert black_bars(frames) == (13, 7, 4, 0)
  frames[1, :13, 4:] = 90  # a title that is shown for a while
  assert black_bars(frames) == (0, 7, 4, 0)
  assert black_bars(np.zeros((2, 8, 8, 3), np.uint8)) == (0, 0, 0, 0)
  wall = np.tile(np.uint8(np.linspace(5, 90, 100))[:, None, None], (2, 1, 120, 3))
  assert black_bars(wall) == (0, 0, 0, 0), 'a dark wall that grows lighter is a picture'


def test_pixels_beyond_the_film_and_in_its_bars_are_not_shown():
  crops = [Crop(-16.0, 0.0, 64.0, 32), Crop(0.0, 8.0, 64.0, 32)]
  found = shown_pixels(crops, (64, 64), (0, 8, 0, 4))
  for crop, mask in zip(crops, found):
    y, x = (np.mgrid[:32, :32] + 0.5) * 2
    inside = (
      (x + crop.left >= 0) & (x + crop.left <= 60) & (y + crop.top >= 0) & (y + crop.top <= 56)
    )
    np.testing.assert_array_equal(mask > 0, inside)


def test_a_photograph_shown_as_a_film_does_not_move():
  rng = np.random.default_rng(0)
  noisy = np.clip(FACE[None] + rng.normal(0, 2, (5, *FACE.shape)), 0, 255).astype(np.uint8)
  assert motion(noisy) < Limits().least_motion < motion(np.stack([FACE, np.roll(FACE, 4, 1)]))


@pytest.mark.parametrize(
  'change, words',
  [
    (dict(face_pixels=40), '40 pixels high'),
    (dict(invented=0.6), '60 % of its square'),
    (dict(motion=0.1), 'like a photograph'),
    (dict(sharpness=0.1), 'blurred or was enlarged'),
  ],
)
def test_each_limit_refuses_by_name_and_can_be_lifted(change, words):
  assert complaint(FINE, Limits()) == ''
  said = complaint(FINE | change, Limits())
  assert words in said and '--' in said
  free = Limits(least_face=0, least_sharpness=0, least_motion=0, most_invented=1)
  assert complaint(FINE | change, free) == ''
  assert dataclasses.astuple(free) == (0, 0, 0, 1)


def test_figures_are_what_they_say():
  valid = np.full((2, 320, 320), 255, np.uint8)
  valid[:, :80] = 0
  found = figures_of(np.stack([FACE] * 2), valid, face_pixels=123.456)
  assert found == dict(
    frames=2,
    sharpness=round(sharpness(FACE[None]), 3),
    motion=0.0,
    invented=0.25,
    face_pixels=123.5,
  )
