"""Processes that nobody joins: one sentence before anything is compiled, and an end."""

import os
import socket
import subprocess
import sys

import jax
import pytest

from exp_jax.errors import UserError
from exp_jax.training import hosts
from tests.training.runs import ROOT

TWO = {'EXP_JAX_PROCESSES': '2', 'EXP_JAX_PROCESS': '0'}
SLURM = {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2', 'SLURM_JOB_NODELIST': 'localhost'}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
  for name in [*os.environ]:
    if name.startswith(('SLURM_', 'EXP_JAX_')):
      monkeypatch.delenv(name)


@pytest.mark.parametrize(
  'environment, words',
  [
    (SLURM, 'SLURM_STEP_NODELIST is not set, so srun did not start'),
    (SLURM | {'SLURM_STEP_NODELIST': 'a', 'SLURM_PROCID': '0'}, 'SLURM_LOCALID is not set'),
    ({'SLURM_NTASKS': '2(x3)'}, 'SLURM_NTASKS must be a whole number'),
    ({'EXP_JAX_PROCESSES': '2'}, 'but not EXP_JAX_PROCESS, EXP_JAX_COORDINATOR'),
    (
      {'EXP_JAX_PROCESSES': 'two', 'EXP_JAX_PROCESS': '0', 'EXP_JAX_COORDINATOR': 'a:1'},
      'EXP_JAX_PROCESSES must be a whole number',
    ),
    (
      {'EXP_JAX_PROCESSES': '2', 'EXP_JAX_PROCESS': '2', 'EXP_JAX_COORDINATOR': 'a:1'},
      'they count from 0',
    ),
    (
      {'EXP_JAX_PROCESSES': '2', 'EXP_JAX_PROCESS': '0', 'EXP_JAX_COORDINATOR': 'host'},
      'must be HOST:PORT',
    ),
    (
      SLURM | {'SLURM_STEP_NODELIST': '', 'SLURM_PROCID': '0', 'SLURM_LOCALID': '0'},
      'SLURM_STEP_NODELIST is not set',
    ),
    (
      {'EXP_JAX_COORDINATOR': 'a:1', 'EXP_JAX_PROCESS': '0'},
      'has EXP_JAX_PROCESS, EXP_JAX_COORDINATOR but not EXP_JAX_PROCESSES',
    ),
    ({'EXP_JAX_HOSTS': '4'}, "EXP_JAX_HOSTS must be 'auto'"),
    (
      TWO | {'EXP_JAX_COORDINATOR': 'a:28451', 'EXP_JAX_BIND': 'no such name'},
      'cannot listen at no such name, port 28451',
    ),
    (
      TWO | {'EXP_JAX_COORDINATOR': 'a:28451', 'EXP_JAX_BIND': '192.0.2.1'},
      'cannot listen at 192.0.2.1, port 28451',
    ),
    ({'EXP_JAX_JOIN_TIMEOUT': 'long'}, 'EXP_JAX_JOIN_TIMEOUT must be'),
  ],
)
def test_an_environment_that_cannot_be_is_a_sentence(monkeypatch, environment, words):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError, match=words.replace('(', '\\(')):
    hosts.join(10)


def test_a_scheduler_whose_numbers_cannot_be_is_a_sentence(monkeypatch):
  """In a process of its own: JAX asks for the scheduler only where nothing was computed before."""
  for name, value in (
    SLURM | {'SLURM_STEP_NODELIST': 'a', 'SLURM_PROCID': '0x', 'SLURM_LOCALID': '0'}
  ).items():
    monkeypatch.setenv(name, value)
  code = 'from exp_jax.errors import exits_cleanly\nfrom exp_jax.training import hosts\nexits_cleanly(lambda: hosts.join(10))()'
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    timeout=300,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  assert (
    done.returncode == 2
    and 'start it with srun, or unset SLURM_NTASKS' in done.stderr
    and done.stderr.count('\n') == 1
  )


def test_a_port_that_is_taken_is_a_sentence(monkeypatch):
  with socket.socket() as taken:
    taken.bind(('', 0))
    taken.listen()
    for name, value in (
      TWO | {'EXP_JAX_COORDINATOR': f'localhost:{taken.getsockname()[1]}'}
    ).items():
      monkeypatch.setenv(name, value)
    with pytest.raises(
      UserError, match='cannot listen at all addresses, port .*choose another port'
    ):
      hosts.join(10)


@pytest.mark.parametrize(
  'environment',
  (
    {},
    {'SLURM_NTASKS': '1'},
    {'EXP_JAX_PROCESSES': '1', 'EXP_JAX_PROCESS': '0', 'EXP_JAX_COORDINATOR': 'localhost:1'},
  ),
)
def test_one_process_waits_for_nobody(monkeypatch, environment):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  hosts.join(10)
  assert not jax.distributed.is_initialized()


@pytest.mark.long
@pytest.mark.parametrize('process', ('0', '1'))
def test_one_of_two_ends_with_a_sentence(process):
  done = subprocess.run(
    [sys.executable, '-c', 'from exp_jax.training import hosts; hosts.join(10)'],
    capture_output=True,
    text=True,
    timeout=60,
    env=os.environ
    | {
      'PYTHONPATH': str(ROOT),
      'JAX_PLATFORMS': 'cpu',
      'EXP_JAX_PROCESSES': '2',
      'EXP_JAX_PROCESS': process,
      'EXP_JAX_COORDINATOR': '127.0.0.1:28431',
      'EXP_JAX_BIND': '127.0.0.1',
      'EXP_JAX_JOIN_TIMEOUT': '3',
    },
  )
  assert done.returncode == 75 and done.stderr.count('error: ') == 1
  assert (
    'the other 1 of 2 processes at 127.0.0.1:28431' in done.stderr
    and 'Traceback' not in done.stderr
  )


@pytest.mark.parametrize(
  'bind, listens',
  [('127.0.0.1', {'0100007F', '0000000000000000FFFF00000100007F'}), ('', {'00000000', '0' * 32})],
)
def test_the_coordinator_listens_where_it_is_told(bind, listens):
  port = 28437 if bind else 28439
  process = subprocess.Popen(
    [sys.executable, '-c', 'from exp_jax.training import hosts; hosts.join(10)'],
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ
    | {
      'PYTHONPATH': str(ROOT),
      'JAX_PLATFORMS': 'cpu',
      'EXP_JAX_PROCESSES': '2',
      'EXP_JAX_PROCESS': '0',
      'EXP_JAX_COORDINATOR': f'127.0.0.1:{port}',
      'EXP_JAX_BIND': bind,
      'EXP_JAX_JOIN_TIMEOUT': '30',
    },
  )
  try:
    found = set()
    for _ in range(200):
      for table in ('/proc/net/tcp', '/proc/net/tcp6'):
        for line in open(table).read().splitlines()[1:]:
          address, state = line.split()[1], line.split()[3]
          if state == '0A' and int(address.split(':')[1], 16) == port:
            found.add(address.split(':')[0])
      if found:
        break
      try:
        process.wait(0.1)
      except subprocess.TimeoutExpired:
        continue
    assert found and found <= listens
  finally:
    process.kill()
    process.communicate()
