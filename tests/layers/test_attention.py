import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.layers.attention import IMPLEMENTATIONS, _chunked, attention


def qkv(dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  return [3.0 * jax.random.normal(k, (2, n, 3, 8), dtype) for k, n in zip(keys, (7, 11, 11))]


def by_hand(q, k, v):
  """One head, one query at a time."""
  out = np.zeros(q.shape)
  for b, n, h in np.ndindex(*q.shape[:3]):
    scores = np.exp(k[b, :, h].astype(float) @ q[b, n, h].astype(float) / np.sqrt(q.shape[-1]))
    out[b, n, h] = scores @ v[b, :, h] / scores.sum()
  return out


def test_xla_equals_the_definition():
  q, k, v = qkv()
  np.testing.assert_allclose(attention(q, k, v), by_hand(*map(np.asarray, (q, k, v))), atol=1e-5)


@pytest.mark.parametrize('chunk', [1, 4, 11, 64])
def test_chunked_equals_xla_with_its_gradient(chunk):
  q, k, v = qkv()
  loss = lambda f: jax.jit(jax.value_and_grad(lambda a: jnp.sin(f(*a)).sum()))
  value, grads = loss(lambda *a: _chunked(*a, chunk=chunk))((q, k, v))
  expected, expected_grads = loss(attention)((q, k, v))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for a, b in zip(grads, expected_grads):
    np.testing.assert_allclose(a, b, atol=2e-5)   # sums in another order


def test_bfloat16_doors_agree():
  q, k, v = (x / 3 for x in qkv(jnp.bfloat16))
  a, b = attention(q, k, v), attention(q, k, v, implementation='chunked')
  assert a.dtype == b.dtype == jnp.bfloat16
  # one rounding of bfloat16 at outputs of size 1
  np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), atol=2e-2)


def test_mistakes_are_named():
  q, k, v = qkv()
  with pytest.raises(ValueError, match='unknown attention'):
    attention(q, k, v, implementation='fast')
  with pytest.raises(ValueError, match='do not fit'):
    attention(q, k[..., :4], v)
  assert {'xla', 'chunked'} <= set(IMPLEMENTATIONS)
