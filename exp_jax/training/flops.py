"""Floating-point operations of matrix products and convolutions, counted in a traced program.

`compiled.cost_analysis()` counts the body of a scan once, and cannot see into kernels; here a scan
counts as often as it
runs. Nothing is computed: shapes are enough, so that a network of any size is counted in seconds.
Elementwise work is left out, by the convention of MFU.
"""

import math

import jax
from jax.extend import core


def _dot(eqn) -> int:
  (contracted, _), (batch, _) = eqn.params['dimension_numbers']
  left, right = (v.aval.shape for v in eqn.invars[:2])
  inner = math.prod(left[i] for i in contracted)
  shared = math.prod(left[i] for i in batch)
  return 2 * math.prod(left) * math.prod(right) // max(inner * shared, 1)


def _convolution(eqn) -> int:
  numbers = eqn.params['dimension_numbers']
  kernel = eqn.invars[1].aval.shape
  out = math.prod(eqn.outvars[0].aval.shape)
  taps = math.prod(kernel) // kernel[numbers.rhs_spec[0]]  # input channels of a group x window
  return 2 * out * taps // math.prod(eqn.params['lhs_dilation'])


def _inner(params):
  for value in params.values():
    for one in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(one, core.ClosedJaxpr):
        yield one.jaxpr
      elif isinstance(one, core.Jaxpr):
        yield one


def _count(jaxpr) -> int:
  total = 0
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    if name == 'dot_general':
      total += _dot(eqn)
    elif name == 'conv_general_dilated':
      total += _convolution(eqn)
    elif name == 'cond':
      total += max(map(_count, _inner(eqn.params)))
    elif name.startswith('custom_vjp') or name.startswith('custom_jvp'):
      total += _count(next(iter(_inner(eqn.params))))  # the function, not its rules
    elif name == 'shard_map':
      total += math.prod(eqn.params['mesh'].shape.values()) * sum(map(_count, _inner(eqn.params)))
    else:
      total += (
        eqn.params.get('length', 1) * sum(map(_count, _inner(eqn.params)))
        if name == 'scan'
        else (sum(map(_count, _inner(eqn.params))))
      )
  return total


def count_flops(fn, *args) -> int:
  """FLOPs of one call of `fn`; args are arrays or ShapeDtypeStructs.

  A while loop of unknown length counts once.
  """
  return _count(jax.make_jaxpr(fn)(*args).jaxpr)
