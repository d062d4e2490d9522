"""Normalizations over the last axis, or over groups of channels.

Statistics are always float32; the caller casts the result.

LN(x)    = (x - mean) / sqrt(var + eps) [* scale + bias]        population variance
RMS(x)   = x / sqrt(mean(x^2) + eps) * scale
VNorm(x) = x / max(|x|_2, 1e-12) * sqrt(C) * scale              no epsilon inside: the Wan VAE's
norm
GN(x)    = LN's formula over groups of C / G adjacent channels and all pixels    [* scale + bias]
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def layer_norm(x: jax.Array, eps: float = 1e-6) -> jax.Array:
  """[..., D] -> float32 [..., D] of zero mean and unit variance, without learned scale or bias."""
  x = x.astype(jnp.float32)
  x = x - x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float = 1e-6) -> jax.Array:
  """[..., D], [D] -> float32 [..., D]. Used on queries and keys before the split into heads."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * scale


def vector_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
  """[..., C], [C] -> float32 [..., C] of length sqrt(C) before `scale`; zero stays zero.

  The double where keeps the gradient finite at x = 0, which zero-padded frames do reach.
  """
  x = x.astype(jnp.float32)
  squared = jnp.square(x).sum(-1, keepdims=True)
  far = squared > 1e-24
  length = jnp.where(far, jnp.sqrt(jnp.where(far, squared, 1.0)), 1e-12)
  return x / length * x.shape[-1] ** 0.5 * scale


class LayerNorm(nn.Module):
  """Affine layer norm with parameters `scale` and `bias`, both [D]."""

  eps: float = 1e-6

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    return layer_norm(x, self.eps) * scale + bias


def group_norm(x: jax.Array, groups: int, eps: float, *, axes: int = 2) -> jax.Array:
  """Zero mean and unit variance of each group of C / `groups` adjacent channels over the `axes`
  axes before the channels.

  Args:
    x: [..., H, W, C], normalized frame by frame; with axes=3 [..., T, H, W, C], frames together.

  Raises:
    ValueError: if the channels cannot be divided into the groups.
  """
  if x.shape[-1] % groups:
    raise ValueError(f'{x.shape[-1]} channels cannot be divided into {groups} groups')
  y = x.astype(jnp.float32).reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
  over = (*range(y.ndim - 2 - axes, y.ndim - 2), y.ndim - 1)
  y = y - y.mean(over, keepdims=True)
  return (y * jax.lax.rsqrt(jnp.square(y).mean(over, keepdims=True) + eps)).reshape(x.shape)


class GroupNorm(nn.Module):
  """Affine `group_norm`: [..., H, W, C] -> float32, parameters `scale` and `bias`, both [C]."""

  groups: int = 32
  eps: float = 1e-5
  axes: int = 2

  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    return group_norm(x, self.groups, self.eps, axes=self.axes) * scale + bias
