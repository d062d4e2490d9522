"""Launch files: they parse, and they treat the statuses of exp_jax/train.py as it documents them."""

import os
import subprocess

import pytest

from exp_jax.commands import train
from exp_jax.training.watchdog import TRY_AGAIN
from tests.training.runs import ROOT

LAUNCH = ROOT / 'launch'
FINAL = {0, 2, train.NOT_FINITE, train.NOT_SAVED}


@pytest.mark.parametrize('path', sorted(LAUNCH.glob('*.sh')), ids=lambda path: path.name)
def test_scripts_parse(path):
  assert subprocess.run(['bash', '-n', path]).returncode == 0


@pytest.mark.parametrize('status', [0, 2, 3, 74, 75, 134, 137])
def test_slurm_queues_again_what_may_go_on(tmp_path, status):
  """With a false srun and scontrol."""
  for name, text in (('srun', f'exit {status}'), ('scontrol', 'echo "$@" > requeued')):
    (tmp_path / name).write_text(f'#!/bin/sh\n{text}\n')
    (tmp_path / name).chmod(0o755)
  done = subprocess.run(['bash', LAUNCH / 'slurm.sh', 'configs/dit_a800.py', 'out'], cwd=tmp_path, capture_output=True,
                        env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'})
  assert done.returncode == status
  assert (tmp_path / 'requeued').exists() == (status not in FINAL)


def test_slurm_waits_for_the_save_after_sigterm(tmp_path):
  (tmp_path / 'srun').write_text(f'#!/bin/bash\ntrap "sleep 1; exit {TRY_AGAIN}" TERM\necho up\nsleep 30 >/dev/null & wait\n')
  (tmp_path / 'scontrol').write_text('#!/bin/sh\necho "$@" > requeued\n')
  for name in ('srun', 'scontrol'):
    (tmp_path / name).chmod(0o755)
  process = subprocess.Popen(['bash', LAUNCH / 'slurm.sh', 'a', 'b'], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                             env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'})
  assert process.stdout.readline() == 'up\n'
  process.terminate()
  process.communicate(timeout=20)
  assert process.returncode == TRY_AGAIN and (tmp_path / 'requeued').read_text() == 'requeue 7\n'


def test_the_job_set_fails_for_good_on_final_statuses():
  yaml = pytest.importorskip('yaml')
  spec = yaml.safe_load((LAUNCH / 'jobset.yaml').read_text())['spec']
  job = spec['replicatedJobs'][0]['template']['spec']
  assert set(job['podFailurePolicy']['rules'][0]['onExitCodes']['values']) == FINAL - {0}
  container = job['template']['spec']['containers'][0]
  names = {e['name']: e.get('value') for e in container['env']}
  assert set(names) == {'EXP_JAX_PROCESSES', 'EXP_JAX_COORDINATOR', 'EXP_JAX_PROCESS'}
  assert int(names['EXP_JAX_PROCESSES']) == job['parallelism'] == job['completions']
  assert container['command'][:3] == ['python', '-m', 'exp_jax.train']
