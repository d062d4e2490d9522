"""The terms of the estimator's loss: against closed forms and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.estimator.losses import angles, difference_loss, losses, pixel_weights, sureness_loss
from exp_jax.networks.face_maps import PARTS, FaceMaps
from exp_jax.observe.maps.face_maps import expected_error


def unit(rng, *shape):
  vectors = rng.normal(size=(*shape, 3)).astype(np.float32)
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_angles_are_those_between_vectors_and_have_a_finite_gradient_at_zero():
  turns = np.array([0.0, 1e-3, 0.5, np.pi / 2, 3.0], np.float32)
  a = np.tile(np.float32([0, 0, -1]), (5, 1))
  b = np.stack([np.sin(turns), 0 * turns, -np.cos(turns)], -1)
  np.testing.assert_allclose(angles(a, b), turns, atol=2e-6)
  gradient = jax.grad(lambda x: angles(x, jnp.asarray(b)).sum())(jnp.asarray(a))
  assert jnp.isfinite(gradient).all()


@pytest.mark.long
@pytest.mark.parametrize('typical', [0.05, 0.3])
def test_concentration_settles_where_its_expected_error_is_the_error(typical):
  """The density over angles is k^2-like at small ones, so its mean angle is what `expected_error`
  says."""
  grid = jnp.exp(jnp.linspace(0.0, 6.0, 600))
  rng = np.random.default_rng(0)
  # theta exp(-k theta), k = 2 / typical
  drawn = rng.gamma(2.0, typical / 2, 4000).clip(0, np.pi).astype(np.float32)
  cost = jnp.stack(
    [sureness_loss(k * jnp.ones(4000), jnp.asarray(drawn), jnp.ones(4000)) for k in grid]
  )
  best = float(grid[cost.argmin()])
  assert float(expected_error(best)) == pytest.approx(drawn.mean(), rel=0.06)


@pytest.mark.long
def test_differences_see_detail_and_not_a_shift():
  rng = np.random.default_rng(1)
  truth, weights = jnp.asarray(rng.normal(size=(2, 16, 16, 3)), jnp.float32), jnp.ones((2, 16, 16))
  assert difference_loss(truth + 3.0, truth, weights) < 2e-3
  assert difference_loss(0 * truth, truth, weights) > 1.0
  spoilt = truth.at[0, :, 8:].add(5.0)
  assert difference_loss(spoilt, truth, weights.at[0, :, 8:].set(0)) < 2e-3, (
    'pixels without weight say nothing'
  )


@pytest.mark.long
def test_a_perfect_answer_costs_nothing_and_unknown_pixels_do_not_count():
  rng = np.random.default_rng(2)
  normals = unit(rng, 1, 12, 12)
  everywhere = jnp.ones((1, 12, 12))
  truth = {
    'normals': jnp.asarray(normals),
    'depth': jnp.asarray(rng.normal(size=(1, 12, 12)), jnp.float32),
    'parts': jnp.full((1, 12, 12), PARTS.index('skin')),
    'known': everywhere.at[:, :3].set(0),
    'inside': everywhere,
  }
  spoilt = jnp.asarray(normals).at[:, :3].multiply(-1)
  sure = 50 * jax.nn.one_hot(truth['parts'], len(PARTS))
  found = losses(FaceMaps(spoilt, everywhere, truth['depth'] + 4, sure), truth)
  assert all(found[term] < 0.01 for term in ('normals', 'fine', 'depth', 'parts', 'degrees')), found
  assert pixel_weights(truth)[0, 0, 0] == 0 and pixel_weights(truth)[0, 5, 5] == 1
