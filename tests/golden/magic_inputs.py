"""Sizes and inputs of the small MagicPortrait of make_magic_fixture.py; no torch is needed."""

import numpy as np

# the encoders are of their published size, and so is the first level
WIDTHS, HEADS, TEXT = (320, 64, 64), 8, 24
ROWS, SIZE = 32, 64  # rows of a call's maps; its columns, and both of a film's
FRAMES, TOTAL, WINDOW = 3, 13, 12  # of a call, a film, a window
STEPS, GUIDANCE = 4, 3.5


def inputs(seed, *shape):
  """Normal float32 numbers of a seed."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def maps(seed, frames, rows=SIZE):
  """{map: uint8 [frames, rows, SIZE(, 3)]}."""
  rng = np.random.default_rng(seed)
  draw = lambda *last: rng.integers(0, 256, (frames, rows, SIZE, *last)).astype(np.uint8)
  return {'depth': draw(), 'normals': draw(3), 'render': draw(3)}


def text():
  """[5, TEXT] the embedding that the networks read."""
  return inputs(11, 5, TEXT)
