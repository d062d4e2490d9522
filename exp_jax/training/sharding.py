"""Meshes and shardings from tables of the config.

A rule is (pattern, spec), matched against the path 'params/blocks/self/q/kernel'; the first match wins.
A spec is None (replicated), an axis name ('fsdp': the largest dimension that the axis divides) or a tuple
with one axis name, tuple of names or None per dimension. Optimizer moments and the average carry their
parameter's path, hence its sharding.
"""

import re

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from exp_jax.errors import UserError
from exp_jax.training.optimizers import path_name


def make_mesh(axes: tuple[tuple[str, int], ...]) -> Mesh:
  """A mesh from ordered (name, size) pairs. Size -1, at most once, takes all devices left.

  Raises:
    UserError: if the sizes do not multiply to the number of devices.
  """
  names, sizes = zip(*axes)
  count = jax.device_count()
  known = 1
  for size in sizes:
    known *= size if size > 0 else 1
  sizes = tuple(size if size > 0 else count // known for size in sizes)
  total = 1
  for size in sizes:
    total *= size
  if total != count:
    raise UserError(f'the mesh {dict(zip(names, sizes))} needs {total} devices, there are {count}: '
                    'change `mesh` in the config')
  return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(names))


def partition(shape: tuple[int, ...], spec, mesh: Mesh) -> P:
  """The PartitionSpec of one array; see the head of this file."""
  if spec is None or not shape:
    return P()
  if isinstance(spec, str):
    size = mesh.shape[spec]
    fitting = [i for i, n in enumerate(shape) if n % size == 0 and n >= size]
    if size == 1 or not fitting:
      return P()
    largest = max(fitting, key=lambda i: (shape[i], i))
    return P(*[spec if i == largest else None for i in range(len(shape))])
  if len(spec) != len(shape):
    raise ValueError(f'the sharding {spec} does not fit the shape {shape}')
  return P(*spec)


def infer_shardings(tree, rules, mesh: Mesh):
  """A tree of NamedSharding like `tree` (arrays or ShapeDtypeStructs)."""

  def one(path, leaf):
    name = path_name(path)
    for pattern, spec in rules:
      if re.match(pattern, name):
        return NamedSharding(mesh, partition(leaf.shape, spec, mesh))
    return NamedSharding(mesh, P())

  return jax.tree_util.tree_map_with_path(one, tree)
