"""The training loop: straight-line, restartable bit for bit, ignorant of what it trains."""

import functools
import signal
import time
from collections.abc import Callable, Iterator

import flax
import jax
import jax.numpy as jnp
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from exp_jax.training.checkpoints import Checkpoints
from exp_jax.training.optimizers import ema_update, learning_rate, make_optimizer
from exp_jax.training.sharding import infer_shardings, make_mesh
from exp_jax.training.task import Task


@flax.struct.dataclass
class TrainState:
  """Everything a restart needs but the data iterator; a pytree, donated from step to step."""
  step: jax.Array     # [] int32, updates made
  params: dict
  opt_state: tuple
  ema: dict           # moving average of params, float32


def init_state(rng, *, init_fn, tx) -> TrainState:
  """A fresh state; the average starts at the parameters."""
  params = init_fn(rng)
  return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params),
                    ema=jax.tree.map(jnp.copy, params))


def train_step(state, batch, rng, *, loss_fn, tx, ema_decay):
  """One pure update: (state, batch, rng) -> (state, metrics)."""
  rng = jax.random.fold_in(rng, state.step)                   # same key at every restart
  (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, rng)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics |= {'loss': loss, 'grad_norm': optax.tree.norm(grads)}
  state = TrainState(step=state.step + 1, params=params, opt_state=opt_state,
                     ema=ema_update(state.ema, params, state.step, ema_decay))
  return state, metrics


def optimizer_of(config) -> optax.GradientTransformation:
  """The optimizer of a config's `optimizer` section (without `ema_decay`) and `total_steps`."""
  section = dict(config.optimizer)
  section.pop('ema_decay')
  rate = functools.partial(
    learning_rate, peak=section.pop('learning_rate'), warmup_steps=section.pop('warmup_steps'),
    total_steps=config.total_steps, final_fraction=section.pop('final_fraction', 1.0))
  return make_optimizer(learning_rate=rate, **section)


def abstract_state(config, task: Task, mesh):
  """(shapes with shardings, shardings) of the train state, without making it."""
  init = functools.partial(init_state, init_fn=task.init_fn, tx=optimizer_of(config))
  shapes = jax.eval_shape(init, jax.random.key(0))
  shardings = infer_shardings(shapes, config.param_sharding, mesh)
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                      shapes, shardings), shardings


class _Termination:
  """True once SIGTERM has arrived; agreed upon by all processes."""

  def __init__(self):
    self.seen = False
    if jax.process_count() == 1:
      signal.signal(signal.SIGTERM, lambda *_: setattr(self, 'seen', True))

  def at(self, step: int) -> bool:
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self.seen


def train(config, task: Task, open_batches: Callable[[dict | None], Iterator],
          checkpoints: Checkpoints, write: Callable) -> tuple[TrainState, bool]:
  """Trains to `config.total_steps`, from the newest verified checkpoint if there is one.

  Args:
    config: `seed, mesh, param_sharding, optimizer, total_steps, log_every, save_every, eval_every`.
    task: see `Task`.
    open_batches: data state (None: from the start) -> iterator of this process's share of the batches,
      with `get_state() -> dict` as grain's.
    checkpoints: where to save and resume.
    write: (step, metrics, kind=...) -> None.

  Returns:
    The last state, and True if it is complete, False if SIGTERM stopped it (it is saved then).
  """
  stop = _Termination()
  mesh = make_mesh(config.mesh)
  over_batch, replicated = NamedSharding(mesh, P(mesh.axis_names)), NamedSharding(mesh, P())
  rng_init, rng_loop = jax.random.split(jax.random.key(config.seed))
  tx = optimizer_of(config)
  like, shardings = abstract_state(config, task, mesh)
  latest = checkpoints.latest_verified()
  if latest is None:
    init = functools.partial(init_state, init_fn=task.init_fn, tx=tx)
    state, data_state = jax.jit(init, out_shardings=shardings)(rng_init), None
  else:
    state, data_state = checkpoints.restore(latest, like)
  first = latest or 0
  if first >= config.total_steps:
    return state, True

  step_fn = jax.jit(
    functools.partial(train_step, loss_fn=task.loss_fn, tx=tx, ema_decay=config.optimizer.ema_decay),
    in_shardings=(shardings, over_batch, replicated), out_shardings=(shardings, replicated),
    donate_argnums=0)
  eval_fns = [(name, jax.jit(fn)) for name, fn in task.eval_fns]

  batches = open_batches(data_state)
  waited, since, logged = 0.0, time.perf_counter(), first
  for step in range(first + 1, config.total_steps + 1):
    asked = time.perf_counter()
    local = next(batches)
    waited += time.perf_counter() - asked
    batch = {k: jax.make_array_from_process_local_data(over_batch, v) for k, v in local.items()}
    state, metrics = step_fn(state, batch, rng_loop)
    if step % config.log_every == 0 or step == config.total_steps:
      metrics = jax.device_get(metrics)                       # the only wait for the device
      elapsed, count = time.perf_counter() - since, step - logged
      write(step, metrics | {'step_seconds': elapsed / count, 'data_seconds': waited / count})
      waited, since, logged = 0.0, time.perf_counter(), step
    if eval_fns and (step % config.eval_every == 0 or step == config.total_steps):
      for name, fn in eval_fns:
        scores = fn(state.ema, batch, jax.random.fold_in(rng_loop, step))
        write(step, jax.device_get(scores), kind=name)
    stopping = stop.at(step)
    if step % config.save_every == 0 or step == config.total_steps or stopping:
      checkpoints.save(step, state, batches.get_state())
    if stopping:
      return state, step == config.total_steps
  return state, True
