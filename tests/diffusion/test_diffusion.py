import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.diffusion import flow_matching as fm
from exp_jax.diffusion.guidance import guided
from exp_jax.diffusion.samplers import SAMPLERS, sigma_grid

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden' / 'unipc.npz'
X0 = jax.random.normal(jax.random.key(0), (3, 2, 5))
NOISE = jax.random.normal(jax.random.key(1), (3, 2, 5))
SIGMA = jnp.array([0.0, 0.3, 1.0])


def test_interpolation_and_its_inverses():
  z = fm.interpolate(X0, NOISE, SIGMA)
  np.testing.assert_allclose(z[0], X0[0], atol=1e-6)
  np.testing.assert_allclose(z[2], NOISE[2], atol=1e-6)
  v = fm.velocity_from_x0(X0, z, SIGMA)
  np.testing.assert_allclose(v[1:], (NOISE - X0)[1:], atol=1e-5)
  np.testing.assert_allclose(fm.x0_from_velocity(NOISE - X0, z, SIGMA), X0, atol=1e-5)


def test_shift_is_monotone_and_fixes_the_ends():
  u = jnp.linspace(0, 1, 50)
  s = fm.shift(u, 5.0)
  assert s[0] == 0 and s[-1] == 1 and (np.diff(s) > 0).all() and (s[1:-1] > u[1:-1]).all()
  np.testing.assert_allclose(fm.shift(0.5, 5.0), 5 / 6)


@pytest.mark.parametrize('how', sorted(fm.SIGMA_DRAWS))
def test_draws_stay_inside(how):
  sigma = fm.draw_sigma(jax.random.key(2), 4000, how=how, amount=3.0)
  assert (sigma > 0).all() and (sigma <= 1).all() and sigma.std() > 0.1


def test_weights():
  grid = jnp.arange(1, 1001) / 1000
  bell = fm.loss_weight(grid, how='bell')
  np.testing.assert_allclose(bell.mean(), 1.0, rtol=1e-4)
  assert bell.argmax() == 499 and bell.min() > -1e-5
  np.testing.assert_allclose(fm.loss_weight(SIGMA, how='eps'), [1, 0.49, 0], atol=1e-6)
  with pytest.raises(ValueError, match='unknown weighting'):
    fm.loss_weight(grid, how='snr')


@pytest.mark.parametrize('name, convention', [('euler', 'plain'), ('heun', 'plain'), ('unipc', 'diffusers')])
def test_straight_paths_are_sampled_exactly(name, convention):
  """With one data point the velocity is constant along each path: any sampler must land on it."""
  denoise = lambda x, sigma: (x - X0) / sigma
  out = SAMPLERS[name](denoise, NOISE, sigma_grid(5, 3.0, convention=convention))
  np.testing.assert_allclose(out, X0, atol=2e-5)   # float32 through five steps


def test_orders_of_accuracy():
  """Gaussian data N(0, 0.25): the exact flow scales noise by 0.5; higher order errs less."""
  variance = 0.25

  def denoise(x, sigma):
    total = (1 - sigma) ** 2 * variance + sigma**2
    return x * (sigma - (1 - sigma) * variance) / total

  def error(name, steps):
    grid = sigma_grid(steps, 1.0, convention='diffusers')
    return float(jnp.abs(SAMPLERS[name](denoise, NOISE, grid) - 0.5 * NOISE).max())

  assert error('euler', 40) < 0.7 * error('euler', 20)
  assert error('heun', 20) < 0.3 * error('euler', 20)
  assert error('unipc', 20) < 0.3 * error('euler', 20)


def test_unipc_repeats_the_trajectory_of_diffusers():
  """diffusers 0.42.1, UniPCMultistepScheduler; after a deliberate change run make_unipc_fixture.py."""
  golden = np.load(GOLDEN, allow_pickle=False)
  weight = jnp.asarray(golden['weight'])
  for steps in golden['steps']:
    denoise = lambda x, sigma: jnp.tanh(x @ weight) + jnp.floor(1000 * sigma + 1e-3) / 1000 * x
    out = SAMPLERS['unipc'](denoise, jnp.asarray(golden['noise']),
                            sigma_grid(int(steps), float(golden['shift']), convention='diffusers'),
                            integer_clock=True)
    np.testing.assert_allclose(out, golden[f'out_{steps}'], atol=5e-6)  # fp32 over up to 50 steps


def test_guidance():
  conditional, unconditional = lambda x, s: 3.0 * x, lambda x, s: x
  assert guided(conditional, unconditional, 1.0) is conditional
  np.testing.assert_allclose(guided(conditional, unconditional, 2.0)(X0, 0.5), 5.0 * X0, rtol=1e-6)
