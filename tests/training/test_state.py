"""One update: skipped ones change nothing, parts sum to the whole, frozen parameters stay, moments
are as told."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from exp_jax.errors import UserError
from exp_jax.training.optimizers import make_optimizer
from exp_jax.training.settings import settings_of
from exp_jax.training.state import (
  cast_kernels,
  init_state,
  loss_and_gradients,
  merge,
  split,
  train_step,
)

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
RNG = jax.random.key(1)


def init_fn(rng):
  return {
    'a': {'kernel': jax.random.normal(rng, (3, 5)), 'bias': jnp.zeros(5)},
    'b': {'kernel': jnp.ones((5, 2))},
  }


def loss_fn(params, batch, rng):
  del rng
  y = jnp.tanh(batch['x'] @ params['a']['kernel'] + params['a']['bias']) @ params['b']['kernel']
  return jnp.square(y - batch['x'][:, :2]).mean(), {'y': y.mean()}


def start(trainable=None, **options):
  tx = make_optimizer(learning_rate=0.1, **options)
  return tx, *init_state(
    jax.random.key(0), init_fn=init_fn, tx=tx, trainable=trainable, frozen_dtype='bfloat16'
  )


def step(tx, state, frozen, x=X, **options):
  return train_step(
    state,
    frozen,
    {'x': x},
    RNG,
    jnp.zeros(1, jnp.int32),
    loss_fn=loss_fn,
    tx=tx,
    ema_decay=0.9,
    **options,
  )


def bits(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.mark.long
@pytest.mark.parametrize(
  'x, options', [(X * np.nan, {}), (X * np.inf, {}), (X, dict(skip_norm=1e-3))]
)
def test_a_bad_update_changes_no_bit_but_is_counted(x, options):
  tx, state, frozen = start()
  state, _ = step(tx, state, frozen)
  bad, metrics = step(tx, state, frozen, x, **options)
  worse, _ = step(tx, bad, frozen, x, **options)
  for part in ('params', 'opt_state', 'ema'):
    assert bits(getattr(worse, part)) == bits(getattr(state, part))
  assert list(metrics['skipped']) == [1, 1] and list(worse.skipped) == [2, 2] and worse.step == 3
  good, _ = step(tx, worse, frozen)
  assert list(good.skipped) == [2, 0] and bits(good.params) != bits(state.params)


def test_the_average_follows_by_its_decay():
  """A young average takes 9/10, 9/11, ... of the new parameters, an old one a tenth (`ema_decay`
  0.9), in float64 here."""
  tx, state, frozen = start()
  state = state.replace(ema=jax.tree.map(lambda x: x + 1.0, state.ema))
  for count, share in ((0, 9 / 10), (1, 9 / 11), (500, 0.1)):
    before = state.replace(step=jnp.int32(count))
    state, _ = step(tx, before, frozen)
    for average, old, new in zip(*map(jax.tree.leaves, (state.ema, before.ema, state.params))):
      np.testing.assert_allclose(
        average, (1 - share) * np.float64(old) + share * np.float64(new), rtol=1e-5, atol=1e-6
      )


def test_parts_of_a_batch_sum_to_the_whole():
  _, state, frozen = start()
  whole = loss_and_gradients(state.params, frozen, {'x': X}, RNG, loss_fn=loss_fn)
  for count in (2, 4, 8):
    parts = loss_and_gradients(
      state.params, frozen, {'x': X}, RNG, loss_fn=loss_fn, accumulate=count
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), parts, whole)


def test_every_part_has_its_own_random_numbers():
  drawn = lambda params, batch, rng: (params['w'] * jax.random.normal(rng), {})
  one, _, _ = loss_and_gradients({'w': 1.0}, {}, {'x': X}, RNG, loss_fn=drawn, accumulate=4)
  expected = np.mean([jax.random.normal(jax.random.fold_in(RNG, i)) for i in range(4)])
  np.testing.assert_allclose(one, expected, rtol=1e-6)


def test_frozen_parameters_have_no_moments_no_average_and_keep_their_bits():
  only_a = lambda name: name.startswith('a/')
  tx, state, frozen = start(only_a)
  assert set(state.params) == set(state.ema) == {'a'} and set(frozen) == {'b'}
  assert frozen['b']['kernel'].dtype == jnp.bfloat16
  paths = [
    jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)
  ]
  assert paths and not any("['b']" in path for path in paths)
  before = bits(state.params)
  state, _ = step(tx, state, frozen)
  assert all(a != b for a, b in zip(bits(state.params), before))
  whole = merge(state.params, frozen)
  assert jax.tree.structure(whole) == jax.tree.structure(init_fn(RNG))
  assert merge(*split(whole, lambda name: name.endswith('kernel'))).keys() == whole.keys()
  with pytest.raises(ValueError, match='no parameter'):
    split(whole, lambda name: False)


def test_frozen_or_not_the_trained_gradients_are_the_same():
  params = init_fn(jax.random.key(0))
  trained, frozen = split(params, lambda name: name == 'a/kernel')
  _, _, part = loss_and_gradients(trained, frozen, {'x': X}, RNG, loss_fn=loss_fn)
  _, _, whole = loss_and_gradients(params, {}, {'x': X}, RNG, loss_fn=loss_fn)
  np.testing.assert_array_equal(part['a']['kernel'], whole['a']['kernel'])


def test_compute_type_is_of_kernels_only_and_masters_stay_float32():
  params = init_fn(RNG)
  cast = cast_kernels(params, 'bfloat16')
  assert cast['a']['kernel'].dtype == jnp.bfloat16 and cast['a']['bias'].dtype == jnp.float32
  tx, state, frozen = start()
  after, metrics = step(tx, state, frozen, compute_dtype='bfloat16')
  assert {x.dtype for x in jax.tree.leaves((after.params, after.ema))} == {jnp.dtype('float32')}
  exact = step(tx, state, frozen)[1]
  assert metrics['loss'] != exact['loss']
  # kernels have 8 bits of mantissa
  np.testing.assert_allclose(metrics['loss'], exact['loss'], rtol=2e-2)


@pytest.mark.parametrize('moments', ['float32', 'bfloat16', 'factored'])
def test_moments_are_as_told_and_all_of_them_learn(moments):
  tx, state, frozen = start(moments=moments)
  first = float(step(tx, state, frozen)[1]['loss'])
  update = jax.jit(lambda state: step(tx, state, frozen))
  for _ in range(40):
    state, metrics = update(state)
  assert metrics['loss'] < 0.5 * first
  types = {str(x.dtype) for x in jax.tree.leaves(state.opt_state)}
  assert ('bfloat16' in types) == (moments == 'bfloat16')


def test_factored_moments_are_vectors():
  tx = make_optimizer(learning_rate=0.1, moments='factored')
  opt_state = jax.eval_shape(tx.init, {'kernel': jax.ShapeDtypeStruct((512, 256), jnp.float32)})
  assert sum(x.size for x in jax.tree.leaves(opt_state)) < 1000


@pytest.mark.parametrize(
  'change, words',
  [
    (dict(log_every=0), 'log_every'),
    (dict(compute_dtype='float16'), 'compute_dtype'),
    (dict(accumulate=3), 'divide'),
    (dict(optimizer=dict(moments='none')), 'moments'),
    (dict(optimizer=dict(kind='sgd')), 'kind'),
    (dict(optimizer=dict(kind='muon', moments='factored')), 'muon'),
    (dict(step_timeout=-1.0), 'step_timeout'),
  ],
)
def test_settings_out_of_range_are_sentences(change, words):
  whole = dict(
    seed=0,
    mesh=(('data', 1),),
    param_sharding=(),
    total_steps=1,
    batch_size=4,
    optimizer={},
    log_every=1,
    save_every=1,
    eval_every=1,
  )
  assert settings_of(ml_collections.ConfigDict(whole)).accumulate == 1
  with pytest.raises(UserError, match=words):
    settings_of(ml_collections.ConfigDict(whole | change))
