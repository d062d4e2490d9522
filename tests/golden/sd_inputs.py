"""Sizes, weights and inputs of the small Stable Diffusion networks of make_sd_fixture.py; no torch
is needed."""

import numpy as np

from tests.golden.named_weights import named_weight

WIDTHS, TEXT = (32, 64, 96, 96), 24
TIMES = (17, 801)


def weights_of(shapes):
  """{name: float32 array} of {name: shape}; kernels are halved, so that residual sums stay near
  one."""
  return {
    name: named_weight(name, tuple(shape)) * np.float32(0.5 if len(shape) > 1 else 1)
    for name, shape in shapes.items()
  }


def inputs(seed, *shape):
  """Normal float32 numbers of a seed."""
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
