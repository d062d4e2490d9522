"""Restarts are exact: a run killed in the middle ends with the very bits of one that was not."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


def start(workdir, *more):
  command = [sys.executable, '-m', 'exp_jax.train', '--config=configs/dit_a800.py:smoke',
             f'--workdir={workdir}', *more]
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu', 'JAX_COMPILATION_CACHE_DIR': str(workdir.parent / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1'}
  return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env=environment)


def logged(workdir):
  path = workdir / 'metrics.jsonl'
  if not path.exists():
    return []
  records = []
  for line in path.read_text().splitlines():
    try:
      records.append(json.loads(line))
    except ValueError:
      pass
  return [r for r in records if r['kind'] == 'train']


def wait_for_step(process, workdir, step, seconds=120):
  end = time.time() + seconds
  while not any(r['step'] >= step for r in logged(workdir)):
    assert process.poll() is None and time.time() < end, process.communicate()
    time.sleep(0.02)


def final_state(workdir):
  import orbax.checkpoint as ocp
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(workdir / 'checkpoints' / '00000160' / 'state')


def test_killed_and_stopped_runs_end_with_the_same_bits(tmp_path):
  long = ('--config.total_steps=160', '--config.save_every=40')   # room between a signal and the end
  whole = start(tmp_path / 'whole', *long)
  broken = start(tmp_path / 'broken', *long)
  wait_for_step(broken, tmp_path / 'broken', 50)
  broken.send_signal(signal.SIGKILL)
  broken.communicate()
  assert max(r['step'] for r in logged(tmp_path / 'broken')) < 160
  assert whole.wait() == 0, whole.communicate()

  again = start(tmp_path / 'broken', *long)
  wait_for_step(again, tmp_path / 'broken', 85)
  again.send_signal(signal.SIGTERM)
  out, err = again.communicate()
  assert again.returncode == 75, err
  assert 'saved at step' in err

  last = start(tmp_path / 'broken', *long)
  out, err = last.communicate()
  assert last.returncode == 0, err
  a, b = final_state(tmp_path / 'whole'), final_state(tmp_path / 'broken')
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    np.testing.assert_array_equal(np.asarray(x).view(np.uint8) if x.ndim else x,
                                  np.asarray(y).view(np.uint8) if y.ndim else y)
  steps = [r['step'] for r in logged(tmp_path / 'broken')]
  assert set(steps) == set(range(1, 161)) and len(steps) > 160          # some were done twice

  finished = start(tmp_path / 'broken', *long)
  out, _ = finished.communicate()
  assert finished.returncode == 0 and 'is finished' in out


@pytest.mark.parametrize('arguments, words', [
  (('--config.model.varient=tiny',), "did you mean 'model.variant'"),
  (('--config.total_steps=many',), 'bad command line'),
  (('--config.task=expportrait/dot',), 'unknown task'),
  (('--config.batch_size=2', '--config.data.name=clips'), 'unknown data source')])
def test_bad_command_lines_are_one_sentence(tmp_path, arguments, words):
  process = start(tmp_path / 'run', *arguments)
  _, err = process.communicate()
  assert process.returncode == 2 and words in err, err
  assert len([line for line in err.splitlines() if line.startswith('error:')]) == 1
  assert 'Traceback' not in err and not (tmp_path / 'run').exists()
