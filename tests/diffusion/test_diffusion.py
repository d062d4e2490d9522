import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.diffusion import flow_matching as fm
from exp_jax.diffusion.caching import residual_ratios, steps_to_run
from exp_jax.diffusion.choices import SAMPLER_NAMES
from exp_jax.diffusion.samplers import SAMPLERS, sigma_grid

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / 'golden' / 'unipc.npz', allow_pickle=False)
X0 = jax.random.normal(jax.random.key(0), (3, 2, 5))
NOISE = jax.random.normal(jax.random.key(1), (3, 2, 5))
SIGMA = jnp.array([0.0, 0.3, 1.0])


def test_interpolation_and_its_inverses():
  z = fm.interpolate(X0, NOISE, SIGMA)
  np.testing.assert_allclose(z[0], X0[0], atol=1e-6)
  np.testing.assert_allclose(z[2], NOISE[2], atol=1e-6)
  v = fm.velocity_from_x0(X0, z, SIGMA)
  np.testing.assert_allclose(v[1:], (NOISE - X0)[1:], atol=1e-5)


def test_shift_is_monotone_and_fixes_the_ends():
  u = jnp.linspace(0, 1, 50)
  s = fm.shift(u, 5.0)
  assert s[0] == 0 and s[-1] == 1 and (np.diff(s) > 0).all() and (s[1:-1] > u[1:-1]).all()
  np.testing.assert_allclose(fm.shift(0.5, 5.0), 5 / 6)


@pytest.mark.long
@pytest.mark.parametrize('how', sorted(fm.SIGMA_DRAWS))
def test_draws_stay_inside(how):
  sigma = fm.draw_sigma(jax.random.key(2), 4000, how=how, amount=3.0)
  assert (sigma > 0).all() and (sigma <= 1).all() and sigma.std() > 0.1


@pytest.mark.parametrize('how', ['grid', 'uniform'])
def test_even_draws_are_shifted(how):
  """sigma = s u / (1 + (s - 1) u) for u even in 0..1: u, found again from the draws, has the
  quantiles of even numbers."""
  sigma = np.asarray(fm.draw_sigma(jax.random.key(3), 20_000, how=how, amount=3.0), np.float64)
  u = sigma / (3.0 - 2.0 * sigma)
  # 20 000 draws: 0.0035
  np.testing.assert_allclose(np.quantile(u, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.012)


def test_weights():
  grid = jnp.arange(1, 1001) / 1000
  bell = fm.loss_weight(grid, how='bell')
  np.testing.assert_allclose(bell.mean(), 1.0, rtol=1e-4)
  assert bell.argmax() == 499 and bell.min() > -1e-5
  np.testing.assert_allclose(fm.loss_weight(SIGMA, how='eps'), [1, 0.49, 0], atol=1e-6)
  with pytest.raises(ValueError, match='unknown weighting'):
    fm.loss_weight(grid, how='snr')


@pytest.mark.parametrize(
  'name, convention', [('euler', 'plain'), ('heun', 'plain'), ('unipc', 'diffusers')]
)
def test_straight_paths_are_sampled_exactly(name, convention):
  """With one data point the velocity is constant along each path: any sampler must land on it."""
  denoise = lambda x, sigma: (x - X0) / sigma
  out = SAMPLERS[name](denoise, NOISE, sigma_grid(5, 3.0, convention=convention))
  np.testing.assert_allclose(out, X0, atol=2e-5)  # float32 through five steps


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


@pytest.fixture
def double():
  """float64 for tests of trajectories: the bound is the method's, not that of fifty roundings."""
  with jax.enable_x64(True):
    yield


@pytest.mark.long
@pytest.mark.parametrize('grid', ['diffusers', 'wan'])
@pytest.mark.parametrize('steps', GOLDEN['steps'].tolist())
def test_unipc_repeats_the_trajectory_of_diffusers(double, grid, steps):
  """diffusers 0.42.1, UniPCMultistepScheduler; after a deliberate change run
  make_unipc_fixture.py."""
  weight = jnp.asarray(GOLDEN['weight'])
  sigmas = sigma_grid(steps, float(GOLDEN['shift']), convention=grid)
  np.testing.assert_allclose(sigmas, GOLDEN[f'{grid}_{steps}_sigmas'], atol=1e-6)
  clock = GOLDEN[f'{grid}_{steps}_times']
  np.testing.assert_array_equal(np.floor(1000.0 * sigmas[:-1]), clock)
  denoise = lambda x, sigma: jnp.tanh(x @ weight) + jnp.round(1000 * sigma) / 1000 * x
  # the scheduler's, float32: 1 - sigma_0 is its last bits
  given = GOLDEN[f'{grid}_{steps}_sigmas'].astype(float)
  out = SAMPLERS['unipc_wan'](denoise, jnp.asarray(GOLDEN['noise']), given)
  np.testing.assert_allclose(out, GOLDEN[f'{grid}_{steps}'], atol=1e-6)


def test_users_choose_among_all_samplers_but_the_slow_reference():
  assert SAMPLER_NAMES == tuple(name for name in SAMPLERS if name != 'heun')


@pytest.mark.parametrize('name', sorted(SAMPLERS))
def test_steps_are_given_memory_and_keep(name):
  """A denoise that counts its calls and returns what it was given."""
  grid, rows = sigma_grid(4, 3.0), jnp.arange(4.0)
  denoise = lambda x, sigma, row, memory: ((x - X0) / sigma, memory + 1, row)
  out, calls, kept = SAMPLERS[name](denoise, NOISE, grid, per_step=rows, memory=jnp.zeros(()))
  np.testing.assert_array_equal(kept, rows)
  assert calls == (7 if name == 'heun' else 4)
  np.testing.assert_allclose(
    out, SAMPLERS[name](lambda x, sigma: (x - X0) / sigma, NOISE, grid), atol=1e-6
  )


def test_cached_steps_follow_the_ratios():
  assert steps_to_run(np.ones(10)).tolist() == [True] * 2 + [False, False, True] * 2 + [
    False,
    False,
  ]
  assert steps_to_run(np.full(10, 2.0)).all() and steps_to_run(np.ones(10), most=0).all()
  assert (
    steps_to_run(np.full(10, 0.95), threshold=0.1).sum()
    > steps_to_run(np.full(10, 0.99), threshold=0.1).sum()
  )
  np.testing.assert_allclose(
    residual_ratios(jnp.array([[1.0, -1.0], [2.0, 2.0], [1.0, 0.0]])), [1, 2, 0.25]
  )


def test_a_cache_that_never_skips_changes_nothing_and_one_that_skips_reuses():
  def evaluate(x, sigma, run, residual):
    residual = jax.lax.cond(run, lambda: jnp.tanh(x) * sigma, lambda: residual)
    return x + residual, residual, residual

  grid = sigma_grid(6, 3.0)
  plain = SAMPLERS['euler'](lambda x, sigma: x + jnp.tanh(x) * sigma, NOISE, grid)
  out, _, kept = SAMPLERS['euler'](
    evaluate, NOISE, grid, per_step=jnp.ones(6, bool), memory=0 * NOISE
  )
  np.testing.assert_allclose(out, plain, atol=1e-6)
  assert kept.shape == (6, *NOISE.shape)
  run = jnp.array([1, 1, 0, 0, 1, 0], bool)
  out, _, kept = SAMPLERS['euler'](evaluate, NOISE, grid, per_step=run, memory=0 * NOISE)
  np.testing.assert_array_equal(kept[1], kept[3])
  assert np.abs(kept[4] - kept[3]).max() > 1e-3 and 1e-4 < np.abs(out - plain).max() < 1
