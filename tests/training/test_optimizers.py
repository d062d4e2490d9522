"""Muon: singular values by the polynomial in float64, steps of one size, what it learns and keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from exp_jax.training.optimizers import make_optimizer, orthogonalized, scale_by_muon

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('shape', [(40, 12), (12, 40), (16, 16)])
def test_singular_values_go_where_the_polynomial_sends_them(shape):
  x = RNG.normal(size=shape)
  u, s, v = np.linalg.svd(x, full_matrices=False)
  s = s / np.sqrt(np.linalg.norm(s**2))
  for _ in range(5):
    s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
  assert 0.6 < s.min() and s.max() < 1.25
  np.testing.assert_allclose(orthogonalized(jnp.float32(x)), (u * s) @ v, atol=2e-5)


def test_nothing_and_what_is_nearly_singular_stay_finite():
  assert not np.any(orthogonalized(jnp.zeros((9, 20))))
  line = jnp.outer(jnp.arange(9.0), jnp.ones(20))
  found = np.asarray(orthogonalized(line))
  assert np.isfinite(found).all() and np.linalg.svd(found, compute_uv=False)[0] < 1.25


def test_kernels_take_steps_of_a_fifth_and_the_rest_takes_adams():
  params = {
    'dense': jnp.zeros((12, 30)),
    'conv': jnp.zeros((3, 3, 10, 16)),
    'narrow': jnp.zeros((30, 2)),
    'bias': jnp.zeros(7),
  }
  grads = jax.tree.map(lambda p: jnp.float32(RNG.normal(size=p.shape)), params)
  muon = scale_by_muon(betas=(0.9, 0.99))
  updates, state = muon.update(grads, muon.init(params))
  size = {name: float(jnp.sqrt(jnp.mean(x**2))) for name, x in updates.items()}
  assert 0.14 < size['dense'] < 0.25 and 0.14 < size['conv'] < 0.25
  for name in ('narrow', 'bias'):  # the first step of Adam has the size 1
    np.testing.assert_allclose(updates[name], np.sign(grads[name]), atol=1e-5)
  assert state.second['conv'].shape == () and state.second['bias'].shape == (7,)
  # a convolution is the matrix of its windows
  flat = {'x': grads['conv'].reshape(90, 16)}
  alone, _ = muon.update(flat, muon.init(flat))
  np.testing.assert_allclose(updates['conv'].reshape(90, 16), alone['x'], atol=1e-6)


@pytest.mark.parametrize('moments', ['float32', 'bfloat16'])
def test_it_learns_a_matrix_that_badly_scaled_inputs_hide(moments):
  """Inputs of very unequal size: half of the error is in directions of tiny gradients."""
  truth = jnp.float32(RNG.normal(size=(16, 12)))
  x = jnp.float32(RNG.normal(size=(64, 16)) * np.logspace(0, -2, 16))
  loss = lambda p: jnp.mean((x @ (p['kernel'] - truth)) ** 2)
  rate = optax.cosine_decay_schedule(0.5, 80)
  tx = make_optimizer(learning_rate=rate, weight_decay=0.0, kind='muon', moments=moments)

  @jax.jit
  def step(params, state):
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return jax.tree.map(jnp.add, params, updates), state

  params = {'kernel': jnp.zeros((16, 12))}
  state, first = tx.init(params), float(loss(params))
  for _ in range(80):
    params, state = step(params, state)
  assert loss(params) < 1e-2 * first
  types = {str(leaf.dtype) for leaf in jax.tree.leaves(state)}
  assert ('bfloat16' in types) == (moments == 'bfloat16')
