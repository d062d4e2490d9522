"""Attention: one door, several implementations, all equal in tests.

  o = softmax(q k^T / sqrt(e)) v,   lse = log sum exp(q k^T / sqrt(e))         per head, full

| name | where | memory | gradient through lse |
|---|---|---|---|
| xla | anywhere | N x M scores | yes |
| chunked | anywhere | N x 512 scores, forward and backward | yes |
| cudnn | NVIDIA GPUs; bfloat16 or float16 | flash | lse not given (cuDNN's comes back rounded to the input's type) |
| splash | TPUs, e a multiple of 128 | flash | lse not given (its kernel has no gradient then) |

Letters: N query tokens, M key tokens, h heads, e head width. q `[B, N, h, e]`, k and v
`[B, M, h, e]`, lse `[B, h, N]`. The softmax is computed in float32 whatever the type of the inputs;
the output has the type of `q`. With `keys` only the
first `keys` of the M keys count: the rest is padding. `keys` is one number, or one a row [B].
Outputs and statistics carry the names `attention_out` and `attention_lse`, by which
`layers/stack.py` keeps them.

Source: Rabe & Staats, Self-attention does not need O(n^2) memory, 2021; Dao et al., FlashAttention,
2022, algorithm 4.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

OUT, LSE = 'attention_out', 'attention_lse'
_CHUNK = 512  # keys per step of the chunked form
# a score that never counts; finite, so that a block of nothing but padding stays finite too
_MASKED = -1e30
_platform = None  # set by `ahead_of_time`


@contextlib.contextmanager
def ahead_of_time(platform: str):
  """Inside, kernels of `platform` ('gpu', 'tpu') may be traced though the device is not here, to
  compile for it."""
  global _platform
  before, _platform = _platform, platform
  try:
    yield
  finally:
    _platform = before


def _need(name, platform, remedy):
  here = _platform or jax.default_backend()
  if here != platform:
    raise ValueError(f'attention {name!r} needs a {platform}, this is a {here}: choose {remedy}')


def _masked(scores, keys, first=0):
  if keys is None:
    return scores
  keys = jnp.asarray(keys)
  keys = keys.reshape(keys.shape + (1,) * (3 * keys.ndim))  # [] or [B, 1, 1, 1]
  return jnp.where(first + jnp.arange(scores.shape[-1]) < keys, scores, _MASKED)


def _xla(q, k, v, keys):
  scores = (
    jnp.einsum('bnhe,bmhe->bhnm', q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  )
  scores = _masked(scores, keys)
  out = jnp.einsum('bhnm,bmhe->bnhe', jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
  return out, jax.nn.logsumexp(scores, axis=-1)


def _split(x, chunk):
  """[B, M, h, e] -> [C, B, chunk, h, e], filled up with zeros."""
  x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % chunk), (0, 0), (0, 0)))
  return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)


def _scores(q, k_part, first, keys):
  scores = (
    jnp.einsum('bnhe,bmhe->bhnm', q, k_part, preferred_element_type=jnp.float32)
    * q.shape[-1] ** -0.5
  )
  return _masked(scores, keys, first)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked(q, k, v, keys, chunk):
  return _chunked_forward(q, k, v, keys, chunk)[0]


def _chunked_forward(q, k, v, keys, chunk):
  B, N, h, e = q.shape

  def step(carry, part):
    highest, total, out = carry  # [B, h, N] twice, [B, h, N, e]
    k_part, v_part, first = part
    scores = _scores(q, k_part, first, keys)
    new = jnp.maximum(highest, scores.max(-1))
    weights, fade = jnp.exp(scores - new[..., None]), jnp.exp(highest - new)
    add = jnp.einsum(
      'bhnm,bmhe->bhne', weights.astype(v.dtype), v_part, preferred_element_type=jnp.float32
    )
    return (new, total * fade + weights.sum(-1), out * fade[..., None] + add), None

  ks, vs = _split(k, chunk), _split(v, chunk)
  start = (
    jnp.full((B, h, N), 2 * _MASKED),
    jnp.zeros((B, h, N)),
    jnp.zeros((B, h, N, v.shape[-1])),
  )
  (highest, total, out), _ = jax.lax.scan(step, start, (ks, vs, jnp.arange(len(ks)) * chunk))
  out = checkpoint_name(jnp.swapaxes(out / total[..., None], 1, 2).astype(q.dtype), OUT)
  lse = checkpoint_name(highest + jnp.log(total), LSE)
  return (out, lse), (q, k, v, keys, out, lse)


def _chunked_backward(chunk, kept, cotangents):
  q, k, v, keys, out, lse = kept
  d_out, d_lse = cotangents
  scale = q.shape[-1] ** -0.5
  # p (dp - delta) with delta = sum o do; the derivative of lse is p itself
  delta = jnp.einsum('bnhe,bnhe->bhn', out, d_out, preferred_element_type=jnp.float32) - d_lse

  def step(d_q, part):
    k_part, v_part, first = part
    p = jnp.exp(_scores(q, k_part, first, keys) - lse[..., None])
    d_v = jnp.einsum(
      'bhnm,bnhe->bmhe', p.astype(d_out.dtype), d_out, preferred_element_type=jnp.float32
    )
    d_p = jnp.einsum('bnhe,bmhe->bhnm', d_out, v_part, preferred_element_type=jnp.float32)
    d_s = (p * (d_p - delta[..., None]) * scale).astype(q.dtype)
    d_k = jnp.einsum('bhnm,bnhe->bmhe', d_s, q, preferred_element_type=jnp.float32)
    return d_q + jnp.einsum('bhnm,bmhe->bnhe', d_s, k_part, preferred_element_type=jnp.float32), (
      d_k,
      d_v,
    )

  ks, vs = _split(k, chunk), _split(v, chunk)
  d_q, (d_k, d_v) = jax.lax.scan(
    step, jnp.zeros(q.shape, jnp.float32), (ks, vs, jnp.arange(len(ks)) * chunk)
  )
  join = lambda x, like: (
    jnp.moveaxis(x, 0, 1)
    .reshape(x.shape[1], -1, *x.shape[3:])[:, : like.shape[1]]
    .astype(like.dtype)
  )
  return d_q.astype(q.dtype), join(d_k, k), join(d_v, v), np.zeros(keys.shape, jax.dtypes.float0)


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _chunked_door(q, k, v, keys, chunk=_CHUNK):
  keys = jnp.asarray(k.shape[1] if keys is None else keys, jnp.int32)
  return _chunked(q, k, v, keys, min(chunk, k.shape[1]))


def _cudnn(q, k, v, keys):
  _need('cudnn', 'gpu', "'xla' or 'chunked'")
  if q.dtype not in (jnp.bfloat16, jnp.float16):
    raise ValueError(
      f"attention 'cudnn' takes bfloat16 or float16, got {q.dtype}: set dtype, or choose 'xla' or "
      "'chunked'"
    )
  lengths = None if keys is None else jnp.broadcast_to(jnp.asarray(keys, jnp.int32), len(q))
  return jax.nn.dot_product_attention(
    q, k, v, key_value_seq_lengths=lengths, implementation='cudnn'
  ), None


def _splash(q, k, v, keys, *, interpret=False):
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

  if not interpret:
    _need('splash', 'tpu', "'xla' or 'chunked'")
  (_, N, h, e), M, tile = q.shape, k.shape[1], 128
  if e % 128:
    raise ValueError(
      f"attention 'splash' needs heads of a multiple of 128 channels, got {e}: choose 'xla' or "
      "'chunked'"
    )
  # [B, h, ., e]
  pad = lambda x: jnp.moveaxis(jnp.pad(x, ((0, 0), (0, -x.shape[1] % tile), (0, 0), (0, 0))), 2, 1)
  q_, k_, v_ = pad((q * e**-0.5).astype(q.dtype)), pad(k), pad(v)
  block = lambda n: next(b for b in (1024, 512, 256, 128) if n % b == 0)
  bq, bk = block(q_.shape[2]), block(k_.shape[2])
  kernel = splash.make_splash_mha(
    masks.MultiHeadMask([masks.FullMask((q_.shape[2], k_.shape[2]))] * h),
    head_shards=1,
    q_seq_shards=1,
    residual_checkpoint_name=LSE,
    interpret=interpret,
    block_sizes=splash.BlockSizes(
      block_q=bq,
      block_kv=bk,
      block_kv_compute=bk,
      block_q_dkv=bq,
      block_kv_dkv=bk,
      block_kv_dkv_compute=bk,
      block_q_dq=bq,
      block_kv_dq=bk,
    ),
  )
  real = jnp.broadcast_to(jnp.asarray(M if keys is None else keys), len(q))
  segments = lambda real: splash.SegmentIds(
    jnp.zeros(q_.shape[2], jnp.int32), (jnp.arange(k_.shape[2]) >= real).astype(jnp.int32)
  )
  out = jax.vmap(lambda a, b, c, real: kernel(a, b, c, segments(real)))(q_, k_, v_, real)
  return jnp.moveaxis(out, 1, 2)[:, :N].astype(q.dtype), None


IMPLEMENTATIONS = {'xla': _xla, 'chunked': _chunked_door, 'cudnn': _cudnn, 'splash': _splash}


def attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  implementation: str = 'xla',
  keys: int | jax.Array | None = None,
) -> jax.Array:
  """Full softmax attention.

  Args:
    q: [B, N, h, e] queries.
    k: [B, M, h, e] keys.
    v: [B, M, h, e] values.
    implementation: a key of `IMPLEMENTATIONS`.
    keys: how many of the M keys are real, for all rows or [B], one for each; None: all.

  Returns:
    [B, N, h, e], the type of `q`.

  Raises:
    ValueError: if the implementation is unknown or cannot run here, or the shapes do not fit.
  """
  _check(q, k, v, implementation, keys)
  return checkpoint_name(IMPLEMENTATIONS[implementation](q, k, v, keys)[0], OUT)


def attention_with_lse(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  implementation: str = 'xla',
  keys: int | jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """As `attention`, with float32 lse [B, h, N], by which parts of one softmax are joined
  (`merge`)."""
  _check(q, k, v, implementation, keys)
  if implementation in ('cudnn', 'splash'):
    raise ValueError(
      f"attention {implementation!r} gives no statistics: use 'chunked', or 'ulysses' in place of "
      "'ring'"
    )
  return IMPLEMENTATIONS[implementation](q, k, v, keys)


def merge(
  out: jax.Array, lse: jax.Array, more: jax.Array, more_lse: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Joins attention over two sets of keys: float32 out [B, N, h, e], lse [B, h, N] of their
  union."""
  total = jnp.logaddexp(lse, more_lse)
  share = lambda part: jnp.swapaxes(jnp.exp(part - total), 1, 2)[..., None]
  return out * share(lse) + more.astype(jnp.float32) * share(more_lse), total


def _check(q, k, v, implementation, keys):
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f'unknown attention {implementation!r}, choose from {sorted(IMPLEMENTATIONS)}')
  if k.shape != v.shape or q.shape[-2:] != k.shape[-2:] or q.ndim != 4:
    raise ValueError(f'attention shapes do not fit: q {q.shape}, k {k.shape}, v {v.shape}')
  if keys is not None and jnp.shape(keys) not in ((), (len(q),)):
    raise ValueError(
      f'keys must be one number or one for each of {len(q)} rows, got the shape {jnp.shape(keys)}'
    )
