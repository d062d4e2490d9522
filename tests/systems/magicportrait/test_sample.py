"""Sampling: schedule, windows, what is computed once, seams and memory of long films; what cannot
be honoured is refused."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.files.frame_spool import FrameSpool
from exp_jax.metrics import seam_ratio
from exp_jax.progress import Cancelled
from exp_jax.systems.magicportrait.sample import (
  Generator,
  joined_windows,
  load_generator,
  sampled_latents,
  stream,
)
from exp_jax.systems.magicportrait.schedule import schedule_bars, schedule_times
from exp_jax.training.exports import write_export
from tests.systems.magicportrait.small_magic import config_of, drawn, small, write_small_export

pytestmark = pytest.mark.usefixtures('lightly_compiled')
PHOTO = np.random.default_rng(0).uniform(0, 1, (16, 16, 3))
MAPS = drawn(7)


class Counting:
  """A function that counts its calls."""

  def __init__(self, fn):
    self.fn, self.calls = fn, 0

  def __call__(self, *args):
    self.calls += 1
    return self.fn(*args)


@pytest.fixture(scope='module')
def model():
  return Generator(*small(data__num_frames=3))


def shown(start, stop):
  return {name: MAPS[name][start:stop] for name in ('depth', 'normals', 'render')}


def frames(model, total, **given):
  return np.stack(
    list(stream(model, PHOTO, shown, total, jax.random.key(1), model.sampling(**given)))
  )


def test_the_published_schedule_and_times():
  bars = schedule_bars(config_of('stage2').diffusion)
  known = {
    0: 0.99915,
    49: 0.943150,
    249: 0.555703,
    499: 0.142529,
    749: 0.0133682,
    949: 0.000201448,
    999: 0,
  }
  for time, value in known.items():
    np.testing.assert_allclose(bars[time], value, rtol=1e-5, atol=1e-12)
  np.testing.assert_allclose(schedule_bars(config_of('tiny').diffusion)[499], 0.242359, rtol=1e-5)
  assert list(schedule_times(20)[[0, 1, -1]]) == [999, 949, 49]


@pytest.mark.long
def test_windows_of_films_as_published_and_open():
  of = lambda total, **given: joined_windows(
    total, 12, Generator(*small(data__num_frames=12)).sampling(**given)
  )
  frames, weights = of(30, windows='loop', overlap=1)
  assert [list(row[[0, -1]]) for row in frames] == [[0, 11], [11, 22], [22, 3]]
  for total in (5, 12, 13, 24, 30, 300):
    for windows, overlap in (('loop', 1), ('open', 4)):
      frames, weights = of(total, windows=windows, overlap=overlap)
      sums = np.zeros(total)
      np.add.at(sums, frames, weights)
      np.testing.assert_allclose(sums, 1)
      assert windows == 'loop' or (np.diff(frames, axis=1) == 1).all()  # an open window never wraps


@pytest.mark.long
def test_what_knows_no_time_is_computed_once(model):
  fresh = Generator(model.config, model.networks, model.params, model.codec)
  for name in ('encode', 'bank', 'predict'):
    setattr(fresh, name, Counting(getattr(model, name)))
  told = []
  found = list(
    stream(
      fresh,
      PHOTO,
      shown,
      7,
      jax.random.key(1),
      fresh.sampling(steps=2, guidance=2.0, overlap=1),
      tell=lambda *report: told.append(report),
    )
  )
  assert len(found) == 7 and found[0].shape == (16, 16, 3)
  # steps, windows, branches
  assert fresh.bank.calls == 1 and fresh.encode.calls == 2 and fresh.predict.calls == 2 * 3 * 2
  assert told[0] == ('guidance', 0, 7) and told[-1] == ('sample', 6, 6) and ('sample', 0, 6) in told


@pytest.mark.long
def test_one_window_is_ddim_by_a_slow_loop(model):
  """Two branches at every step, text and maps in both, alpha_bar 1 behind the last."""
  codec, bars = model.codec, schedule_bars(model.config.diffusion)
  z = codec.encode(jnp.asarray(PHOTO, jnp.float32)[None, None] * 2 - 1)[:, 0]
  bank, guided = (
    model.bank(model.params, z),
    model.encode(model.params, {k: v[None] for k, v in shown(0, 3).items()}),
  )
  x = noise = np.random.default_rng(2).normal(0, 1, (3, 4, 4, 48))
  for time, after in zip((999, 499), (bars[499], 1.0)):
    at = (model.params, jnp.asarray(x[None], jnp.float32), jnp.full(1, time), guided)
    without, told = (
      np.asarray(model.predict(*at, tokens)[0], np.float64) for tokens in (None, bank)
    )
    v = without + 1.7 * (told - without)
    x0, eps = (
      bars[time] ** 0.5 * x - (1 - bars[time]) ** 0.5 * v,
      (1 - bars[time]) ** 0.5 * x + bars[time] ** 0.5 * v,
    )
    x = after**0.5 * x0 + (1 - after) ** 0.5 * eps
  with FrameSpool((4, 4, 32), np.float32) as spool:
    spool.append(np.asarray(guided)[0])
    found = sampled_latents(model, spool, bank, noise, model.sampling(steps=2, guidance=1.7))
  np.testing.assert_allclose(found, x, atol=2e-5 * max(1, np.abs(x).max()))


@pytest.mark.long
def test_maps_portrait_and_seed_matter_and_without_guidance_there_is_one_branch(model):
  base = frames(model, 3, steps=1, guidance=1.0)
  np.testing.assert_array_equal(base, frames(model, 3, steps=1, guidance=1.0))
  other = np.stack(
    list(
      stream(model, PHOTO[::-1], shown, 3, jax.random.key(1), model.sampling(steps=1, guidance=1.0))
    )
  )
  turned = np.stack(
    list(
      stream(
        model,
        PHOTO,
        lambda a, b: shown(a + 2, b + 2),
        3,
        jax.random.key(1),
        model.sampling(steps=1, guidance=1.0),
      )
    )
  )
  assert np.abs(other - base).max() > 1e-3 and np.abs(turned - base).max() > 1e-3
  assert np.abs(frames(model, 3, steps=1, guidance=3.0) - base).max() > 1e-3


def smooth_maps(total):
  """A sphere's maps drifting slowly, of any number of frames, drawn when they are asked for."""
  y, x = np.mgrid[:16, :16] / 8 - 0.94

  def draw(start, stop):
    at = 0.3 * np.sin(np.arange(start, stop) / 20)[:, None, None]
    inside = (x - at) ** 2 + y**2 < 0.5
    ramp = np.clip(255 * (0.5 + 0.5 * (x - at)), 0, 255) * inside
    return {
      'depth': ramp.astype(np.uint8),
      'normals': np.stack([ramp] * 3, -1).astype(np.uint8),
      'render': np.stack([255 - ramp] * 3, -1).astype(np.uint8),
    }

  return draw


@pytest.mark.long
def test_300_frames_have_no_seam_and_memory_does_not_grow(model):
  """The same noise in every frame, so that all change is the maps' and the windows': none stands
  out where windows meet."""
  quiet = Generator(*small(data__num_frames=12, seed=2))
  chosen = quiet.sampling(steps=2, guidance=1.5, overlap=4)
  peaks = []
  for total in (60, 300):
    noise = np.repeat(np.random.default_rng(0).normal(0, 1, (1, 4, 4, 48)), total, 0)
    bank, draw = quiet.bank(quiet.params, jnp.zeros((1, 4, 4, 48))), smooth_maps(total)
    with FrameSpool((4, 4, 32), np.float32) as spool:
      for first in range(0, total, 12):
        maps = draw(first, first + 12)
        spool.append(
          np.asarray(quiet.encode(quiet.params, {k: v[None] for k, v in maps.items()}))[0]
        )
      tracemalloc.start()
      found = sampled_latents(quiet, spool, bank, noise, chosen)
      peaks.append(tracemalloc.get_traced_memory()[1])
      tracemalloc.stop()
  starts = joined_windows(300, 12, chosen)[0][:, 0]
  changes = np.abs(np.diff(found, axis=0)).mean((1, 2, 3))
  score = seam_ratio(changes, np.union1d(starts[1:], starts[:-1] + 12))
  assert score.value <= 1.5, score
  latents = found.nbytes
  # a few copies of latents, nothing of the guidance
  assert peaks[1] - peaks[0] < 8 * latents * 240 / 300, peaks


def test_a_spool_gives_back_what_was_written_in_any_order():
  rng = np.random.default_rng(0)
  values = rng.normal(0, 1, (9, 2, 3)).astype(np.float32)
  with FrameSpool((2, 3), np.float32) as spool:
    spool.append(values[:4])
    spool.append(values[4:])
    np.testing.assert_array_equal(spool.read(np.array([7, 0, 8, 3])), values[[7, 0, 8, 3]])
    with pytest.raises(IndexError):
      spool.read(np.array([9]))
    with pytest.raises(ValueError, match='frames of shape'):
      spool.append(values[:, :1])
  half = np.dtype(jnp.bfloat16)
  with FrameSpool((2, 3), half) as spool:
    spool.append(values.astype(half))
    np.testing.assert_array_equal(spool.read(np.array([5]))[0], values[5].astype(half))


@pytest.mark.parametrize(
  'given, words',
  [
    (dict(overlap=3), 'windows of this model have 3 frames: choose at most 2'),
    (dict(guidance=30.0), '--guidance must be in 0..20'),
    (dict(windows='round'), "--windows is 'round', choose from open, loop"),
    (dict(steps=700), 'the sampler takes 1 to 500 steps'),
  ],
)
def test_sampling_that_cannot_be_is_refused(model, given, words):
  with pytest.raises(UserError, match=words):
    model.sampling(**given)


@pytest.mark.long
def test_guidance_of_a_model_without_dropout_or_reference_is_refused():
  for changes in (dict(condition__drop=0.0), dict(model__fusion='none')):
    with pytest.raises(UserError, match='a reference that was dropped in training'):
      Generator(*small(**changes)).sampling(guidance=2.0)


def test_bad_pictures_and_cancelled_work(model):
  chosen = model.sampling(steps=1, guidance=1.0)
  with pytest.raises(UserError, match=r'the portrait has shape \(8, 16, 3\)'):
    next(stream(model, PHOTO[:8], shown, 3, jax.random.key(0), chosen))

  def stop(stage, done, total):
    if stage == 'sample':
      raise Cancelled

  with pytest.raises(Cancelled):
    next(stream(model, PHOTO, shown, 3, jax.random.key(0), chosen, tell=stop))


@pytest.mark.long
def test_exports_are_checked(tmp_path):
  config, _, params, _ = small()
  with pytest.raises(UserError, match='there is no export at'):
    load_generator(tmp_path / 'nowhere')
  one = write_small_export(tmp_path / 'one', mode='smoke')
  with pytest.raises(
    UserError,
    match='an export of the first stage, without motion modules: its frames would flicker',
  ):
    load_generator(one)
  assert load_generator(one, frame_by_frame=True).window == 12
  two = write_small_export(tmp_path / 'two')
  assert load_generator(two).window == 3
  with pytest.raises(
    UserError, match='has motion modules, so that --frame_by_frame has no meaning'
  ):
    load_generator(two, frame_by_frame=True)
  params['denoiser']['conv_in']['bias'] = params['denoiser']['conv_in']['bias'].at[0].set(jnp.nan)
  write_export(tmp_path / 'nan', config, params, dtype='float32')
  with pytest.raises(
    UserError, match=r'holds NaN or infinite numbers in denoiser.conv_in.bias \(1 arrays in all\)'
  ):
    load_generator(tmp_path / 'nan')
  write_export(tmp_path / 'other', config_of(task='loki'), params, dtype='float32')
  with pytest.raises(UserError, match="is an export of 'loki', not of magicportrait/stage2"):
    load_generator(tmp_path / 'other')
