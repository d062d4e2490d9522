"""How much landmarks count: Geman and McClure's weights by hand."""

import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.coarse.residuals import robust_weights

SQUARED = np.array([0.0, 1.0, 9.0, 400.0, 1e6], np.float32)  # pixels
SCALE = np.float32(1.5)


def test_weights_are_those_of_geman_and_mcclure():
  """rho(r) = r^2 / (1 + r^2 / c^2) has the weight rho'(r) / 2r; c is four scales."""
  squares = SQUARED.astype(np.float64)
  rho = lambda s: s / (1 + s / (4 * 1.5) ** 2)
  step = 1e-3 * np.maximum(squares, 1)
  expected = (rho(squares + step) - rho(squares - step)) / (2 * step)  # by r^2
  found = robust_weights(jnp.asarray(SQUARED), jnp.ones(5), SCALE)
  np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_what_is_not_trusted_does_not_count_and_half_trust_is_twice_the_variance():
  weights = lambda squared, trust: np.asarray(robust_weights(jnp.asarray(squared), trust, SCALE))
  assert not weights(SQUARED, jnp.zeros(5)).any()
  whole, half = weights(SQUARED / 2, jnp.ones(5)), weights(SQUARED, jnp.full(5, 0.5))
  np.testing.assert_allclose(half, whole / 2, rtol=1e-6)
