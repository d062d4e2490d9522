"""Starting training processes, waiting for their steps, and comparing what they left."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np

from exp_jax.training.exports import read_arrays

ROOT = pathlib.Path(__file__).parents[2]
TINY = ROOT / 'tests' / 'training' / 'tiny'


def tiny(name):
  """A module of the folder tiny/, which is no package: its files are programs of their own."""
  spec = importlib.util.spec_from_file_location(name, TINY / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def start(workdir, *more, program=None, devices=1, **environment):
  """A training process of its own session, so that its whole group can be counted afterwards."""
  command = program or [
    sys.executable,
    TINY / 'tiny_train.py',
    f'--config={TINY / "tiny_config.py"}',
  ]
  environment = (
    os.environ
    | {
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': str(workdir.parents[1] / 'compiled'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
      'PYTHONPATH': str(ROOT),
      'TINY_DIGESTS': '1',
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    }
    | {k: str(v) for k, v in environment.items()}
  )
  return subprocess.Popen(
    [*map(str, command), f'--workdir={workdir}', *more],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=environment,
    start_new_session=True,
  )


def end(process, seconds=120):
  """(status, standard output, standard error) of a process that ends by itself, with nothing of its
  group left."""
  out, err = process.communicate(timeout=seconds)
  for _ in range(50):
    if not group(process):
      break
    time.sleep(0.1)
  assert not group(process), f'left behind: {group(process)}'
  return process.returncode, out, err


def group(process):
  """Ids of the processes of a session's group that are alive."""
  found = []
  for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      state, _, of_group = stat.read_text().rpartition(')')[2].split()[:3]
    except OSError:
      continue
    if int(of_group) == process.pid and state != 'Z':
      found.append(int(stat.parent.name))
  return found


def records(workdir, kind='train'):
  path = workdir / 'metrics.jsonl'
  found = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      found.append(json.loads(line))
    except ValueError:
      pass
  return [r for r in found if r['kind'] == kind]


def wait_for_step(process, workdir, step, seconds=120):
  """Returns when `step` is in the log."""
  until = time.time() + seconds
  while not any(r['step'] >= step for r in records(workdir)):
    assert process.poll() is None and time.time() < until, process.communicate()
    time.sleep(0.02)


def kill(process):
  os.killpg(process.pid, signal.SIGKILL)
  process.communicate()


def losses(workdir):
  """step -> every value that two runs must share; of a step done twice, the last."""
  timing = {'time', 'step_seconds', 'data_seconds', 'compile_seconds', 'tflops_per_device'}
  return {r['step']: {k: v for k, v in r.items() if k not in timing} for r in records(workdir)}


def restored(workdir, step):
  """(state as numpy arrays, data state)."""
  folder = workdir / 'checkpoints' / f'{step:08d}'
  return jax.tree.map(np.asarray, read_arrays(folder / 'state')), json.loads(
    (folder / 'data.json').read_text()
  )


def assert_same_bits(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
    assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), jax.tree_util.keystr(
      path
    )
