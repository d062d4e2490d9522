"""The tasks that `exp_jax.train` trains, by name.

A task's module has `task(config) -> Task`, `examples(config) -> (source, transform)` and, where
part of the data is held out, `held_out(config) -> (source, transform) or None`; where an export
carries more than parameters, `export_files(config)`.
"""

import types

from exp_jax.errors import UserError
from exp_jax.estimator import task as face_maps_task
from exp_jax.prior import task as prior_task
from exp_jax.systems.expportrait.generator import dit_task, vae_task
from exp_jax.systems.expportrait.retouch import task as retouch_task
from exp_jax.systems.expportrait.transfer import transfer_task
from exp_jax.systems.liveportrait.training import speech_task, stage_one, stage_two
from exp_jax.systems.loki import task as loki_task
from exp_jax.systems.magicportrait import task as magicportrait_task
from exp_jax.training.task import Task

TASKS = {
  'expportrait/dit': dit_task,
  'expportrait/vae': vae_task,
  'expportrait/transfer': transfer_task,
  'expportrait/retouch': retouch_task,
  'estimator/face_maps': face_maps_task,
  'sd/prior': prior_task,
  'liveportrait/stage1': stage_one,
  'liveportrait/stage2': stage_two,
  'liveportrait/speech': speech_task,
  'loki': loki_task,
  'magicportrait/stage1': magicportrait_task,
  'magicportrait/stage2': magicportrait_task,
}


def load_task(config) -> tuple[types.ModuleType, Task]:
  """The module and the task that `config.task` names.

  Raises:
    UserError: there is no task of that name; lists those there are.
  """
  if config.task not in TASKS:
    raise UserError(f'unknown task {config.task!r}, choose from {sorted(TASKS)}')
  module = TASKS[config.task]
  return module, module.task(config)
