import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from exp_jax.networks.wan_dit import wan_dit
from exp_jax.networks.wan_flops import flops, peak_tflops


def dots(jaxpr):
  """FLOPs of all matrix products of a jaxpr, a scan's body as often as it runs."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      (contracted, _), _ = eqn.params['dimension_numbers']
      inner = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
      total += 2 * math.prod(eqn.outvars[0].aval.shape) * inner
    inside = [p for v in eqn.params.values() for p in (v if isinstance(v, (tuple, list)) else (v,))]
    inside = [
      p.jaxpr if isinstance(p, core.ClosedJaxpr) else p
      for p in inside
      if isinstance(p, (core.Jaxpr, core.ClosedJaxpr))
    ]
    total += eqn.params.get('length', 1) * sum(map(dots, inside))
  return total


def counted(model, grid, fn=lambda f: f):
  f, r, c = (g * p for g, p in zip(grid, model.patch))
  args = (
    jnp.zeros((1, f, r, c, model.in_channels)),
    jnp.zeros(1),
    jnp.zeros((1, 11, model.text_dim)),
    jnp.zeros((1, model.image_positions or 9, model.image_dim)) if model.image_dim else None,
  )
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), *args)['params'])
  x, t, *rest = args
  return dots(
    jax.make_jaxpr(fn(lambda p, x, rest: model.apply({'params': p}, x, t, *rest).sum()))(
      params, x, rest
    ).jaxpr
  )


@pytest.mark.parametrize(
  'options', [{}, dict(image_dim=10), dict(image_dim=10, image_positions=14, in_channels=36)]
)
def test_the_formula_equals_the_products_of_a_tiny_model(options):
  model = wan_dit('tiny', depth=3, remat='none', **options)
  found, grid = flops(model, (2, 3, 5), text_tokens=11, image_tokens=9), (2, 3, 5)
  assert abs(found.forward / counted(model, grid) - 1) < 0.01
  assert abs(found.train / counted(model, grid, lambda f: jax.grad(f, (0, 1, 2))) - 1) < 0.01


def test_an_unrolled_program_counts_the_same():
  """The compiler's count of three separate blocks, elementwise work included, at sizes where
  products prevail."""
  model = wan_dit('tiny', width=256, heads=2, ffn=1024, depth=3, text_dim=64, remat='none')
  args = (jnp.zeros((1, 2, 16, 16, 16)), jnp.zeros(1), jnp.zeros((1, 11, 64)))
  params = jax.eval_shape(lambda: model.init(jax.random.key(0), *args)['params'])

  def unrolled(params, *args):
    one, out = model.clone(depth=1), 0.0
    for n in range(3):
      layer = params | {'blocks': jax.tree.map(lambda x, n=n: x[n : n + 1], params['blocks'])}
      out = out + one.apply({'params': layer}, *args)
    return out

  cost = jax.jit(unrolled).lower(params, *args).cost_analysis()['flops']
  one = flops(model.clone(depth=1), (2, 8, 8), text_tokens=11).forward
  assert abs(3 * one / cost - 1) < 0.03


def test_published_values():
  """Section 8 of the specification."""
  for variant, grid, forward in (
    ('wan_14b_t2v', (21, 45, 80), 6523),
    ('wan_1_3b', (21, 32, 32), 141.2),
    ('wan_14b_i2v', (21, 32, 32), 909.8),
  ):
    found = flops(wan_dit(variant), grid)
    assert abs(found.forward / 1e12 / forward - 1) < 1e-3
    assert found.train == 3 * found.forward and found.train_adapters < found.train
  assert (
    peak_tflops('NVIDIA H200') == 989
    and peak_tflops('NVIDIA H20') == 148
    and peak_tflops('cpu') is None
  )
