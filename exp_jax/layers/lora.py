"""Low-rank adapters as plain pytrees: y = x W + b + (x A) B, with W frozen in any type and A, B
float32.

Adapters are a nested dict like the parameters, where a linear layer {kernel, bias} has {a, b};
stacked layers have stacked factors. They reach the network as a second collection, so no network
knows whether it is adapted:

  model.apply({'params': frozen, 'lora': scaled(adapters, alpha / rank)}, ...)

A starts as Kaiming-uniform and B as zero, so that training starts from the frozen function.

Letters: L layers, r rank, i inputs, o outputs.
Source: Hu et al., LoRA, 2021, section 4.1.
"""

import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

COLLECTION = 'lora'
# what the published portrait fine-tunes adapt
TARGETS = r'(.*/)?blocks/(self|cross)/[qkvo]|(.*/)?blocks/ffn/fc[12]'


class Dense(nn.Module):
  """`nn.Dense` that adds a low-rank term where the collection 'lora' has one for it.

  Parameters kernel and, unless left out, bias.
  """

  features: int
  dtype: jnp.dtype = jnp.float32
  kernel_init: Callable = nn.initializers.lecun_normal()
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', self.kernel_init, (x.shape[-1], self.features))
    bias = self.param('bias', nn.initializers.zeros, (self.features,)) if self.use_bias else None
    x = x.astype(self.dtype)
    y = x @ kernel.astype(self.dtype)
    if self.has_variable(COLLECTION, 'a'):
      a, b = self.get_variable(COLLECTION, 'a'), self.get_variable(COLLECTION, 'b')
      y = y + (x @ a.astype(self.dtype)) @ b.astype(self.dtype)
    return y if bias is None else y + bias.astype(self.dtype)


def _linear_layers(tree, path=()):
  """((path, kernel), ...) of every {kernel, bias} whose kernel is a matrix or a stack of
  matrices."""
  kernel = tree.get('kernel')
  if kernel is not None and len(kernel.shape) in (2, 3):
    yield path, kernel
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from _linear_layers(value, (*path, key))


def _put(tree, path, value):
  for key in path[:-1]:
    tree = tree.setdefault(key, {})
  tree[path[-1]] = value


def init(rng: jax.Array, params: dict, rank: int, *, targets: str = TARGETS) -> dict:
  """Adapters for every linear layer whose path ('blocks/self/q') fully matches the pattern
  `targets`.

  Args:
    rng: key of A.
    params: nested dict of arrays or ShapeDtypeStructs; kernels [i, o] or [L, i, o].

  Returns:
    {..., {'a': [..., i, r], 'b': [..., r, o]}} float32.

  Raises:
    ValueError: if nothing matches, or the rank is not positive.
  """
  if rank < 1:
    raise ValueError(f'the rank of adapters must be at least 1, got {rank}')
  adapters = {}
  for path, kernel in _linear_layers(params):
    if not re.fullmatch(targets, '/'.join(path)):
      continue
    *lead, i, o = kernel.shape
    rng, key = jax.random.split(rng)
    bound = i**-0.5  # Kaiming with a = sqrt(5), as linear layers start
    a = jax.random.uniform(key, (*lead, i, rank), minval=-bound, maxval=bound)
    _put(adapters, path, {'a': a, 'b': jnp.zeros((*lead, rank, o))})
  if not adapters:
    raise ValueError(f'no linear layer matches {targets!r}')
  return adapters


def scaled(adapters: dict, scale: float) -> dict:
  """The adapters with `scale` (alpha / rank) inside B, as `Dense` expects them."""
  return _map_pairs(adapters, lambda pair: {'a': pair['a'], 'b': pair['b'] * scale})


def merge(params: dict, adapters: dict, scale: float) -> dict:
  """Parameters with W + scale A B in place of W; computed in float32, stored in W's type.

  Raises:
    ValueError: if an adapter has no kernel, or its shape does not fit; it is named.
  """

  def walk(node, pairs, path):
    if 'a' in pairs:
      kernel = node.get('kernel') if isinstance(node, dict) else None
      delta = jnp.einsum(
        '...ir,...ro->...io', pairs['a'], pairs['b'], preferred_element_type=jnp.float32
      )
      if kernel is None or kernel.shape != delta.shape:
        raise ValueError(f'the adapter {"/".join(path)} {delta.shape} has no kernel that it fits')
      return node | {'kernel': (kernel.astype(jnp.float32) + scale * delta).astype(kernel.dtype)}
    unknown = set(pairs) - set(node)
    if unknown:
      raise ValueError(
        f'the adapter {"/".join((*path, sorted(unknown)[0]))} has no kernel that it fits'
      )
    return node | {key: walk(node[key], value, (*path, key)) for key, value in pairs.items()}

  return walk(params, adapters, ())


def _map_pairs(tree, fn):
  return (
    fn(tree)
    if 'a' in tree and not isinstance(tree['a'], dict)
    else {k: _map_pairs(v, fn) for k, v in tree.items()}
  )
