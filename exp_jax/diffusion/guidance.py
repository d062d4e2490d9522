"""Classifier-free guidance over named branches: predictions of a network with some of its
conditions dropped.

A plan is a tuple of terms (positive, negative, scale), each a branch's name, another's or None, and
a factor:

  v = sum over terms of scale (v_positive - v_negative)              v_None = 0

  v_0 + g (v_1 - v_0)                            (('1', '0', g), ('0', None, 1))                       `nested(('1', '0'), (g,))`
  v_0 + g_r (v_r - v_0) + g_p (v_rp - v_r)       (('rp', 'r', g_p), ('r', '0', g_r), ('0', None, 1))   `nested(('rp', 'r', '0'), ...)`

Plans are data: hashable, so that they can be static arguments of a compiled function. A branch
whose weights cancel, as the negative one of a guidance of 1, is not evaluated.

Source: Ho & Salimans, Classifier-free diffusion guidance, 2022, eq. 6; Brooks et al.,
InstructPix2Pix, 2023, eq. 3.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

Plan = tuple[tuple[str, str | None, float], ...]
Switches = tuple[tuple[str, tuple[float, ...]], ...]


def nested(names: tuple[str, ...], scales: tuple[float, ...]) -> Plan:
  """The plan of branches of ever fewer conditions, each step with a scale of its own.

  Args:
    names: of the branches, that with all conditions first.
    scales: of each branch against the next, one fewer than names.

  Raises:
    ValueError: if there is not one scale between two neighbours.
  """
  if not names or len(scales) != len(names) - 1:
    raise ValueError(
      f'{len(names)} branches need {len(names) - 1} scales between them, got {len(scales)}'
    )
  return (*zip(names[:-1], names[1:], scales), (names[-1], None, 1.0))


def branch_weights(plan: Plan) -> tuple[tuple[str, float], ...]:
  """((name, weight), ...) of the branches of a plan, in the order in which they appear, without
  those of weight 0."""
  weights = {}
  for positive, negative, scale in plan:
    weights[positive] = weights.get(positive, 0.0) + scale
    if negative is not None:
      weights[negative] = weights.get(negative, 0.0) - scale
  return tuple((name, weight) for name, weight in weights.items() if weight)


def guided(predictions: Mapping[str, jax.Array], plan: Plan) -> jax.Array:
  """The guided prediction from those of the branches, arrays of one shape.

  Raises:
    ValueError: if a branch that counts is not among the predictions.
  """
  weights = branch_weights(plan)
  if missing := [name for name, _ in weights if name not in predictions]:
    raise ValueError(
      f'the plan needs a prediction named {missing[0]!r}, there are {sorted(predictions)}'
    )
  return sum(weight * predictions[name] for name, weight in weights)


def branch_columns(plan: Plan, switches: Switches) -> tuple[tuple[jax.Array, ...], jax.Array]:
  """What all branches of a plan have in one batch: for each condition [K] which branch keeps it,
  and the weights [K].

  Args:
    switches: ((name, (keep, ...)), ...): for each branch, 1 for every condition that it keeps and 0
      for those it drops.
  """
  kept, weights = dict(switches), branch_weights(plan)
  rows = [kept[name] for name, _ in weights]
  return tuple(jnp.array(column) for column in zip(*rows)), jnp.array(
    [weight for _, weight in weights]
  )


def one_by_one(evaluate: Callable, plan: Plan, switches: Switches) -> Callable:
  """`denoise(x, sigma)` from evaluate(x, sigma, keep [B], ...), one evaluation a branch.

  Args:
    evaluate: takes x [B, ...], sigma [] and for each condition [B] whether it is kept.
    plan: what to sum up.
    switches: as `branch_columns`.
  """
  kept = dict(switches)

  def denoise(x, sigma):
    ones = jnp.ones(len(x))
    branch = lambda name: evaluate(x, sigma, *(keep * ones for keep in kept[name]))
    return guided({name: branch(name) for name, _ in branch_weights(plan)}, plan)

  return denoise


def together(evaluate: Callable, plan: Plan, switches: Switches) -> Callable:
  """As `one_by_one`, with all branches in one batch: `evaluate` sees [K B, ...], branch by
  branch."""
  columns, weights = branch_columns(plan, switches)

  def denoise(x, sigma):
    K, B = len(weights), len(x)
    v = evaluate(jnp.concatenate([x] * K), sigma, *(jnp.repeat(column, B) for column in columns))
    return jnp.einsum('k,k...->...', weights, v.reshape(K, *x.shape))

  return denoise
