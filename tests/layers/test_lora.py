import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.layers import lora
from exp_jax.networks.wan_dit import wan_dit

MODEL = wan_dit('tiny', image_dim=10, remat='none')
B, F, H, W = 2, 2, 4, 6


def given():
  keys = jax.random.split(jax.random.key(0), 3)
  return (
    jax.random.normal(keys[0], (B, F, H, W, 16)),
    jnp.array([3.0, 700.0]),
    jax.random.normal(keys[1], (B, 5, 12)),
    jax.random.normal(keys[2], (B, 7, 10)),
  )


def drawn(tree, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda s: jnp.asarray(
      rng.normal(size=s.shape) / np.sqrt(s.shape[-2] if s.ndim > 1 else 4), s.dtype
    ),
    tree,
  )


def params_of(model):
  return drawn(jax.eval_shape(lambda: model.init(jax.random.key(0), *given())['params']))


def adapters_of(params, **options):
  """With B drawn too, so that they do something."""
  return drawn(jax.eval_shape(lambda: lora.init(jax.random.key(1), params, 3, **options)), 5)


APPLY = jax.jit(MODEL.apply)
EVERY = r'.*(self|cross|ffn|text|image|time|patch).*'


@pytest.mark.parametrize('targets', [lora.TARGETS, EVERY])
def test_merged_equals_unmerged(targets):
  params = params_of(MODEL)
  adapters = adapters_of(params, targets=targets)
  plain = APPLY({'params': params}, *given())
  apart = APPLY({'params': params, 'lora': lora.scaled(adapters, 0.5)}, *given())
  merged = lora.merge(params, adapters, 0.5)
  assert np.abs(apart - plain).max() > 1e-2
  np.testing.assert_allclose(
    APPLY({'params': merged}, *given()), apart, atol=1e-5 * np.abs(apart).max()
  )


@pytest.mark.long
def test_a_fresh_adapter_changes_nothing_and_learns():
  params = params_of(MODEL)
  adapters = lora.init(jax.random.key(1), params, 3)
  assert set(adapters['blocks']) == {'self', 'cross', 'ffn'} and set(
    adapters['blocks']['cross']
  ) == set('qkvo')
  assert adapters['blocks']['ffn']['fc1']['a'].shape == (2, 32, 3)
  assert adapters['blocks']['ffn']['fc1']['b'].shape == (2, 3, 64)
  frozen = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  apply = jax.jit(lambda a: MODEL.apply({'params': frozen, 'lora': lora.scaled(a, 2.0)}, *given()))
  np.testing.assert_allclose(apply(adapters), APPLY({'params': frozen}, *given()), atol=1e-5)
  gradient = jax.grad(lambda a: jnp.square(apply(a) - 1.0).mean())(adapters)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert leaf.dtype == jnp.float32
    assert np.abs(leaf).max() > 0 if path[-1].key == 'b' else not leaf.any()  # A waits for B
  step = jax.tree.map(lambda a, g: a - 1e-4 * g, adapters, gradient)  # bfloat16 would lose this
  assert 0 < np.abs(apply(step) - apply(adapters)).max()


def test_sizes_of_the_published_fine_tunes():
  """Section 3.1 of the specification: 307 M at rank 64 for 14B, 87 M for 1.3B."""
  args = (jnp.zeros((1, 1, 2, 2, 16)), jnp.zeros(1), jnp.zeros((1, 1, 4096)))

  def millions(variant, rank):
    params = lambda key: wan_dit(variant).init(key, *args)['params']
    shapes = jax.eval_shape(lambda key: lora.init(key, params(key), rank), jax.random.key(0))
    return round(sum(x.size for x in jax.tree.leaves(shapes)) / 1e6)

  assert (millions('wan_14b_t2v', 64), millions('wan_14b_t2v', 128), millions('wan_1_3b', 64)) == (
    307,
    613,
    87,
  )


def test_mistakes_are_named():
  params = params_of(MODEL)
  adapters = adapters_of(params)
  with pytest.raises(ValueError, match='no linear layer matches'):
    lora.init(jax.random.key(0), params, 3, targets='nothing')
  with pytest.raises(ValueError, match='at least 1'):
    lora.init(jax.random.key(0), params, 0)
  with pytest.raises(ValueError, match='blocks/self/q .*no kernel that it fits'):
    lora.merge(
      {'blocks': {'self': params['blocks']['ffn']}},
      {'blocks': {'self': {'q': adapters['blocks']['self']['q']}}},
      1.0,
    )
  with pytest.raises(ValueError, match='blocks/self/k '):
    lora.merge(params, {'blocks': {'self': {'k': adapters['blocks']['ffn']['fc1']}}}, 1.0)
