"""Compiled programs of this process, which take memory maps."""

import pathlib

import jax


def make_room(share: float = 0.5) -> None:
  """Drops compiled programs once the process has taken `share` of the memory maps that Linux allows
  it.

  On a CPU the programs of one length of clip take thousands of them, and LLVM ends a process that
  has none left.
  """
  try:
    allowed = int(pathlib.Path('/proc/sys/vm/max_map_count').read_text())
    with open('/proc/self/maps', 'rb') as maps:
      taken = sum(1 for _ in maps)
  except OSError:
    return  # no Linux
  if taken > share * allowed:
    jax.clear_caches()
