"""Pictures for dlib: chips as its network takes them, and pictures with five points to cut chips
from."""

import numpy as np

from tests.golden.named_weights import images


def faces() -> np.ndarray:
  """Three chips, uint8 [3, 150, 150, 3]."""
  return np.rint(255 * images(11, 3, 150, 150, 3)).astype(np.uint8)


def places():
  """Yields (picture uint8 [H, W, 3], five points [5, 2] of dlib's pixels, whole numbers): beyond
  the border, halved once, halved twice and turned."""
  base = np.array([[262, 100], [238, 101], [196, 103], [218, 102], [229, 136]]) - [229, 110]
  turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
  for seed, size, points in (
    (21, (170, 200), base * 1.1 + [60, 40]),
    (22, (401, 387), base * 3.1 + [190, 170]),
    (23, (677, 701), base * 5.3 @ turn + [361, 303]),
  ):
    coarse = images(seed, *(n // 12 + 2 for n in size), 3)
    smooth = np.kron(coarse, np.ones((12, 12, 1)))[: size[0], : size[1]]
    yield np.rint(255 * smooth).astype(np.uint8), np.rint(points).astype(int)
