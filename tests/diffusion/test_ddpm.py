import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.diffusion import ddpm

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / 'golden' / 'unipc.npz', allow_pickle=False)
X0 = jax.random.normal(jax.random.key(0), (3, 2, 5))
NOISE = jax.random.normal(jax.random.key(1), (3, 2, 5))
BAR = jnp.array([0.9, 0.4, 0.05])


def test_zero_terminal_snr_keeps_the_start_and_ends_at_zero():
  bars = ddpm.alpha_bars()
  fixed = ddpm.zero_terminal_snr(bars)
  assert bars[-1] > 1e-3 and abs(fixed[-1]) < 1e-12 and np.isclose(fixed[0], bars[0]) and (np.diff(fixed) < 0).all()


@pytest.mark.parametrize('prediction', ddpm.PREDICTIONS)
def test_predictions_are_converted_into_each_other(prediction):
  x = ddpm.add_noise(X0, NOISE, BAR)
  x0, noise = ddpm.x0_and_noise(ddpm.target(X0, NOISE, BAR, prediction), x, BAR, prediction)
  np.testing.assert_allclose(x0, X0, atol=2e-5)             # divided by sqrt(0.05)
  np.testing.assert_allclose(noise, NOISE, atol=2e-5)
  x0, noise = ddpm.x0_and_noise(NOISE, NOISE, jnp.zeros(()), prediction)
  assert np.isfinite(x0).all() and np.isfinite(noise).all()


def test_ddim_repeats_the_trajectories_of_diffusers():
  """diffusers 0.42.1, DDIMScheduler; after a deliberate change run make_unipc_fixture.py."""
  with jax.enable_x64(True):
    weight, noise = jnp.asarray(GOLDEN['weight']), jnp.asarray(GOLDEN['noise'])
    said = lambda x, t: jnp.tanh(x @ weight) + t / 1000 * x
    fixed = ddpm.zero_terminal_snr(ddpm.alpha_bars())
    out = ddpm.ddim(said, noise, fixed, ddpm.sampling_times(10), prediction='v')
    np.testing.assert_allclose(out, GOLDEN['ddim_v_zero_snr'], atol=2e-6)          # its schedule is float32
    bars = ddpm.alpha_bars()
    out = ddpm.ddim(said, noise, bars, ddpm.sampling_times(10, spacing='leading'), prediction='eps', last_bar=bars[0])
    np.testing.assert_allclose(out, GOLDEN['ddim_eps'], atol=1e-5 * np.abs(GOLDEN['ddim_eps']).max())


def test_noise_gives_back_the_variance_of_gaussian_data():
  """Data N(0, 0.25): with eta 0 and 1 alike samples have its variance, drawn through the exact posterior mean."""
  bars = ddpm.zero_terminal_snr(ddpm.alpha_bars())
  clean = lambda x, t: 0.25 * jnp.sqrt(jnp.asarray(bars, jnp.float32)[t]) * x / (1 - 0.75 * jnp.asarray(bars, jnp.float32)[t])
  noise = jax.random.normal(jax.random.key(5), (20_000,))
  for eta in (0.0, 1.0):
    out = ddpm.ddim(clean, noise, bars, ddpm.sampling_times(1000), prediction='x0', eta=eta, rng=jax.random.key(6))
    assert abs(float(out.std()) - 0.5) < 0.015, (eta, out.std())
  with pytest.raises(ValueError, match='pass rng'):
    ddpm.ddim(clean, noise, bars, ddpm.sampling_times(4), prediction='x0', eta=1.0)


def test_mistakes_are_named():
  for call in (lambda: ddpm.alpha_bars(how='square'), lambda: ddpm.sampling_times(4, spacing='even'),
               lambda: ddpm.x0_and_noise(X0, X0, BAR, 'score')):  # fmt: skip
    with pytest.raises(ValueError, match='unknown'):
      call()
