"""The device decides where nobody asks; clips of any length go through one program."""

import jax
import numpy as np
import pytest

from exp_jax.layers.batching import at_once, in_blocks


@pytest.mark.parametrize('device, usual, own', [('cpu', 1, 4), ('gpu', 16, 8), ('tpu', 16, 8)])
def test_what_is_asked_for_comes_first_then_the_device(monkeypatch, device, usual, own):
  monkeypatch.setattr(jax, 'default_backend', lambda: device)
  assert (
    at_once() == at_once(0) == usual
    and at_once(on_cpu=4, elsewhere=8) == own
    and at_once(3, elsewhere=8) == 3
  )


@pytest.mark.parametrize('frames', [1, 2, 4, 5, 9])
def test_blocks_give_what_the_whole_clip_gives_in_one_program(frames):
  rng = np.random.default_rng(frames)
  one, other = rng.normal(size=(frames, 3)), rng.normal(size=(frames, 2, 2))
  lengths = set()

  def function(a, b):
    lengths.add(len(a))
    return a.sum(-1)[:, None, None] + 2 * b

  found = in_blocks(function, one, other, block=4)
  np.testing.assert_array_equal(found, one.sum(-1)[:, None, None] + 2 * other)
  assert lengths == {1 if frames == 1 else 4}
