"""Points of one landmark set found on heads that carry another."""

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.geometry import similarity
from exp_jax.heads import head_landmarks, load_head, neutral_params
from exp_jax.heads.landmark_sets import (
  IBUG_FROM_MEDIAPIPE,
  SAPIENS_FROM_MEDIAPIPE,
  landmark_scheme,
  landmark_subset,
)

# ICT-FaceKit's iBUG points that are sharp corners, of lids and mouth (noses differ in length);
# millimetres, MIT licence
SHARP = {
  '36': (-44.6, 34.3, 86.0),
  '39': (-18.4, 32.5, 92.0),
  '42': (18.4, 32.5, 92.0),
  '45': (44.6, 34.3, 86.0),
  '48': (-25.3, -35.2, 101.9),
  '54': (25.3, -35.2, 101.9),
}


@pytest.fixture(scope='module')
def makehuman():
  try:
    return load_head('makehuman')
  except UserError as error:
    pytest.skip(str(error))


def points_of(head, name):
  names, ids = landmark_subset(head, name)
  return dict(zip(names, np.asarray(head_landmarks(head, neutral_params(head)))[ids]))


def test_schemes_are_told_by_names(makehuman):
  procedural = load_head('procedural')
  assert landmark_scheme(procedural) == 'words' and landmark_scheme(makehuman) == 'mediapipe478'
  assert (
    landmark_scheme(procedural.replace(landmark_names=tuple(map(str, range(17, 68))))) == 'ibug68'
  )


def test_makehuman_has_the_68_where_another_head_has_them(makehuman):
  points = points_of(makehuman, 'ibug68')
  assert list(points) == [str(k) for k in range(68)]
  here, there = np.array([points[k] for k in SHARP]), np.array(list(SHARP.values())) / 1e3
  scale, rotation, shift = similarity(there, here, np.ones(len(here)))
  distance = np.linalg.norm(scale * there @ rotation.T + shift - here, axis=1)
  assert distance.max() < 0.004, dict(zip(SHARP, (1e3 * distance).round(1)))  # metres; faces differ
  assert np.abs(rotation - np.eye(3)).max() < 0.15, 'left and right are not exchanged'


def test_the_68_are_mirrored_and_in_order(makehuman):
  points = np.array(list(points_of(makehuman, 'ibug68').values()))
  assert (points[[0, 17, 36, 48], 0] < 0).all() and (points[[16, 26, 45, 54], 0] > 0).all(), (
    "the person's right first"
  )
  mirror = [
    *range(16, -1, -1),
    *range(26, 16, -1),
    27,
    28,
    29,
    30,
    35,
    34,
    33,
    32,
    31,
    45,
    44,
    43,
    42,
    47,
    46,
    39,
    38,
    37,
    36,
    41,
    40,
    54,
    53,
    52,
    51,
    50,
    49,
    48,
    59,
    58,
    57,
    56,
    55,
    64,
    63,
    62,
    61,
    60,
    67,
    66,
    65,
  ]
  inner = slice(17, None)
  # measured marks
  np.testing.assert_allclose(points[mirror][inner] * [-1, 1, 1], points[inner], atol=0.008)
  assert (np.diff(points[:9, 1]) < 0).all() and points[8, 1] < points[57, 1] < points[
    51, 1
  ] < points[30, 1]
  for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46), (62, 66), (61, 67)):
    assert points[upper, 1] > points[lower, 1]


def test_sets_of_other_heads(makehuman):
  names, ids = landmark_subset(makehuman, 'mediapipe478')
  assert len(names) == 478 and (ids == np.arange(478)).all()
  # a row of another scheme
  ibug = load_head('procedural').replace(landmark_names=tuple(map(str, range(17, 29))))
  names, ids = landmark_subset(ibug, 'mediapipe478')
  assert set(names) == {str(m) for m in IBUG_FROM_MEDIAPIPE[17:29]} and len(set(ids)) == 12
  words, _ = landmark_subset(load_head('procedural'), 'ibug68')
  assert {'30', '48', '54'} <= set(words)
  with pytest.raises(ValueError, match='no landmark set'):
    landmark_subset(ibug, 'dlib')
  bare = ibug.replace(landmark_names=())
  with pytest.raises(ValueError, match='no landmark of the set'):
    landmark_subset(bare, 'ibug68')


def test_words_of_sapiens_lie_where_they_say(makehuman):
  points = points_of(makehuman, 'sapiens')
  assert len(points) == len(SAPIENS_FROM_MEDIAPIPE) > 60
  for word, (x, _, _) in points.items():
    if word.startswith('l_') or '_l_' in word:
      assert x > 0.005, word
    if word.startswith('r_') or '_r_' in word:
      assert x < -0.005, word
  for side in 'lr':
    clock = {hour: points[f'{side}_border_of_iris_{hour}'] for hour in (3, 6, 9, 12)}
    assert clock[3][0] > clock[9][0] and clock[12][1] > clock[6][1], (
      "the viewer's right is the person's left, +x"
    )
    for line in ('upper', 'lower'):
      names = (
        'midpoint_3',
        'midpoint_1',
        'midpoint_4',
        'centerpoint',
        'midpoint_5',
        'midpoint_2',
        'midpoint_6',
      )
      assert (
        np.diff([points[f'{side}_{name}_of_{line}_lash_line'][0] for name in names]) > 0
      ).all()
