"""Every setting of config.data is honoured or refused, and examples come from all over a clip."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from exp_jax.data.sources import write_records
from exp_jax.data.synthetic import synthetic_clip
from exp_jax.errors import UserError
from exp_jax.systems.expportrait.generator import dit_task, prompts
from exp_jax.systems.expportrait.records.windows import WindowOptions, window_records
from tests.systems.expportrait.test_windows import stand_in

CONFIG = Path(__file__).parents[3] / 'configs' / 'dit_a800.py'
FRAMES = 60


def config_of(path, **changes):
  """The main mode, at toy size."""
  config = runpy.run_path(str(CONFIG))['get_config']().unlock()
  config.data.update(path=str(path), num_frames=9, height=16, width=32)
  config.model.update(
    variant='tiny', dtype='float32', residual_dtype='float32', attention='xla', weights='scratch'
  )
  config.flow.update(text_tokens=4, prompt='zeros')
  config.batch_size = 2
  for key, value in changes.items():
    section, name = key.split('__')
    config[section][name] = value
  return config.lock()


@pytest.fixture(scope='module')
def records(tmp_path_factory):
  path = tmp_path_factory.mktemp('records') / 'train.array_record'
  clips = [synthetic_clip(i, num_frames=FRAMES, height=16, width=32) for i in range(4)]
  write_records(
    path,
    (made for clip in clips for made in window_records(clip, stand_in(), WindowOptions(frames=9))),
  )
  return path


def test_examples_of_the_main_mode_come_from_all_over_the_clip(records):
  """Starts over the whole clip, every stride, both kinds of windows, references that are turned
  away from the first frame."""
  config = config_of(records)
  source, transform = dit_task.examples(config)
  spec = dit_task.task(config).batch_spec
  clips = {
    f'ellipsoid_{i:05d}': synthetic_clip(i, num_frames=FRAMES, height=16, width=32)
    for i in range(4)
  }
  starts, strides, leads, away, rng = [], set(), [], [], np.random.default_rng(0)
  for i in list(range(len(source))) * 4:
    record = source[i]
    start, stride, _, lead = map(int, record['window'])
    example = transform(record, rng)
    assert {k: v.shape for k, v in example.items()} == {k: v.shape[1:] for k, v in spec.items()}
    clip = clips[record['clip_id']]
    np.testing.assert_array_equal(
      example['normals'], clip['normals'][start : start + 8 * stride + 1 : stride]
    )
    frame = next(t for t in range(FRAMES) if np.array_equal(clip['video'][t], example['reference']))
    np.testing.assert_array_equal(example['reference_normals'], clip['normals'][frame])
    turn = lambda t, clip=clip: clip['turns'][t]
    away.append(np.degrees(np.linalg.norm(turn(frame) - turn(start))))
    starts.append(start)
    strides.add(stride)
    leads.append(lead > 0)
  assert min(starts) == 0 and max(starts) >= FRAMES - 17 and len(set(starts)) > 12
  assert strides == {1, 2} and 0.2 < np.mean(leads) < 0.8
  assert np.min(away) > 4 and np.median(away) > 10


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(data__stride=1), 'drawn with strides up to 2'),
    (dict(data__stride=0), 'at least 1'),
    (dict(data__reference='first'), 'must be one of random, record, preview'),
    (
      dict(data__reference='record', data__reference_degrees=0.0),
      'set config.data.reference="random"',
    ),
    (dict(data__reference='preview', data__reference_degrees=0.0), 'single frames'),
    (dict(data__mirror=True), 'encode --mirror'),
    (dict(data__reference='record', data__reference_degrees=5.0), "belongs to reference='random'"),
    (dict(data__num_frames=13), 'asks for 13 and 4'),
    (dict(data__height=32), 'config.data says 32x32'),
    (dict(data__latents=False), 'without the video'),
    (dict(condition__extras=('iris',)), "no control channels 'iris'"),
    (dict(condition__extras=('nose',)), "unknown control channels 'nose'"),
    (dict(model__variant='wan_14b_i2v'), '--clip'),
    (dict(model__weights=''), 'would start from noise'),
    (dict(flow__prompt=''), '--prompt'),
  ],
)
def test_what_cannot_be_honoured_is_refused_by_name(records, changes, words):
  with pytest.raises(UserError, match=words):
    source, transform = dit_task.examples(config_of(records, **changes))
    transform(source[0], np.random.default_rng(0))


def test_clips_without_a_personalized_head_are_refused_unless_they_are_asked_for(records):
  source, transform = dit_task.examples(config_of(records))
  with pytest.raises(UserError, match='linear head model alone'):
    transform(source[0] | {'offsets': 'none'}, np.random.default_rng(0))
  _, transform = dit_task.examples(config_of(records, data__linear_heads=True))
  assert transform(source[0] | {'offsets': 'none'}, np.random.default_rng(0))['latents'].shape == (
    3,
    2,
    4,
    16,
  )


def test_control_channels_are_chosen_by_name(tmp_path):
  clip = synthetic_clip(0, num_frames=9, height=16, width=32)
  extras = np.broadcast_to(np.arange(7, dtype=np.uint8), (9, 16, 32, 7))
  made = window_records(
    clip | dict(extras=extras, extra_names='iris,mouth,depth'),
    stand_in(),
    WindowOptions(frames=9, windows=1),
  )
  write_records(tmp_path / 'train.array_record', made)
  source, transform = dit_task.examples(config_of(tmp_path, condition__extras=('depth', 'iris')))
  np.testing.assert_array_equal(
    transform(source[0], np.random.default_rng(0))['extras'][0, 0, 0], [6, 0, 1, 2]
  )


def test_the_empty_prompt_is_its_stored_embedding(records, tmp_path):
  from exp_jax.files.npz import write_npz

  write_npz(
    tmp_path / 'prompt.npz',
    {'positive': np.full((4, 12), 1, np.float32), 'empty': np.full((4, 12), 2, np.float32)},
  )
  config = config_of(tmp_path / 'train.array_record', flow__prompt='')
  assert (prompts.text_of(config, 12) == 2).all()
  assert (
    prompts.text_of(config_of(records, flow__prompt=str(tmp_path / 'prompt.npz')), 12) == 1
  ).all()
  assert (prompts.text_of(config_of(records, flow__prompt=''), 12, folder=tmp_path) == 2).all(), (
    'an export carries it'
  )
  assert dit_task.export_files(config) == {'prompt.npz': tmp_path / 'prompt.npz'}
