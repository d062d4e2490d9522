"""Sampling: windows, guidance, one call of the encoder a window, against a slow loop; what cannot
be honoured is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.diffusion import ddpm
from exp_jax.diffusion.windows import frame_noise
from exp_jax.errors import UserError
from exp_jax.systems.loki.sample import Generator, Sampling, branches_of, load_generator, stream
from exp_jax.systems.loki.schedule import loki_bars, loki_times
from exp_jax.training.exports import write_export
from tests.systems.loki.small_loki import config_of, small

pytestmark = pytest.mark.usefixtures('lightly_compiled')
RNG = np.random.default_rng(0)
PHOTO, MAPS = RNG.uniform(0, 1, (16, 16, 3)), RNG.normal(0, 1, (7, 16, 16, 45)).astype(np.float32)


class Counting:
  """A function that counts its calls."""

  def __init__(self, fn):
    self.fn, self.calls = fn, 0

  def __call__(self, *args):
    self.calls += 1
    return self.fn(*args)


@pytest.fixture(scope='module')
def model():
  config, networks, params, codec = small(data__num_frames=3)
  return Generator(config, networks, params, codec)


def counted(model):
  fresh = Generator(model.config, model.networks, model.params, model.codec)
  for name in ('encode', 'bank', 'predict'):
    setattr(fresh, name, Counting(getattr(model, name)))
  return fresh


def shown(start, stop):
  return MAPS[start:stop]


def frames(model, total, **given):
  return np.concatenate(
    list(stream(model, PHOTO, shown, total, jax.random.key(1), model.sampling(**given)))
  )


def test_the_published_schedule_and_times():
  bars = loki_bars(config_of('').diffusion)
  known = {
    0: 0.996716,
    1: 0.993193,
    249: 0.328160,
    499: 0.0762930,
    749: 0.00878091,
    961: 8.66715e-5,
    981: 1.77820e-5,
    998: 5.08107e-8,
    999: 5.08107e-10,
  }
  for time, value in known.items():
    np.testing.assert_allclose(bars[time], value, rtol=1e-5)
  assert (
    list(loki_times(50, 'eps')[[0, 1, -1]]) == [981, 961, 1] and len(loki_times(50, 'eps')) == 50
  )
  assert loki_times(10, 'v')[0] == 999


@pytest.mark.long
def test_one_window_is_ddim_by_a_slow_loop(model):
  """Two branches at every step, alpha_bar_0 behind the last."""
  found = frames(model, 3, steps=2, guidance=1.7)
  codec, bars = model.codec, loki_bars(model.config.diffusion)
  z = codec.encode(jnp.asarray(PHOTO, jnp.float32)[None, None] * 2 - 1)[:, 0]
  bank = model.bank(model.params, z)
  guided = model.encode(model.params, jnp.asarray(MAPS[None, :3]))
  empty = model.encode(model.params, jnp.zeros((1, 3, 16, 16, 45)))
  x = np.asarray(frame_noise(jax.random.key(1), 0, 3, z.shape[1:]), np.float64)
  for time, after in zip((501, 1), (bars[1], bars[0])):
    noisy, t = jnp.asarray(x, jnp.float32), jnp.full(1, time)
    null, told = (
      np.asarray(model.predict(model.params, noisy, t, map, bank, jnp.array([keep])), np.float64)
      for map, keep in ((empty, False), (guided, True))
    )
    eps = null + 1.7 * (told - null)
    x0 = (x - np.sqrt(1 - bars[time]) * eps) / np.sqrt(bars[time])
    x = np.sqrt(after) * x0 + np.sqrt(1 - after) * eps
  wanted = np.clip(
    np.asarray(codec.decode(jnp.asarray(x[0], jnp.float32)[None]))[0] * 0.5 + 0.5, 0, 1
  )
  np.testing.assert_allclose(found, wanted, atol=1e-4)  # float32 over two steps that divide by 0.2


@pytest.mark.long
def test_the_encoder_runs_once_a_window_and_the_reference_once_a_clip(model):
  calls = counted(model)
  assert frames(calls, 7, steps=3, guidance=1.0).shape == (7, 16, 16, 3)  # windows at 0, 2, 4
  assert (calls.encode.calls, calls.bank.calls, calls.predict.calls) == (3, 1, 9)
  calls = counted(model)
  frames(calls, 7, steps=3, guidance=2.0)
  # the null map once more
  assert (calls.encode.calls, calls.bank.calls, calls.predict.calls) == (4, 1, 18)


@pytest.mark.long
def test_windows_share_frames_and_short_clips_are_filled_up(model):
  longer, first = frames(model, 7, steps=2, guidance=1.0), frames(model, 3, steps=2, guidance=1.0)
  np.testing.assert_array_equal(longer[:3], first)
  assert len(frames(model, 1, steps=2)) == 1 and len(frames(model, 4, steps=2)) == 4
  latents = ddpm.add_noise(jnp.ones((1, 2)), jnp.zeros((1, 2)), 0.25)
  np.testing.assert_allclose(latents, 0.5)


def test_guidance_splits_into_branches():
  assert branches_of(Sampling(guidance=1.0), 'joint') == ((1.0, True, True),)
  assert branches_of(Sampling(guidance=2.0), 'joint') == ((2.0, True, True), (-1.0, False, False))
  three = branches_of(Sampling(guidance=3.0, reference_guidance=2.0), 'independent')
  assert (
    three == ((2.0, True, True), (1.0, True, False), (-2.0, False, False))
    and sum(w for w, _, _ in three) == 1
  )


@pytest.mark.parametrize(
  'given, words',
  [
    (dict(overlap=3), 'windows of this model have 3 frames: choose at most 2'),
    (dict(guidance=30), '--guidance must be in 0..20'),
    (dict(reference_guidance=2.0), 'models trained with independent dropout'),
    (dict(steps=700), 'the sampler takes 1 to 500 steps'),
  ],
)
def test_sampling_that_cannot_be_is_refused(model, given, words):
  with pytest.raises(UserError, match=words):
    model.sampling(**given)


def test_guidance_of_a_model_without_dropout_is_refused(model):
  config, networks, params, codec = small(condition__drop=0.0)
  with pytest.raises(UserError, match='trained with dropout'):
    Generator(config, networks, params, codec).sampling(guidance=2.0)


def test_bad_pictures_and_maps_are_refused(model):
  chosen = model.sampling(steps=1, guidance=1.0)
  with pytest.raises(UserError, match=r'the portrait has shape \(8, 16, 3\)'):
    next(stream(model, PHOTO[:8], shown, 3, jax.random.key(0), chosen))
  broken = lambda start, stop: np.where(np.arange(45) == 3, np.nan, MAPS[start:stop])
  with pytest.raises(UserError, match='the driver maps hold NaN or infinite numbers'):
    next(stream(model, PHOTO, broken, 3, jax.random.key(0), chosen))


@pytest.mark.long
def test_exports_are_checked(tmp_path):
  config, _, params, _ = small()
  broken = jax.tree.map(lambda x: x, params)
  broken['encoder']['conv_in']['bias'] = broken['encoder']['conv_in']['bias'].at[0].set(jnp.nan)
  write_export(tmp_path / 'nan', config, broken, dtype='float32')
  with pytest.raises(
    UserError,
    match=r"holds NaN or infinite numbers in \['encoder'\]\['conv_in'\]\['bias'\] \(1 arrays in "
    r'all\)',
  ):
    load_generator(tmp_path / 'nan')
  write_export(
    tmp_path / 'half',
    config,
    {k: v for k, v in params.items() if k != 'reference'},
    dtype='float32',
  )
  with pytest.raises(UserError, match='lacks the reference network; export it again'):
    load_generator(tmp_path / 'half')
  with pytest.raises(UserError, match='there is no export at'):
    load_generator(tmp_path / 'nowhere')
  write_export(tmp_path / 'other', config_of(task='loki/other'), params, dtype='float32')
  with pytest.raises(UserError, match="is an export of 'loki/other', not of loki"):
    load_generator(tmp_path / 'other')
