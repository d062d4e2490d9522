"""Even motion does not tremble, and what does is measured in its own unit."""

import numpy as np
import pytest

from exp_jax.geometry.second_differences import jitter_of, second_differences


def test_an_accelerated_motion_has_its_acceleration_and_an_even_one_none():
  t, start, speed, half = (
    np.arange(6.0)[:, None, None],
    *np.random.default_rng(0).normal(size=(3, 5, 2)),
  )
  np.testing.assert_allclose(second_differences(start + speed * t), np.zeros((4, 5, 2)), atol=1e-12)
  found = second_differences(start + speed * t + half * t**2)
  np.testing.assert_allclose(found, np.broadcast_to(2 * half, (4, 5, 2)), rtol=1e-9)
  expected = np.sqrt(np.mean(4 * (half[:, 0] ** 2 + half[:, 1] ** 2)))
  assert jitter_of(start + speed * t + half * t**2) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('shape', [(0, 5, 2), (1, 5, 2), (2, 5, 2), (4, 0, 2)])
def test_too_little_to_tremble(shape):
  points = np.ones(shape, np.float32)
  assert jitter_of(points) == 0.0
  assert (
    second_differences(points).shape == (max(shape[0] - 2, 0), *shape[1:])
    and second_differences(points).dtype == np.float32
  )
