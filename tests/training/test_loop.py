"""Restarts are exact: a run that is killed and stopped again and again ends with the very bits of
one that was not."""

import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest

from tests.training.runs import (
  ROOT,
  assert_same_bits,
  end,
  group,
  kill,
  losses,
  records,
  restored,
  start,
  wait_for_step,
)

PACE = '--config.data.pace=0.005'  # seconds per record: room between a signal and the end


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run of 60 steps that nobody disturbs."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  status, _, err = end(start(workdir))
  assert status == 0, err
  return workdir


def assert_as_if_nothing_happened(workdir, whole):
  (a, data_a), (b, data_b) = restored(workdir, 60), restored(whole, 60)
  assert_same_bits(a, b)
  assert set(a) == {'step', 'params', 'opt_state', 'ema', 'skipped'} and data_a == data_b == {
    'examples': 480,
    'damaged': [],
    'records': data_b['records'],
    'seed': 0,
  }
  assert losses(workdir) == losses(whole) and set(losses(whole)) == set(range(1, 61))
  assert records(workdir, 'tiny')[-1]['loss'] == records(whole, 'tiny')[-1]['loss']


@pytest.mark.long
def test_five_kills_and_a_stop_change_no_bit(tmp_path, whole):
  """Parameters, moments, average, random numbers, next batch and the log of losses."""
  workdir, rng = whole.parent / 'broken', np.random.default_rng(0)
  for step in np.sort(rng.choice(np.arange(4, 55), 5, replace=False)):
    process = start(workdir, PACE)
    wait_for_step(process, workdir, step)
    kill(process)
  process = start(workdir, PACE)
  wait_for_step(process, workdir, 55)
  process.send_signal(signal.SIGTERM)
  status, _, err = end(process)
  assert status == 75 and 'saved at step' in err, err
  status, out, err = end(start(workdir))
  assert status == 0, err
  assert_as_if_nothing_happened(workdir, whole)
  # some steps were done twice
  assert len(records(workdir)) > 60 and len(records(workdir, 'start')) == 7
  assert 'in 7 starts' in out
  status, out, _ = end(start(workdir))
  assert status == 0 and 'is finished' in out


@pytest.mark.slow
def test_fifty_kills_while_saving(tmp_path):
  """The step never goes back; what is restored has the digest that was noted when it was saved."""
  rng, workdir, newest = np.random.default_rng(1), tmp_path / 'run', 0
  more = ('--config.save_every=1', '--config.total_steps=100000', '--config.eval_every=100000')
  notes = lambda kind: (
    [
      line.split()[1:]
      for line in (workdir / 'digests.txt').read_text().splitlines()
      if line.startswith(kind)
    ]
    if (workdir / 'digests.txt').exists()
    else []
  )
  for _ in range(50):
    process, before = start(workdir, *more), len(notes('saved'))
    while len(notes('saved')) == before:
      assert process.poll() is None, process.communicate()
      time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 0.5))  # a save takes about 0.05: within the first ten
    kill(process)
    saved = dict(notes('saved'))
    assert all(saved[step] == digest for step, digest in notes('restored'))
    began = records(workdir, 'start')[-1]['step']
    assert began >= newest
    newest = began
  assert newest > 20 and len(notes('restored')) >= 40  # kills did meet saves, and runs did go on


@pytest.mark.long
@pytest.mark.parametrize('whom', [pytest.param('process', marks=pytest.mark.slow), 'group'])
def test_sigterm_saves_at_once_with_reader_processes(tmp_path, whom):
  process = start(tmp_path / 'run', PACE, '--config.data_workers=1')
  wait_for_step(process, tmp_path / 'run', 3)
  assert len(group(process)) >= 2
  os.kill(process.pid, signal.SIGTERM) if whom == 'process' else os.killpg(
    process.pid, signal.SIGTERM
  )
  status, _, err = end(process)
  assert status == 75 and 'Traceback' not in err, err
  state, data = restored(tmp_path / 'run', records(tmp_path / 'run')[-1]['step'])
  assert data['examples'] == 8 * int(state['step']) < 480


@pytest.mark.slow
def test_sigterm_at_twenty_random_times_saves_the_step_it_meets(tmp_path):
  rng, workdir, at = np.random.default_rng(2), tmp_path / 'run', 0
  for _ in range(20):
    process = start(
      workdir,
      '--config.data.pace=0.002',
      '--config.total_steps=100000',
      '--config.save_every=100000',
    )
    wait_for_step(process, workdir, at + 1)
    time.sleep(rng.uniform(0.0, 0.5))
    sent = records(workdir)[-1]['step']
    process.send_signal(signal.SIGTERM)
    status, _, err = end(process)
    saved = max(int(p.name) for p in (workdir / 'checkpoints').iterdir())
    assert (
      status == 75
      and saved == records(workdir)[-1]['step'] >= sent
      and records(workdir, 'start')[-1]['step'] == at
    ), err
    at = saved


@pytest.mark.long
def test_a_second_signal_ends_the_process_at_once(tmp_path):
  process = start(tmp_path / 'run', '--config.data.pace=0.5')
  wait_for_step(process, tmp_path / 'run', 1)
  process.send_signal(signal.SIGINT)
  time.sleep(0.5)
  process.send_signal(signal.SIGINT)
  status, _, err = end(process, 60)
  assert status == 130 and 'second signal' in err, err


@pytest.mark.long
def test_two_runs_in_one_folder_are_refused(tmp_path):
  process = start(tmp_path / 'run', '--config.data.pace=0.05')
  wait_for_step(process, tmp_path / 'run', 1)
  status, _, err = end(start(tmp_path / 'run'))
  assert status == 2 and 'another run works in' in err, err
  kill(process)


@pytest.mark.long
def test_other_data_is_refused_unless_asked_for(whole, tmp_path):
  shutil.copytree(whole, tmp_path / 'run')
  more = ('--config.total_steps=62', '--config.data.count=63')
  status, _, err = end(start(tmp_path / 'run', *more))
  assert status == 2 and 'data_changed_ok' in err, err
  status, _, err = end(start(tmp_path / 'run', *more, '--config.data_changed_ok=True'))
  assert status == 0, err
  assert restored(tmp_path / 'run', 62)[1]['examples'] == 62 * 8


@pytest.mark.long
@pytest.mark.parametrize(
  'arguments, words',
  [
    (('--config.model.varient=tiny',), "did you mean 'model.variant'"),
    (('--config.total_steps=many',), 'bad command line'),
    (('--config.task=expportrait/dot',), 'unknown task'),
    (('--config.accumulate=0',), 'config.accumulate'),
    (('--config.batch_size=3', '--config.accumulate=2'), 'does not divide'),
    (('--config.batch_size=2', '--config.data.name=clips'), 'unknown data source'),
  ],
)
def test_bad_command_lines_are_one_sentence(tmp_path, arguments, words):
  process = start(
    tmp_path / 'run',
    *arguments,
    program=[
      sys.executable,
      '-m',
      'exp_jax.train',
      f'--config={ROOT / "configs/dit_a800.py"}:smoke',
    ],
  )
  status, _, err = end(process)
  assert status == 2 and words in err, err
  assert len([line for line in err.splitlines() if line.startswith('error:')]) == 1
  assert 'Traceback' not in err and not (tmp_path / 'run').exists()
