"""Classifier-free guidance: v = v_u + g (v_c - v_u).

Source: Ho & Salimans, Classifier-free diffusion guidance, 2022, eq. 6.
"""

from collections.abc import Callable

import jax


def guided(conditional: Callable, unconditional: Callable, scale: float) -> Callable:
  """A `denoise(x, sigma)` that extrapolates from the unconditional towards the conditional velocity.

  Scale 1 is the conditional network alone and costs one evaluation a step; anything else costs two.
  """
  if scale == 1.0:
    return conditional

  def denoise(x: jax.Array, sigma: jax.Array) -> jax.Array:
    base = unconditional(x, sigma)
    return base + scale * (conditional(x, sigma) - base)

  return denoise
