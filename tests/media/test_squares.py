"""Cut and paste: an independent slow bilinear, exact identity outside of the mask, there and back
again."""

import numpy as np
import pytest

from exp_jax.media.paste import feathered_box, open_patch, paste
from exp_jax.media.squares import Crop, Square, crop_of, cut_out, cut_picture, from_integer_centers
from exp_jax.media.warps import bilinear_map


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


def _pasted(source, edited, cut, mask=None, kernel='linear'):
  mask = feathered_box(edited.shape[:2]) if mask is None else mask
  return paste(open_patch(cut, mask, source.shape[:2], kernel=kernel), source, edited)


@pytest.mark.parametrize('center', [(60, 44), (3, 80), (-20, 10)])
def test_a_turned_crop_is_the_slow_bilinear_one(center):
  image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
  cut = Square(center, 21.3, 0.4).cut(32)
  np.testing.assert_allclose(
    cut_out(image, cut), _slow_bilinear(image, cut.inverse(), (32, 32)), atol=2e-3
  )


def test_integer_centres_are_the_other_convention():
  """dst(x, y) = src(M^-1 (x, y)) between indices: the identity stays the identity, a shift by one
  stays one pixel."""
  image = _smooth()
  for shift in (0, 3):
    cut = from_integer_centers(np.array([[1.0, 0, -shift], [0, 1, 0]]), (20, 30))
    np.testing.assert_allclose(cut_out(image, cut), image[:20, shift : 30 + shift], atol=1e-4)
  # Twice as large about the picture's corner: index i lands at 2 i + 1/2 there, and at 2 x here.
  np.testing.assert_allclose(
    from_integer_centers(np.array([[2, 0, 0.5], [0, 2, 0.5]]), (8, 8)).matrix,
    [[2, 0, 0], [0, 2, 0]],
    atol=1e-12,
  )


def test_the_plain_map_between_indices_agrees_with_the_general_warp():
  """Where nothing is averaged and the border is away; the two kernels differ by float32 sums, a
  half pixel would be 4 of 255."""
  image, matrix = _smooth(), Square((58.0, 44.0), 30.0, 0.6).matrix(40)
  plain = bilinear_map(matrix, (90, 120), (40, 40))
  np.testing.assert_allclose(
    plain(image), cut_out(image, from_integer_centers(matrix, (40, 40))), atol=2e-3
  )
  np.testing.assert_array_equal(plain(image[..., 1]), plain(image)[..., 1])
  part = bilinear_map(matrix, (90, 120), (7, 9), origin=(5, 11))
  np.testing.assert_array_equal(part(image), plain(image)[5:12, 11:20])
  with pytest.raises(ValueError, match='a picture of'):
    plain(image[:80])


def test_points_go_where_pixels_go():
  image = np.zeros((90, 120), np.float32)
  image[40, 70] = 1
  cut = Square((66, 43), 30, -0.7).cut(60)
  crop = cut_out(image, cut)
  rows, columns = np.indices(crop.shape)
  center = np.array([(crop * (columns + 0.5)).sum(), (crop * (rows + 0.5)).sum()]) / crop.sum()
  np.testing.assert_allclose(center, cut.to_crop(np.array([70.5, 40.5])), atol=0.05)
  np.testing.assert_allclose(
    cut.to_source(cut.to_crop(np.array([[5.0, 8.0]]))), [[5, 8]], atol=1e-9
  )


def test_shrinking_averages():
  """A checkerboard shrunk four times is grey, not one of its colours."""
  board = np.indices((96, 96)).sum(0) % 2 * np.uint8(255)
  crop = cut_out(board.astype(np.uint8), Square((48, 48), 80).cut(20))
  np.testing.assert_allclose(crop, 127.5, atol=1)


@pytest.mark.parametrize(
  'angle, center, side', [(0.0, (60, 45), 50), (0.5, (58, 40), 44), (-0.3, (5, 88), 60)]
)
def test_outside_of_the_mask_not_a_bit_changes(angle, center, side):
  source = np.random.default_rng(1).integers(0, 255, (90, 120, 3), np.uint8)
  kept = source.copy()
  cut = Square(center, side, angle).cut(64)
  out = _pasted(source, np.zeros((128, 128, 3), np.uint8), cut, np.pad(feathered_box((56, 56)), 4))
  rows, columns = np.indices(source.shape[:2])
  at = cut.to_crop(np.stack([columns + 0.5, rows + 0.5], -1))
  outside = ((at < 0) | (at > 64)).any(-1)
  assert (
    (out[outside] == source[outside]).all() and (source == kept).all() and out.dtype == np.uint8
  )
  middle = ((at > 12) & (at < 52)).all(-1)
  assert outside.any() and middle.any() and (out[middle] == 0).all()


@pytest.mark.parametrize('kernel', ['linear', 'cubic'])
def test_there_and_back_changes_nothing_visible(kernel):
  source = _smooth()
  cut = Square((61, 44), 64, 0.3).cut(128)
  crop = cut_out(source, cut, kernel=kernel)
  out = _pasted(source, crop / 255, cut, kernel=kernel)
  assert np.abs(out.astype(int) - source).max() <= 2


def test_an_empty_mask_and_a_crop_elsewhere_paste_nothing():
  source = _smooth()
  cut = Square((61, 44), 64).cut(32)
  assert (_pasted(source, np.zeros((32, 32, 3), np.uint8), cut, np.zeros((32, 32))) == source).all()
  away = Square((-500, 44), 64).cut(32)
  assert (_pasted(source, np.zeros((32, 32, 3), np.uint8), away) == source).all()


def test_masks_fall_inward():
  box = feathered_box((48, 64), feather=1 / 8)
  assert box[24, 32] == 1 and box[0].max() < 0.1 and (np.diff(box[24, :12]) >= 0).all()


def test_a_cut_without_size_is_refused():
  with pytest.raises(ValueError, match='positive'):
    Square((0, 0), 0).cut(8)


@pytest.mark.parametrize('crop', [Crop(13.25, 7.5, 61.0, 64), Crop(-6.0, 20.0, 80.0, 32)])
def test_an_upright_square_is_known_by_its_matrix(crop):
  """In both directions, and its pixels are those of the general cut with the same matrix."""
  matrix = np.linalg.inv(crop.matrix().astype(np.float64))
  found = crop_of(matrix, crop.size, 40)
  np.testing.assert_allclose(
    [found.left, found.top, found.side, found.size], [crop.left, crop.top, crop.side, 40], atol=1e-4
  )
  points = np.array([[crop.left, crop.top], [30.0, 50.0]])
  np.testing.assert_allclose(
    crop.to_crop(points), points @ matrix[:2, :2].T + matrix[:2, 2], atol=1e-4
  )
  square = Square((crop.left + crop.side / 2, crop.top + crop.side / 2), crop.side).cut(crop.size)
  np.testing.assert_allclose(square.matrix, matrix[:2], atol=1e-4)
  np.testing.assert_array_equal(cut_picture(_smooth(), square), crop.cut(_smooth()))
