import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.layers.attention import IMPLEMENTATIONS, attention, attention_with_lse, merge


def qkv(dtype=jnp.float32, queries=7, keys=11, e=8):
  draws = jax.random.split(jax.random.key(0), 3)
  return [
    3.0 * jax.random.normal(k, (2, n, 3, e), dtype) for k, n in zip(draws, (queries, keys, keys))
  ]


def by_hand(q, k, v):
  """One head, one query at a time."""
  out, lse = np.zeros(q.shape), np.zeros((q.shape[0], q.shape[2], q.shape[1]))
  for b, n, h in np.ndindex(*q.shape[:3]):
    scores = np.exp(k[b, :, h].astype(float) @ q[b, n, h].astype(float) / np.sqrt(q.shape[-1]))
    out[b, n, h], lse[b, h, n] = scores @ v[b, :, h] / scores.sum(), np.log(scores.sum())
  return out, lse


@pytest.mark.long
@pytest.mark.parametrize('door', ['xla', 'chunked'])
@pytest.mark.parametrize('keys', [None, 4])
def test_doors_equal_the_definition(door, keys):
  q, k, v = map(np.asarray, qkv())
  out, lse = attention_with_lse(q, k, v, implementation=door, keys=keys)
  expected, expected_lse = by_hand(q, k[:, :keys], v[:, :keys])
  np.testing.assert_allclose(out, expected, atol=1e-5)
  np.testing.assert_allclose(lse, expected_lse, atol=1e-5)
  np.testing.assert_allclose(
    attention(q, k, v, implementation=door, keys=keys), expected, atol=1e-5
  )


def value_and_gradients(door, keys):
  def loss(a):
    out, lse = door(*a, keys)
    return jnp.sin(out).sum() + jnp.cos(lse).sum()

  return jax.jit(jax.value_and_grad(loss))(tuple(qkv()))


@pytest.mark.long
@pytest.mark.parametrize('chunk, keys', [(1, None), (4, 6), (11, None), (64, 9)])
def test_chunked_equals_xla_with_gradients_through_output_and_statistics(chunk, keys):
  value, gradients = value_and_gradients(
    functools.partial(IMPLEMENTATIONS['chunked'], chunk=chunk), keys
  )
  expected, expected_gradients = value_and_gradients(IMPLEMENTATIONS['xla'], keys)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for a, b in zip(gradients, expected_gradients):
    np.testing.assert_allclose(a, b, atol=2e-5)  # sums in another order
  if keys:
    assert not gradients[1][:, keys:].any() and not gradients[2][:, keys:].any()


@pytest.mark.long
def test_parts_of_a_softmax_are_joined():
  q, k, v = qkv()
  parts = [attention_with_lse(q, k[:, a:b], v[:, a:b]) for a, b in ((0, 4), (4, 5), (5, 11))]
  out, lse = parts[0]
  for more in parts[1:]:
    out, lse = merge(out, lse, *more)
  expected, expected_lse = attention_with_lse(q, k, v)
  np.testing.assert_allclose(out, expected, atol=1e-5)
  np.testing.assert_allclose(lse, expected_lse, atol=1e-5)
  nothing = attention_with_lse(q, k, v, implementation='chunked', keys=0)
  np.testing.assert_allclose(merge(expected, expected_lse, *nothing)[0], expected, atol=1e-6)


@pytest.mark.long
def test_bfloat16_doors_agree():
  q, k, v = (x / 3 for x in qkv(jnp.bfloat16))
  a, b = attention(q, k, v), attention(q, k, v, implementation='chunked')
  assert a.dtype == b.dtype == jnp.bfloat16
  # one rounding of bfloat16 at outputs of size 1
  np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), atol=2e-2)


@pytest.mark.long
def test_splash_interpreted_equals_xla_with_padded_keys():
  q, k, v = (x / 3 for x in qkv(queries=130, keys=140, e=128))
  for keys in (None, 133):
    out, _ = IMPLEMENTATIONS['splash'](q, k, v, keys, interpret=True)
    np.testing.assert_allclose(out, attention(q, k, v, keys=keys), atol=2e-5)


def test_the_chunked_form_never_holds_all_scores():
  q, k, v = qkv(queries=2048, keys=4096)
  for door, fits in (('chunked', True), ('xla', False)):
    gradient = jax.jit(
      jax.grad(lambda q, k, v, door=door: jnp.sin(attention(q, k, v, implementation=door)).sum())
    )
    bytes_used = gradient.lower(q, k, v).compile().memory_analysis().temp_size_in_bytes
    scores = 2 * 3 * 2048 * 4096 * 4
    assert (bytes_used < 0.6 * scores) == fits, (door, bytes_used / scores)


def test_mistakes_are_named():
  q, k, v = qkv()
  with pytest.raises(ValueError, match='unknown attention'):
    attention(q, k, v, implementation='fast')
  with pytest.raises(ValueError, match='do not fit'):
    attention(q, k[..., :4], v)
  for door in ('cudnn', 'splash'):
    with pytest.raises(ValueError, match=f'{door}.* needs a .*, this is a .*: choose'):
      attention(q, k, v, implementation=door)
    with pytest.raises(ValueError, match='no statistics'):
      attention_with_lse(q, k, v, implementation=door)
