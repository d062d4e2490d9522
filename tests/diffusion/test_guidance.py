"""Guidance over named branches: the rules of the field written out, and those of the portrait
generator bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from exp_jax.diffusion.guidance import branch_weights, guided, nested, one_by_one, together

X = jax.random.normal(jax.random.key(0), (3, 2, 5))
NAMES = ('pose and reference', 'reference', 'neither')
SWITCHES = (('pose and reference', (1.0, 1.0)), ('reference', (0.0, 1.0)), ('neither', (0.0, 0.0)))
SCALES = [(1.0, None), (1.5, None), (0.5, None), (3.0, 1.5), (2.0, 2.0), (1.0, 4.0), (7.3, 0.1)]


def evaluate(x, sigma, pose, reference):
  return (
    jnp.sin(x * (1 + 2 * pose + 5 * reference * reference)[:, None, None])
    + sigma * pose[:, None, None]
  )


def plan_of(scale, reference_scale):
  return (
    nested(NAMES[:2], (scale,))
    if reference_scale is None
    else nested(NAMES, (scale, reference_scale))
  )


def rows_of(scale, reference_scale):
  """(keep pose, keep reference, weight) as the generator had them before branches had names."""
  rows = [(1.0, 1.0, scale), (0.0, 1.0, 1.0 - scale)]
  if reference_scale is not None:
    rows = [
      (1.0, 1.0, scale),
      (0.0, 1.0, reference_scale - scale),
      (0.0, 0.0, 1.0 - reference_scale),
    ]
  return [row for row in rows if row[2]]


@pytest.mark.parametrize('scale, reference_scale', SCALES)
def test_the_rules_of_the_portrait_generator_keep_every_bit(scale, reference_scale):
  plan, rows, ones = plan_of(scale, reference_scale), rows_of(scale, reference_scale), jnp.ones(3)
  assert [weight for _, weight in branch_weights(plan)] == [row[2] for row in rows]
  expected = sum(
    weight * evaluate(X, 0.5, pose * ones, reference * ones) for pose, reference, weight in rows
  )
  np.testing.assert_array_equal(one_by_one(evaluate, plan, SWITCHES)(X, 0.5), expected)
  poses, references, weights = (jnp.array(column) for column in zip(*rows))
  batch = evaluate(
    jnp.concatenate([X] * len(rows)), 0.5, jnp.repeat(poses, 3), jnp.repeat(references, 3)
  )
  expected = jnp.einsum('k,k...->...', weights, batch.reshape(len(rows), *X.shape))
  np.testing.assert_array_equal(together(evaluate, plan, SWITCHES)(X, 0.5), expected)


@pytest.mark.parametrize('scale, reference_scale', SCALES)
def test_both_ways_are_the_published_formula(scale, reference_scale):
  v = lambda pose, reference: evaluate(X, 0.5, pose * jnp.ones(3), reference * jnp.ones(3))
  expected = v(0, 1) + scale * (v(1, 1) - v(0, 1))
  if reference_scale is not None:
    expected = v(0, 0) + reference_scale * (v(0, 1) - v(0, 0)) + scale * (v(1, 1) - v(0, 1))
  plan = plan_of(scale, reference_scale)
  for way in (one_by_one, together):
    np.testing.assert_allclose(way(evaluate, plan, SWITCHES)(X, 0.5), expected, atol=1e-5)


def test_plans_of_independent_branches():
  """Two conditions, each against none, as Loki may drop them; the joint rule of MagicPortrait."""
  rng = np.random.default_rng(0)
  u, d, r, dr = (rng.normal(size=(2, 3)).astype(np.float32) for _ in range(4))
  predictions = dict(none=u, driving=d, reference=r, both=dr)
  plan = (('none', None, 1.0), ('driving', 'none', 2.0), ('both', 'driving', 1.5))
  np.testing.assert_allclose(
    guided(predictions, plan), u + 2.0 * (d - u) + 1.5 * (dr - d), atol=1e-6
  )
  apart = (('none', None, 1.0), ('driving', 'none', 2.0), ('reference', 'none', 3.0))
  np.testing.assert_allclose(
    guided(predictions, apart), u + 2.0 * (d - u) + 3.0 * (r - u), atol=1e-6
  )
  np.testing.assert_allclose(
    guided(predictions, nested(('both', 'none'), (3.5,))), u + 3.5 * (dr - u), atol=1e-6
  )
  # nothing else is needed
  np.testing.assert_array_equal(guided({'both': dr}, nested(('both', 'none'), (1.0,))), dr)


def test_a_guidance_of_one_drops_the_branch():
  count = []
  counted = lambda *args: count.append(1) or evaluate(*args)
  one_by_one(counted, plan_of(1.0, None), SWITCHES)(X, 0.5)
  one_by_one(counted, plan_of(2.0, 2.0), SWITCHES)(X, 0.5)
  assert len(count) == 1 + 2 and branch_weights(plan_of(1.0, None)) == (
    ('pose and reference', 1.0),
  )
  assert hash(plan_of(1.0, 2.0)) == hash(plan_of(1.0, 2.0))


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="named 'none'"):
    guided({'both': X}, nested(('both', 'none'), (2.0,)))
  with pytest.raises(ValueError, match='need 2 scales'):
    nested(('a', 'b', 'c'), (1.0,))
