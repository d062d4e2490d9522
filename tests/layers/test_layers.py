import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.layers.attention import attention
from exp_jax.layers.embeddings import rotary_angles, rotate, sinusoid
from exp_jax.layers.mlp import Mlp
from exp_jax.layers.norms import layer_norm, rms_norm, vector_norm
from exp_jax.layers.stack import apply_stacked, init_stacked

X = jax.random.normal(jax.random.key(0), (3, 5, 12)) * 3 + 1


def test_layer_norm_has_zero_mean_and_unit_variance():
  y = layer_norm(X)
  np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
  np.testing.assert_allclose(y.var(-1), 1, atol=1e-5)
  assert layer_norm(X.astype(jnp.bfloat16)).dtype == jnp.float32


def test_rms_and_vector_norm_differ_only_at_zero():
  scale = jnp.arange(12.0)
  np.testing.assert_allclose(rms_norm(X, scale, 0.0), vector_norm(X, scale), rtol=1e-5)
  gradient = jax.grad(lambda x: vector_norm(x, scale).sum())(jnp.zeros(12))
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(vector_norm(jnp.zeros(12), scale), 0)


def test_sinusoid_starts_with_the_cosine():
  y = sinusoid(jnp.array([0.0, 2.0]), 6)
  np.testing.assert_allclose(y[0], [1, 1, 1, 0, 0, 0], atol=1e-7)
  np.testing.assert_allclose(y[1, [0, 3]], [np.cos(2), np.sin(2)], atol=1e-6)
  np.testing.assert_allclose(y[1, 2], np.cos(2 * 10_000 ** (-2 / 3)), atol=1e-6)


def test_rotary_angles_by_hand():
  angles = rotary_angles((2, 3, 5), 128)
  assert angles.shape == (30, 64)
  f, r, c = 1, 2, 3
  row = angles[f * 15 + r * 5 + c]
  np.testing.assert_allclose(row[:22], f * 10_000.0 ** (-np.arange(22) / 22), rtol=1e-6)
  np.testing.assert_allclose(row[22:43], r * 10_000.0 ** (-np.arange(21) / 21), rtol=1e-6)
  np.testing.assert_allclose(row[43:], c * 10_000.0 ** (-np.arange(21) / 21), rtol=1e-6)


def test_rotated_products_depend_on_the_distance_only():
  angles = jnp.asarray(rotary_angles((4, 1, 1), 8))
  q, k = jax.random.normal(jax.random.key(1), (2, 8))
  turn = lambda x: rotate(jnp.broadcast_to(x, (4, 1, 8)), angles)[:, 0]
  scores = np.asarray(turn(q) @ turn(k).T)
  for distance in range(-3, 4):
    np.testing.assert_allclose(np.diag(scores, distance), np.diag(scores, distance)[0], atol=1e-5)
  assert np.std(scores[0]) > 1e-2
  np.testing.assert_allclose(jnp.linalg.norm(turn(q), axis=-1), jnp.linalg.norm(q), rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize('remat', ['input', 'attention', 'offload'])
def test_stack_equals_a_python_loop_at_every_remat_level(remat):
  block = Mlp(7, 12, parent=None)
  params = init_stacked(block, 3, X)(jax.random.key(2))
  assert params['fc1']['kernel'].shape == (3, 12, 7)
  looped = X
  for i in range(3):
    layer = jax.tree.map(lambda p, i=i: p[i], params)
    looped = block.apply({'params': layer}, looped)
  loss = lambda p, remat: jnp.square(apply_stacked(block, p, X, remat=remat)).sum()
  np.testing.assert_allclose(apply_stacked(block, params, X, remat=remat), looped, atol=1e-6)
  for a, b in zip(
    jax.tree.leaves(jax.jit(jax.grad(lambda p: loss(p, remat)))(params)),
    jax.tree.leaves(jax.grad(loss)(params, 'none')),
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5)
  assert not np.allclose(params['fc1']['kernel'][0], params['fc1']['kernel'][1])
  with pytest.raises(ValueError, match='unknown remat'):
    apply_stacked(block, params, X, remat='all')


class Attends(nn.Module):
  """The least that attends: x + attention(x, x, x)."""

  @nn.compact
  def __call__(self, x):
    y = (x * self.param('scale', nn.initializers.ones, ())).reshape(*x.shape[:-1], 3, -1)
    return x + attention(y, y, y, implementation='chunked').reshape(x.shape)


def test_remat_levels_run_again_what_they_say():
  """Counts exponentials (one in each pass over the scores, one of its rescaling) in the jaxpr of
  the gradient."""
  block = Attends(parent=None)
  params = init_stacked(block, 2, X)(jax.random.key(2))
  text = {
    remat: str(
      jax.make_jaxpr(
        jax.grad(lambda p, remat=remat: apply_stacked(block, p, X, remat=remat).sum())
      )(params)
    )
    for remat in ('none', 'input', 'attention', 'offload')
  }
  passes = {remat: t.count(' exp ') for remat, t in text.items()}
  assert passes['none'] == passes['attention'] < passes['input'] == passes['offload'], passes
  assert 'host' in text['offload'] and 'host' not in text['input']
