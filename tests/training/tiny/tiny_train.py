"""`python -m exp_jax.train` that also knows tiny_task.py, and notes the digest of every state it
saves and restores."""

import hashlib
import os
import pathlib
import sys
import time

import jax
import numpy as np
from absl import app

from exp_jax.catalog import tasks
from exp_jax.commands import train
from exp_jax.commands.command_line import parse_with_config
from exp_jax.errors import exits_cleanly
from exp_jax.training import loop
from exp_jax.training.checkpoints import Checkpoints

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tiny_task  # noqa: E402

tasks.TASKS['tiny'] = tiny_task


def digest(state):
  value = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    value.update(
      f'{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}'.encode()
      + np.asarray(leaf).tobytes()
    )
  return value.hexdigest()[:16]


def noted(method, kind):
  def wrapped(self, step, state, *more):
    out = method(self, step, state, *more) if kind == 'restored' else None
    with open(self.directory.parent / 'digests.txt', 'a') as file:
      file.write(f'{kind} {step} {digest(out[0] if kind == "restored" else state)}\n')
    return out if kind == 'restored' else method(self, step, state, *more)

  return wrapped


def stuck_once(jit_step, step, process, sign):
  """The step function, which sleeps for an hour before `step` in one process, unless the file
  `sign` is there already."""

  def wrapped(*args):
    compiled, count = jit_step(*args), [0]

    def run(state, *more):
      count[0] += 1
      if count[0] == int(step) and jax.process_index() == int(process) and not os.path.exists(sign):
        pathlib.Path(sign).touch()
        time.sleep(3600)
      return compiled(state, *more)

    return run

  return wrapped


if 'TINY_STUCK' in os.environ:
  loop.jit_step = stuck_once(loop.jit_step, *os.environ['TINY_STUCK'].split(','))
if 'TINY_DIGESTS' in os.environ:
  Checkpoints.save, Checkpoints.restore = (
    noted(Checkpoints.save, 'saved'),
    noted(Checkpoints.restore, 'restored'),
  )

if __name__ == '__main__':
  app.run(train.main, flags_parser=exits_cleanly(parse_with_config))
