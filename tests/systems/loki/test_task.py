"""Loki's task: what a batch holds, what is trained, times and drops as declared, records that are
not what they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.catalog import tasks
from exp_jax.errors import UserError
from exp_jax.files import record_bytes
from exp_jax.files.array_records import DamagedRecord, write_packed
from exp_jax.systems.loki import task as loki_task
from exp_jax.systems.loki.records import (
  DIMS,
  LokiRecords,
  SyntheticRecords,
  Windows,
  mirrored,
  open_records,
)
from exp_jax.systems.loki.task import draw_times, keys_of
from exp_jax.training.state import split
from tests.systems.loki.small_loki import config_of

pytestmark = pytest.mark.usefixtures('lightly_compiled')


@pytest.mark.long
@pytest.mark.parametrize(
  'changes',
  [
    dict(),
    dict(condition__map='vector', data__vector=6, data__mirror=False),
    dict(condition__map='rgb', model__reference='none'),
  ],
)
def test_the_loss_takes_what_the_examples_hold(changes):
  config = config_of(**changes)
  task = tasks.TASKS['loki'].task(config)
  params = jax.eval_shape(task.init_fn, jax.random.key(0))
  loss, metrics = jax.eval_shape(task.loss_fn, params, task.batch_spec, jax.random.key(0))
  assert (
    loss.shape == () and loss.dtype == 'float32' and all(m.shape == () for m in metrics.values())
  )
  source, transform = loki_task.examples(config)
  example = transform(source[0], np.random.default_rng(0))
  assert {k: (v.shape, v.dtype) for k, v in example.items()} == {
    k: (s.shape[1:], s.dtype) for k, s in task.batch_spec.items()
  }
  found = jax.eval_shape(task.eval_fns[0][1], params, task.batch_spec, jax.random.key(0))
  assert found['psnr'].shape == () and found['frames'].shape == (48, 32, 3)


def test_the_reference_is_no_part_of_what_is_trained():
  frozen_of = lambda how: split(
    jax.eval_shape(
      tasks.TASKS['loki'].task(config := config_of(model__reference=how)).init_fn, jax.random.key(0)
    ),
    tasks.TASKS['loki'].task(config).trainable,
  )
  trained, frozen = frozen_of('frozen')
  assert set(trained) == {'generator', 'encoder'} and set(frozen) == {'reference'}
  assert not frozen_of('trained')[1] and set(frozen_of('random')[1]) == {'reference'}


def test_times_are_one_a_frame_late_and_shared_as_declared():
  draw = lambda **changes: np.asarray(
    draw_times(
      jax.random.key(0),
      (400, 5),
      1000,
      config_of(**{f'diffusion__{k}': v for k, v in changes.items()}).diffusion,
    )
  )
  times = draw()
  assert times.min() >= 0 and times.max() <= 999 and abs((times >= 900).mean() - 0.1) < 0.03
  assert (np.ptp(times, axis=1) > 0).all()
  assert abs((draw(late_share=0.5) >= 900).mean() - 0.55) < 0.04
  assert (draw(late_share=1.0) >= 900).all() and not np.ptp(draw(shared_times=1.0), axis=1).any()


def test_a_mirror_turns_pictures_and_maps_and_the_side_of_template_and_deformation():
  example = SyntheticRecords(8)[1]
  example = {k: v for k, v in example.items() if k in DIMS and k != 'vector'} | {
    'reference': example['video'][0]
  }
  turned = mirrored(example)
  for key in ('video', 'mask', 'matte', 'depth', 'reference'):
    axis = 1 if key == 'reference' else 2
    np.testing.assert_array_equal(turned[key], np.flip(example[key], axis))
  for key in ('places', 'deformation'):
    np.testing.assert_array_equal(turned[key], np.flip(example[key], 2) * np.float16([-1, 1, 1]))
  twice = mirrored(turned)
  assert all((twice[k] == example[k]).all() for k in example)


def test_windows_and_references_are_drawn_anew():
  config = config_of(data__mirror=False, data__stride=2)
  windows, record = Windows(config, keys_of(config)), SyntheticRecords(16)[2]
  seen = [windows(record, np.random.default_rng(seed)) for seed in range(30)]
  video = record['video']
  assert {next(t for t in range(4) if (one['reference'] == video[t]).all()) for one in seen} == {
    0,
    1,
    2,
    3,
  }
  firsts = {next(t for t in range(4) if (one['video'][0] == video[t]).all()) for one in seen}
  assert firsts == {0, 1} and all(
    (
      one['video'][1] == video[next(t for t in range(4) if (one['video'][0] == video[t]).all()) + 2]
    ).all()
    for one in seen
  )


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(data__num_frames=9), 'has 4 frames, windows of 9 frames 1 apart need 9'),
    (dict(data__size=32), 'is 16x16, config.data.size says 32'),
    (dict(data__latents=True), 'holds no latents: prepare it with --vae'),
    (dict(data__stride=0), 'must be at least 1'),
  ],
)
def test_a_clip_that_does_not_fit_is_named(changes, words):
  config, record = config_of(**changes), SyntheticRecords(16)[0]
  with pytest.raises(UserError, match=words):
    Windows(config, keys_of(config))(record, np.random.default_rng(0))


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(condition__dropout='some'), 'choose joint or independent'),
    (dict(diffusion__prediction='score'), "config.diffusion.prediction is 'score'"),
    (dict(data__size=18), 'whose stride divides the size'),
    (dict(diffusion__shift=0.0), 'config.diffusion.shift must be above 0'),
  ],
)
def test_settings_that_cannot_be_honoured_are_refused(changes, words):
  with pytest.raises(UserError, match=words):
    tasks.TASKS['loki'].task(config_of(**changes))


def test_records_are_checked(tmp_path):
  record = {k: v for k, v in SyntheticRecords(16)[0].items()}
  broken = record | {'places': np.full_like(record['places'], np.nan)}
  short = {k: v for k, v in record.items() if k != 'mask'}
  write_packed(tmp_path / 'a.array_record', map(record_bytes.pack, (record, broken, short)))
  source = LokiRecords(str(tmp_path))
  assert source[0]['clip_id'] == 'sphere_0' and (source[0]['places'] == record['places']).all()
  with pytest.raises(DamagedRecord, match='record 1 of .*places holds NaN or infinite numbers'):
    source[1]
  with pytest.raises(DamagedRecord, match="record 2 of .*has no 'mask'"):
    source[2]
  config = config_of(data__name='loki_clips', data__mirror=False)
  (tmp_path / 'settings.json').write_text('{"crop": "clip"}')
  with pytest.raises(UserError, match="were cropped by 'clip', config.data.crop says 'square'"):
    open_records(config, str(tmp_path))
  with pytest.raises(UserError, match='no records at .* make them with'):
    open_records(config, str(tmp_path / 'none'))
  with pytest.raises(UserError, match='turns pixels and maps, not stored latents'):
    open_records(
      config_of(data__name='loki_clips', data__mirror=True, data__latents=True), str(tmp_path)
    )
  with pytest.raises(UserError, match="config.data.name is 'films'"):
    open_records(config_of(data__name='films'), '')


@pytest.mark.long
def test_dropped_examples_see_neither_map_nor_reference():
  """With every example dropped neither matters; the loss is that of the null branch."""
  config = config_of(condition__drop=0.999999, data__mirror=False)
  task = tasks.TASKS['loki'].task(config)
  params = jax.jit(task.init_fn)(jax.random.key(0))
  params['encoder']['conv_out']['kernel'] = params['encoder']['conv_out']['kernel'] + 0.1
  source, transform = loki_task.examples(config)
  batch = {
    k: jnp.stack([transform(source[i], np.random.default_rng(i))[k] for i in range(2)])
    for k in task.batch_spec
  }
  loss = jax.jit(lambda batch: task.loss_fn(params, batch, jax.random.key(4))[0])
  other = batch | {'reference': 255 - batch['reference'], 'places': -batch['places']}
  np.testing.assert_allclose(loss(batch), loss(other), rtol=1e-6)
