"""How often a head's triangles are split, so that they are as fine as the pixels they are fitted to
and no finer."""

import numpy as np

from exp_jax.fitting.landmark_head import landmark_template
from exp_jax.geometry.meshes import unique_edges
from exp_jax.heads.model import HeadModel
from exp_jax.media.squares import head_place

BY_PIXELS = -1  # of a config or flag: `levels_for` decides
# pixels between neighbouring vertices of the face; finer ones tell nothing more (ExpPortrait: about
# 60k vertices)
SPACING = 1.5
MOST = 3


def levels_for(head: HeadModel, size: int, levels: int = BY_PIXELS) -> int:
  """Subdivisions of a head that is fitted in a square of `size` pixels.

  Args:
    head: with MediaPipe's landmarks, whose extent tells how large the face is in the square
      (`media.squares.head_place`).
    size: pixels.
    levels: `BY_PIXELS`, or a number that is taken as it is.

  Returns:
    The fewest with which the median edge of the face is no longer than 1.5 pixels, at most 3.
  """
  if levels != BY_PIXELS:
    return levels
  _, _, side = head_place(np.asarray(landmark_template(head))[None, :468, :2])
  template, face = np.asarray(head.template), np.asarray(head.regions['face']) > 0.5
  edges = unique_edges(np.asarray(head.faces))
  edges = edges[face[edges].all(1)]
  length = np.median(np.linalg.norm(template[edges[:, 0]] - template[edges[:, 1]], axis=-1))
  return int(np.clip(np.ceil(np.log2(length * size / side / SPACING)), 0, MOST))
