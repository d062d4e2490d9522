"""Two hundred clips, ten broken in ten ways: 190 records and ten reasons; killed, split or whole,
the same bytes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from exp_jax.commands.prepare import main
from exp_jax.data.sources import PortraitClips
from tests.systems.expportrait import prepare_films as films

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  return films.write_clips(tmp_path_factory.mktemp('many') / 'clips')


@pytest.fixture(scope='module')
def whole(clips, tmp_path_factory):
  """A run that nobody disturbed: its folder."""
  output = tmp_path_factory.mktemp('whole')
  with pytest.MonkeyPatch.context() as patch:
    films.use_stand_ins(patch.setattr)
    assert main(films.arguments(clips, output)) == 3
  return output


def shards(output):
  return {path.name: path.read_bytes() for path in sorted(output.glob('*.array_record'))}


def report(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.long
def test_all_but_the_broken_are_in_the_shards_and_those_are_named(whole):
  lines = {line['clip_id']: line for line in report(whole / 'report.jsonl')}
  failed = {name: line['reason'] for name, line in lines.items() if line['status'] != 'ok'}
  assert len(lines) == 200 and sorted(failed) == sorted(films.BROKEN)
  for name, words in films.BROKEN.items():
    assert re.search(words, failed[name]) and '\n' not in failed[name], (name, failed[name])
  train, held_out = (
    PortraitClips(str(whole / f'{part}.array_record')) for part in ('train', 'held_out')
  )
  found = [source[i] for source in (train, held_out) for i in range(len(source))]
  assert [record['clip_id'] for record in found] == [f'clip_{i:03d}' for i in range(films.GOOD)]
  people = {record['subject_id'] for record in found}
  assert people == {f'person_{i:03d}' for i in range(64)}
  held = {held_out[i]['subject_id'] for i in range(len(held_out))}
  assert held == {f'person_{i:03d}' for i in range(59, 64)}
  assert not held & {train[i]['subject_id'] for i in range(len(train))}
  record = found[17]
  assert record['video'].shape == (films.FRAMES, 16, 16, 3) and record['normals'].any()


@pytest.mark.long
def test_killed_three_times_and_started_again_it_gives_the_same_bytes(
  clips, whole, tmp_path, monkeypatch
):
  command = [
    sys.executable,
    '-m',
    'tests.systems.expportrait.prepare_films',
    *films.arguments(clips, tmp_path),
  ]
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  made = lambda: sum(
    1 for path in (tmp_path / 'parts').glob('*.array_record') if not path.name.startswith('.')
  )
  for least in (20, 70, 130):
    process = subprocess.Popen(
      command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while made() < least and process.poll() is None and time.monotonic() < until:
      time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and least <= made() < films.GOOD
    assert not shards(tmp_path)
  films.use_stand_ins(monkeypatch.setattr)
  before = {
    path.name: path.stat().st_mtime_ns for path in (tmp_path / 'parts').glob('[!.]*.array_record')
  }
  assert main(films.arguments(clips, tmp_path)) == 3
  assert shards(tmp_path) == shards(whole)
  assert report(tmp_path / 'report.jsonl') == report(whole / 'report.jsonl')
  kept = {name: (tmp_path / 'parts' / name).stat().st_mtime_ns for name in before}
  assert kept == before, 'what was there is not made again'


@pytest.mark.long
def test_two_shares_of_the_list_merged_equal_the_whole(clips, whole, tmp_path, monkeypatch, capsys):
  films.use_stand_ins(monkeypatch.setattr)
  for shard in (1, 0):
    assert main(films.arguments(clips, tmp_path, '--shard', f'{shard}', '--num_shards', '2')) == 3
    assert not shards(tmp_path) and f'{100 - 5} clips prepared, 5 failed' in capsys.readouterr().out
  looks = []
  monkeypatch.setattr(films.Estimator, '__call__', lambda *_: looks.append(1))
  assert main(films.arguments(clips, tmp_path)) == 3
  assert shards(tmp_path) == shards(whole) and not looks, 'merging makes nothing'
  both = report(tmp_path / 'report-00000-of-00002.jsonl') + report(
    tmp_path / 'report-00001-of-00002.jsonl'
  )
  assert (
    sorted(both, key=lambda line: line['clip_id'])
    == report(tmp_path / 'report.jsonl')
    == report(whole / 'report.jsonl')
  )


@pytest.mark.long
def test_parts_may_go_once_the_shards_are_there(clips, whole, tmp_path, monkeypatch):
  """And files of several records hold the same records; a changed clip changes its own alone."""
  films.use_stand_ins(monkeypatch.setattr)
  some = pathlib.Path(clips).with_name('some.csv')
  rows = pathlib.Path(clips).read_text().splitlines()[:13]
  some.write_text('\n'.join(rows) + '\n')
  more = ('--records_per_file', '5', '--holdout', '1')
  assert main(films.arguments(str(some), tmp_path, *more)) == 0
  names = [f'train-{i:05d}-of-00002.array_record' for i in range(2)] + [
    'held_out-00000-of-00001.array_record'
  ]
  before = shards(tmp_path)
  assert sorted(before) == sorted(names)
  records = PortraitClips(str(tmp_path / 'train-*.array_record'))
  original = PortraitClips(str(whole / 'train.array_record'))
  for i in range(len(records)):
    for key, value in original[i].items():
      np.testing.assert_array_equal(records[i][key], value)
  for path in (tmp_path / 'parts').iterdir():
    path.unlink()
  stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob('*.array_record')}
  assert main(films.arguments(str(some), tmp_path, *more)) == 0
  assert stamps == {
    path.name: path.stat().st_mtime_ns for path in tmp_path.glob('*.array_record')
  }, 'nothing to do'

  changed = pathlib.Path(clips).with_name('clip_007.mp4')
  kept = changed.read_bytes()
  try:
    films.write_film(changed, np.arange(3), 25, frames=films.frames_of(999))
    assert main(films.arguments(str(some), tmp_path, *more)) == 0
  finally:
    changed.write_bytes(kept)
  after = shards(tmp_path)
  assert [name for name in names if after[name] != before[name]] == [
    'train-00001-of-00002.array_record'
  ]


@pytest.mark.long
def test_a_cut_of_the_film_is_refused_or_the_longest_shot_taken(clips, tmp_path, monkeypatch):
  films.use_stand_ins(monkeypatch.setattr)
  monkeypatch.setattr(films.prepare, 'cuts', lambda frames: [4] if len(frames) == 10 else [])
  film = pathlib.Path(clips).with_name('film')
  film.mkdir()
  shots = films.frames_of(1, count=4), films.frames_of(7, count=6)
  films.write_film(film / 'a.mp4', np.arange(10), 25, frames=np.concatenate(shots))
  run = lambda *more: main(films.arguments(str(film), tmp_path, '--holdout', '0', *more))
  assert run() == 3
  (line,) = report(tmp_path / 'report.jsonl')
  assert 'cuts to another shot at 0.16 s' in line['reason'] and not shards(tmp_path)
  assert run('--shots', 'longest') == 0
  (record,) = (PortraitClips(str(tmp_path / 'train.array_record'))[i] for i in range(1))
  assert (
    len(record['video']) == 6
    and np.abs(record['video'][0, 0, 0].astype(int) - films.frames_of(7)[0, 0, 0]).max() < 12
  )
  assert run('--shots', 'any') == 0
  assert len(PortraitClips(str(tmp_path / 'train.array_record'))[0]['video']) == 10


@pytest.mark.parametrize(
  'rows, words',
  [
    ('path,who\na.mp4,b\n', "a column 'who'"),
    ('path\n', 'no videos'),
    ('path,clip_id\na.mp4,x\nb.mp4,x\n', "called 'x'"),
    ('path,clip_id\n,x\n', 'entry 1 has no path'),
  ],
)
def test_a_bad_list_is_one_sentence(tmp_path, capsys, rows, words):
  (tmp_path / 'list.csv').write_text(rows)
  with pytest.raises(SystemExit) as ended:
    main(films.arguments(str(tmp_path / 'list.csv'), tmp_path / 'out'))
  error = capsys.readouterr().err
  assert (
    ended.value.code == 2
    and words in error
    and error.count('\n') == 1
    and not (tmp_path / 'out').exists()
  )


@pytest.mark.long
def test_a_fault_of_ours_ends_the_run_instead_of_blaming_every_clip(clips, tmp_path, monkeypatch):
  films.use_stand_ins(monkeypatch.setattr)
  monkeypatch.setattr(films.prepare, 'make_record', lambda *_, **__: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    main(films.arguments(clips, tmp_path))
  assert (
    not list((tmp_path / 'parts').glob('*.array_record'))
    and len(list((tmp_path / 'errors').iterdir())) == 5
  )
  assert not list((tmp_path / 'parts').glob('*.failed.json')), 'the next start tries them again'


@pytest.mark.long
def test_an_unforeseen_error_is_one_clips_matter_and_tried_again(clips, tmp_path, monkeypatch):
  """In a group of four that are fitted together one raises: the other three are prepared; the next
  start mends it."""
  films.use_stand_ins(monkeypatch.setattr)
  some = pathlib.Path(clips).with_name('four.csv')
  some.write_text('\n'.join(pathlib.Path(clips).read_text().splitlines()[:5]) + '\n')

  def fail(clips, **more):
    if any(clip.name == 'clip_002' for clip in clips):
      raise RuntimeError('the device is lost')
    return films.fit_clips(clips, **more)

  monkeypatch.setattr(films.prepare, 'fit_clips', fail)
  run = lambda: main(films.arguments(str(some), tmp_path, '--holdout', '1', '--together', '4'))
  assert run() == 3
  lines = report(tmp_path / 'report.jsonl')
  assert [line['status'] for line in lines] == ['ok', 'ok', 'failed', 'ok']
  assert lines[2]['reason'] == 'RuntimeError: the device is lost'
  assert 'in fail' in next((tmp_path / 'errors').iterdir()).read_text()
  monkeypatch.setattr(films.prepare, 'fit_clips', films.fit_clips)
  assert run() == 0 and len(PortraitClips(str(tmp_path / 'train.array_record'))) == 3


@pytest.mark.long
def test_a_damaged_fit_is_made_again(clips, tmp_path, monkeypatch):
  films.use_stand_ins(monkeypatch.setattr)
  some = pathlib.Path(clips).with_name('one.csv')
  some.write_text('\n'.join(pathlib.Path(clips).read_text().splitlines()[:2]) + '\n')
  run = lambda *more: main(films.arguments(str(some), tmp_path, '--holdout', '0', *more))
  assert run() == 0
  (fit,) = (tmp_path / 'fits').glob('*.npz')
  whole = fit.read_bytes()
  fit.write_bytes(whole[: len(whole) // 2])
  assert run('--size', '32') == 0 and fit.read_bytes() == whole, 'another size needs the fit again'


@pytest.mark.long
def test_a_missing_estimator_blames_no_clip(clips, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('EXP_JAX_MEDIAPIPE', '/nowhere/python')
  with pytest.raises(SystemExit) as ended:
    main(films.arguments(clips, tmp_path))
  assert ended.value.code == 2 and 'make setup' in capsys.readouterr().err
  assert not list((tmp_path / 'parts').glob('*.failed.json'))


@pytest.mark.long
def test_a_clip_that_ends_the_process_again_and_again_is_left_out(clips, tmp_path, monkeypatch):
  """As a decoder that crashes would: five notes of a beginning, none of an end."""
  films.use_stand_ins(monkeypatch.setattr)
  some = pathlib.Path(clips).with_name('three.csv')
  some.write_text('\n'.join(pathlib.Path(clips).read_text().splitlines()[:4]) + '\n')
  look = films.prepare.look_at

  def crash(frames, *, name, **more):
    if name == 'clip_001':
      raise KeyboardInterrupt
    return look(frames, name=name, **more)

  monkeypatch.setattr(films.prepare, 'look_at', crash)
  run = lambda *more: main(films.arguments(str(some), tmp_path, '--holdout', '0', *more))
  for _ in range(5):
    with pytest.raises(SystemExit):
      run()
  assert run() == 3
  lines = report(tmp_path / 'report.jsonl')
  assert [line['status'] for line in lines] == [
    'ok',
    'failed',
    'ok',
  ] and 'broke off 5 times' in lines[1]['reason']
  monkeypatch.setattr(films.prepare, 'look_at', look)
  assert run('--retry_failed') == 0


@pytest.mark.parametrize(
  'variables, words, status',
  [
    (
      {'SLURM_ARRAY_TASK_ID': '7', 'SLURM_ARRAY_TASK_MIN': '4', 'SLURM_ARRAY_TASK_COUNT': '9'},
      ['-o out dir --shard 3 --num_shards 9'],
      3,
    ),
    ({}, ['-o out dir'], 3),
    ({}, ['-o out dir'], 2),
    (
      {'PROCESSES': '2'},
      ['-o out dir', '-o out dir --shard 0 --num_shards 2', '-o out dir --shard 1 --num_shards 2'],
      0,
    ),
  ],
)
def test_the_array_script_asks_for_shares(tmp_path, variables, words, status):
  """With a false python; failed clips (3) are no failure of a task, a bad command line (2) is."""
  (tmp_path / 'python').write_text(f'#!/bin/sh\necho "$@" >> said\nexit {status}\n')
  (tmp_path / 'python').chmod(0o755)
  variables = dict(variables)
  processes = ['--processes', variables.pop('PROCESSES')] if 'PROCESSES' in variables else []
  done = subprocess.run(
    ['bash', ROOT / 'launch' / 'prepare_slurm.sh', *processes, '-o', 'out dir'],
    cwd=tmp_path,
    env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}'} | variables,
  )
  assert done.returncode == (0 if status == 3 else status)
  said = (tmp_path / 'said').read_text().splitlines()
  assert sorted(said) == sorted(f'-m exp_jax.prepare {w}' for w in words)
