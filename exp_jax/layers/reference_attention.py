"""Self-attention whose keys are joined by those of a reference that is the same for all frames of a
clip.

  o = softmax(q [k ; r]^T / sqrt(e)) [v ; u]        k, v own tokens;  r, u tokens of the reference

Two softmaxes over k and over r, joined by their log-sum-exp, are that same softmax, and the
reference's tokens are neither repeated for every frame nor copied beside the own ones. Where an
implementation gives no log-sum-exp the tokens are joined, reference last, and a row that does
without the reference counts fewer keys.

Letters: B clips, T frames, N tokens a frame, M tokens of the reference, h heads, e head width. q,
k, v [B, T, N, h, e].
"""

import jax
import jax.numpy as jnp

from exp_jax.layers.attention import attention, attention_with_lse, merge

# the log-sum-exp of a reference that does not count; finite, so that gradients are
_DROPPED = -1e30
_WITHOUT_STATISTICS = ('cudnn', 'splash')


def self_attention(
  q: jax.Array, k: jax.Array, v: jax.Array, *, across: bool, implementation: str = 'xla'
) -> jax.Array:
  """Attention among the tokens of each frame or, with `across`, of all frames of a clip: [B, T, N,
  h, e]."""
  B, T, N = q.shape[:3]
  fold = (B, T * N) if across else (B * T, N)
  rows = (x.reshape(*fold, *x.shape[3:]) for x in (q, k, v))
  return attention(*rows, implementation=implementation).reshape(q.shape)


def referring_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  reference: tuple[jax.Array, jax.Array],
  *,
  across: bool,
  keep: jax.Array | None = None,
  implementation: str = 'xla',
) -> jax.Array:
  """`self_attention` that also sees a reference.

  Args:
    reference: keys and values, [B, M, h, e] each.
    across: whether the tokens of all frames of a clip see each other.
    keep: [B] bool, which clips see their reference; None: all. A clip without is exactly one that
      was given none.
    implementation: of `layers/attention.py`.

  Returns:
    [B, T, N, h, e], the type of q.
  """
  way = joined_attention if implementation in _WITHOUT_STATISTICS else _merged
  return way(q, k, v, *reference, across=across, keep=keep, implementation=implementation)


def joined_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  more_k: jax.Array,
  more_v: jax.Array,
  *,
  across: bool,
  keep: jax.Array | None,
  implementation: str,
) -> jax.Array:
  """`referring_attention` by tokens put side by side: needs no log-sum-exp, but repeats the
  reference for every frame."""
  (B, T, N), M = q.shape[:3], more_k.shape[1]
  rows, own = (B, T * N) if across else (B * T, N), T * N if across else N
  each = 1 if across else T  # rows that a clip has

  def join(x, more):
    return jnp.concatenate([x.reshape(*rows, *x.shape[3:]), jnp.repeat(more, each, axis=0)], axis=1)

  keys = None if keep is None else jnp.repeat(jnp.where(keep, own + M, own), each)
  out = attention(
    q.reshape(*rows, *q.shape[3:]),
    join(k, more_k),
    join(v, more_v),
    implementation=implementation,
    keys=keys,
  )
  return out.reshape(q.shape)


def _merged(q, k, v, more_k, more_v, *, across, keep, implementation):
  B, T, N, h, e = q.shape
  rows = (B, T * N) if across else (B * T, N)
  own, lse = attention_with_lse(
    *(x.reshape(*rows, h, e) for x in (q, k, v)), implementation=implementation
  )
  if not across:
    lse = jnp.moveaxis(lse.reshape(B, T, h, N), 1, 2).reshape(B, h, T * N)
  more, more_lse = attention_with_lse(
    q.reshape(B, T * N, h, e), more_k, more_v, implementation=implementation
  )
  if keep is not None:
    more_lse = jnp.where(keep[:, None, None], more_lse, _DROPPED)
  out, _ = merge(own.reshape(B, T * N, h, e), lse, more, more_lse)
  return out.reshape(q.shape).astype(q.dtype)
