"""Records, training and export of the network that repairs previews."""

import pathlib
import runpy

import jax
import numpy as np
import optax
import pytest

from exp_jax.catalog import tasks
from exp_jax.controls.preview.drawing import KNOWN
from exp_jax.errors import UserError
from exp_jax.files import record_bytes
from exp_jax.files.array_records import write_packed
from exp_jax.heads.head_files import load_head
from exp_jax.heads.trained_head import trained_on, write_head
from exp_jax.systems.expportrait.generators import open_generator
from exp_jax.systems.expportrait.retouch.retoucher import Retoucher, carried_out
from exp_jax.systems.expportrait.retouch.task import (
  Repairs,
  mirrored,
  pixel_weights,
  prepared,
  relit,
)
from exp_jax.training.exports import write_export

CONFIG = pathlib.Path(__file__).parents[4] / 'configs' / 'retouch.py'


def a_record(rng: np.random.Generator, size: int = 64) -> dict[str, np.ndarray]:
  """Whose truth is the preview, 50 brighter where the inside of the mouth is known to be."""
  noise = lambda *shape: rng.integers(20, 180, shape, np.uint8)
  known = noise(2, size, size, KNOWN)
  known[..., 9] = 0
  known[:, 20:44, 20:44, 9] = 255
  preview = noise(2, size, size, 3)
  known[:, :10, :, :6] = 0  # off the head
  return dict(
    preview=preview,
    known=known,
    truth=preview + np.uint8(50) * (known[..., 9:10] > 0),
    matte=noise(2, size, size),
    focus=np.uint8(255) * (known[..., 9] > 0),
    photo=noise(size, size, 3),
    photo_normals=noise(size, size, 3),
    person=np.array([3], np.int32),
  )


@pytest.fixture(scope='module')
def records(tmp_path_factory):
  folder = tmp_path_factory.mktemp('records')
  rng = np.random.default_rng(0)
  made = [a_record(rng) for _ in range(6)]
  write_packed(folder / 'person_00000.array_record', map(record_bytes.pack, made))
  write_head(folder, load_head('procedural'))
  return folder, made


def config_for(records, **loss):
  config = runpy.run_path(str(CONFIG))['get_config']('smoke')
  with config.unlocked():
    config.data.path = config.data.held_out = str(records)
    config.data.right = 0.0  # noise does not show what is right
    config.loss.update(loss)
  return config


@pytest.fixture(scope='module')
def run(records, tmp_path_factory):
  """(losses of 60 steps of Adam, values on held-out records, the export)."""
  config = config_for(records[0])
  module, task = tasks.load_task(config)
  source, transform = module.examples(config)
  held_out, as_it_is = module.held_out(config)
  params, tx = task.init_fn(jax.random.key(0)), optax.adam(1e-2)
  state, losses = tx.init(params), []

  def batch(of, change, step):
    chosen = [
      change(of[(2 * step + k) % len(of)], np.random.default_rng((step, k)))
      for k in range(config.batch_size)
    ]
    found = {name: np.stack([each[name] for each in chosen]) for name in task.batch_spec}
    assert all(
      (found[name].shape, found[name].dtype) == (spec.shape, spec.dtype)
      for name, spec in task.batch_spec.items()
    )
    return found

  @jax.jit
  def update(params, state, batch):
    (loss, _), gradient = jax.value_and_grad(task.loss_fn, has_aux=True)(
      params, batch, jax.random.key(0)
    )
    change, state = tx.update(gradient, state)
    return optax.apply_updates(params, change), state, loss

  for step in range(60):
    params, state, loss = update(params, state, batch(source, transform, step))
    losses.append(float(loss))
  ((_, evaluate),) = task.eval_fns
  values = evaluate(params, batch(held_out, as_it_is, 0), jax.random.key(0))
  path = tmp_path_factory.mktemp('export') / 'export'
  write_export(path, config, params, files=module.export_files(config))
  return losses, values, path


@pytest.mark.long
def test_records_come_back_as_they_were_written(records):
  folder, made = records
  source = Repairs(f'{folder}')
  assert len(source) == 6
  for name, value in source[4].items():
    np.testing.assert_array_equal(value, made[4][name], err_msg=name)


def test_a_missing_folder_is_named_with_the_command_that_fills_it(tmp_path):
  with pytest.raises(UserError, match='exp-jax retouch.records'):
    Repairs(f'{tmp_path}')


def test_a_mirror_turns_what_points_sideways_and_nothing_else():
  example = {k: v for k, v in a_record(np.random.default_rng(1)).items() if k != 'person'}
  once = mirrored(example)
  np.testing.assert_array_equal(once['preview'], example['preview'][:, :, ::-1])
  np.testing.assert_array_equal(once['matte'], example['matte'][:, :, ::-1])
  shown = example['known'][:, :, ::-1]
  turned = (0, 3, 11)
  for channel in range(KNOWN):
    if channel not in turned:
      np.testing.assert_array_equal(
        once['known'][..., channel], shown[..., channel], err_msg=str(channel)
      )
  np.testing.assert_array_equal(once['known'][..., 11], 255 - shown[..., 11])
  assert not once['known'][:, :10, :, :6].any(), 'what is off the head stays off it'
  np.testing.assert_array_equal(once['known'][:, 10:, :, 0], 255 - shown[:, 10:, :, 0])
  for name, value in mirrored(once).items():
    np.testing.assert_array_equal(value, example[name], err_msg=name)


def test_preview_truth_and_portrait_are_relit_by_one_curve():
  example = a_record(np.random.default_rng(1))
  example['truth'] = example['preview'].copy()
  found = relit(example, np.random.default_rng(2))
  np.testing.assert_array_equal(found['truth'], found['preview'])
  assert (found['preview'] != example['preview']).mean() > 0.5 and found['known'] is example[
    'known'
  ]


def test_squares_are_cut_alike_out_of_all_pictures():
  example = {k: v for k, v in a_record(np.random.default_rng(1)).items() if k != 'person'}
  example['known'][..., :3] = example['preview']
  for seed in range(4):
    found = prepared(example, np.random.default_rng(seed), size=64, side=32, wild=False)
    assert (
      found['preview'].shape == (2, 32, 32, 3)
      and found['matte'].shape == (2, 32, 32)
      and found['photo'].shape == (32, 32, 3)
    )
    np.testing.assert_array_equal(found['known'][..., :3], found['preview'])
  with pytest.raises(UserError, match='config.data.size is 128, the records have 64'):
    prepared(example, np.random.default_rng(0), size=128, side=32)


def test_some_examples_need_no_repair_and_pixels_outside_the_matte_count_in_full():
  example = {k: v for k, v in a_record(np.random.default_rng(1)).items() if k != 'person'}
  assert not np.array_equal(example['preview'], example['truth'])
  for seed in range(6):
    found = prepared(example, np.random.default_rng(seed), size=64, side=32, right=1.0)
    np.testing.assert_array_equal(found['preview'], found['truth'])
  share = np.mean(
    [
      np.array_equal(
        *(
          prepared(example, np.random.default_rng(s), size=64, side=64, right=0.25)[k]
          for k in ('preview', 'truth')
        )
      )
      for s in range(200)
    ]
  )
  assert share == pytest.approx(0.25, abs=0.08)
  config = runpy.run_path(str(CONFIG))['get_config']('embedded')
  batch = {name: example[name][None] for name in ('matte', 'focus')}
  weights = np.asarray(pixel_weights(batch, outside=config.loss.outside, mouth=0.0, eyes=0.0))
  assert weights.min() == weights.max() == 1, 'a rim grew over the background while it counted less'


@pytest.mark.long
def test_training_repairs_the_mouth_and_leaves_the_rest(run, records):
  losses, values, path = run
  assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5]), losses
  assert values['psnr'] > values['preview_psnr'] + 3 and values['frames'].ndim == 3
  retoucher = open_generator(path)
  assert isinstance(retoucher, Retoucher) and retoucher.size is None and retoucher.side == 64
  record = records[1][0]
  repair = retoucher.repair(
    record['preview'][0], record['known'][0], record['photo'], record['photo_normals']
  )
  found = carried_out(record['preview'][0], repair).astype(int) - record['preview'][0]
  inside = record['known'][0, ..., 9] > 0
  assert found[inside].mean() > 20 and abs(found[~inside].mean()) < 10
  assert trained_on(path)['name'] == 'procedural'


@pytest.mark.long
def test_what_cannot_be_honoured_is_refused_by_name(run, tmp_path):
  path = run[-1]
  retoucher = open_generator(path)
  assert retoucher.sampling() is None and retoucher.sampling(steps=None) is None
  with pytest.raises(UserError, match='--guidance belongs to a model that samples'):
    retoucher.sampling(guidance=1.5)
  with pytest.raises(UserError, match='--vae belongs to a video model'):
    open_generator(path, vae='vae')
  with pytest.raises(UserError, match='there is no export'):
    open_generator(tmp_path / 'nowhere')


@pytest.mark.long
def test_a_loss_that_needs_a_network_says_how_to_get_it(records, tmp_path):
  with pytest.raises(UserError, match='config.loss.perceptual needs the network lpips_alex'):
    tasks.load_task(config_for(records[0], perceptual=0.1, network=str(tmp_path / 'none')))
