"""The training loop: straight-line, restartable bit for bit, ignorant of what it trains."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from exp_jax.errors import UserError
from exp_jax.training.checkpoints import Checkpoints, SaveFailed
from exp_jax.training.optimizers import optimizer_of
from exp_jax.training.settings import Settings, settings_of
from exp_jax.training.sharding import infer_shardings, make_mesh, over_examples
from exp_jax.training.state import TrainState, init_state, merge, split, train_step
from exp_jax.training.task import Task
from exp_jax.training.termination import Termination
from exp_jax.training.watchdog import Watchdog


class NotFinite(Exception):
  """Too many updates in a row were skipped. Parameters are those of the last good one."""


def init_fn_of(settings: Settings, task: Task) -> Callable:
  """rng -> (TrainState, frozen parameters)."""
  return functools.partial(
    init_state,
    init_fn=task.init_fn,
    trainable=task.trainable,
    frozen_dtype=settings.frozen_dtype,
    tx=optimizer_of(settings.optimizer, settings.total_steps),
  )


def step_fn_of(settings: Settings, task: Task) -> Callable:
  """(state, frozen, batch, rng, stop) -> (state, metrics)."""
  return functools.partial(
    train_step,
    loss_fn=task.loss_fn,
    tx=optimizer_of(settings.optimizer, settings.total_steps),
    ema_decay=settings.optimizer['ema_decay'],
    accumulate=settings.accumulate,
    compute_dtype=settings.compute_dtype,
    skip_norm=settings.skip_norm,
    held=task.held,
  )


def abstract_state(config, task: Task, mesh) -> tuple[TrainState, dict]:
  """(state, frozen parameters) as ShapeDtypeStructs with shardings: nothing is made."""
  settings = config if isinstance(config, Settings) else settings_of(config)
  shapes = jax.eval_shape(init_fn_of(settings, task), jax.random.key(0))
  return tuple(
    jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      part,
      infer_shardings(part, settings.param_sharding, mesh),
    )
    for part in shapes
  )


def jit_step(settings: Settings, task: Task, mesh, state, frozen):
  """The compiled-to-be step, in the shardings of `state` and `frozen`; the state is donated."""
  shardings, frozen_shardings = jax.tree.map(lambda x: x.sharding, (state, frozen))
  replicated = NamedSharding(mesh, P())
  return jax.jit(
    step_fn_of(settings, task),
    donate_argnums=0,
    out_shardings=(shardings, replicated),
    in_shardings=(
      shardings,
      frozen_shardings,
      over_examples(mesh),
      replicated,
      NamedSharding(mesh, P(mesh.axis_names)),
    ),
  )


def started(params: dict, values: dict, prefix: str = '') -> dict:
  """`params` (sharded arrays) with `values` in place of those at the same paths, in their types and
  shardings.

  Raises:
    UserError: for a path that is not there, or another shape.
  """
  out = dict(params)
  for key, value in values.items():
    if key not in params:
      raise UserError(
        f'the weights to start from hold {prefix + key!r}, which this network has not: it has '
        f'{", ".join(sorted(params)[:8])}'
      )
    old = params[key]
    if (
      isinstance(value, dict) != isinstance(old, dict)
      or not isinstance(value, dict)
      and value.shape != old.shape
    ):
      raise UserError(
        f'the weights to start from do not fit at {prefix + key!r}: '
        f'{getattr(value, "shape", "a group")} for '
        f'{getattr(old, "shape", "a group")}'
      )
    out[key] = (
      started(old, value, f'{prefix}{key}/')
      if isinstance(value, dict)
      else jax.make_array_from_callback(
        old.shape,
        old.sharding,
        lambda index, value=value, old=old: np.asarray(value[index], old.dtype),
      )
    )
  return out


def _start(settings, task, checkpoints, like):
  """(first step, state, frozen, data state): from the newest verified checkpoint, else from
  nothing."""
  checkpoints.directory.mkdir(parents=True, exist_ok=True)
  checkpoints.clear_unfinished()
  latest = checkpoints.latest_verified()
  if latest is None:
    init = jax.jit(
      init_fn_of(settings, task), out_shardings=jax.tree.map(lambda x: x.sharding, like)
    )
    state, frozen = init(jax.random.split(jax.random.key(settings.seed), 3)[0])
    if task.start is not None:
      trained, kept = split(started(merge(state.params, frozen), task.start()), task.trainable)
      state, frozen = state.replace(params=trained, ema=jax.tree.map(jnp.copy, trained)), kept
    if frozen:
      checkpoints.save_frozen(frozen)
    return 0, state, frozen, None
  frozen = checkpoints.restore_frozen(like[1]) if like[1] else {}
  state, data_state = checkpoints.restore(latest, like[0])
  return latest, state, frozen, data_state


class _Saves:
  """Saves that the run survives, `allowed` failures in a row."""

  def __init__(self, checkpoints: Checkpoints, allowed: int, warn: Callable):
    self.checkpoints, self.allowed, self.warn = checkpoints, allowed, warn
    self.failed, self.newest = 0, max(checkpoints.steps(), default=0)

  def __call__(self, action: Callable, *args) -> None:
    try:
      action(*args)
    except SaveFailed as error:
      self.failed += 1
      if self.failed > self.allowed:
        raise
      self.warn(
        f'warning: {error}; the run goes on ({self.failed} of {self.allowed} failures allowed)'
      )

  def save(self, step, state, data_state) -> None:
    self(self.checkpoints.wait)
    newest = max(self.checkpoints.steps(), default=0)
    if newest > self.newest:
      self.failed, self.newest = 0, newest
    self(self.checkpoints.save, step, state, data_state)


def evaluate(eval_fns, batches: Iterator, keys, over_batch) -> dict[str, dict]:
  """name -> metrics of functions (batch, key) -> dict: scalars as means over the batches (one per
  key), pictures and clips of the first batch. Closes the batches."""
  sums: dict = {name: {} for name, _ in eval_fns}
  for i, key in enumerate(keys):
    batch = {
      k: jax.make_array_from_process_local_data(over_batch, v) for k, v in next(batches).items()
    }
    for name, fn in eval_fns:
      for metric, value in jax.device_get(fn(batch, key)).items():
        if np.ndim(value) == 0:
          sums[name][metric] = sums[name].get(metric, 0.0) + float(value) / len(keys)
        elif i == 0:
          sums[name][metric] = np.asarray(value)
  batches.close()
  return sums


def _programs(settings, task: Task, mesh, like):
  """(the step, [(name, evaluation)], key of the steps, keys of the evaluations), jitted for a
  mesh."""
  eval_fns = [
    (
      name,
      jax.jit(lambda trained, frozen, batch, key, fn=fn: fn(merge(trained, frozen), batch, key)),
    )
    for name, fn in task.eval_fns
  ]
  # of all hosts, as the mesh is
  _, rng_loop, rng_eval = jax.random.split(jax.random.key(settings.seed), 3)
  rng_loop = jax.device_put(rng_loop, NamedSharding(mesh, P()))
  return (
    jit_step(settings, task, mesh, *like),
    eval_fns,
    rng_loop,
    list(jax.random.split(rng_eval, settings.eval_batches)),
  )


def _stop_flag(mesh) -> Callable[[bool], jax.Array]:
  """Whether this host was told to stop -> an array over all devices of all hosts."""
  flags = NamedSharding(mesh, P(mesh.axis_names))
  own_devices = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
  return lambda told: jax.make_array_from_process_local_data(
    flags, np.full(own_devices, int(told), np.int32)
  )


def _wait_for_all_hosts() -> None:
  """Returns when every host has come here."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices('the run has ended')


class _Lateness:
  """The newest step's metrics, fetched one step late, so that the device never waits for the host;
  and the seconds logged with them."""

  def __init__(self, settings, log, warn: Callable, first: int):
    self.settings, self.log, self.warn, self.first = settings, log, warn, first
    self.newest, self.waited, self.since, self.logged, self.compiling = (
      None,
      0.0,
      time.perf_counter(),
      first,
      0.0,
    )

  def waited_for(self, batches: Iterator) -> dict:
    """The next batch; what it takes counts as waiting for data."""
    asked = time.perf_counter()
    batch = next(batches)
    self.waited += time.perf_counter() - asked
    return batch

  @contextlib.contextmanager
  def dispatching(self, *, compiles: bool):
    """Round the call of a step; the first one compiles, which is logged apart."""
    started = time.perf_counter()
    yield
    if compiles:
      self.compiling = time.perf_counter() - started
      self.since += self.compiling

  @contextlib.contextmanager
  def pausing(self):
    """Round what is no step; its time is not counted."""
    started = time.perf_counter()
    yield
    self.since += time.perf_counter() - started

  def settle(self) -> bool:
    """Waits for the newest step, logs it, and tells whether any host was told to stop before it.

    Raises:
      NotFinite: too many updates in a row were skipped.
    """
    if self.newest is None:
      return False
    step, metrics = self.newest
    metrics, self.newest = jax.device_get(metrics), None
    skipped, in_a_row = (int(n) for n in metrics.pop('skipped'))
    told = bool(metrics.pop('stop'))
    if in_a_row:
      self.warn(
        f'warning: the update of step {step} is skipped: loss {metrics["loss"]:.4g}, '
        f'gradient norm {metrics["grad_norm"]:.4g}'
      )
    limit = self.settings.skip_limit
    if (
      step % self.settings.log_every == 0
      or step == self.settings.total_steps
      or told
      or in_a_row >= limit
    ):
      elapsed, count = time.perf_counter() - self.since, step - self.logged
      more = {'compile_seconds': self.compiling} if self.logged == self.first else {}
      self.log.write(
        step,
        metrics
        | more
        | {
          'skipped': skipped,
          'step_seconds': elapsed / count,
          'data_seconds': self.waited / count,
        },
      )
      self.waited, self.since, self.logged = 0.0, time.perf_counter(), step
    if in_a_row >= limit:
      raise NotFinite(
        f'{in_a_row} updates in a row were skipped up to step {step} (loss {metrics["loss"]:.4g}, '
        'gradient '
        f'norm {metrics["grad_norm"]:.4g}); the newest checkpoint is from before them or holds the '
        'same '
        'parameters: look at the data and the learning rate'
      )
    return told


def train(
  config,
  task: Task,
  open_batches: Callable[[dict | None], Iterator],
  checkpoints: Checkpoints,
  log,
  *,
  open_held_out: Callable[[dict | None], Iterator] | None = None,
  warn: Callable = print,
) -> tuple[TrainState, int | None]:
  """Trains to `config.total_steps`, from the newest verified checkpoint if there is one.

  Args:
    config: see `Settings`.
    task: see `Task`.
    open_batches: data state (None: from the start) -> iterator of this process's rows of the
      batches, with `get_state() -> dict`.
    checkpoints: where to save and resume.
    log: has write(step, metrics, kind=...), where metrics hold scalars, pictures and clips, and
      start(step).
    open_held_out: as `open_batches`, of examples that are not trained on; None evaluates on the
      first of the others.
    warn: takes a line for the user.

  Returns:
    The last state, and None if it is complete, else the exit status of a run that was told to stop
    (it is saved then).

  Raises:
    NotFinite: after `config.skip_limit` skipped updates in a row.
    SaveFailed: if checkpoints cannot be written.
  """
  settings = settings_of(config)
  mesh = make_mesh(settings.mesh)
  over_batch = over_examples(mesh)
  with contextlib.ExitStack() as stack:
    termination = stack.enter_context(contextlib.closing(Termination()))
    watchdog = stack.enter_context(contextlib.closing(Watchdog()))
    watchdog.expect('restoring or making the state', settings.start_timeout)
    like = abstract_state(settings, task, mesh)  # without the mesh: tasks draw with one example
    first, state, frozen, data_state = _start(settings, task, checkpoints, like)
    if first >= settings.total_steps:
      return state, None
    with jax.set_mesh(mesh):
      step_fn, eval_fns, rng_loop, keys = _programs(settings, task, mesh, like)
      stop_flag, batches = _stop_flag(mesh), open_batches(data_state)
      stack.callback(getattr(batches, 'close', lambda: None))
      saves = _Saves(checkpoints, settings.save_failures, warn)
      log.start(first)  # from here on nothing goes to the device but by name
      late = _Lateness(settings, log, warn, first)
      for step in range(first + 1, settings.total_steps + 1):
        watchdog.expect(f'waiting for the batch of step {step}', settings.batch_timeout + 30.0)
        local = late.waited_for(batches)
        starting = step == first + 1
        limit = settings.start_timeout if starting else settings.step_timeout
        watchdog.expect(f'step {step}', limit)
        batch = {k: jax.make_array_from_process_local_data(over_batch, v) for k, v in local.items()}
        with late.dispatching(compiles=starting):
          stop = stop_flag(termination.seen is not None)
          state, metrics = step_fn(state, frozen, batch, rng_loop, stop)
        stopping = late.settle()  # of the step before: one step late
        late.newest = step, metrics
        saves(checkpoints.check)
        last = step == settings.total_steps
        evaluating = eval_fns and (step % settings.eval_every == 0 or last) and not stopping
        if evaluating or step % settings.save_every == 0 or last or stopping:
          watchdog.expect(f'evaluating or saving at step {step}', settings.start_timeout)
          late.settle()  # what is saved has been logged
          with late.pausing():
            if evaluating:
              run = [(name, functools.partial(fn, state.ema, frozen)) for name, fn in eval_fns]
              _evaluate(log, step, run, open_batches, open_held_out, keys, over_batch)
            if step % settings.save_every == 0 or last or stopping:
              saves.save(step, state, batches.get_state())
        if stopping:
          break
      watchdog.expect('finishing the last checkpoint', settings.start_timeout)
      checkpoints.wait()
      _wait_for_all_hosts()
      return state, termination.status() if stopping and not last else None


def _evaluate(log, step: int, run, open_batches, open_held_out, keys, over_batch) -> None:
  """Runs the evaluations `run` on examples that are held out, else on the first of the others, and
  logs their scores."""
  found = evaluate(run, (open_held_out or open_batches)(None), keys, over_batch)
  for name, scores in found.items():
    log.write(step, scores, kind=name if open_held_out else f'{name} on training data')
