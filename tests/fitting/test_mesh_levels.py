"""A mesh is as fine as the pixels: the spacing of what is chosen, measured on the split mesh
itself."""

import numpy as np
import pytest

from exp_jax.fitting.mesh_levels import levels_for
from exp_jax.geometry.meshes import unique_edges
from exp_jax.heads import load_head
from exp_jax.heads.densify import densify, lift


def spacing(head, levels, size):
  """Median edge of the face in pixels, of a face that takes 1 / 2.1 of the square in height or
  width."""
  dense = densify(head, levels)
  corners = np.asarray(head.faces)[np.asarray(head.landmark_faces)[:468]]
  marks = np.einsum(
    'kcd,kc->kd', np.asarray(head.template)[corners], np.asarray(head.landmark_barycentric)[:468]
  )
  place, face = np.asarray(lift(dense, head.template)), np.asarray(dense.regions['face']) > 0.5
  edges = unique_edges(np.asarray(dense.faces))
  edges = edges[face[edges].all(1)]
  length = np.median(np.linalg.norm(place[edges[:, 0]] - place[edges[:, 1]], axis=1))
  return length * size / (2.1 * np.ptp(marks[:, :2], axis=0).max())


@pytest.mark.long
@pytest.mark.parametrize('size', [64, 128, 256, 512])
def test_the_fewest_levels_whose_edges_are_a_pixel_and_a_half(size):
  head = load_head('makehuman')
  levels = levels_for(head, size)
  assert spacing(head, levels, size) <= 1.6  # splitting moves the median a little
  assert levels == 0 or spacing(head, levels - 1, size) > 1.4


def test_more_pixels_never_want_fewer_levels_and_a_number_is_taken_as_it_is():
  head = load_head('makehuman')
  chosen = [levels_for(head, size) for size in (32, 128, 512, 2048)]
  assert chosen == sorted(chosen) and chosen[0] == 0 and chosen[-1] <= 3
  assert levels_for(head, 512, 1) == 1
