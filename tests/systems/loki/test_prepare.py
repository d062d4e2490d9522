"""Clips with fitted heads to records: what a record holds, holding out, going on, latents, and what
is refused."""

import shutil

import numpy as np
import pytest

from exp_jax.heads.head_files import load_head, save_head
from exp_jax.heads.trained_head import trained_on
from exp_jax.media.images import read_image
from exp_jax.media.video import write_video
from exp_jax.systems.loki.prepare import main
from exp_jax.systems.loki.records import LokiRecords, Windows
from exp_jax.systems.loki.task import keys_of
from tests.small_portrait import make_small_portrait
from tests.systems.loki.small_loki import config_of

pytestmark = pytest.mark.usefixtures('lightly_compiled')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two clips of three frames of one person, and their fitted heads."""
  folder = tmp_path_factory.mktemp('prepare')
  save_head(folder / 'head.npz', load_head('procedural'))
  make_small_portrait(folder, load_head('procedural'))
  for part in ('clips', 'subjects'):
    (folder / part).mkdir()
  picture = read_image(folder / 'me.png')
  for name in 'ab':
    write_video(
      folder / 'clips' / f'{name}.mp4', np.stack([picture, np.roll(picture, 6, 1), picture]), 10
    )
    shutil.copy(folder / 'motion.npz', folder / 'subjects' / f'{name}.npz')
  return folder


def run(folder, output, *more):
  main(
    [
      '--clips',
      f'{folder / "clips"}',
      '--subjects',
      f'{folder / "subjects"}',
      '-o',
      f'{output}',
      '--size',
      '16',
      '--head',
      f'{folder / "head.npz"}',
      *more,
    ]
  )


@pytest.mark.long
def test_records_hold_what_training_reads(folder, tmp_path, capsys):
  run(
    folder,
    tmp_path / 'out',
    '--holdout',
    '1',
    '--crop',
    'square',
    '--codec',
    'patch',
    '--vae',
    'embedded',
  )
  train, held = (
    LokiRecords(str(tmp_path / 'out' / f'{name}_*.array_record')) for name in ('train', 'held_out')
  )
  assert len(train) == len(held) == 1
  record = train[0]
  assert record['video'].shape == record['places'].shape == (3, 16, 16, 3) and record[
    'latents'
  ].shape == (3, 4, 4, 8)
  assert (
    record['vector'].shape[0] == 3
    and 0 < (record['mask'] > 0).mean() < 1
    and record['weights'] == 'embedded'
  )
  assert not record['deformation'].any()  # the person keeps a neutral face
  columns = np.arange(16)
  middle = [
    (record['mask'][t] > 0).sum(0) @ columns / (record['mask'][t] > 0).sum() for t in range(3)
  ]
  # six pixels of 64 to the right
  assert abs(middle[1] - middle[0] - 1.5) < 0.3 and abs(middle[2] - middle[0]) < 1e-6
  assert trained_on(tmp_path / 'out')['name'] == 'procedural'
  config = config_of(data__latents=True, data__mirror=False)
  example = Windows(config, keys_of(config))(record, np.random.default_rng(0))
  assert (
    example['latents'].shape == (2, 4, 4, 8)
    and example['reference_latents'].shape == (4, 4, 8)
    and 'video' not in example
  )
  (tmp_path / 'out' / 'held_out_00000.array_record').unlink()
  # it goes on
  run(
    folder,
    tmp_path / 'out',
    '--holdout',
    '1',
    '--crop',
    'square',
    '--codec',
    'patch',
    '--vae',
    'embedded',
  )
  assert len(LokiRecords(str(tmp_path / 'out' / 'held_out_*.array_record'))) == 1
  with pytest.raises(SystemExit):
    run(
      folder,
      tmp_path / 'out',
      '--holdout',
      '1',
      '--crop',
      'clip',
      '--codec',
      'patch',
      '--vae',
      'embedded',
    )
  assert 'holds records made with another crop' in capsys.readouterr().err


@pytest.mark.long
def test_a_box_about_each_head_holds_it_still(folder, tmp_path):
  run(folder, tmp_path / 'frame', '--crop', 'frame')
  mask = LokiRecords(str(tmp_path / 'frame'))[0]['mask'] > 0
  middle = [m.sum(0) @ np.arange(16) / m.sum() for m in mask]
  assert np.ptp(middle) < 0.35  # boxes lie on whole pixels


def test_clips_that_cannot_be_used_are_named(folder, tmp_path, capsys):
  clips = tmp_path / 'clips'
  clips.mkdir()
  shutil.copy(folder / 'clips' / 'a.mp4', clips / 'stranger.mp4')
  arguments = [
    '--clips',
    f'{clips}',
    '-o',
    f'{tmp_path / "out"}',
    '--head',
    f'{folder / "head.npz"}',
    '--size',
    '16',
  ]
  with pytest.raises(SystemExit):
    main([*arguments, '--subjects', f'{folder / "subjects"}'])
  assert 'stranger.mp4 has no subject stranger.npz' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    main([*arguments, '--subjects', f'{folder}', '--holdout', '1'])
  assert '1 clips at' in capsys.readouterr().err
  write_video(clips / 'stranger.mp4', np.zeros((5, 64, 64, 3), np.uint8), 10)
  shutil.copy(folder / 'motion.npz', tmp_path / 'stranger.npz')
  with pytest.raises(SystemExit):
    main([*arguments, '--subjects', f'{tmp_path}'])
  assert (
    'stranger.mp4: the clip has 5 frames, its subject 3; fit it again' in capsys.readouterr().err
  )
