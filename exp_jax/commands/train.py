"""Trains one task, or goes on where the last run in the same folder stopped.

  python -m exp_jax.train --config=configs/dit_a800.py:smoke --workdir=out/smoke [--config.seed=1]
  python -m exp_jax.train --config=configs/dit_a800.py --dry_run [--devices=32 --memory_gb=80 --mfu=0.4]

WORKDIR gets config.json, metrics.jsonl, checkpoints/, samples/ and, if asked for, tensorboard/.
Exit status:

  0    finished (also if it was finished before)
  2    bad input, or every checkpoint is damaged: a person must look
  3    too many updates in a row were not finite: a person must look
  74   a checkpoint could not be written: make room, then run the same command again
  75   told to stop and everything saved, or stuck and ended by the watchdog: run the same command again
  130  Ctrl-C, everything saved; 130 or 143 with a second signal: ended at once, the last checkpoint
  counts

Scripts in launch/ start this on many hosts and run it again after 75 or a crash.
"""

import os
import pathlib
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from exp_jax.commands.command_line import parse_with_config
from exp_jax.errors import UserError, exits_cleanly, one_line

NOT_FINITE, NOT_SAVED = 3, 74  # 74: EX_IOERR of sysexits.h

_CONFIG = config_flags.DEFINE_config_file('config', None, 'FILE.py[:mode]', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'where checkpoints and metrics go')
_DRY_RUN = flags.DEFINE_boolean('dry_run', False, 'print what the run would need, train nothing')
_DEVICES = flags.DEFINE_string(
  'devices', '', "of a dry run: a number, or a TPU topology as 'v5p:4x4x4' (needs libtpu)"
)
_MEMORY = flags.DEFINE_float(
  'memory_gb', 0.0, 'of a dry run: memory of one device, GB; 0: by the name of the device'
)
_MFU = flags.DEFINE_float('mfu', 0.4, 'of a dry run: the utilisation to assume')


def _only_run_in(workdir: pathlib.Path):
  """An open, locked file: a second run in the same folder is refused; the lock ends with the
  process."""
  from exp_jax.files.locks import try_lock

  lock = open(workdir / '.lock', 'w')
  locked = try_lock(lock.fileno())
  if locked is False:
    raise UserError(f'another run works in {workdir}: wait for it, or choose another --workdir')
  if locked is None:
    print(
      f'warning: the file system of {workdir} has no locks: do not start a second run in it',
      file=sys.stderr,
      flush=True,
    )
  return lock


def _spent(spent: dict, duration) -> str:
  """Goodput in words; `duration`: seconds -> words."""
  share, starts = 100 * spent['goodput'], spent['restarts'] + 1
  return f'goodput {share:.1f} % of {duration(spent["total"])} in {starts} starts'


def _run(config, workdir: pathlib.Path) -> int:
  import jax

  from exp_jax.catalog.tasks import load_task
  from exp_jax.data.loader import batches_from
  from exp_jax.files import atomic
  from exp_jax.media import images, video
  from exp_jax.training import checkpoints, exports, hosts, loop, metrics_log, plan, sharding
  from exp_jax.training.settings import settings_of

  settings = settings_of(config)
  hosts.join(settings.heartbeat)
  first_process = jax.process_index() == 0
  first, last = sharding.own_rows(
    sharding.make_mesh(settings.mesh), settings.batch_size, settings.accumulate
  )
  module, task = load_task(config)

  def opener(source, transform, seed):
    return batches_from(
      source,
      transform,
      batch_size=settings.batch_size,
      seed=seed,
      first=first,
      last=last,
      threads=settings.data_threads,
      workers=settings.data_workers,
      timeout=settings.batch_timeout,
      bad_records=settings.bad_records,
      changed_ok=settings.data_changed_ok,
    )

  open_batches = opener(*module.examples(config), settings.seed)
  held_out = getattr(module, 'held_out', lambda config: None)(config)
  saved = checkpoints.Checkpoints(workdir / 'checkpoints', keep=settings.keep)
  last_step = saved.steps()[-1] if saved.steps() else -1
  if last_step >= settings.total_steps and saved.latest_verified() == last_step:
    print(f'{workdir} is finished: step {last_step} of {settings.total_steps}')
    return 0
  workdir.mkdir(parents=True, exist_ok=True)
  lock = _only_run_in(workdir) if first_process else None
  eight_bit = lambda x: (x * 255 + 0.5).astype('uint8')
  if first_process:
    atomic.write_text(workdir / 'config.json', exports.config_to_json(config))
  log = metrics_log.MetricsLog(
    workdir,
    settings.total_steps,
    devices=jax.device_count(),
    flops=plan.model_flops(load_task(plan.countable(config))[1]) if first_process else 0.0,
    peak=settings.peak_tflops or metrics_log.peak_of(jax.devices()[0].device_kind),
    quiet=not first_process,
    tensorboard=settings.tensorboard,
    wandb=settings.wandb,
    draw={
      'picture': lambda path, x: images.write_image(path.with_suffix('.png'), eight_bit(x)),
      'clip': lambda path, x: video.write_video(path.with_suffix('.mp4'), eight_bit(x), 12),
    },
  )
  state, stopped = loop.train(
    config,
    task,
    open_batches,
    saved,
    log,
    open_held_out=opener(*held_out, settings.seed + 1) if held_out else None,
    warn=lambda words: print(one_line(words), file=sys.stderr, flush=True),
  )
  if first_process:
    words = _spent(log.goodput(), metrics_log.duration)
    print(
      f'stopped and saved at step {int(state.step)}: run the same command again; {words}'
      if stopped
      else f'finished: {workdir} at step {settings.total_steps}; {words}',
      file=sys.stderr if stopped else sys.stdout,
    )
    lock.close()
  log.close()
  return stopped or 0


@exits_cleanly
def main(argv):
  del argv
  logging.set_verbosity(logging.WARNING)  # Orbax tells its every step otherwise
  if _DRY_RUN.value:
    from exp_jax.catalog.tasks import load_task
    from exp_jax.layers.attention import ahead_of_time
    from exp_jax.training import plan

    return plan.dry_run(
      _CONFIG.value,
      load_task,
      ahead_of_time,
      devices=_DEVICES.value,
      memory_gb=_MEMORY.value,
      mfu=_MFU.value,
    )
  if not _WORKDIR.value:
    raise UserError('say where to work: --workdir=out/run')
  from exp_jax.data.loader import DataStalled
  from exp_jax.training.checkpoints import SaveFailed
  from exp_jax.training.loop import NotFinite
  from exp_jax.training.watchdog import TRY_AGAIN, end_now, print_stacks

  try:
    return _run(_CONFIG.value, pathlib.Path(_WORKDIR.value))
  except DataStalled as error:
    print_stacks()
    status, words = TRY_AGAIN, f'error: {error}'
  except NotFinite as error:
    status, words = NOT_FINITE, f'error: {error}'
  except SaveFailed as error:
    status, words = NOT_SAVED, f'error: {error}'
  except UserError as error:
    status, words = 2, f'error: {one_line(error)}'
  except Exception as error:
    if 'EXP_JAX_PROCESSES' not in os.environ and 'SLURM_NTASKS' not in os.environ:
      raise
    status, words = 1, f'error: {error}\n{traceback.format_exc()}'
  print(words, file=sys.stderr, flush=True)
  end_now(status)  # without the wait for other hosts, or for threads that hang


if __name__ == '__main__':
  app.run(main, flags_parser=exits_cleanly(parse_with_config))
