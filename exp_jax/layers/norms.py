"""Normalizations over the last axis. Statistics are always float32; the caller casts the result.

  LN(x)    = (x - mean) / sqrt(var + eps) [* scale + bias]        population variance
  RMS(x)   = x / sqrt(mean(x^2) + eps) * scale
  VNorm(x) = x / max(|x|_2, 1e-12) * sqrt(C) * scale              no epsilon inside: the Wan VAE's norm
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
