"""The figure in the record beside a video: how much the result's face trembles."""

import numpy as np
import pytest

from exp_jax.controls.reenact import Motion
from exp_jax.heads.head_files import load_head
from exp_jax.heads.personalized import Subject
from exp_jax.systems.expportrait.portrait import tremble

HEAD = load_head('procedural')


def person(size):
  """A head a metre away in a picture of size x size, seen with a focal length of two heights."""
  nothing, none = np.zeros((1, 3), np.float32), np.zeros((1, 0, 3))
  return Subject(
    'p',
    'none',
    'none',
    0,
    (size, size),
    25.0,
    np.zeros(10),
    np.zeros((1, 10)),
    np.zeros((1, 6, 3)),
    nothing - [0, 0, 1],
    np.full(2, 2.0 * size),
    np.full(2, size / 2),
    np.zeros(1),
    nothing,
    np.zeros(0, int),
    none,
  )


def shaken(metres, frames=6):
  """A head that is moved to the side and back from frame to frame."""
  place = np.tile([0.0, 0, -1], (frames, 1))
  place[::2, 0] += metres
  return Motion(np.zeros((frames, 10)), np.zeros((frames, 6, 3)), place)


@pytest.mark.parametrize('size', [256, 640])
def test_a_face_that_hops_trembles_by_twice_its_hop(size):
  """In pixels of 512, whatever the size of the picture: a millimetre at a metre is about 1.024 of
  them."""
  assert tremble(HEAD, person(size), shaken(0.0)) == pytest.approx(0, abs=1e-3)
  assert tremble(HEAD, person(size), shaken(0.001)) == pytest.approx(2 * 1.024, rel=0.15)


def test_two_frames_do_not_tremble():
  assert tremble(HEAD, person(256), shaken(0.001, frames=2)) is None
