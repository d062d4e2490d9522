"""Crops, warps, masks and what stays untouched; landmarks of every numbering."""

import numpy as np
import pytest
from scipy import ndimage

from exp_jax.errors import UserError
from exp_jax.media.paste import open_published_patch, paste
from exp_jax.media.squares import Square
from exp_jax.media.warps import bilinear_map
from exp_jax.systems.liveportrait.crop import (
  blend_mask,
  cut,
  mean_square,
  network_input,
  square_about,
  squeezed,
)
from exp_jax.systems.liveportrait.networks import landmarks


def test_the_mask_is_the_published_formula_everywhere():
  """8.4, and every pixel of it."""
  mask = blend_mask(512)
  d = np.zeros((512, 512))
  for y in range(512):
    for x in range(512):
      d[y, x] = np.hypot(max(16 - x, 0, x - 496), max(16 - y, 0, y - 496))
  np.testing.assert_array_equal(mask, np.floor(255 * np.clip(1 - d / 16, 0, 1)).astype(np.uint8))
  for (y, x), value in {
    (0, 0): 0,
    (8, 8): 74,
    (4, 8): 25,
    (12, 12): 164,
    (256, 1): 15,
    (256, 8): 127,
    (256, 15): 239,
    (256, 16): 255,
    (256, 496): 255,
    (256, 504): 127,
    (256, 511): 15,
  }.items():
    assert mask[y, x] == value
  assert (blend_mask(64, feather=0)[1:, 1:] == 255).all()


@pytest.mark.parametrize(
  'matrix',
  [
    Square(np.array([40.0, 30.0]), 37.0, 0.3).matrix(24),
    Square(np.array([5.0, 60.0]), 50.0, -0.9).matrix(24),
  ],
)
def test_warp_against_scipy(matrix):
  image = np.random.default_rng(0).uniform(0, 255, (70, 90, 3)).astype(np.float32)
  inverse = np.linalg.inv(matrix)
  y, x = np.mgrid[:24, :24]
  place = np.einsum('ij,jhw->ihw', inverse, np.stack([x, y, np.ones_like(x)]))
  want = np.stack(
    [
      ndimage.map_coordinates(image[..., c], [place[1], place[0]], order=1, mode='grid-constant')
      for c in range(3)
    ],
    -1,
  )
  np.testing.assert_allclose(bilinear_map(matrix, (70, 90), (24, 24))(image), want, atol=2e-3)


def test_outside_of_the_mask_nothing_changes():
  rng = np.random.default_rng(1)
  canvas = rng.integers(0, 256, (120, 150, 3)).astype(np.uint8)
  matrix = Square(np.array([70.0, 50.0]), 60.0, 0.4).matrix(64)
  patch = open_published_patch(matrix, blend_mask(64), (120, 150))
  picture = rng.uniform(size=(64, 64, 3))
  found = paste(patch, canvas, picture)
  weight, (top, bottom, left, right) = np.zeros((120, 150), np.float32), patch.box
  weight[top:bottom, left:right] = patch.mask
  np.testing.assert_array_equal(found[weight == 0], canvas[weight == 0])
  assert (
    (weight == 0).mean() > 0.5
    and (weight == 1).any()
    and (found[weight == 1] != canvas[weight == 1]).mean() > 0.9
  )
  back = np.linalg.inv(matrix)
  mask = np.rint(bilinear_map(back, (64, 64), (120, 150))(blend_mask(64))) / 255
  np.testing.assert_allclose(weight, mask, atol=1e-6)  # the box loses nothing
  painted = np.rint(
    bilinear_map(back, (64, 64), (120, 150))(np.floor(255 * picture).astype(np.float32))
  )
  want = np.clip(mask[..., None] * painted + (1 - mask[..., None]) * canvas, 0, 255)
  # float32 against float64, then truncated
  assert np.abs(found.astype(int) - want.astype(np.uint8)).max() <= 1
  assert (found != want.astype(np.uint8)).mean() < 1e-3


def test_a_face_over_the_border_is_pasted_where_it_is():
  canvas = np.full((40, 50, 3), 90, np.uint8)
  for center in ((0.0, 0.0), (50.0, 40.0), (-200.0, 10.0)):
    patch = open_published_patch(Square(center, 30.0).matrix(32), blend_mask(32), (40, 50))
    found = paste(patch, canvas, np.ones((32, 32, 3)))
    assert found.shape == canvas.shape and (found.max() == 255) == (center[0] > -100)


def test_cut_and_paste_is_the_identity_up_to_rounding():
  canvas = np.random.default_rng(2).integers(0, 256, (80, 80, 3)).astype(np.uint8)
  matrix = Square(np.array([32.0, 32.0]), 64.0, 0.0).matrix(64)  # whole pixels
  crop = cut(canvas, matrix, 64)
  np.testing.assert_allclose(crop, canvas[:64, :64], atol=1e-3)
  found = paste(open_published_patch(matrix, blend_mask(64), (80, 80)), canvas, (crop + 0.25) / 255)
  assert np.abs(found.astype(int) - canvas).max() <= 1


def test_large_pictures_are_averaged_before_they_are_cut():
  checker = np.indices((400, 400)).sum(0) % 2 * 255
  image = np.repeat(checker[..., None], 3, -1).astype(np.uint8)
  crop = cut(image, Square(np.array([200.0, 200.0]), 390.0, 0.1).matrix(64), 64)
  inner = crop[8:-8, 8:-8]
  assert abs(inner.mean() - 127.5) < 1 and inner.std() < 25
  ramp = (
    np.repeat(np.arange(400, dtype=np.float32)[None, :, None] / 2, 400, 0)
    .repeat(3, -1)
    .astype(np.uint8)
  )
  crop = cut(ramp, Square(np.array([200.0, 200.0]), 384.0, 0.0).matrix(64), 64)
  want = (8 + 6 * np.arange(64)) / 2  # dst x is source 6 x + 8
  assert np.abs(crop[32, 1:-1, 0] - want[1:-1]).max() < 1.0
  whole = cut(image[:300], squeezed((300, 400), 32), 32)
  assert np.abs(whole[1:-1, 1:-1] - 127.5).max() < 45 and whole.shape == (32, 32, 3)


def test_the_square_is_upright_in_the_face():
  rng = np.random.default_rng(3)
  points = rng.uniform(-1, 1, (30, 2)) * [20, 30]
  eyes, mouth = np.array([0.0, -10]), np.array([0.0, 10])
  plain = square_about(points, eyes, mouth, scale=2.0, vy=-0.1)
  extent = np.ptp(points, axis=0).max()
  assert plain.side == pytest.approx(2 * extent) and plain.angle == 0
  middle = (points.min(0) + points.max(0)) / 2
  np.testing.assert_allclose(plain.center, middle + [0, -0.1 * plain.side], atol=1e-9)
  angle = 0.5
  turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  shift = np.array([100.0, 50.0])
  turned = square_about(
    points @ turn.T + shift, turn @ eyes + shift, turn @ mouth + shift, scale=2.0, vy=-0.1
  )
  assert turned.angle == pytest.approx(angle) and turned.side == pytest.approx(plain.side)
  np.testing.assert_allclose(turned.center, turn @ plain.center + shift, atol=1e-9)
  # the crop shows the turned face as the upright one
  one = np.append(points[3], 1) @ plain.matrix(512).T
  two = np.append(points[3] @ turn.T + shift, 1) @ turned.matrix(512).T
  np.testing.assert_allclose(one, two, atol=1e-6)
  same = square_about(points, eyes, eyes, scale=2.0)  # degenerate: no direction at all
  assert same.angle == 0
  mean = mean_square([plain, turned])
  assert mean.angle == 0 and mean.side == pytest.approx(plain.side)


def test_network_input_is_the_mean_of_four():
  crops = np.random.default_rng(4).uniform(0, 255, (2, 6, 8, 3)).astype(np.float32)
  np.testing.assert_allclose(
    network_input(crops)[1, 2, 3], crops[1, 4:6, 6:8].mean((0, 1)) / 255, atol=1e-6
  )


@pytest.mark.parametrize('count', [478, 203, 106, 101, 68, 5, 9])
def test_every_numbering_has_its_square(count):
  rng = np.random.default_rng(count)
  points = rng.uniform(0, 100, (count, 2))
  left, right, mouth = landmarks.LAYOUTS[count]
  points[list(left)] += [0, 1000]
  eyes, lips = landmarks.anchors(points)
  np.testing.assert_allclose(eyes, (points[list(left)].mean(0) + points[list(right)].mean(0)) / 2)
  np.testing.assert_allclose(lips, points[list(mouth)].mean(0))
  assert landmarks.square_of(points).side > 0
  assert landmarks.square_of(points, scale=4.6).side == pytest.approx(
    2 * landmarks.square_of(points).side
  )
  assert landmarks.has_openness(points) == (count in (203, 478))


def test_openness_is_height_over_width():
  points = np.zeros((2, 203, 2))
  points[:, 12, 0], points[:, 36, 0], points[:, 66, 0] = 10, 8, 20
  points[:, 6, 1], points[:, 30, 1], points[1, 90, 1] = 2, 4, 5
  eyes, lip = landmarks.openness(points)
  np.testing.assert_allclose(eyes, [[0.2, 0.5]] * 2, atol=1e-5)
  np.testing.assert_allclose(lip, [0, 0.25], atol=1e-5)
  with pytest.raises(UserError, match='203 or 478'):
    landmarks.openness(np.zeros((68, 2)))
  with pytest.raises(UserError, match='not known'):
    landmarks.square_of(np.zeros((17, 2)))


class Session:
  """A pretended network: the third output is a fixed pattern."""

  pattern = np.random.default_rng(0).uniform(0.2, 0.8, (203, 2)).astype(np.float32)

  def run(self, names, inputs):
    assert inputs['input'].shape == (1, 3, 224, 224) and inputs['input'].dtype == np.float32
    self.seen = inputs['input']
    return [np.zeros(1), np.zeros(1), self.pattern.reshape(1, 406)]


def test_the_dense_network_answers_in_pixels(tmp_path):
  session = Session()
  network = landmarks.DenseLandmarks(session=session)
  start = np.random.default_rng(1).uniform(40, 80, (5, 2))
  start[:2, 1], start[3:, 1] = 50, 70
  image = np.full((128, 128, 3), 100, np.uint8)
  points = network(image, start)
  matrix = landmarks.square_of(start, 'runner').matrix(224)
  np.testing.assert_allclose(
    np.c_[points, np.ones(203)] @ matrix.T[:, :2], Session.pattern * 224, atol=1e-6
  )
  assert session.seen.max() == pytest.approx(100 / 255)
  with pytest.raises(UserError, match='no landmark network'):
    landmarks.DenseLandmarks(tmp_path / 'x.onnx')


def test_landmarks_of_ones_own(tmp_path):
  np.savez(tmp_path / 'a.npz', points=np.zeros((9, 2)))
  np.savez(tmp_path / 'b.npz', other=np.zeros((9, 2)))
  assert landmarks.read_landmarks(tmp_path / 'a.npz').shape == (1, 9, 2)
  with pytest.raises(UserError, match='no array'):
    landmarks.read_landmarks(tmp_path / 'b.npz')
