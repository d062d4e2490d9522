"""A motion from a frame on, with its offsets: what the whole one has there, made by the same
blocks."""

import types

import numpy as np
import pytest

from exp_jax.controls.reenact import Motion
from exp_jax.systems.expportrait.drawing import TransferredOffsets
from exp_jax.systems.expportrait.resumed import can_begin_anywhere, from_frame
from exp_jax.systems.expportrait.retouch.retoucher import Retoucher

T = 70


@pytest.mark.parametrize('first', (0, 5, 32, 40, 69, T))
def test_it_is_the_later_part_of_the_whole(first):
  rng = np.random.default_rng(0)
  motion = Motion(
    *(rng.normal(size=(T, *shape)).astype(np.float32) for shape in ((5,), (4, 3), (3,)))
  )
  blocks = []

  def transfer(subject, expression, jaw):
    blocks.append(len(expression))
    return np.repeat(expression.sum(-1)[:, None, None] + jaw[:, :1, None], 2, axis=1)

  whole = transfer(None, motion.expression, motion.pose[:, 2])
  blocks.clear()
  offsets = TransferredOffsets(transfer, None, motion, motion.pose[:, 2])
  later, dynamic = from_frame(motion, offsets, first)
  np.testing.assert_array_equal(later.pose, motion.pose[first:])
  np.testing.assert_array_equal(later.expression, motion.expression[first:])
  assert len(dynamic) == len(later.pose) == T - first
  for i in range(T - first):
    np.testing.assert_array_equal(dynamic[i], whole[first + i])
  assert blocks == [32, 32, 6][first // 32 :] * (first < T)
  assert from_frame(motion, None, first)[1] is None


def test_a_video_model_cannot_begin_anywhere():
  assert can_begin_anywhere(None) and can_begin_anywhere(object.__new__(Retoucher))
  assert not can_begin_anywhere(types.SimpleNamespace(model=None))
