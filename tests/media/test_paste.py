"""Cut and paste: an independent slow bilinear, exact identity outside of the mask, there and back again."""

import numpy as np
import pytest

from exp_jax.media import paste


def _smooth(height=90, width=120):
  y, x = np.mgrid[:height, :width].astype(np.float64)
  channels = [128 + 90 * np.sin(x / 17 + c) * np.cos(y / 13 - c) for c in range(3)]
  return np.rint(np.stack(channels, -1)).astype(np.uint8)


def _slow_bilinear(image, matrix, size):
  """By the definition, one pixel after the other; the border is repeated."""
  out = np.zeros((*size, image.shape[-1]))
  for row in range(size[0]):
    for column in range(size[1]):
      x, y = matrix[:, :2] @ [column + 0.5, row + 0.5] + matrix[:, 2] - 0.5
      x0, y0 = int(np.floor(x)), int(np.floor(y))
      for dy in (0, 1):
        for dx in (0, 1):
          weight = (1 - abs(x - x0 - dx)) * (1 - abs(y - y0 - dy))
          at = np.clip(y0 + dy, 0, image.shape[0] - 1), np.clip(x0 + dx, 0, image.shape[1] - 1)
          out[row, column] += weight * image[at].astype(float)
  return out


@pytest.mark.parametrize('center', [(60, 44), (3, 80), (-20, 10)])
def test_a_turned_crop_is_the_slow_bilinear_one(center):
  image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
  cut = paste.square_cut(center, side=21.3, size=32, angle=0.4)
  np.testing.assert_allclose(paste.cut_out(image, cut), _slow_bilinear(image, cut.inverse(), (32, 32)), atol=2e-3)


def test_integer_centres_are_the_other_convention():
  """dst(x, y) = src(M^-1 (x, y)) between indices: the identity stays the identity, a shift by one stays one pixel."""
  image = _smooth()
  for shift in (0, 3):
    cut = paste.from_integer_centers(np.array([[1.0, 0, -shift], [0, 1, 0]]), (20, 30))
    np.testing.assert_allclose(paste.cut_out(image, cut), image[:20, shift:30 + shift], atol=1e-4)
  # Twice as large about the picture's corner: index i lands at 2 i + 1/2 there, and at 2 x here.
  np.testing.assert_allclose(paste.from_integer_centers(np.array([[2, 0, 0.5], [0, 2, 0.5]]), (8, 8)).matrix,
                             [[2, 0, 0], [0, 2, 0]], atol=1e-12)


def test_points_go_where_pixels_go():
  image = np.zeros((90, 120), np.float32)
  image[40, 70] = 1
  cut = paste.square_cut((66, 43), side=30, size=60, angle=-0.7)
  crop = paste.cut_out(image, cut)
  rows, columns = np.indices(crop.shape)
  center = np.array([(crop * (columns + 0.5)).sum(), (crop * (rows + 0.5)).sum()]) / crop.sum()
  np.testing.assert_allclose(center, cut.to_crop(np.array([70.5, 40.5])), atol=0.05)
  np.testing.assert_allclose(cut.to_source(cut.to_crop(np.array([[5.0, 8.0]]))), [[5, 8]], atol=1e-9)


def test_shrinking_averages():
  """A checkerboard shrunk four times is grey, not one of its colours."""
  board = np.indices((96, 96)).sum(0) % 2 * np.uint8(255)
  crop = paste.cut_out(board.astype(np.uint8), paste.box_cut(8, 8, 80, 20))
  np.testing.assert_allclose(crop, 127.5, atol=1)


@pytest.mark.parametrize('angle, center, side', [(0.0, (60, 45), 50), (0.5, (58, 40), 44), (-0.3, (5, 88), 60)])
def test_outside_of_the_mask_not_a_bit_changes(angle, center, side):
  source = np.random.default_rng(1).integers(0, 255, (90, 120, 3), np.uint8)
  kept = source.copy()
  cut = paste.square_cut(center, side=side, size=64, angle=angle)
  out = paste.paste_back(source, np.zeros((128, 128, 3), np.uint8), cut, paste.feathered_box((64, 64), inset=1 / 16))
  rows, columns = np.indices(source.shape[:2])
  at = cut.to_crop(np.stack([columns + 0.5, rows + 0.5], -1))
  outside = ((at < 0) | (at > 64)).any(-1)
  assert (out[outside] == source[outside]).all() and (source == kept).all() and out.dtype == np.uint8
  middle = ((at > 12) & (at < 52)).all(-1)
  assert outside.any() and middle.any() and (out[middle] == 0).all()


@pytest.mark.parametrize('kernel', ['linear', 'cubic'])
def test_there_and_back_changes_nothing_visible(kernel):
  source = _smooth()
  cut = paste.square_cut((61, 44), side=64, size=128, angle=0.3)
  crop = paste.cut_out(source, cut, kernel=kernel)
  out = paste.paste_back(source, crop / 255, cut, kernel=kernel)
  assert np.abs(out.astype(int) - source).max() <= 2


def test_an_empty_mask_and_a_crop_elsewhere_paste_nothing():
  source = _smooth()
  cut = paste.square_cut((61, 44), side=64, size=32)
  assert (paste.paste_back(source, np.zeros((32, 32, 3), np.uint8), cut, np.zeros((32, 32))) == source).all()
  away = paste.square_cut((-500, 44), side=64, size=32)
  assert (paste.paste_back(source, np.zeros((32, 32, 3), np.uint8), away) == source).all()


def test_masks_fall_inward():
  box = paste.feathered_box((48, 64), feather=1 / 8)
  assert box[24, 32] == 1 and box[0].max() < 0.1 and (np.diff(box[24, :12]) >= 0).all()
  face = np.zeros((48, 64), np.float32)
  face[10:40, 20:50] = 1
  soft = paste.feathered(face, 4)
  assert (soft[face == 0] == 0).all() and soft[25, 35] == 1 and soft[25, 20] < 0.2 and (np.diff(soft[25, 19:30]) >= -1e-6).all()


def test_a_cut_without_size_is_refused():
  with pytest.raises(ValueError, match='positive'):
    paste.square_cut((0, 0), side=0, size=8)
