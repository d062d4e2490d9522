"""Joining the other hosts of a run, before JAX is used for anything else.

  EXP_JAX_PROCESSES, EXP_JAX_PROCESS, EXP_JAX_COORDINATOR   set by launch/: explicit
  SLURM_NTASKS > 1, or EXP_JAX_HOSTS=auto                    found by JAX: Slurm, Open MPI, TPU pods
"""

import os

import jax

from exp_jax.errors import UserError

_EXPLICIT = ('EXP_JAX_PROCESSES', 'EXP_JAX_PROCESS', 'EXP_JAX_COORDINATOR')


def join(heartbeat: int) -> None:
  """Connects to the coordinator if the environment names one; a host that dies is noticed within `heartbeat` seconds.

  Raises:
    UserError: if the environment is incomplete.
  """
  times = dict(heartbeat_timeout_seconds=heartbeat, shutdown_timeout_seconds=60)
  if 'EXP_JAX_PROCESSES' in os.environ:
    missing = [name for name in _EXPLICIT if name not in os.environ]
    if missing:
      raise UserError(f'the environment has EXP_JAX_PROCESSES but not {", ".join(missing)}; see launch/')
    if int(os.environ['EXP_JAX_PROCESSES']) > 1:
      jax.distributed.initialize(os.environ['EXP_JAX_COORDINATOR'], int(os.environ['EXP_JAX_PROCESSES']),
                                 int(os.environ['EXP_JAX_PROCESS']), **times)
  elif os.environ.get('EXP_JAX_HOSTS') == 'auto' or int(os.environ.get('SLURM_NTASKS', '1')) > 1:
    jax.distributed.initialize(**times)
