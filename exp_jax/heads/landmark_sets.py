"""Landmarks by the names of a published set, for heads that carry another one.

A head lists its landmarks in one scheme: MediaPipe's face mesh (names '0'..'477'), iBUG's 68
('0'..'67'), or words. `landmark_subset` picks the rows of `head_landmarks` that stand for the
points of a set. Left and right are the person's own. The outline (iBUG 0-16) slides over the
surface as a head turns; see `contour_landmarks`.

Sources: MediaPipe's canonical face model (Apache-2.0) for positions; the iBUG 300-W mark-up; the
correspondence below is checked against ICT-FaceKit's own 68 points.
"""

import numpy as np

from exp_jax.heads.model import HeadModel

SETS = ('ibug68', 'mediapipe478', 'sapiens')

# iBUG 0..67 -> MediaPipe: outline, brows, nose, lids, outer lips, inner lips
IBUG_FROM_MEDIAPIPE = (
  127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356,
  70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
  168, 197, 5, 4, 75, 97, 2, 326, 305,
  33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
  61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87)  # fmt: skip

# Words of Sapiens' 308-point table -> MediaPipe, where both mean the same place. Its lash lines are
# numbered by halving, so in the order of the image the marks between the corners are 3, 1, 4,
# centre, 5, 2, 6; its irises go by the clock as the viewer sees it. Ears, nostrils, creases and
# points between the named ones of the lips have no counterpart.
SAPIENS_FROM_MEDIAPIPE = {
  'center_of_glabella': 9, 'center_of_nose_root': 168, 'tip_of_nose': 1, 'bottom_center_of_nose': 2,
  'r_outer_corner_of_nose': 129, 'l_outer_corner_of_nose': 358, 'center_of_labiomental_groove': 18, 'tip_of_chin': 199,
  'upper_startpoint_of_r_eyebrow': 107, 'lower_startpoint_of_r_eyebrow': 55, 'end_of_r_eyebrow': 70,
  'upper_midpoint_1_of_r_eyebrow': 105, 'lower_midpoint_1_of_r_eyebrow': 52,
  'upper_startpoint_of_l_eyebrow': 336, 'lower_startpoint_of_l_eyebrow': 285, 'end_of_l_eyebrow': 300,
  'upper_midpoint_1_of_l_eyebrow': 334, 'lower_midpoint_1_of_l_eyebrow': 282,
  'r_outer_corner_of_mouth': 61, 'l_outer_corner_of_mouth': 291, 'center_of_cupid_bow': 0,
  'center_of_lower_outer_lip': 17, 'r_inner_corner_of_mouth': 78, 'l_inner_corner_of_mouth': 308,
  'center_of_upper_inner_lip': 13, 'center_of_lower_inner_lip': 14,
  'r_center_of_iris': 468, 'l_center_of_iris': 473, 'r_center_of_pupil': 468, 'l_center_of_pupil': 473,
}  # fmt: skip
_BETWEEN = (
  'midpoint_3',
  'midpoint_1',
  'midpoint_4',
  'centerpoint',
  'midpoint_5',
  'midpoint_2',
  'midpoint_6',
)
for _side, _line, _first, _marks, _last in (
  ('r', 'upper', ('outer', 33), (246, 161, 160, 159, 158, 157, 173), ('inner', 133)),
  ('r', 'lower', ('outer', 33), (7, 163, 144, 145, 153, 154, 155), ('inner', 133)),
  ('l', 'upper', ('inner', 362), (398, 384, 385, 386, 387, 388, 466), ('outer', 263)),
  ('l', 'lower', ('inner', 362), (382, 381, 380, 374, 373, 390, 249), ('outer', 263)),
):
  SAPIENS_FROM_MEDIAPIPE |= {
    f'{_side}_{name}_end_of_{_line}_lash_line': mark for name, mark in (_first, _last)
  }
  SAPIENS_FROM_MEDIAPIPE |= {
    f'{_side}_{name}_of_{_line}_lash_line': mark for name, mark in zip(_BETWEEN, _marks)
  }
for _side, _clock in (('r', (469, 470, 471, 472)), ('l', (474, 475, 476, 477))):
  SAPIENS_FROM_MEDIAPIPE |= {
    f'{_side}_border_of_iris_{hour}': mark for hour, mark in zip((3, 12, 9, 6), _clock)
  }

# words of the procedural head -> iBUG
_IBUG_FROM_WORDS = {
  'nose': 30,
  'chin': 8,
  'mouth_left': 54,
  'mouth_right': 48,
  'brow_left': 24,
  'brow_right': 19,
  'glabella': 27,
}


def landmark_scheme(head: HeadModel) -> str:
  """'mediapipe478', 'ibug68' or 'words', recognised by the names."""
  names = head.landmark_names
  if not names or not all(name.isdigit() for name in names):
    return 'words'
  return 'mediapipe478' if max(map(int, names)) > 67 else 'ibug68'


def landmark_subset(head: HeadModel, name: str) -> tuple[tuple[str, ...], np.ndarray]:
  """Points of a published set that the head has.

  Args:
    name: 'ibug68' (names '0'..'67'), 'mediapipe478' ('0'..'477'), or 'sapiens' (words of its
      308-point table).

  Returns:
    names: K of them, in the order of the set.
    ids: [K] int rows of `head_landmarks(head, params)`.

  Raises:
    ValueError: an unknown set, or one of which the head has no point.
  """
  if name not in SETS:
    raise ValueError(f'there is no landmark set {name!r}; there are {", ".join(SETS)}')
  scheme, row = landmark_scheme(head), {n: k for k, n in enumerate(head.landmark_names)}
  if scheme == 'words':
    own = {str(number): row[word] for word, number in _IBUG_FROM_WORDS.items() if word in row}
    scheme = 'ibug68'
  else:
    own = row
  if name == scheme:
    table = {n: n for n in sorted(own, key=int)}
  elif scheme == 'ibug68' and name == 'mediapipe478':
    table = {str(m): str(k) for k, m in enumerate(IBUG_FROM_MEDIAPIPE)}
    table = dict(sorted(table.items(), key=lambda item: int(item[0])))
  elif name == 'ibug68':
    table = {str(k): str(m) for k, m in enumerate(IBUG_FROM_MEDIAPIPE)}
  else:
    to_own = {m: k for k, m in enumerate(IBUG_FROM_MEDIAPIPE)} if scheme == 'ibug68' else None
    table = {
      word: str(m if to_own is None else to_own.get(m, -1))
      for word, m in SAPIENS_FROM_MEDIAPIPE.items()
    }
  found = {n: own[mine] for n, mine in table.items() if mine in own}
  if not found:
    raise ValueError(f'{head.name} has no landmark of the set {name}')
  return tuple(found), np.array(list(found.values()))
