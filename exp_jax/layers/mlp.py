"""Two linear layers with an activation between them: the transformer's feed-forward and
embedders."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from exp_jax.layers.lora import Dense

gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)
gelu_erf = functools.partial(jax.nn.gelu, approximate=False)


class Mlp(nn.Module):
  """fc2(activation(fc1(x))): [..., D] -> [..., out]. Parameters fc1 and fc2, kernels (in, out)."""

  hidden: int
  out: int
  activation: Callable = gelu_tanh
  dtype: str = 'float32'
  kernel_init: Callable = nn.initializers.xavier_uniform()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dense = functools.partial(Dense, dtype=jnp.dtype(self.dtype), kernel_init=self.kernel_init)
    return dense(self.out, name='fc2')(self.activation(dense(self.hidden, name='fc1')(x)))


class GeGlu(nn.Module):
  """fc2(a * gelu(g)), (a, g) = halves of fc1(x): [..., D] -> [..., out].

  The first half is the value, the second the gate.

  The gelu is the exact one, by erf. Parameters fc1 (D, 2 hidden) and fc2 (hidden, out).
  Source: Shazeer, GLU variants improve transformer, 2020, eq. 6.
  """

  hidden: int
  out: int
  dtype: str = 'float32'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dense = functools.partial(Dense, dtype=jnp.dtype(self.dtype))
    value, gate = jnp.split(dense(2 * self.hidden, name='fc1')(x), 2, axis=-1)
    return dense(self.out, name='fc2')(value * gelu_erf(gate))
