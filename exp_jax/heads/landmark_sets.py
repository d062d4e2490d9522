"""Landmarks by the names of a published set, for heads that carry another one.

A head lists its landmarks in one scheme: MediaPipe's face mesh (names '0'..'477'), iBUG's 68 ('0'..'67'), or words.
`landmark_subset` picks the rows of `head_landmarks` that stand for the points of a set. Left and right are the
person's own. The outline (iBUG 0-16) slides over the surface as a head turns; see `contour_landmarks`.

Sources: MediaPipe's canonical face model (Apache-2.0) for positions; the iBUG 300-W mark-up; the correspondence below
is checked against ICT-FaceKit's own 68 points.
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

# words of the procedural head -> iBUG
_IBUG_FROM_WORDS = {
  'nose': 30, 'chin': 8, 'mouth_left': 54, 'mouth_right': 48, 'brow_left': 24, 'brow_right': 19, 'glabella': 27,
}  # fmt: skip


def landmark_scheme(head: HeadModel) -> str:
  """'mediapipe478', 'ibug68' or 'words', told by the names."""
  names = head.landmark_names
  if not names or not all(name.isdigit() for name in names):
    return 'words'
  return 'mediapipe478' if max(map(int, names)) > 67 else 'ibug68'


def landmark_subset(head: HeadModel, name: str) -> tuple[tuple[str, ...], np.ndarray]:
  """Points of a published set that the head has.

  Args:
    name: 'ibug68' (names '0'..'67'), 'mediapipe478' ('0'..'477'), or 'sapiens' (words of its 308-point table).

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
    table = {word: str(m if to_own is None else to_own.get(m, -1)) for word, m in SAPIENS_FROM_MEDIAPIPE.items()}
  found = {n: own[mine] for n, mine in table.items() if mine in own}
  if not found:
    raise ValueError(f'{head.name} has no landmark of the set {name}')
  return tuple(found), np.array(list(found.values()))


# words of Sapiens' table -> MediaPipe
SAPIENS_FROM_MEDIAPIPE = {}
