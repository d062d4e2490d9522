"""Trains one task, or goes on where the last run in the same folder stopped.

  python -m exp_jax.train --config=configs/dit_a800.py:smoke --workdir=out/smoke [--config.seed=1]

Exit status: 0 finished (also if it was finished before), 2 bad input, 75 stopped by SIGTERM with
everything
saved: run the same command again. WORKDIR gets config.json, metrics.jsonl and checkpoints/.
"""

import importlib
import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from exp_jax.command_line import parse_with_config
from exp_jax.errors import UserError, exits_cleanly

# Each module has task(config) -> Task and examples(config) -> (source, transform).
TASKS = {
  'expportrait/dit': 'exp_jax.systems.expportrait.dit_task',
  'expportrait/vae': 'exp_jax.systems.expportrait.vae_task',
  'expportrait/transfer': 'exp_jax.systems.expportrait.transfer_task',
}
STOPPED = 75  # EX_TEMPFAIL of sysexits.h

_CONFIG = config_flags.DEFINE_config_file('config', None, 'FILE.py[:mode]', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'where checkpoints and metrics go')


def load_task(config):
  """(module, Task) named by `config.task`."""
  if config.task not in TASKS:
    raise UserError(f'unknown task {config.task!r}, choose from {sorted(TASKS)}')
  module = importlib.import_module(TASKS[config.task])
  return module, module.task(config)


@exits_cleanly
def main(argv):
  del argv
  import jax

  from exp_jax.data.loader import batches_from
  from exp_jax.training import checkpoints, exports, integrity, loop, metrics_log
  logging.set_verbosity(logging.WARNING)               # Orbax tells its every step otherwise
  config = _CONFIG.value
  if not _WORKDIR.value:
    raise UserError('say where to work: --workdir=out/run')
  workdir = pathlib.Path(_WORKDIR.value)
  if 'EXP_JAX_PROCESSES' in os.environ:            # set by launch/; Slurm is found by JAX itself
    jax.distributed.initialize(os.environ['EXP_JAX_COORDINATOR'],
                               int(os.environ['EXP_JAX_PROCESSES']),
                               int(os.environ['EXP_JAX_PROCESS']))
  elif 'SLURM_NTASKS' in os.environ and int(os.environ['SLURM_NTASKS']) > 1:
    jax.distributed.initialize()
  process, processes = jax.process_index(), jax.process_count()
  if config.batch_size % jax.device_count():
    raise UserError(f'batch_size {config.batch_size} does not divide by '
                    f'{jax.device_count()} devices')
  module, task = load_task(config)
  source, transform = module.examples(config)
  open_batches = batches_from(source, transform, batch_size=config.batch_size // processes,
                              seed=config.seed, process=process, processes=processes)
  saved = checkpoints.Checkpoints(workdir / 'checkpoints', keep=config.keep)
  if saved.steps() and saved.steps()[-1] >= config.total_steps:
    print(f'{workdir} is finished: step {saved.steps()[-1]} of {config.total_steps}')
    return 0
  workdir.mkdir(parents=True, exist_ok=True)
  if process == 0:
    integrity.write_atomically(workdir / 'config.json', exports.config_to_json(config))
  log = metrics_log.MetricsLog(workdir / 'metrics.jsonl', config.total_steps, quiet=process > 0)
  state, complete = loop.train(config, task, open_batches, saved, log.write)
  if not complete:
    print(f'stopped by SIGTERM, saved at step {int(state.step)}: run the same command again',
          file=sys.stderr)
    return STOPPED
  print(f'finished: {workdir} at step {config.total_steps}')
  return 0


if __name__ == '__main__':
  app.run(main, flags_parser=exits_cleanly(parse_with_config))
