"""Classifier-free guidance: a weighted sum of what a network says with some of its conditions dropped.

  v = v_0 + g (v_1 - v_0)                                 one guidance
  v = v_0 + g_r (v_r - v_0) + g_p (v_rp - v_r)            reference and pose apart

Source: Ho & Salimans, Classifier-free diffusion guidance, 2022, eq. 6; Brooks et al., InstructPix2Pix, 2023, eq. 3.
"""

from collections.abc import Callable

import jax.numpy as jnp


def branches(scale: float, reference_scale: float | None = None) -> tuple[tuple[float, float, float], ...]:
  """((keep pose, keep reference, weight), ...) whose weights sum to one; branches of weight 0 are left out.

  Args:
    scale: guidance on the pose; alone it compares with the pose dropped and the reference kept.
    reference_scale: guidance on the reference too, against both dropped; None: none.
  """
  parts = [(1.0, 1.0, scale), (0.0, 1.0, 1.0 - scale)]
  if reference_scale is not None:
    parts = [(1.0, 1.0, scale), (0.0, 1.0, reference_scale - scale), (0.0, 0.0, 1.0 - reference_scale)]
  return tuple(part for part in parts if part[2])


def one_by_one(evaluate: Callable, parts) -> Callable:
  """`denoise(x, sigma)` from evaluate(x, sigma, keep_pose [B], keep_reference [B]), one evaluation a branch."""

  def denoise(x, sigma):
    ones = jnp.ones(len(x))
    return sum(weight * evaluate(x, sigma, pose * ones, reference * ones) for pose, reference, weight in parts)

  return denoise


def together(evaluate: Callable, parts) -> Callable:
  """As `one_by_one`, with all branches in one batch: `evaluate` sees [K B, ...], branch by branch."""
  poses, references, weights = (jnp.array(column) for column in zip(*parts))

  def denoise(x, sigma):
    K, B = len(parts), len(x)
    v = evaluate(jnp.concatenate([x] * K), sigma, jnp.repeat(poses, B), jnp.repeat(references, B))
    return jnp.einsum('k,k...->...', weights, v.reshape(K, *x.shape))

  return denoise
