"""The device decides where nobody asks."""

import jax
import pytest

from exp_jax.layers.batching import at_once


@pytest.mark.parametrize('device, usual, own', [('cpu', 1, 4), ('gpu', 16, 8), ('tpu', 16, 8)])
def test_what_is_asked_for_comes_first_then_the_device(monkeypatch, device, usual, own):
  monkeypatch.setattr(jax, 'default_backend', lambda: device)
  assert (
    at_once() == at_once(0) == usual
    and at_once(on_cpu=4, elsewhere=8) == own
    and at_once(3, elsewhere=8) == 3
  )
