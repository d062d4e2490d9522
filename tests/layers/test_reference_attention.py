"""A reference's tokens beside the own ones: the two forms, dropped references, frames apart and
together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.layers.attention import attention
from exp_jax.layers.reference_attention import joined_attention, referring_attention, self_attention

B, T, N, M, h, e = 2, 3, 5, 7, 2, 4
draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
Q, K, V = (draw(i, B, T, N, h, e) for i in range(3))
REFERENCE = draw(3, B, M, h, e), draw(4, B, M, h, e)


def by_concatenation(q, k, v, reference, across):
  """Frame by frame, or clip by clip, with plain softmaxes."""
  out = np.zeros(q.shape, np.float32)
  for b in range(B):
    for frames in [slice(None)] if across else [slice(t, t + 1) for t in range(T)]:
      own = [np.asarray(x[b, frames]).reshape(-1, h, e) for x in (q, k, v)]
      keys, values = (np.concatenate([x, np.asarray(r[b])]) for x, r in zip(own[1:], reference))
      scores = np.exp(np.einsum('nhe,mhe->hnm', own[0], keys) / np.sqrt(e))
      weights = scores / scores.sum(-1, keepdims=True)
      out[b, frames] = np.einsum('hnm,mhe->nhe', weights, values).reshape(out[b, frames].shape)
  return out


@pytest.mark.long
@pytest.mark.parametrize('across', [False, True])
@pytest.mark.parametrize('door', ['xla', 'chunked'])
def test_two_softmaxes_are_one_over_all_tokens(across, door):
  expected = by_concatenation(Q, K, V, REFERENCE, across)
  found = referring_attention(Q, K, V, REFERENCE, across=across, implementation=door)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  joined = joined_attention(Q, K, V, *REFERENCE, across=across, keep=None, implementation=door)
  np.testing.assert_allclose(joined, expected, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize('across', [False, True])
def test_a_dropped_reference_is_no_reference(across):
  """The clip without is exactly what it is alone, in values and gradients; the other one sees its
  reference."""
  keep = jnp.array([True, False])
  forms = [
    *(functools.partial(referring_attention, implementation=door) for door in ('xla', 'chunked')),
    lambda q, k, v, reference, **how: joined_attention(
      q, k, v, *reference, implementation='xla', **how
    ),
  ]
  seen = by_concatenation(Q, K, V, REFERENCE, across)[0]
  alone = self_attention(Q, K, V, across=across)
  loss = lambda form: lambda q, k, v, r: jnp.sin(form(q, k, v, r, across=across, keep=keep)).sum()
  gradients = [jax.grad(loss(form), argnums=(0, 1, 2, 3))(Q, K, V, REFERENCE) for form in forms]
  expected = jax.grad(
    lambda *x: jnp.sin(self_attention(*x, across=across)).sum(), argnums=(0, 1, 2)
  )(Q, K, V)
  for form, found in zip(forms, gradients):
    out = form(Q, K, V, REFERENCE, across=across, keep=keep)
    np.testing.assert_allclose(out[0], seen, atol=1e-5)
    np.testing.assert_allclose(out[1], alone[1], atol=1e-6)
    assert not found[3][0][1].any() and not found[3][1][1].any() and found[3][0][0].any()
    for a, b, c in zip(found, expected, gradients[0]):
      np.testing.assert_allclose(a[1], b[1], atol=1e-5)
      np.testing.assert_allclose(a, c, atol=1e-5)


def test_zero_tokens_are_not_no_reference():
  zeros = jax.tree.map(jnp.zeros_like, REFERENCE)
  assert (
    np.abs(
      referring_attention(Q, K, V, zeros, across=False) - self_attention(Q, K, V, across=False)
    ).max()
    > 0.1
  )


@pytest.mark.long
@pytest.mark.parametrize('door', ['xla', 'chunked'])
def test_keys_may_be_counted_row_by_row(door):
  q, k, v = (x.reshape(B * T, N, h, e) for x in (Q, K, V))
  keys = jnp.array([5, 1, 3, 2, 4, 5])
  loss = lambda x, keys: jnp.sin(attention(*x, implementation=door, keys=keys)).sum()
  found, slope = jax.jit(jax.value_and_grad(loss))((q, k, v), keys)
  rows = [
    jax.value_and_grad(loss)(tuple(x[i : i + 1] for x in (q, k, v)), int(n))
    for i, n in enumerate(keys)
  ]
  np.testing.assert_allclose(found, sum(value for value, _ in rows), rtol=1e-5)
  for i, whole in enumerate(slope):
    np.testing.assert_allclose(whole, jnp.concatenate([row[i] for _, row in rows]), atol=1e-5)
  with pytest.raises(ValueError, match='one for each of 6 rows'):
    attention(q, k, v, implementation=door, keys=keys[:2])
