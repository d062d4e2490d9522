"""How many examples go through a compiled function together."""

import jax


def at_once(asked: int | None = None, *, on_cpu: int = 1, elsewhere: int = 16) -> int:
  """What was asked for, or what suits the device that JAX computes on.

  A CPU gains nothing by more than a few examples at once and pays with memory; others need them to
  be busy.

  Args:
    asked: as the user wants it; None or 0 leaves it to the device.
    on_cpu: examples on a CPU.
    elsewhere: examples on any other device.
  """
  return asked or (on_cpu if jax.default_backend() == 'cpu' else elsewhere)
