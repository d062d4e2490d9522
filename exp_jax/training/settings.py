"""What the engine reads of a config, with the meaning, range and default of every number."""

import dataclasses

from exp_jax.errors import UserError

MOMENTS = ('float32', 'bfloat16', 'factored')
OPTIMIZERS = ('adamw', 'muon')


@dataclasses.dataclass(frozen=True)
class Settings:
  """The engine's part of a config; keys that a config lacks have the defaults below.

  Raises (in `settings_of`) UserError for a value out of range.
  """

  seed: int
  mesh: tuple  # ordered (axis, size) pairs; -1 once: all devices left
  param_sharding: tuple  # (pattern, spec) pairs, first match wins; see sharding.py
  total_steps: int
  batch_size: int  # global, over all hosts and accumulated parts
  optimizer: dict  # see optimizers.optimizer_of
  log_every: int
  save_every: int
  eval_every: int
  keep: int = 2  # newest sound checkpoints on disk
  accumulate: int = 1  # parts of a batch computed one after the other
  compute_dtype: str = 'float32'  # kernels are cast to it once per step; masters stay float32
  frozen_dtype: str = 'float32'  # of parameters that are not trained
  eval_batches: int = 4  # held-out batches per evaluation, always the same
  skip_norm: float = (
    0.0  # an update with a larger gradient norm is skipped; 0: only non-finite ones
  )
  skip_limit: int = 10  # so many skipped updates in a row end the run with status 3
  save_failures: int = 0  # failed saves in a row that the run survives
  bad_records: float = 0.05  # share of records that may be damaged before the run stops
  data_threads: int = 2  # that read and decode, per host or per worker process
  data_workers: int = 0  # reader processes per host; 0: threads only
  batch_timeout: float = 300.0  # seconds until a batch that does not come ends the process
  step_timeout: float = (
    600.0  # seconds without a finished step until the process prints its stacks and ends
  )
  start_timeout: float = 3600.0  # the same for restoring, compiling, evaluating and saving
  heartbeat: int = 60  # seconds until a host that died is noticed by the others
  peak_tflops: float = 0.0  # of one device at the compute type, for MFU; 0: looked up by name
  data_changed_ok: bool = False  # resume although the records are not those of the checkpoint
  tensorboard: bool = False  # event files in WORKDIR/tensorboard; needs tensorboardX
  wandb: str = ''  # project name; needs wandb


_AT_LEAST = dict(
  total_steps=1,
  batch_size=1,
  log_every=1,
  save_every=1,
  eval_every=1,
  keep=1,
  accumulate=1,
  eval_batches=1,
  skip_norm=0,
  skip_limit=1,
  save_failures=0,
  bad_records=0,
  data_threads=1,
  data_workers=0,
  batch_timeout=0.01,
  step_timeout=0.01,
  start_timeout=0.01,
  heartbeat=1,
  peak_tflops=0,
)


def settings_of(config) -> Settings:
  """The engine's part of a ConfigDict (or dict)."""
  names = [field.name for field in dataclasses.fields(Settings)]
  settings = Settings(**{name: config[name] for name in names if name in config})
  for name, least in _AT_LEAST.items():
    value = getattr(settings, name)
    if not value >= least:
      raise UserError(f'config.{name} must be at least {least}, got {value}')
  for name in ('compute_dtype', 'frozen_dtype'):
    if getattr(settings, name) not in ('float32', 'bfloat16'):
      raise UserError(
        f"config.{name} must be 'float32' or 'bfloat16', got {getattr(settings, name)!r}"
      )
  if settings.batch_size % settings.accumulate:
    raise UserError(
      f'config.batch_size {settings.batch_size} does not divide by config.accumulate '
      f'{settings.accumulate}'
    )
  kind = settings.optimizer.get('kind', 'adamw')
  if kind not in OPTIMIZERS:
    raise UserError(f'config.optimizer.kind must be one of {OPTIMIZERS}, got {kind!r}')
  moments, known = settings.optimizer.get('moments', 'float32'), moments_of(kind)
  if moments not in known:
    raise UserError(
      f"config.optimizer.moments must be one of {known} where config.optimizer.kind is '{kind}', "
      f'got {moments!r}'
    )
  return settings


def moments_of(kind: str) -> tuple[str, ...]:
  """The choices of `optimizer.moments` of an optimizer, the largest in memory first."""
  return MOMENTS[:2] if kind == 'muon' else MOMENTS
