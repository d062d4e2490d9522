"""How many examples go through a compiled function together, and clips of any length through one."""

import collections.abc

import jax
import numpy as np

BLOCK = 64  # frames


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


def in_blocks(
  function: collections.abc.Callable, *frames: np.ndarray, block: int = BLOCK
) -> np.ndarray:
  """`function` of a clip, compiled for one length whatever the clip's.

  Args:
    function: arrays of frames [block, ...] -> [block, ...], where a frame depends on its own row
      alone.
    frames: [T, ...] each, T at least 1; the last block is filled with the last frame. A single frame
      is a block of its own.

  Returns:
    [T, ...], on the host.
  """
  frames = [np.asarray(each) for each in frames]
  count = len(frames[0])
  size = block if count > 1 else 1
  rows = (np.arange(start, start + size) for start in range(0, count, size))
  parts = [
    np.asarray(function(*(each[np.minimum(at, count - 1)] for each in frames))) for at in rows
  ]
  return np.concatenate(parts)[:count]
