"""The tiny prior: frames from clips, one update by the command, what is measured, what is
refused."""

import json
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.catalog import tasks
from exp_jax.errors import UserError
from exp_jax.files import record_bytes
from exp_jax.files.array_records import DamagedRecord, write_packed
from exp_jax.files.resources import top_level_file
from exp_jax.media.images import resize
from exp_jax.media.video import read_video, write_video
from exp_jax.networks.sd_unet import VARIANTS, sd_unet
from exp_jax.prior.__main__ import main
from exp_jax.prior.frames import FrameRecords, SyntheticFrames
from exp_jax.prior.task import prior_bars

pytestmark = pytest.mark.usefixtures('lightly_compiled')
RNG = np.random.default_rng(0)


def config_of(mode='smoke', **changes):
  config = (
    runpy.run_path(str(top_level_file('configs') / 'sd_tiny.py'))['get_config'](mode)
    .copy_and_resolve_references()
    .unlock()
  )
  for key, value in changes.items():
    section, _, name = key.partition('__')
    config[section][name] = value
  return config.lock()


@pytest.fixture
def clips(tmp_path):
  folder = tmp_path / 'clips'
  folder.mkdir()
  for name in 'cab':
    write_video(
      folder / f'{name}.mp4',
      np.repeat(RNG.integers(0, 255, (4, 4, 4, 3), np.uint8), 16, 1).repeat(16, 2),
      10,
    )
  return folder


def test_frames_of_clips_and_the_last_ones_held_out(clips, tmp_path):
  main(['-i', f'{clips}', '-o', f'{tmp_path / "out"}', '--size', '32', '--holdout', '1'])
  train, held = (
    FrameRecords(str(tmp_path / 'out' / f'{name}.array_record')) for name in ('train', 'held_out')
  )
  assert len(train) == 2 and len(held) == 1
  wanted = read_video(clips / 'c.mp4').frames
  np.testing.assert_array_equal(held[0], [resize(frame, (32, 32)) for frame in wanted])
  assert train[0].shape == (4, 32, 32, 3)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--size', '33'], '--size must be a multiple of 16'),
    (['--holdout', '3'], '3 clips at .* for --holdout 3'),
  ],
)
def test_commands_that_cannot_be_done_are_refused(clips, tmp_path, arguments, words, capsys):
  with pytest.raises(SystemExit):
    main(['-i', f'{clips}', '-o', f'{tmp_path / "out"}', *arguments])
  import re

  assert re.search(words, capsys.readouterr().err)


def test_records_without_a_video_are_named(tmp_path):
  write_packed(tmp_path / 'x.array_record', [record_bytes.pack({'clip_id': 'a'}), b'nothing'])
  source = FrameRecords(str(tmp_path))
  for k in (0, 1):
    with pytest.raises(DamagedRecord, match=f'record {k} of .*has no video'):
      source[k]
  with pytest.raises(UserError, match='no frames at .*prior.frames'):
    FrameRecords(str(tmp_path / 'none'))


def test_the_measure_is_that_of_a_perfect_and_of_a_useless_network(monkeypatch):
  """A network that knows the frame has share 0 and noise 0; one that says what makes x0 the mean
  has share 1."""
  config = config_of(data__size=32)
  module = tasks.TASKS['sd/prior']
  source, transform = module.examples(config)
  batch = {
    'video': jnp.stack([transform(source[i], np.random.default_rng(i))['video'] for i in range(2)])
  }
  from exp_jax.networks.codec import open_codec
  from exp_jax.prior import task as prior_task

  z = open_codec(**config.vae).encode(batch['video'].astype(jnp.float32)[:, None] / 127.5 - 1)
  bar = float(prior_bars()[500])

  class Net:
    in_channels = out_channels = 48

    def __init__(self, x0):
      self.x0 = x0

    def apply(self, variables, x, t):
      # the velocity that stands for x0 at this time
      return (np.sqrt(bar) * x - self.x0) / np.sqrt(1 - bar)

  for x0, share, noise in ((z, 0.0, 0.0), (jnp.broadcast_to(z.mean(0), z.shape), 1.0, None)):
    monkeypatch.setattr(prior_task, 'prior_unet', lambda config, x0=x0: Net(x0))
    found = prior_task.task(config).eval_fns[0][1]({}, batch, jax.random.key(0))
    np.testing.assert_allclose(found['share'], share, atol=2e-3)
    if noise is not None:
      np.testing.assert_allclose(found['noise_error'], noise, atol=1e-4)


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(model__text_dim=8), 'the prior is trained without text'),
    (dict(model__in_channels=4), 'the autoencoder has 48 channels, the network 4'),
    (dict(data__size=34), 'do not divide by the strides'),
  ],
)
def test_settings_that_cannot_be_honoured_are_refused(changes, words):
  with pytest.raises(UserError, match=words):
    tasks.TASKS['sd/prior'].task(config_of(**changes))


def test_sources_are_checked():
  with pytest.raises(UserError, match="config.data.name is 'films'"):
    tasks.TASKS['sd/prior'].examples(config_of(data__name='films'))
  source, transform = tasks.TASKS['sd/prior'].examples(config_of())
  with pytest.raises(UserError, match='the frames are 16x16, config.data.size says 32'):
    transform(SyntheticFrames(16)[0], np.random.default_rng(0))
  seen = {transform(source[1], np.random.default_rng(k))['video'].tobytes() for k in range(20)}
  assert len(seen) == 4  # two frames, each as it is and mirrored


def test_the_shipped_layout_fits_its_bounds():
  """At most 8 MB in bfloat16, by shapes alone."""
  shapes = jax.eval_shape(
    sd_unet('tiny').init, jax.random.key(0), jnp.zeros((1, 1, 16, 16, 8)), jnp.zeros(1)
  )
  assert 2 * sum(x.size for x in jax.tree.leaves(shapes)) < 8e6 and not VARIANTS['tiny']['text_dim']


@pytest.mark.slow
def test_the_command_trains_measures_and_exports(tmp_path):
  run = lambda *args: subprocess.run(
    [sys.executable, '-m', f'exp_jax.{args[0]}', *args[1:]], capture_output=True, text=True
  )
  done = run('train', '--config=configs/sd_tiny.py:smoke', f'--workdir={tmp_path / "run"}')
  assert done.returncode == 0, done.stderr
  lines = [
    json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  ]
  assert any('share' in str(line) for line in lines)
  assert (
    run('export', '--workdir', f'{tmp_path / "run"}', '-o', f'{tmp_path / "export"}').returncode
    == 0
  )
  from exp_jax.networks.sd_start import read_prior

  assert 'conv_in.kernel' in read_prior(str(tmp_path / 'export'))
