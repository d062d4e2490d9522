"""What the trainer knows of a task: four functions' worth, nothing of portraits."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Task:
  """A training task.

  init_fn:    rng -> params (a nested dict).
  loss_fn:    (params, batch, rng) -> (scalar float32 loss, dict of scalar metrics).
  batch_spec: the keys of a global batch, each a `jax.ShapeDtypeStruct`; the loader hands over no
    others.
  eval_fns:   pairs (name, fn); fn(params, batch, rng) -> dict of scalars, called with the EMA
    parameters.
  trainable:  path of a parameter ('lora/backbone/blocks/self/q/a') -> whether it is trained; None trains all.
  tokens:     tokens of one example that the network sees, for reports; 0 if that has no meaning.
  """
  init_fn: Callable[[jax.Array], Any]
  loss_fn: Callable[[Any, dict, jax.Array], tuple[jax.Array, dict]]
  batch_spec: dict[str, jax.ShapeDtypeStruct]
  eval_fns: tuple[tuple[str, Callable], ...] = ()
  trainable: Callable[[str], bool] | None = None
  tokens: int = 0
