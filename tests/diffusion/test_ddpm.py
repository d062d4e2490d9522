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
  assert (
    bars[-1] > 1e-3
    and abs(fixed[-1]) < 1e-12
    and np.isclose(fixed[0], bars[0])
    and (np.diff(fixed) < 0).all()
  )


@pytest.mark.parametrize('prediction', ddpm.PREDICTIONS)
def test_predictions_are_converted_into_each_other(prediction):
  x = ddpm.add_noise(X0, NOISE, BAR)
  x0, noise = ddpm.x0_and_noise(ddpm.target(X0, NOISE, BAR, prediction), x, BAR, prediction)
  np.testing.assert_allclose(x0, X0, atol=2e-5)  # divided by sqrt(0.05)
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
    np.testing.assert_allclose(out, GOLDEN['ddim_v_zero_snr'], atol=2e-6)  # its schedule is float32
    bars = ddpm.alpha_bars()
    out = ddpm.ddim(
      said,
      noise,
      bars,
      ddpm.sampling_times(10, spacing='leading'),
      prediction='eps',
      last_bar=bars[0],
    )
    np.testing.assert_allclose(
      out, GOLDEN['ddim_eps'], atol=1e-5 * np.abs(GOLDEN['ddim_eps']).max()
    )


def test_noise_gives_back_the_variance_of_gaussian_data():
  """Data N(0, 0.25): with eta 0 and 1 alike samples have its variance, drawn through the exact
  posterior mean."""
  bars = ddpm.zero_terminal_snr(ddpm.alpha_bars())
  clean = lambda x, t: (
    0.25
    * jnp.sqrt(jnp.asarray(bars, jnp.float32)[t])
    * x
    / (1 - 0.75 * jnp.asarray(bars, jnp.float32)[t])
  )
  noise = jax.random.normal(jax.random.key(5), (20_000,))
  for eta in (0.0, 1.0):
    out = ddpm.ddim(
      clean, noise, bars, ddpm.sampling_times(1000), prediction='x0', eta=eta, rng=jax.random.key(6)
    )
    assert abs(float(out.std()) - 0.5) < 0.015, (eta, out.std())
  with pytest.raises(ValueError, match='pass rng'):
    ddpm.ddim(clean, noise, bars, ddpm.sampling_times(4), prediction='x0', eta=1.0)


def test_mistakes_are_named():
  with pytest.raises(ValueError, match='steps must be'):
    ddpm.sampling_times(1001)
  for call in (
    lambda: ddpm.alpha_bars(how='square'),
    lambda: ddpm.target(X0, X0, BAR, 'score'),
    lambda: ddpm.min_snr_weight(BAR, 5.0, 'score'),
    lambda: ddpm.sampling_times(4, spacing='even'),
    lambda: ddpm.x0_and_noise(X0, X0, BAR, 'score'),
  ):
    with pytest.raises(ValueError, match='unknown'):
      call()


def betas_of(how):
  start, end = 0.00085, 0.012
  return (
    np.linspace(start, end, 1000)
    if how == 'linear'
    else np.linspace(start**0.5, end**0.5, 1000) ** 2
  )


def rescaled(betas):
  """diffusers' rescale_zero_terminal_snr, step by step over betas."""
  root = np.sqrt(np.cumprod(1 - betas))
  first, last = root[0], root[-1]
  bars = ((root - last) * first / (first - last)) ** 2
  return 1 - np.concatenate([bars[:1], bars[1:] / bars[:-1]])


@pytest.mark.parametrize(
  'how, expected',
  [
    ('linear', (0.99915, 0.943150, 0.555703, 0.142529, 0.0133682, 0.000201448, 0)),
    ('scaled_linear', (0.99915, 0.949259, 0.654189, 0.242359, 0.0331715, 0.000612542, 0)),
  ],
)
def test_zero_terminal_schedules_are_those_of_diffusers(how, expected):
  bars = ddpm.zero_terminal_snr(ddpm.alpha_bars(how=how))
  np.testing.assert_allclose(bars, np.cumprod(1 - rescaled(betas_of(how))), atol=1e-12)
  np.testing.assert_allclose(
    bars[[0, 49, 249, 499, 749, 949, 999]], expected, rtol=3e-6, atol=1e-12
  )


def test_the_schedule_of_loki():
  """Zero terminal SNR, betas of at most 0.99, then SNR over sqrt(15); the values were computed in
  float64 elsewhere."""
  betas = np.minimum(rescaled(betas_of('scaled_linear')), 0.99)
  snr = np.cumprod(1 - betas) / (1 - np.cumprod(1 - betas)) / np.sqrt(15)
  bars = ddpm.shift_snr(ddpm.clip_betas(ddpm.zero_terminal_snr(ddpm.alpha_bars())), 15**-0.5)
  np.testing.assert_allclose(bars, snr / (1 + snr), rtol=1e-9)
  at = [0, 1, 249, 499, 749, 961, 981, 998, 999]
  expected = [
    0.996716,
    0.993193,
    0.328160,
    0.0762930,
    0.00878091,
    8.66715e-5,
    1.77820e-5,
    5.08107e-8,
    5.08107e-10,
  ]
  np.testing.assert_allclose(bars[at], expected, rtol=3e-6)
  # nothing to clip
  np.testing.assert_allclose(ddpm.clip_betas(ddpm.alpha_bars()), ddpm.alpha_bars(), rtol=1e-12)


@pytest.mark.parametrize('steps', [1, 7, 20, 50])
def test_times_are_spaced_as_diffusers_spaces_them(steps):
  trailing = [int(round(1000 - k * 1000 / steps)) - 1 for k in range(steps)]
  assert ddpm.sampling_times(steps).tolist() == trailing and trailing[0] == 999
  leading = [k * (1000 // steps) + 1 for k in reversed(range(steps))]
  assert ddpm.sampling_times(steps, spacing='leading').tolist() == leading
  if steps == 50:
    assert leading[0] == 981 and leading[-1] == 1


@pytest.mark.parametrize('shape', [(), (2,), (2, 3)])
def test_times_may_be_one_an_example_or_one_a_frame(shape):
  """Clips [B, T, H, W, C], as a loop over frames with the scalar formulas of diffusers."""
  rng = np.random.default_rng(0)
  x0, noise = rng.normal(size=(2, 2, 3, 4, 5, 2)).astype(np.float32)
  bars, times = ddpm.alpha_bars(), rng.integers(0, 1000, shape)
  bar = ddpm.bars_at(bars, times)
  assert bar.shape == shape
  per_frame = np.broadcast_to(times.reshape(shape + (1,) * (2 - len(shape))), (2, 3))
  noisy, velocity = (np.zeros(x0.shape) for _ in range(2))
  for b in range(2):
    for t in range(3):
      a, s = bars[per_frame[b, t]] ** 0.5, (1 - bars[per_frame[b, t]]) ** 0.5
      noisy[b, t], velocity[b, t] = a * x0[b, t] + s * noise[b, t], a * noise[b, t] - s * x0[b, t]
  found = jax.jit(ddpm.add_noise)(x0, noise, bar)
  np.testing.assert_allclose(found, noisy, atol=1e-5)
  np.testing.assert_allclose(ddpm.target(x0, noise, bar, 'v'), velocity, atol=1e-5)
  back = ddpm.x0_and_noise(jnp.asarray(velocity, jnp.float32), found, bar, 'v')
  for one, other in zip(back, (x0, noise)):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_times_that_fit_no_axis_are_refused():
  for wrong in ((3,), (3, 2), (2, 4), (2, 1)):
    with pytest.raises(ValueError, match='does not fit'):
      ddpm.add_noise(jnp.zeros((2, 3, 4, 4, 1)), jnp.zeros((2, 3, 4, 4, 1)), jnp.full(wrong, 0.5))


def test_min_snr_weights_are_those_of_the_trainers():
  """Over the whole schedule [T, 1] of 1000 times, with gamma 5 and 1; the ends, where SNR is 0, or
  has no bound."""
  bars = ddpm.alpha_bars()
  snr = bars / (1 - bars)
  for gamma in (5.0, 1.0):
    least = np.minimum(snr, gamma)
    expected = dict(eps=least / snr, x0=least, v=np.minimum(snr + 1, gamma) / (snr + 1))
    for prediction, weight in expected.items():
      found = ddpm.min_snr_weight(jnp.asarray(bars, jnp.float32)[:, None], gamma, prediction)
      assert found.shape == (1000, 1)
      np.testing.assert_allclose(found[:, 0], weight, rtol=1e-4)  # 1 - alpha_bar in float32, near 1
  ends = jnp.array([0.0, 1.0])
  for prediction, weight in dict(eps=[1, 0], x0=[0, 5], v=[1, 0]).items():
    np.testing.assert_array_equal(ddpm.min_snr_weight(ends, 5.0, prediction), weight)
    slope = jax.vmap(jax.grad(ddpm.min_snr_weight), (0, None, None))(ends, 5.0, prediction)
    assert np.isfinite(slope).all()


@pytest.mark.long
def test_offset_noise_is_shared_over_frames_and_pixels():
  """Trainers add noise_offset times one draw for each example and channel to independent noise."""
  shape, rng = (300, 3, 8, 5, 2), jax.random.key(4)
  plain, moved = (np.asarray(ddpm.offset_noise(rng, shape, amount)) for amount in (0.0, 0.5))
  shift = moved - plain
  np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1, :1], shape), atol=1e-6)
  assert abs(shift.std() - 0.5) < 0.05 and abs(plain.std() - 1) < 0.01
  means = moved.mean((1, 2, 3))
  assert abs(means.std() - np.hypot(0.5, 120**-0.5)) < 0.06  # 600 draws
  assert abs(np.corrcoef(means.T)[0, 1]) < 0.2
  assert ddpm.offset_noise(rng, (4, 7, 6, 3), 0.1).shape == (4, 7, 6, 3)


def test_a_step_is_what_a_scan_of_one_step_does():
  bars, times = ddpm.zero_terminal_snr(ddpm.alpha_bars()), ddpm.sampling_times(2)
  x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
  predict = lambda x, t: 0.3 * x + 0.1
  for prediction in ('v', 'x0'):
    scanned = ddpm.ddim(predict, x, bars, times, prediction=prediction)
    step = x
    for now, after in zip(bars[times], (bars[times[1]], 1.0)):
      step = ddpm.ddim_step(step, predict(step, 0), np.float32(now), np.float32(after), prediction)
    np.testing.assert_allclose(step, scanned, atol=1e-5)
