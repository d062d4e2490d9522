"""Two processes are one run: the same bits as one process, and when one dies, stops or hangs,
nobody waits for ever."""

import os
import pathlib
import signal
import sys
import time

import pytest

from tests.training.runs import (
  ROOT,
  TINY,
  assert_same_bits,
  end,
  group,
  losses,
  records,
  restored,
  start,
  wait_for_step,
)

HEARTBEAT = 8  # seconds; a starved machine must not look like a dead one
LAUNCH = [
  sys.executable,
  ROOT / 'launch' / 'run.py',
  '--local',
  '2',
  '--pause',
  '0.5',
  '--grace',
  '3',
  '--',
  f'--config={TINY / "tiny_config.py"}',
]
PROGRAM = f'{sys.executable} {TINY / "tiny_train.py"}'


def launch(workdir, *more, heartbeat=HEARTBEAT, **environment):
  return start(
    workdir,
    '--config.data.pace=0.01',
    f'--config.heartbeat={heartbeat}',
    *more,
    program=LAUNCH,
    EXP_JAX_PROGRAM=PROGRAM,
    **environment,
  )


def trainers(process):
  """Process ids by process index."""
  found = {}
  for pid in group(process):
    environment = pathlib.Path(f'/proc/{pid}/environ').read_bytes().split(b'\0')
    command = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
    if b'tiny_train' in command and b'launch' not in command:
      found |= {
        int(e.split(b'=')[1]): pid for e in environment if e.startswith(b'EXP_JAX_PROCESS=')
      }
  return found


@pytest.fixture(scope='module')
def one(tmp_path_factory):
  """The run by one process with two devices."""
  workdir = tmp_path_factory.mktemp('hosts') / 'one'
  status, _, err = end(start(workdir, devices=2))
  assert status == 0, err
  return workdir


def assert_as_one(workdir, one):
  (a, data_a), (b, data_b) = restored(workdir, 60), restored(one, 60)
  assert_same_bits(a, b)
  assert data_a == data_b and losses(workdir) == losses(one)


@pytest.mark.long
def test_a_stop_of_one_process_stops_both_and_both_end_as_one_process_would(tmp_path, one):
  process = launch(tmp_path / 'run', heartbeat=60)
  wait_for_step(process, tmp_path / 'run', 15)
  os.kill(trainers(process)[1], signal.SIGTERM)  # not the one that saves
  status, _, err = end(process)
  assert status == 0 and 'ended with status 75' in err and 'Traceback' not in err, err
  noted = [line for line in (tmp_path / 'run' / 'digests.txt').read_text().splitlines()]
  # both processes saved and restored the same
  assert all(noted.count(line) % 2 == 0 for line in noted)
  assert [r['step'] for r in records(tmp_path / 'run', 'start')][1] > 10
  assert_as_one(tmp_path / 'run', one)


@pytest.mark.parametrize(
  'index, number',
  [
    pytest.param(0, signal.SIGKILL, id='coordinator killed', marks=pytest.mark.slow),
    pytest.param(1, signal.SIGKILL, id='worker killed', marks=pytest.mark.slow),
    pytest.param(1, signal.SIGSTOP, id='worker stopped', marks=pytest.mark.slow),
  ],
)
def test_a_lost_process_is_noticed_and_the_run_goes_on(tmp_path, one, index, number):
  process = launch(tmp_path / 'run')
  wait_for_step(process, tmp_path / 'run', 15)
  pids = trainers(process)
  os.kill(pids[index], number)
  since = time.monotonic()
  while pids[1 - index] in group(process):
    assert time.monotonic() - since < HEARTBEAT + 5 + 3  # 3: until the launcher kills
    time.sleep(0.1)
  status, _, err = end(process)
  assert status == 0, err
  assert_as_one(tmp_path / 'run', one)


@pytest.mark.slow
def test_a_stuck_process_ends_itself_and_the_run_goes_on(tmp_path, one):
  process = launch(
    tmp_path / 'run', '--config.step_timeout=5', TINY_STUCK=f'25,1,{tmp_path / "sign"}'
  )
  wait_for_step(process, tmp_path / 'run', 22)
  since, pids = time.monotonic(), trainers(process)
  while set(pids.values()) & set(group(process)):
    assert time.monotonic() - since < 5 + 5 + 5  # steps until it hangs, watchdog, launcher
    time.sleep(0.1)
  status, _, err = end(process)
  assert status == 0, err
  assert 'step 25 took more than 5 s' in err and 'tiny_train.py' in err and 'Thread' in err
  assert_as_one(tmp_path / 'run', one)


@pytest.mark.long
def test_the_launcher_gives_up_without_progress_and_passes_final_statuses(tmp_path):
  program = tmp_path / 'fails.sh'
  program.write_text('#!/bin/sh\necho started\nexit $STATUS\n')
  program.chmod(0o755)
  command = [
    sys.executable,
    ROOT / 'launch' / 'run.py',
    '--pause',
    '0.01',
    '--grace',
    '0.1',
    '--restarts',
    '2',
    '--',
  ]
  for number, starts in ((75, 3), (2, 1), (3, 1), (74, 1), (134, 3)):
    status, out, _ = end(
      start(tmp_path / 'run', program=command, EXP_JAX_PROGRAM=program, STATUS=number)
    )
    assert (status, out.count('started')) == (number, starts)
