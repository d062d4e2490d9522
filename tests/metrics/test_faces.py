import pathlib

import numpy as np
import pytest
from scipy import ndimage
from skimage import transform

from exp_jax.media.squares import Crop, cut_bytes
from exp_jax.metrics import faces
from tests.golden.face_chips import places

FETCHED = np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'fetched_metrics.npz')
RNG = np.random.default_rng(0)
POINTS = RNG.uniform(60, 190, (478, 2))


def picture(height=230, width=260):
  """A smooth picture whose red and green tell the place: x - 0.5, y - 0.5."""
  y, x = np.mgrid[:height, :width]
  return np.clip(np.stack([x, y, 128 + 60 * np.sin(x / 20) * np.cos(y / 15)], -1), 0, 255).astype(
    np.uint8
  )


@pytest.mark.parametrize('mirrored', [False, True])
def test_similarity_agrees_with_scikit_image(mirrored):
  source = RNG.normal(size=(5, 2)) * [-1 if mirrored else 1, 1]
  target = 30 * source @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + [5, -2] + RNG.normal(0, 0.2, (5, 2))
  expected = transform.estimate_transform('similarity', source, target).params[:2]
  np.testing.assert_allclose(faces.similarity_matrix(source, target), expected, atol=1e-8)


def test_arcface_alignment_puts_the_five_points_on_the_template_to_half_a_pixel():
  landmarks = POINTS.copy()
  # scaled, turned
  places = (faces.ARCFACE_POINTS * 1.7) @ np.array([[0.96, 0.28], [-0.28, 0.96]]) + [20, 40]
  for ids, place in zip((*faces.EYES, (faces.NOSE,), (faces.MOUTH[0],), (faces.MOUTH[1],)), places):
    landmarks[list(ids)] = place
  np.testing.assert_allclose(faces.five_points(landmarks), places)
  cut = faces.arcface_cut(picture(), landmarks).astype(float)
  assert cut.shape == (112, 112, 3)
  for template, place in zip(faces.ARCFACE_POINTS, places):  # red tells x, green y, of the picture
    column, row = np.floor(template).astype(int)
    offset = (np.array([column, row]) + 0.5 - template) * 1.7
    np.testing.assert_allclose(
      cut[row, column, :2] + 0.5,
      place + offset @ np.array([[0.96, 0.28], [-0.28, 0.96]]),
      atol=0.5 * 1.7,
    )


def test_cutting_agrees_with_scikit_images_warp():
  matrix = np.array([[0.7, 0.1, -20.0], [-0.1, 0.7, 5.0]])
  full = np.concatenate([matrix, [[0, 0, 1]]])
  shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # centres at whole numbers <-> at halves
  inverse = np.linalg.inv(shift) @ np.linalg.inv(full) @ shift
  expected = transform.warp(
    picture(),
    transform.AffineTransform(inverse),
    output_shape=(90, 90),
    order=1,
    preserve_range=True,
  )
  found = cut_bytes(picture(), matrix, 90)
  inside = np.s_[12:80, 5:85]
  np.testing.assert_allclose(found[inside], expected[inside], atol=1)


@pytest.mark.parametrize('number', range(3))
def test_dlibs_chips_are_dlibs(number):
  """Against dlib.get_face_chip (tests/golden/make_fetched_metrics_fixture.py), to one grey value,
  for sums in another order.

  Two pixels of the chip about the border of the picture are left out: dlib draws it black a little
  earlier.
  """
  picture, points = list(places())[number]
  landmarks = np.zeros((478, 2))
  landmarks[list(faces.DLIB_IDS)] = points + 0.5
  found, golden = faces.dlib_cut(picture, landmarks), FETCHED[f'chip{number}']
  assert found.shape == (150, 150, 3) and golden.std() > 20
  shown = ndimage.binary_erosion(golden.any(-1), np.ones((3, 3)), iterations=2, border_value=1)
  assert shown.mean() > 0.5 and np.abs(found.astype(int) - golden)[shown].max() <= 1
  again = faces.dlib_cut(picture, landmarks + [1.0, 0])
  assert np.abs(again.astype(int) - golden)[shown].mean() > 1  # a pixel beside it is seen


def test_a_face_beyond_the_picture_gives_a_black_chip():
  landmarks = np.zeros((478, 2))
  landmarks[list(faces.DLIB_IDS)] = list(places())[0][1] - 5000.0
  assert not faces.dlib_cut(picture(), landmarks).any()


def test_box_is_square_about_the_landmarks():
  low, high = POINTS[:468].min(0), POINTS[:468].max(0)
  matrix = faces.box_matrix(POINTS[:468], scale=1.4, size=224)
  side = 1.4 * (high - low).mean()
  corner = (low + high) / 2 - side / 2
  np.testing.assert_allclose(matrix @ [*corner, 1], [0, 0], atol=1e-9)
  np.testing.assert_allclose(matrix @ [*(corner + side), 1], [224, 224], atol=1e-9)
  assert faces.box_cut(picture(), POINTS, scale=1.4, size=224).shape == (224, 224, 3)


def test_the_square_about_the_head_stays_inside_and_is_the_same_for_all_frames():
  points = np.stack([POINTS, POINTS + [12, -5], POINTS * np.nan])
  left, top, side = faces.face_square(points, (230, 260))
  # 2.1 faces do not fit: the largest square does
  assert side == 230 and top == 0 and 0 <= left <= 30
  left, top, side = faces.face_square(points / 4, (230, 260))
  face = (POINTS[:468].max(0) - POINTS[:468].min(0)).max() / 4
  assert side == pytest.approx(2.1 * face) and left >= 0 and top >= 0
  picture_ = picture()
  np.testing.assert_allclose(Crop(10, 20, 100, 100).cut(picture_), picture_[20:120, 10:110], atol=1)
  with pytest.raises(ValueError, match='no face'):
    faces.face_square(points[2:], (230, 260))


def test_deep3d_cut_has_the_standard_scale_whatever_the_turn_of_the_head():
  from scipy.spatial.transform import Rotation

  turned = faces.DEEP3D_POINTS @ Rotation.from_euler('yx', [25, 10], degrees=True).as_matrix().T
  center, scale = np.array([130.0, 110.0]), 90.0
  places = center + scale * turned[:, :2] * [1, -1]
  landmarks = POINTS.copy()
  for ids, place in zip((*faces.EYES, (faces.NOSE,), (faces.MOUTH[0],), (faces.MOUTH[1],)), places):
    landmarks[list(ids)] = place
  cut = faces.deep3d_cut(picture(), landmarks).astype(float)
  # the middle stays in the middle
  np.testing.assert_allclose(cut[112, 112, :2] + 0.5, center + 0.5 * scale / 102, atol=1.1)
  step = (cut[112, 192, 0] - cut[112, 32, 0]) / 160  # source pixels a pixel
  assert step == pytest.approx(scale / 102, abs=0.01)
