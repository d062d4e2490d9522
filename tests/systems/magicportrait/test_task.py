"""MagicPortrait's tasks: what a batch holds, what each stage trains, times, drops and weights as
declared, bad records."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.catalog import tasks
from exp_jax.diffusion import ddpm
from exp_jax.errors import UserError
from exp_jax.files import record_bytes
from exp_jax.files.array_records import DamagedRecord, write_packed
from exp_jax.networks.codec import open_codec
from exp_jax.systems.magicportrait import task as magic_task
from exp_jax.systems.magicportrait.maps import shown_maps
from exp_jax.systems.magicportrait.model import networks_of
from exp_jax.systems.magicportrait.records import (
  DIMS,
  MagicRecords,
  SyntheticRecords,
  Windows,
  mirrored,
  open_records,
  zoomed,
)
from exp_jax.systems.magicportrait.schedule import schedule_bars
from exp_jax.systems.magicportrait.task import draw_kept, draw_times, keys_of, latents_of
from exp_jax.training.state import split
from tests.systems.magicportrait.small_magic import config_of, random_params, small

pytestmark = pytest.mark.usefixtures('lightly_compiled')


def task_of(config):
  return tasks.TASKS[config.task].task(config)


@pytest.mark.long
@pytest.mark.parametrize(
  'mode, changes',
  [
    ('smoke', dict()),
    ('smoke2', dict()),
    ('smoke', dict(condition__maps=())),
    ('smoke', dict(model__fusion='none')),
    ('smoke2', dict(condition__maps=('landmarks', 'render'), condition__dropout='batch')),
  ],
)
def test_the_loss_takes_what_the_examples_hold(mode, changes):
  config = config_of(mode, **changes)
  task = task_of(config)
  params = jax.eval_shape(task.init_fn, jax.random.key(0))
  loss, metrics = jax.eval_shape(task.loss_fn, params, task.batch_spec, jax.random.key(0))
  assert (
    loss.shape == () and loss.dtype == 'float32' and all(m.shape == () for m in metrics.values())
  )
  source, transform = magic_task.examples(config)
  example = transform(source[0], np.random.default_rng(0))
  assert {k: (v.shape, v.dtype) for k, v in example.items()} == {
    k: (s.shape[1:], s.dtype) for k, s in task.batch_spec.items()
  }
  found = jax.eval_shape(task.eval_fns[0][1], params, task.batch_spec, jax.random.key(0))
  assert found['psnr'].shape == () and found['frames'].shape == (48, 32, 3)


def test_each_stage_trains_its_own():
  parts = {}
  for mode in ('smoke', 'smoke2'):
    task = task_of(config_of(mode))
    parts[mode] = split(jax.eval_shape(task.init_fn, jax.random.key(0)), task.trainable)
  names = lambda tree: {
    '/'.join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  }
  trained, frozen = (names(tree) for tree in parts['smoke'])
  assert {name.split('/')[0] for name in trained} == {'denoiser', 'appearance', 'guidance'}
  assert frozen and all(name.startswith('appearance/up1_1/att/') for name in frozen)
  trained, frozen = (names(tree) for tree in parts['smoke2'])
  assert trained and all(name.startswith('denoiser/') and '/motion/' in name for name in trained)
  assert not any('/motion/' in name for name in frozen) and any(
    name.startswith('guidance/') for name in frozen
  )


@pytest.mark.long
def test_the_loss_is_the_weighted_error_of_velocity():
  """By hand, with noise, times and drops that are drawn from the same key."""
  config = config_of('smoke')
  task, codec = task_of(config), open_codec(**config.vae)
  networks = networks_of(config, codec)
  params = random_params(networks, size=16, codec=codec)
  source, transform = magic_task.examples(config)
  batch = {
    k: jnp.stack([transform(source[i], np.random.default_rng(i))[k] for i in range(2)])
    for k in task.batch_spec
  }
  drawn = lambda key: draw_times(jax.random.split(key, 3)[0], 2, 1000, 0.0)
  # one is weighted
  key = next(
    key
    for key in map(jax.random.key, range(200))
    if drawn(key).min() < 60 and drawn(key).max() > 300
  )
  loss, _ = jax.jit(task.loss_fn)(params, batch, key)
  _, for_noise, for_drop = jax.random.split(key, 3)
  z, reference = latents_of(codec, batch)
  times, keep = drawn(key), draw_kept(for_drop, 2, config.condition)
  own, shared = jax.random.split(for_noise)
  noise = jax.random.normal(own, z.shape) + 0.05 * jax.random.normal(
    shared, (2, 1, 1, 1, z.shape[-1])
  )
  bar = np.asarray(schedule_bars(config.diffusion))[np.asarray(times)]
  a, s = (np.sqrt(x)[:, None, None, None, None] for x in (bar, 1 - bar))
  guidance = networks.guidance(params, shown_maps(networks.maps, batch))
  said = jax.jit(networks.predict)(
    params, a * z + s * noise, times, guidance, networks.bank(params, reference), keep
  )
  error = np.square(np.asarray(said) - np.asarray(a * noise - s * z)).mean((1, 2, 3, 4))
  snr = bar / np.maximum(1 - bar, 1e-12)
  np.testing.assert_allclose(loss, (np.minimum(snr + 1, 5) / (snr + 1) * error).mean(), rtol=1e-4)
  assert ddpm.PREDICTIONS[1] == config.diffusion.prediction == 'v'


def test_times_and_drops_as_declared():
  times = np.asarray(draw_times(jax.random.key(0), 4000, 1000, 0.25))
  assert times.min() >= 0 and times.max() == 999 and abs((times == 999).mean() - 0.25) < 0.03
  condition = config_of(condition__drop=0.4).condition
  kept = np.asarray(draw_kept(jax.random.key(1), 4000, condition))
  assert abs(kept.mean() - 0.6) < 0.03
  batch = [
    np.asarray(
      draw_kept(
        jax.random.key(k), 5, config_of(condition__drop=0.4, condition__dropout='batch').condition
      )
    )
    for k in range(40)
  ]
  assert all(len(set(row)) == 1 for row in batch) and len({bool(row[0]) for row in batch}) == 2


@pytest.mark.long
def test_a_dropped_reference_does_not_matter_and_maps_do():
  config = config_of('smoke', condition__drop=0.999999, data__zoom=1.0)
  _, _, params, _ = small('smoke')
  task = task_of(config)
  source, transform = magic_task.examples(config)
  batch = {
    k: jnp.stack([transform(source[i], np.random.default_rng(i))[k] for i in range(2)])
    for k in task.batch_spec
  }
  loss = jax.jit(lambda batch: task.loss_fn(params, batch, jax.random.key(4))[0])
  np.testing.assert_allclose(
    loss(batch), loss(batch | {'reference': 255 - batch['reference']}), rtol=1e-6
  )
  assert abs(loss(batch) - loss(batch | {'depth': 255 - batch['depth']})) > 1e-5


def test_windows_references_and_squares_are_drawn_anew():
  config = config_of(data__zoom=1.0, data__num_frames=1, data__apart=2)
  windows, record = Windows(config, keys_of(config)), SyntheticRecords(16)[2]
  video = record['video']
  number = lambda frame: next(t for t in range(4) if (frame == video[t]).all())
  pairs = {
    (number(one['video'][0]), number(one['reference']))
    for seed in range(60)
    for one in [windows(record, np.random.default_rng(seed))]
  }
  assert pairs == {(0, 2), (0, 3), (1, 3), (2, 0), (3, 0), (3, 1)}
  example = {'video': video, 'depth': record['depth'], 'reference': video[0]}
  cut = zoomed(example, np.random.default_rng(0), 0.6)
  assert (
    all(cut[key].shape == example[key].shape for key in example) and (cut['video'] != video).any()
  )
  np.testing.assert_array_equal(cut['video'][0], cut['reference'])  # one square for all
  grey = lambda x: x.astype(float) if x.ndim == 3 else x.astype(float).mean(-1)
  assert np.corrcoef(grey(cut['depth'])[1].ravel(), grey(record['depth'])[1].ravel())[0, 1] > 0.3


def test_a_mirror_turns_pictures_and_the_side_of_normals():
  record = SyntheticRecords(8)[1]
  normals = np.where(
    record['mask'][..., None] > 0,
    np.random.default_rng(0).integers(1, 255, record['normals'].shape),
    0,
  )
  example = {k: record[k] for k in DIMS} | {
    'normals': normals.astype(np.uint8),
    'reference': record['video'][0],
  }
  turned = mirrored(example)
  for key in ('video', 'mask', 'matte', 'depth', 'render', 'reference'):
    np.testing.assert_array_equal(
      turned[key], np.flip(example[key], 1 if key == 'reference' else 2)
    )
  seen = np.flip(normals.any(-1), 2)
  np.testing.assert_array_equal(
    turned['normals'][..., 0][seen], 255 - np.flip(normals, 2)[..., 0][seen]
  )
  assert not turned['normals'][~seen].any()
  twice = mirrored(turned)
  assert all((twice[k] == example[k]).all() for k in example)


@pytest.mark.parametrize(
  'mode, changes, words',
  [
    ('smoke', dict(condition__dropout='some'), 'choose example or batch'),
    ('smoke', dict(diffusion__prediction='score'), "config.diffusion.prediction is 'score'"),
    (
      'smoke',
      dict(diffusion__prediction='eps'),
      'which says nothing of the picture where all is noise',
    ),
    ('smoke', dict(diffusion__betas='cosine'), "config.diffusion.betas is 'cosine'"),
    ('smoke', dict(diffusion__late_share=2.0), 'a share is 0 to 1'),
    ('smoke', dict(data__size=18), 'whose stride divides the size'),
    ('smoke', dict(data__num_frames=3), 'the first stage sees single frames'),
    ('smoke', dict(model__motion_weights='scratch'), 'motion_weights belongs to the second stage'),
    ('smoke2', dict(model__motion=''), 'the second stage trains motion modules'),
    ('smoke2', dict(model__motion_weights=''), 'config.model.motion_weights is empty'),
    ('smoke', dict(model__weights=''), 'config.model.weights is empty'),
  ],
)
def test_settings_that_cannot_be_honoured_are_refused(mode, changes, words):
  with pytest.raises(UserError, match=words):
    task_of(config_of(mode, **changes))


def test_records_are_checked(tmp_path):
  record = SyntheticRecords(16)[0]
  short = {k: v for k, v in record.items() if k != 'render'}
  write_packed(tmp_path / 'a.array_record', map(record_bytes.pack, (record, short)))
  source = MagicRecords(str(tmp_path))
  assert source[0]['clip_id'] == 'sphere_0' and (source[0]['render'] == record['render']).all()
  with pytest.raises(DamagedRecord, match="record 1 of .*has no 'render'"):
    source[1]
  config = config_of(data__name='magicportrait_clips', data__zoom=1.0)
  made = {
    'crop': 'square',
    'camera': 'weak',
    'depth': 'head',
    'normals': 'signed',
    'albedo': 'subject',
  }
  (tmp_path / 'settings.json').write_text(json.dumps(made))
  with pytest.raises(
    UserError, match="made with normals 'signed', config.data.maps.normals says 'clamped'"
  ):
    open_records(config, str(tmp_path))
  (tmp_path / 'settings.json').write_text(json.dumps(made | {'normals': 'clamped', 'crop': 'clip'}))
  with pytest.raises(UserError, match="made with crop 'clip', config.data.crop says 'square'"):
    open_records(config, str(tmp_path))
  with pytest.raises(UserError, match='no records at .* make them with'):
    open_records(config, str(tmp_path / 'none'))
  for changes, words in (
    (dict(data__latents=True), 'not stored latents'),
    (dict(data__mirror=True, data__zoom=1.0), 'which clamped'),
    (dict(data__zoom=0.1), '0.5 to 1, got 0.1'),
  ):
    with pytest.raises(UserError, match=words):
      open_records(
        config_of(**(dict(data__name='magicportrait_clips', data__zoom=0.9) | changes)),
        str(tmp_path),
      )
  with pytest.raises(UserError, match="config.data.name is 'films'"):
    open_records(config_of(data__name='films'), '')
