"""What the trainer knows of a task: a handful of functions, nothing of portraits."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Task:
  """A training task.

  init_fn:    rng -> params (a nested dict).
  loss_fn:    (params, batch, rng) -> (scalar float32 loss, dict of scalar metrics). The loss is a mean over examples.
  batch_spec: the keys of a global batch, each a `jax.ShapeDtypeStruct`; the loader hands over no
  others.
  eval_fns:   pairs (name, fn); fn(params, batch, rng) -> dict, called with the average's parameters on held-out batches.
    Scalars are averaged over the batches and logged; images [H, W, 3] and clips [T, H, W, 3] in [0,
    1] are drawn.
  trainable:  path of a parameter ('blocks/self/q/lora_a') -> whether it is trained; None trains
    all. What is not trained has no moments, no average and no place in the repeated checkpoints.
  start:      () -> nested dict of arrays that take the place of what `init_fn` made, at the same paths; called for a fresh
    run only. Arrays may be memory maps: every host reads the parts of its own devices, nothing is
      held whole.
  held:       (trained parameters after an update, the same before it) -> the former with those parts of the latter that must
    not move: rows of an array, say, whose other rows are trained. None: all move.
  tokens:     tokens of one example that the network sees, for reports; 0 if that has no meaning.
  """

  init_fn: Callable[[jax.Array], Any]
  loss_fn: Callable[[Any, dict, jax.Array], tuple[jax.Array, dict]]
  batch_spec: dict[str, jax.ShapeDtypeStruct]
  eval_fns: tuple[tuple[str, Callable], ...] = ()
  trainable: Callable[[str], bool] | None = None
  start: Callable[[], dict] | None = None
  held: Callable[[dict, dict], dict] | None = None
  tokens: int = 0
