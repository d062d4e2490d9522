"""The queue under faults: workers that die, hang or fail, cancellations in each stage, ended
servers, folders half-written."""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.media.video import read_video
from exp_jax.studio.manager import Studio
from exp_jax.studio.refusals import NotYet, TooMany, Unknown
from exp_jax.studio.settings import Settings, loading_of
from tests.studio.conftest import hand_over
from tests.studio.stand_in import BROKEN, COMMAND, DRAWS, HALF, HANGS, KILLED, REFUSED, SLOW, WARNED

ALL = {'video', 'side_by_side', 'sheet', 'record', 'motion'}


def create(studio, pair, seed=0, **options):
  return studio.create('animate', engine='proxy', **pair, options={'seed': seed} | options)


def wait_for(answer, seconds=120.0):
  until = time.monotonic() + seconds
  while not answer():
    assert time.monotonic() < until, 'it did not happen'
    time.sleep(0.01)


def folder_of(studio, job):
  return studio.settings.place / 'jobs' / job.id


def left(studio, job):
  """Names of the files in a job's folder."""
  return {path.name for path in folder_of(studio, job).iterdir()}


def test_a_job_leaves_what_the_command_leaves_and_nothing_of_its_inputs(studio, pair):
  job = studio.wait(create(studio, pair, 5).id)
  assert (job.state, job.words, job.attempts) == ('done', '', 1)
  results = studio.results(job.id)
  assert set(results) == ALL
  assert read_video(results['video']).frames.shape == (3, 16, 16, 3)
  assert json.loads(results['record'].read_text())['seed'] == 5
  assert left(studio, job) == {'job.json', *(path.name for path in results.values())}


@pytest.mark.long
def test_failures_are_told_without_places_and_the_queue_goes_on(studio, pair):
  seeds = (REFUSED, BROKEN, WARNED, KILLED, 0)
  ended = [studio.wait(job.id) for job in [create(studio, pair, seed) for seed in seeds]]
  assert [job.state for job in ended] == ['failed', 'failed', 'done', 'failed', 'done']
  assert ended[0].words == "no face found in 'me.png'"
  assert ended[1].words == "an error of the program, not of your files: KeyError: 'me.png'"
  assert ended[2].warnings == ['me.png: looks to the side']
  assert (
    'ended by signal 9' in ended[3].words
    and not studio.results(ended[3].id)
    and left(studio, ended[3]) == {'job.json'}
  )


@pytest.mark.long
def test_a_worker_that_is_killed_from_outside_fails_its_job_alone(studio, pair):
  slow, after = create(studio, pair, SLOW), create(studio, pair)
  wait_for(lambda: studio.get(slow.id).done > 1)
  first = studio.worker_id
  os.kill(first, signal.SIGKILL)
  assert 'ended by signal 9' in studio.wait(slow.id).words
  assert studio.wait(after.id).state == 'done' and studio.worker_id != first


@pytest.mark.long
def test_cancel_while_it_waits_while_it_is_tracked_and_while_nothing_listens(studio, pair):
  slow, waiting = create(studio, pair, SLOW), create(studio, pair)
  assert studio.cancel(waiting.id).state == 'cancelled'
  wait_for(lambda: studio.get(slow.id).stage == 'track' and studio.get(slow.id).done > 1)
  started = studio.worker_id
  assert studio.cancel(slow.id).cancelling
  ended = studio.wait(slow.id)
  assert (
    ended.state == 'cancelled'
    and left(studio, ended) == {'job.json'}
    and studio.worker_id == started
  ), 'it listened'
  hangs = create(studio, pair, HANGS)
  wait_for(lambda: studio.get(hangs.id).stage == 'hang')
  studio.cancel(hangs.id)
  assert studio.wait(hangs.id).state == 'cancelled' and studio.worker_id is None, (
    'it was ended after the patience'
  )
  assert studio.wait(create(studio, pair).id).state == 'done'
  assert studio.cancel(ended.id).state == 'cancelled', 'what has ended stays as it is'


@pytest.mark.long
@pytest.mark.parametrize('engine, seed, stage', [('dit', 0, 'load'), ('proxy', DRAWS, 'draw')])
def test_cancel_while_it_loads_and_while_it_draws(studio, pair, engine, seed, stage):
  job = studio.create('animate', engine=engine, **pair, options={'seed': seed})
  wait_for(lambda: studio.get(job.id).stage == stage)
  worker = studio.worker_id
  studio.cancel(job.id)
  ended = studio.wait(job.id)
  assert (
    ended.state == 'cancelled'
    and left(studio, ended) == {'job.json'}
    and studio.worker_id == worker
  )
  assert studio.wait(create(studio, pair).id).state == 'done'


@pytest.mark.long
def test_a_worker_that_reports_nothing_is_ended(open_studio, files):
  studio = open_studio(silence=1.0)
  pair = {
    'portrait': hand_over(studio, files / 'me.png').id,
    'driving': hand_over(studio, files / 'clip.mp4').id,
  }
  studio.wait(create(studio, pair).id)  # it is warm: a start takes longer than that
  assert 'reported nothing for 1 s' in studio.wait(create(studio, pair, HANGS).id).words


@pytest.mark.long
def test_the_queue_has_an_end(open_studio, files):
  studio = open_studio(queue=2)
  pair = {
    'portrait': hand_over(studio, files / 'me.png').id,
    'driving': hand_over(studio, files / 'clip.mp4').id,
  }
  running = create(studio, pair, SLOW)
  wait_for(lambda: studio.get(running.id).state == 'running')
  waiting = [create(studio, pair) for _ in range(2)]
  assert [studio.place_in_queue(job.id) for job in (running, *waiting)] == [0, 1, 2]
  with pytest.raises(TooMany, match='2 jobs wait already'):
    create(studio, pair)
  studio.cancel(running.id)
  assert [studio.wait(job.id).state for job in waiting] == ['done', 'done']


def test_the_room_for_results_has_an_end(open_studio, files):
  studio = open_studio(jobs=1)
  pair = {
    'portrait': hand_over(studio, files / 'me.png').id,
    'driving': hand_over(studio, files / 'clip.mp4').id,
  }
  job = studio.wait(create(studio, pair).id)
  with pytest.raises(TooMany, match='1 jobs lie here'):
    create(studio, pair)
  studio.delete(job.id)
  assert studio.wait(create(studio, pair).id).state == 'done'


@pytest.mark.long
def test_a_studio_that_is_left_goes_on_where_it_was(open_studio, files):
  """Left in order: what ran is queued again and counts as not begun; results and records are as
  they were."""
  studio = open_studio()
  pair = {
    'portrait': hand_over(studio, files / 'me.png').id,
    'driving': hand_over(studio, files / 'clip.mp4').id,
  }
  done, running, waiting = (
    create(studio, pair, 1),
    create(studio, pair, SLOW),
    create(studio, pair, 2),
  )
  studio.delete_upload(pair['driving'])  # jobs have their own
  wait_for(lambda: studio.get(running.id).state == 'running')
  studio.__exit__()
  again = open_studio()
  assert again.get(done.id).state == 'done' and set(again.results(done.id)) == ALL
  wait_for(lambda: again.get(running.id).state == 'running')
  assert again.get(running.id).attempts == 1
  again.cancel(running.id)
  assert again.wait(waiting.id).state == 'done'


@pytest.mark.long
def test_a_studio_that_was_killed_goes_on_but_not_for_ever(open_studio, files):
  studio = open_studio()
  pair = {
    'portrait': hand_over(studio, files / 'me.png').id,
    'driving': hand_over(studio, files / 'clip.mp4').id,
  }
  jobs = [studio.wait(create(studio, pair).id) for _ in range(2)]
  studio.__exit__()
  for job, attempts in zip(jobs, (1, 2)):  # as a kill leaves them: running, half a result
    folder = folder_of(studio, job)
    record = json.loads((folder / 'job.json').read_text())
    (folder / 'job.json').write_text(
      json.dumps(record | {'state': 'running', 'attempts': attempts})
    )
    for name in ('portrait', 'driving'):
      (folder / name).mkdir()
      (folder / name / record[name]).write_bytes((files / record[name]).read_bytes())
    (folder / '.0123abcd.partial.mp4').write_bytes(b'half')
  again = open_studio()
  first, second = (again.wait(job.id) for job in jobs)
  assert (
    first.state == 'done'
    and first.attempts == 2
    and '.0123abcd.partial.mp4' not in left(again, first)
  )
  assert second.state == 'failed' and 'was ended 2 times' in second.words


def test_folders_half_written_are_cleared_away(open_studio, files):
  studio = open_studio()
  job = studio.wait(
    studio.create('portrait', engine='proxy', portrait=hand_over(studio, files / 'me.png').id).id
  )
  studio.__exit__()
  jobs = studio.settings.place / 'jobs'
  record = json.loads((jobs / job.id / 'job.json').read_text())
  for name, text in (
    ('no_id', json.dumps(record | {'id': 'no_id'})),
    ('.0123abcd.partial', '{}'),
    ('a' * 32, '{"id": "a'),
    ('b' * 32, json.dumps({'id': 'c' * 32})),
    ('x', '{}'),
    ('d' * 32, '[' * 100_000),
  ):
    (jobs / name).mkdir()
    (jobs / name / 'job.json').write_text(text)
  (jobs / ('e' * 32)).mkdir()
  (jobs / 'stray').write_text('')
  again = open_studio()
  assert [each.id for each in again.list()] == [job.id]
  assert [path.name for path in jobs.iterdir() if not path.name.startswith('.')] == [job.id]


def test_two_studios_do_not_share_a_folder(studio, open_studio):
  with pytest.raises(UserError, match='another run'):
    open_studio()


def test_what_is_over_is_deleted_and_forgotten(studio, pair):
  job = studio.wait(create(studio, pair).id)
  studio.sweep(job.expires - 1)
  assert studio.get(job.id)
  studio.sweep(job.expires + 1)
  with pytest.raises(Unknown, match='its time is over'):
    studio.get(job.id)
  with pytest.raises(Unknown, match='upload the file again'):
    create(studio, pair)
  assert not [
    path for path in studio.settings.place.rglob('*') if path.is_file() and path.name != '.lock'
  ]


def test_deletion_is_of_what_has_ended(studio, pair):
  job = create(studio, pair, SLOW)
  with pytest.raises(NotYet, match='cancel it first'):
    studio.delete(job.id)
  studio.cancel(job.id)
  studio.wait(job.id)
  studio.delete(job.id)
  assert not folder_of(studio, job).exists()


def test_no_way_round_leads_to_an_upload(studio, pair):
  for name in (f'../uploads/{pair["portrait"]}', f'./{pair["portrait"]}', f'{pair["portrait"]}/'):
    for ask in (studio.uploads.get, studio.uploads.path, studio.delete_upload):
      with pytest.raises(Unknown):
        ask(name)


@pytest.mark.parametrize('name', ['..', '../../etc', '', 'x' * 32, 'A' * 32, None, 5])
def test_no_id_is_a_path(studio, name):
  for ask in (
    studio.get,
    studio.cancel,
    studio.delete,
    studio.results,
    studio.uploads.get,
    studio.delete_upload,
  ):
    with pytest.raises(Unknown):
      ask(name)


@pytest.mark.long
def test_a_hundred_jobs_of_four_clients_with_faults_among_them(open_studio, files):
  """None is lost: each ends as its fault says, whoever asked for it, and the others are whole."""
  studio, results, lock = open_studio(queue=100), {}, threading.Lock()
  faults = {7: KILLED, 31: HALF, 12: REFUSED, 45: BROKEN, 60: REFUSED, 77: BROKEN, 88: WARNED}

  def client(numbers):
    pair = {
      'portrait': hand_over(studio, files / 'me.png').id,
      'driving': hand_over(studio, files / 'clip.mp4').id,
    }
    mine = {number: create(studio, pair, faults.get(number, 1000 + number)) for number in numbers}
    studio.cancel(mine[max(mine)].id)
    for number, job in mine.items():
      with lock:
        results[number] = studio.wait(job.id)

  clients = [threading.Thread(target=client, args=(range(first, 100, 4),)) for first in range(4)]
  [each.start() for each in clients]
  [each.join() for each in clients]
  for number, job in results.items():
    fault = faults.get(number)
    wanted = (
      {'cancelled', 'done'} if number > 95 else {'done'} if fault in (None, WARNED) else {'failed'}
    )
    assert job.state in wanted, (number, job)
    if job.state == 'done':
      found = studio.results(job.id)
      assert set(found) == ALL and json.loads(found['record'].read_text())['seed'] == faults.get(
        number, 1000 + number
      )
  assert len(results) == len(studio.list()) == 100
  assert np.all([job.attempts <= 1 for job in results.values()])


def test_what_is_loaded_is_said_when_it_is_started(tmp_path):
  assert loading_of([], []) == {'proxy': {'export': None}, 'dit': {'export': None}}
  (tmp_path / 'w').mkdir()
  found = loading_of(
    [f'loki={tmp_path / "w"}'],
    ['liveportrait.random_weights=tiny', 'magicportrait.frame_by_frame=true'],
  )
  assert found['loki'] == {'export': str(tmp_path / 'w')} and found['liveportrait'] == {
    'export': None,
    'random_weights': 'tiny',
  }
  assert found['magicportrait']['frame_by_frame'] is True
  for exports, choices, words in (
    (['proxy=x'], [], 'ENGINE=DIR'),
    (['dit=/nowhere'], [], 'does not exist'),
    ([], ['dit=3'], 'ENGINE.OPTION'),
    ([], ['dit.none=3'], 'has no option'),
    ([], ['magicportrait.frame_by_frame=2'], 'true or false'),
  ):
    with pytest.raises(UserError, match=words):
      loading_of(exports, choices)


def test_an_engine_that_is_not_there_is_refused(studio, pair):
  with pytest.raises(UserError, match="no engine 'loki'; it has proxy, dit"):
    studio.create('animate', engine='loki', **pair)
  with pytest.raises(UserError, match='no job of kind'):
    studio.create('dance', engine='proxy', **pair)
  assert Studio(Settings(), {}, command=COMMAND).engines == ()
