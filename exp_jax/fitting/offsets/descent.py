"""The descent of one subject's offsets through the rasterizer, inside one compiled program.

What keeps identity and expression apart (ExpPortrait sec. 3.1.3): static offsets start where depth
shows hair (hair_shell.py) or along the normal where it is expected, and are fitted alone at first;
dynamic ones are small, zero-mean deviations; at the end the mean over the clip moves exactly from
the dynamic to the static field, and a few polishing steps follow. With one picture `epsilon` damps
static offsets on the face.

Per-frame unknowns are stepped only when their frame is in the batch, with moments of their own.
Letters: T frames, B of a step, V coarse and N dense vertices, E expressions.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import optax

from exp_jax.fitting.offsets.adam import adam_step, no_steps, step_sizes
from exp_jax.fitting.offsets.disentangle import recentred
from exp_jax.fitting.offsets.fields import DYNAMIC, Meshes, dynamic_offsets, moved, static_offsets
from exp_jax.fitting.offsets.losses import Setup, make_setup, step_loss
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.offsets.problem import Problem


@flax.struct.dataclass
class OffsetFit:
  """What the stage found; T frames."""

  static: jax.Array  # [N, 3] metres, rounding included
  dynamic: jax.Array  # [T, N, 3] metres, zero mean over the clip
  shape: jax.Array  # [S]
  expression: jax.Array  # [T, E]
  pose: jax.Array  # [T, J, 3]
  translation: jax.Array  # [T, 3]
  albedo: jax.Array  # [N, 3] linear; as it started where there was no picture
  light: jax.Array  # [9, 3] camera frame
  losses: jax.Array  # [steps, 6] in the order of LOSS_TERMS


def first_unknowns(setup: Setup) -> dict:
  """What the descent starts from: no offsets, the coarse fit's parameters, grey skin."""
  meshes, params, frames = setup.surface.meshes, setup.problem.params, len(setup.problem.points)
  count, few = meshes.dense.coarse_ids.shape[0], meshes.coarse.coarse_ids.shape[0]
  zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
  return {
    'shared': {
      'static_coarse': zeros(few, 3),
      'static_fine': zeros(count, 1),
      'shape': jnp.zeros_like(params.shape),
      'albedo': zeros(count, 3) + 0.3,
      'light': setup.light,
    },
    'frame': {
      'dynamic_coarse': zeros(frames, few if setup.moving else 1, 3),
      'dynamic_fine': zeros(frames, count if setup.moving else 1, 1),
      'expression': jnp.zeros_like(params.expression),
      'head': zeros(frames, 3),
      'jaw': zeros(frames, 3),
      'translation': zeros(frames, 3),
    },
  }


def fit_one(
  meshes: Meshes, problem: Problem, *, image_size: tuple[int, int], options: OffsetOptions
) -> OffsetFit:
  """Fits the offsets of one subject.

  Args:
    meshes: of the head model.
    problem: the subject.
    image_size: of the frames whose pixels the landmarks are in.
    options: of the stage.
  """
  setup = make_setup(meshes, problem, options, image_size)
  num_frames, batch = len(problem.points), min(options.batch, len(problem.points))
  disentangled = setup.moving and options.disentangle
  raw, rates = first_unknowns(setup), step_sizes(options, setup.moving)
  if not problem.shape_seen:
    rates['shared']['static_fine'] = 0.0
  field_of = functools.partial(dynamic_offsets, setup.surface, options)
  schedule = optax.cosine_decay_schedule(1.0, options.steps, alpha=0.1)
  main = options.steps - (options.polish if disentangled else 0)
  alone = options.steps // 3 if options.disentangle else 0

  def with_zero_mean(raw, extra):
    fields, extra = recentred({k: raw['frame'][k] for k in DYNAMIC}, extra, setup.valid, field_of)
    return raw | {'frame': raw['frame'] | fields}, extra

  def step(carry, i):
    raw, extra, states = carry
    if disentangled:
      raw, extra = jax.lax.cond(i == main, with_zero_mean, lambda r, e: (r, e), raw, extra)
    # frames that exist come first, in random order
    order = (
      jax.random.uniform(jax.random.fold_in(problem.rng, i), (num_frames,)) - 2 * problem.valid
    )
    frames = jnp.argsort(order)[:batch]
    rows = jax.tree.map(lambda a: a[frames], raw['frame'])
    trimmed = (i > options.steps // 4).astype(jnp.float32)
    shading = options.shading * problem.shape_seen * (i >= options.steps // 3)
    loss = functools.partial(
      step_loss, setup, frames=frames, extra=extra, trimmed=trimmed, shading=shading
    )
    grads, losses = jax.grad(loss, argnums=(0, 1), has_aux=True)(raw['shared'], rows, raw['frame'])
    rate = schedule(i)
    shared, state = adam_step(raw['shared'], grads[0], states['shared'], rates['shared'], rate)
    state_rows = jax.tree.map(lambda a: a[frames], states['frame'])
    late = {
      k: jnp.where((i < alone) & k.startswith('dynamic'), 0.0, r) for k, r in rates['frame'].items()
    }
    rows, state_rows = adam_step(rows, grads[1], state_rows, late, rate * problem.valid[frames])
    put = lambda whole, part: jax.tree.map(lambda w, p: w.at[frames].set(p), whole, part)
    raw = {'shared': shared, 'frame': put(raw['frame'], rows)}
    states = {'shared': state, 'frame': put(states['frame'], state_rows)}
    return (raw, extra, states), losses

  states = {'shared': no_steps(raw['shared'], ()), 'frame': no_steps(raw['frame'], num_frames)}
  carry = raw, jnp.zeros_like(setup.surface.start), states
  (raw, extra, _), losses = jax.lax.scan(step, carry, jnp.arange(options.steps))
  if disentangled:
    raw, extra = with_zero_mean(raw, extra)
  return _result(setup, raw, extra, losses)


def _result(setup: Setup, raw: dict, extra: jax.Array, losses: jax.Array) -> OffsetFit:
  problem, surface, shared, rows = setup.problem, setup.surface, raw['shared'], raw['frame']
  static = problem.rounded + static_offsets(surface, setup.options, shared, extra)
  dynamic = jnp.zeros((len(problem.points), *static.shape))
  if setup.moving:
    dynamic = jax.lax.map(
      functools.partial(dynamic_offsets, surface, setup.options),
      {name: rows[name] for name in DYNAMIC},
    )
  params = jax.vmap(
    lambda expression, pose, translation, rows: moved(
      surface.meshes.head,
      problem.params.replace(expression=expression, pose=pose, translation=translation),
      shared['shape'],
      rows,
    )
  )(problem.params.expression, problem.params.pose, problem.params.translation, rows)
  return OffsetFit(
    static=static,
    dynamic=dynamic,
    shape=params.shape[0],
    expression=params.expression,
    pose=params.pose,
    translation=params.translation,
    albedo=jnp.clip(shared['albedo'], 0, 1),
    light=shared['light'],
    losses=losses,
  )
