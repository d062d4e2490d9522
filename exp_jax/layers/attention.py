"""Attention: one door, several implementations, all equal in tests.

  o = softmax(q k^T / sqrt(e)) v          per head, full, no mask

Letters: N query tokens, M key tokens, h heads, e head width. Inputs and output `[..., N, h, e]`.
The softmax is computed in float32 whatever the type of the inputs; the output has the type of `q`.
"""

import jax
import jax.numpy as jnp

_CHUNK = 512  # keys per step of the chunked form; N x 512 scores live at a time


def _xla(q, k, v):
  """Builds the whole N x M score matrix: the fastest form for short sequences."""
  scores = jnp.einsum('...nhe,...mhe->...hnm', q, k, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1)
  return jnp.einsum('...hnm,...mhe->...nhe', weights.astype(v.dtype), v)


def _chunked(q, k, v, *, chunk=_CHUNK):
  """Online softmax over chunks of keys; memory N x chunk, never N x M.

  Each step of the scan is rematerialized, so that the backward pass keeps O(N) per chunk as well.
  Source: Rabe & Staats, Self-attention does not need O(n^2) memory, 2021, section 2.
  """
  keys = k.shape[-3]
  chunk = min(chunk, keys)
  pad = -keys % chunk
  widths = [(0, 0)] * (k.ndim - 3) + [(0, pad), (0, 0), (0, 0)]
  k, v = jnp.pad(k, widths), jnp.pad(v, widths)

  def split(x):                                                   # [C, ..., chunk, h, e]
    return jnp.moveaxis(x.reshape(*x.shape[:-3], -1, chunk, *x.shape[-2:]), -4, 0)

  valid = (jnp.arange(keys + pad) < keys).reshape(-1, chunk)      # [C, chunk]

  @jax.checkpoint
  def step(carry, part):
    highest, total, output = carry                                # [..., h, N], same, [..., h, N, e]
    k_part, v_part, valid_part = part
    scores = jnp.einsum('...nhe,...mhe->...hnm', q, k_part, preferred_element_type=jnp.float32)
    scores = jnp.where(valid_part, scores * q.shape[-1] ** -0.5, -jnp.inf)
    new = jnp.maximum(highest, scores.max(-1))
    weights, fade = jnp.exp(scores - new[..., None]), jnp.exp(highest - new)
    add = jnp.einsum('...hnm,...mhe->...hne', weights.astype(v.dtype), v_part,
                     preferred_element_type=jnp.float32)
    return (new, total * fade + weights.sum(-1), output * fade[..., None] + add), None

  shape = (*q.shape[:-3], q.shape[-2], q.shape[-3])               # [..., h, N]
  start = (jnp.full(shape, -jnp.inf), jnp.zeros(shape), jnp.zeros((*shape, v.shape[-1])))
  (_, total, output), _ = jax.lax.scan(step, start, (split(k), split(v), valid))
  return jnp.swapaxes(output / total[..., None], -3, -2).astype(q.dtype)


def _cudnn(q, k, v):
  """Fused kernel of NVIDIA GPUs: bfloat16 or float16 only, `[B, N, h, e]` only."""
  return jax.nn.dot_product_attention(q, k, v, implementation='cudnn')


IMPLEMENTATIONS = {'xla': _xla, 'chunked': _chunked, 'cudnn': _cudnn}


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *,
              implementation: str = 'xla') -> jax.Array:
  """Full softmax attention.

  Args:
    q: [..., N, h, e] queries.
    k: [..., M, h, e] keys.
    v: [..., M, h, e] values.
    implementation: a key of `IMPLEMENTATIONS`.

  Returns:
    [..., N, h, e], the type of `q`.

  Raises:
    ValueError: if the implementation is unknown or the shapes do not fit.
  """
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f'unknown attention {implementation!r}, choose from {sorted(IMPLEMENTATIONS)}')
  if k.shape != v.shape or q.shape[-2:] != k.shape[-2:]:
    raise ValueError(f'attention shapes do not fit: q {q.shape}, k {k.shape}, v {v.shape}')
  return IMPLEMENTATIONS[implementation](q, k, v)


