"""Launch files: they parse, and they treat the statuses of exp_jax/train.py as it documents
them."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from absl import flags

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
  done = subprocess.run(
    ['bash', LAUNCH / 'slurm.sh', 'configs/dit_a800.py', 'out'],
    cwd=tmp_path,
    capture_output=True,
    env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'},
  )
  assert done.returncode == status
  assert (tmp_path / 'requeued').exists() == (status not in FINAL)


def test_slurm_waits_for_the_save_after_sigterm(tmp_path):
  (tmp_path / 'srun').write_text(
    f'#!/bin/bash\ntrap "sleep 1; exit {TRY_AGAIN}" TERM\necho up\nsleep 30 >/dev/null & wait\n'
  )
  (tmp_path / 'scontrol').write_text('#!/bin/sh\necho "$@" > requeued\n')
  for name in ('srun', 'scontrol'):
    (tmp_path / name).chmod(0o755)
  process = subprocess.Popen(
    ['bash', LAUNCH / 'slurm.sh', 'a', 'b'],
    cwd=tmp_path,
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'},
  )
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


def launcher():
  spec = importlib.util.spec_from_file_location('launch_run', LAUNCH / 'run.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize(
  'arguments, expected',
  [
    (['--workdir=a b'], 'a b'),
    (['--workdir', 'a'], 'a'),
    (['-workdir=a'], 'a'),
    (['-workdir', 'a'], 'a'),
    (['--workdir=a', '--config=x', '--workdir', 'b'], 'b'),
    (['--workdir=a=b'], 'a=b'),
    (['--config=x'], None),
    (['--workdir=a', '--', '--workdir=b'], 'a'),
    (['--config.workdir=a'], None),
  ],
)
def test_the_folder_of_a_run_in_every_form_of_absl(arguments, expected):
  assert launcher().workdir_of(arguments) == expected
  own = flags.FlagValues()
  flags.DEFINE_string('workdir', None, 'where', flag_values=own)
  own(['program', *(word for word in arguments if not word.startswith('--config'))])
  assert own.workdir == expected, 'as absl itself reads it'


def run_launcher(tmp_path, script, *options, workdir='--workdir={}', **environment):
  """Runs a program in a folder with a space under the launcher; returns its status, its starts and
  what the launcher said."""
  program = tmp_path / 'my programs' / 'run it.sh'
  program.parent.mkdir()
  program.write_text(
    f'#!/bin/sh\necho started >> "{tmp_path}/starts"\nstarts=$(wc -l < '
    f'"{tmp_path}/starts")\n{script}\n'
  )
  program.chmod(0o755)
  done = subprocess.run(
    [
      sys.executable,
      LAUNCH / 'run.py',
      '--pause',
      '0.01',
      '--grace',
      '0.1',
      *options,
      '--',
      *workdir.format(tmp_path / 'run').split('|'),
    ],
    env=os.environ | {'EXP_JAX_PROGRAM': shlex.quote(str(program))} | environment,
    capture_output=True,
    text=True,
    timeout=60,
  )
  return done.returncode, len((tmp_path / 'starts').read_text().split()), done.stderr


@pytest.mark.long
@pytest.mark.parametrize('form', ('--workdir={}', '--workdir|{}', '-workdir={}'))
def test_progress_is_seen_in_every_form_and_paths_may_have_spaces(tmp_path, form):
  script = (
    f'mkdir -p "{tmp_path}/run/checkpoints/0000000$starts"; touch '
    f'"{tmp_path}/run/checkpoints/0000000$starts/commit.json"\n'
    '[ $starts = 6 ] && exit 0\nexit 75'
  )
  status, starts, said = run_launcher(tmp_path, script, '--restarts', '1', workdir=form)
  assert (status, starts) == (0, 6), said


def test_signals_before_the_first_checkpoint_are_no_failures(tmp_path):
  status, starts, said = run_launcher(
    tmp_path, '[ $starts = 9 ] && exit 0\nkill -9 $$', '--restarts', '1'
  )
  assert (status, starts) == (0, 9), said
  assert said.count('again in 0.01 s') == 8


def test_interruptions_have_a_limit_too(tmp_path):
  assert run_launcher(tmp_path, 'kill -15 $$', '--interruptions', '3')[:2] == (143, 4)


def test_pauses_have_a_ceiling(tmp_path):
  _, starts, said = run_launcher(tmp_path, 'exit 1', '--restarts', '6', '--longest_pause', '0.05')
  assert starts == 7 and re.findall(r'again in (\S+) s', said) == ['0.02', '0.04'] + ['0.05'] * 4


def test_a_program_that_cannot_be_imported_is_tried_once(tmp_path):
  """The program's packages are hidden by a module of their name that fails."""
  shutil.copy(LAUNCH / 'run.py', tmp_path)
  (tmp_path / 'exp_jax.py').write_text('raise ImportError("nothing here")')
  environment = {name: value for name, value in os.environ.items() if name != 'EXP_JAX_PROGRAM'} | {
    'PYTHONPATH': str(tmp_path)
  }
  done = subprocess.run(
    [sys.executable, tmp_path / 'run.py', '--', '--workdir=a'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    env=environment,
    timeout=60,
  )
  assert (
    done.returncode == 2
    and done.stderr.count('\n') == 1
    and 'nothing here' in done.stderr
    and 'Traceback' not in done.stderr
  )


def test_two_processes_of_one_machine_listen_on_it_alone(tmp_path):
  status, _, said = run_launcher(
    tmp_path, 'echo "$EXP_JAX_BIND $EXP_JAX_COORDINATOR" >&2; exit 0', '--local', '2'
  )
  assert (
    status == 0 and len(re.findall(r'^127\.0\.0\.1 127\.0\.0\.1:\d+$', said, re.MULTILINE)) == 2
  ), said
