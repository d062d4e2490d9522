"""Trains one task, or goes on where the last run in the same folder stopped.

  python -m exp_jax.train --config=configs/dit_a800.py:smoke --workdir=out/smoke [--config.seed=1]

Exit status: 0 finished (also if it was finished before), 2 bad input, 75 stopped by SIGTERM with everything
saved: run the same command again. WORKDIR gets config.json, metrics.jsonl and checkpoints/.
"""

import difflib
import importlib
import os
import pathlib
import re
import runpy
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from exp_jax.errors import UserError, exits_cleanly

TASKS = {  # task name -> module with task(config) -> Task and examples(config) -> (source, transform)
  'expportrait/dit': 'exp_jax.systems.expportrait.dit_task',
  'expportrait/vae': 'exp_jax.systems.expportrait.vae_task',
  'expportrait/transfer': 'exp_jax.systems.expportrait.transfer_task',
}
STOPPED = 75  # EX_TEMPFAIL of sysexits.h

_CONFIG = config_flags.DEFINE_config_file('config', None, 'FILE.py[:mode]', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'where checkpoints and metrics go')


def keys_of(config, prefix=''):
  """Dotted names of all entries of a ConfigDict, sections included."""
  for key, value in config.items():
    yield prefix + key
    if hasattr(value, 'items'):
      yield from keys_of(value, f'{prefix}{key}.')


def parse(argv):
  """Flags, with every mistake turned into one sentence before any device is touched."""
  named = next((a.split('=', 1)[1] for a in argv if a.startswith('--config=')), None)
  if named is None and not any(a.startswith('--help') for a in argv):
    raise UserError('say which config: --config=configs/dit_a800.py:smoke')
  if named is not None:
    file, _, mode = named.partition(':')
    if not os.path.isfile(file):
      raise UserError(f'there is no config file {file}')
    try:
      known = sorted(keys_of(runpy.run_path(file)['get_config'](*[mode] if mode else [])))
    except (ValueError, KeyError) as error:
      raise UserError(f'{file}: {error}') from error
    for key in re.findall(r'^--config\.([^=]+)', '\n'.join(argv), re.MULTILINE):
      if key not in known:
        near = difflib.get_close_matches(key, known, 1, 0.5)
        near = f', did you mean {near[0]!r}?' if near else f'; it has {", ".join(known)}'
        raise UserError(f'{file} has no key {key!r}{near}')
  try:
    return flags.FLAGS(argv)
  except (flags.Error, TypeError, ValueError, AttributeError, KeyError) as error:
    raise UserError(f'bad command line: {str(error).splitlines()[0]}') from error


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
  if 'EXP_JAX_PROCESSES' in os.environ:                # set by launch/; Slurm is found by JAX itself
    jax.distributed.initialize(os.environ['EXP_JAX_COORDINATOR'],
                               int(os.environ['EXP_JAX_PROCESSES']),
                               int(os.environ['EXP_JAX_PROCESS']))
  elif 'SLURM_NTASKS' in os.environ and int(os.environ['SLURM_NTASKS']) > 1:
    jax.distributed.initialize()
  process, processes = jax.process_index(), jax.process_count()
  if config.batch_size % jax.device_count():
    raise UserError(f'batch_size {config.batch_size} does not divide by {jax.device_count()} devices')
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
  app.run(main, flags_parser=exits_cleanly(parse))
