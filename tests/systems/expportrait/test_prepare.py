"""Clips to shards: bad clips are named and left out, the same command again gives the same
bytes."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from configs.vae import get_config as vae_config
from exp_jax.actors.__main__ import main as make_actors
from exp_jax.commands.prepare import main
from exp_jax.data.sources import PortraitClips
from exp_jax.errors import UserError
from exp_jax.fitting.tracked_driver import first_frames
from exp_jax.heads.personalized import load_subject, save_subject
from exp_jax.systems.expportrait.generator import vae_task
from exp_jax.systems.expportrait.records import prepare as system
from exp_jax.systems.expportrait.records.clip_record import cut_frames
from exp_jax.systems.expportrait.records.encode import main as encode
from exp_jax.training.exports import write_export

NAMES = [f'actor_{i:05d}' for i in range(5)]


@pytest.fixture(scope='module')
def cast(tmp_path_factory):
  folder = tmp_path_factory.mktemp('cast')
  make_actors(
    [
      '-o',
      str(folder),
      '--num',
      '5',
      '--frames',
      '3',
      '--size',
      '64',
      '--head',
      'procedural',
      '--fps',
      '10',
    ]
  )
  (folder / 'clips' / f'{NAMES[1]}.mp4').write_text('these are only words\n')
  truth = folder / 'truth' / f'{NAMES[3]}.npz'
  save_subject(truth, first_frames(load_subject(truth), 2))
  return folder


def prepare(cast, output, *more):
  return main(
    [
      '--clips',
      f'{cast / "clips"}',
      '--subjects',
      f'{cast / "truth"}',
      '-o',
      f'{output}',
      '--size',
      '32',
      '--head',
      'procedural',
      '--mattes',
      f'{cast / "mattes"}',
      *more,
    ]
  )


def shards(output):
  return {path.name: path.read_bytes() for path in sorted(output.glob('*.array_record'))}


@pytest.mark.long
def test_bad_clips_are_named_and_the_others_are_in_the_shards(cast, tmp_path, capsys):
  assert prepare(cast, tmp_path, '--holdout', '1') == 3
  said = capsys.readouterr()
  assert '3 clips prepared, 2 failed' in said.out and NAMES[1] in said.err and NAMES[3] in said.err
  report = {
    line['clip']: line
    for line in map(json.loads, (tmp_path / 'report.jsonl').read_text().splitlines())
  }
  assert [report[f'{name}.mp4']['status'] for name in NAMES] == [
    'ok',
    'failed',
    'ok',
    'failed',
    'ok',
  ]
  reasons = [report[f'{name}.mp4']['reason'] for name in NAMES]
  assert (
    'not a video' in reasons[1]
    and '3 frames, its subject 2' in reasons[3]
    and not any(reasons[::2])
  )
  train, held_out = (
    PortraitClips(str(tmp_path / f'{part}.array_record')) for part in ('train', 'held_out')
  )
  assert [train[i]['subject_id'] for i in range(len(train))] == [NAMES[0], NAMES[2]]
  assert [held_out[i]['subject_id'] for i in range(len(held_out))] == [NAMES[4]]
  record = train[0]
  assert record['video'].shape == (3, 32, 32, 3) and record['matte'].shape == (3, 32, 32)
  np.testing.assert_array_equal(record['reference'], record['video'][0])
  inside, outside = record['matte'] > 250, record['matte'] == 0
  assert (
    record['normals'][inside].any(-1).mean() > 0.99
    and record['normals'][outside].any(-1).mean() < 0.01
  )

  before = shards(tmp_path)
  assert prepare(cast, tmp_path, '--holdout', '1') == 3 and shards(tmp_path) == before, (
    'again, with parts kept'
  )
  assert (
    prepare(cast, tmp_path / 'elsewhere', '--holdout', '1') == 3
    and shards(tmp_path / 'elsewhere') == before
  )
  assert not [
    p for p in tmp_path.rglob('*') if 'partial' in p.name or p.name.endswith(('.tmp', '.attempts'))
  ]


@pytest.mark.long
def test_a_failure_moves_nobody_across_the_border(cast, tmp_path):
  """Two are held out, one of them cannot be read: the other one alone is held out, nobody takes the
  place."""
  prepare(cast, tmp_path, '--holdout', '2')
  held_out = PortraitClips(str(tmp_path / 'held_out.array_record'))
  assert [held_out[i]['subject_id'] for i in range(len(held_out))] == [NAMES[4]]


@pytest.mark.long
def test_a_changed_matte_is_prepared_again_and_a_wrong_one_is_named(cast, tmp_path):
  mattes = tmp_path / 'mattes'
  mattes.mkdir()
  prepare(cast, tmp_path / 'out', '--mattes', f'{mattes}')  # none there: the head itself
  np.savez(mattes / f'{NAMES[0]}.npz', matte=np.full((3, 64, 64), 255, np.uint8))
  np.savez(mattes / f'{NAMES[2]}.npz', matte=np.zeros((7, 64, 64), np.uint8))
  assert prepare(cast, tmp_path / 'out', '--mattes', f'{mattes}') == 3
  report = (tmp_path / 'out' / 'report.jsonl').read_text()
  assert 'its matte is uint8 [7, 64, 64]' in report
  train = PortraitClips(str(tmp_path / 'out' / 'train.array_record'))
  assert [train[i]['subject_id'] for i in range(len(train))] == [NAMES[0], NAMES[4]]
  assert train[0]['matte'].min() == 255


@pytest.mark.long
def test_a_damaged_part_is_made_again(cast, tmp_path):
  prepare(cast, tmp_path)
  before = shards(tmp_path)
  for path in (*tmp_path.glob('*.array_record'), tmp_path / 'index.json'):
    path.unlink()
  for path in (tmp_path / 'parts').glob('*.array_record'):
    path.write_bytes(path.read_bytes()[:1000])
  assert prepare(cast, tmp_path) == 3 and shards(tmp_path) == before


@pytest.mark.long
def test_two_clips_of_one_name_are_refused(cast, tmp_path, capsys):
  clips = tmp_path / 'clips'
  clips.mkdir()
  for suffix in ('mp4', 'mov'):
    (clips / f'twin.{suffix}').write_bytes((cast / 'clips' / f'{NAMES[0]}.mp4').read_bytes())
  with pytest.raises(SystemExit):
    main(
      [
        '--clips',
        f'{clips}',
        '--subjects',
        f'{tmp_path}',
        '-o',
        f'{tmp_path / "out"}',
        '--head',
        'procedural',
      ]
    )
  assert "'twin'" in capsys.readouterr().err and not (tmp_path / 'out').exists()


@pytest.mark.long
def test_a_crop_beyond_the_picture_repeats_its_border_and_keeps_its_shape(cast):
  """As in the fit: a square that reaches 16 pixels beyond the left border is padded, not
  stretched."""
  subject = load_subject(cast / 'truth' / f'{NAMES[0]}.npz')
  frames = np.zeros((3, 64, 64, 3), np.uint8)
  frames[:, :, :8] = 100
  frames[:, 20:30, 30:40] = 255  # a square of 10 pixels
  to_crop = np.tile(np.float32([[1, 0, 16], [0, 1, 0], [0, 0, 1]]), (3, 1, 1))
  cut = cut_frames(frames, dataclasses.replace(subject, source_crop=to_crop), 64)
  assert (cut[0, :, :20] == 100).all(), 'the border is repeated'
  row, column = np.nonzero(cut[0, :, :, 0] > 128)
  assert (np.ptp(row) + 1, np.ptp(column) + 1, row.min(), column.min()) == (10, 10, 20, 46)
  with pytest.raises(UserError, match='the clip is 64x48'):
    cut_frames(frames[:, :48], subject, 32)


@pytest.mark.long
def test_a_dataset_gives_the_records_of_its_folder(cast, tmp_path):
  """The TFDS dataset of the actors: truth and matte come with the records."""
  import sys

  folder = pathlib.Path(__file__).parents[3] / 'datasets'
  sys.path.insert(0, str(folder))
  try:
    import build

    assert (
      build.main(['actors', '--manual_dir', str(cast), '--data_dir', str(tmp_path / 'tfds')]) == 0
    )
  finally:
    sys.path.remove(str(folder))
  prepare(cast, tmp_path / 'folder')
  assert (
    main(
      [
        '--dataset',
        str(tmp_path / 'tfds'),
        '-o',
        str(tmp_path / 'out'),
        '--size',
        '32',
        '--head',
        'procedural',
      ]
    )
    == 3
  )
  one, other = (
    PortraitClips(str(tmp_path / name / 'train.array_record')) for name in ('folder', 'out')
  )
  of_folder = {one[i]['clip_id']: one[i] for i in range(len(one))}
  assert 0 < len(other) <= len(one)
  for i in range(len(other)):
    for key, value in other[i].items():
      np.testing.assert_array_equal(value, of_folder[other[i]['clip_id']][key])


@pytest.mark.long
def test_latents_are_those_of_encode(cast, tmp_path):
  config = vae_config('smoke')
  task = vae_task.task(config)
  write_export(tmp_path / 'vae', config, jax.jit(task.init_fn)(jax.random.key(0)))
  prepare(cast, tmp_path / 'plain')
  prepare(cast, tmp_path / 'coded', '--vae', str(tmp_path / 'vae'))
  encode(
    [
      '-i',
      str(tmp_path / 'plain' / 'train.array_record'),
      '-o',
      str(tmp_path / 'after'),
      '--vae',
      str(tmp_path / 'vae'),
    ]
  )
  coded, after = (
    (tmp_path / folder / name).read_bytes()
    for folder, name in (('coded', 'train.array_record'), ('after', 'encoded.array_record'))
  )
  assert coded == after
  record = PortraitClips(str(tmp_path / 'coded'))[0]
  assert 'video' not in record and record['latents'].shape[0] == 3 and record['offsets'] == 'full'


@pytest.mark.long
def test_transferred_offsets_take_the_place_of_the_dynamic_ones(cast, tmp_path, monkeypatch):
  """With a transfer that knows no wrinkle the maps are those of the subject without dynamic
  offsets."""

  class Smooth:
    def __init__(self, path, head, dense):
      self.count = len(dense.coarse_ids)

    def __call__(self, subject, expression, jaw):
      np.testing.assert_array_equal(expression, subject.expression)
      return np.zeros((len(jaw), self.count, 3), np.float32)

  monkeypatch.setattr(system, 'Transfer', Smooth)
  (tmp_path / 'export').mkdir()
  (tmp_path / 'export' / 'weights').write_bytes(b'some')
  prepare(
    cast, tmp_path / 'smooth', '--transfer', str(tmp_path / 'export'), '--transfer_share', '1'
  )
  prepare(cast, tmp_path / 'folded')
  smooth, folded = (
    PortraitClips(str(tmp_path / name / 'train.array_record'))[0] for name in ('smooth', 'folded')
  )
  still = tmp_path / 'still'
  still.mkdir()
  for path in (cast / 'truth').glob('*.npz'):
    subject = load_subject(path)
    save_subject(
      still / path.name,
      dataclasses.replace(
        subject,
        dynamic_vertices=np.zeros(0, np.int32),
        dynamic_offsets=np.zeros((subject.num_frames, 0, 3), np.float32),
      ),
    )
  main(
    [
      '--clips',
      f'{cast / "clips"}',
      '--subjects',
      f'{still}',
      '-o',
      f'{tmp_path / "out"}',
      '--size',
      '32',
      '--head',
      'procedural',
      '--mattes',
      f'{cast / "mattes"}',
    ]
  )
  record = PortraitClips(str(tmp_path / 'out' / 'train.array_record'))[0]
  np.testing.assert_array_equal(smooth['normals'], record['normals'])
  assert (smooth['normals'] != folded['normals']).any()
  # another export, other records; the same one again, nothing to do
  before = set(path.name for path in (tmp_path / 'smooth' / 'parts').glob('*.array_record'))
  prepare(
    cast, tmp_path / 'smooth', '--transfer', str(tmp_path / 'export'), '--transfer_share', '1'
  )
  assert set(path.name for path in (tmp_path / 'smooth' / 'parts').glob('*.array_record')) == before
  (tmp_path / 'export' / 'weights').write_bytes(b'other')
  prepare(
    cast, tmp_path / 'smooth', '--transfer', str(tmp_path / 'export'), '--transfer_share', '1'
  )
  assert len(list((tmp_path / 'smooth' / 'parts').glob('*.array_record'))) == 2 * len(before)
