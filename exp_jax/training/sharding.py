"""Meshes and shardings from tables of the config.

A rule is (pattern, spec), matched against the path 'params/blocks/self/q/kernel'; the first match
wins. A spec is None (replicated), an axis name ('fsdp': the largest dimension that the axis
divides) or a tuple with one axis name, tuple of names or None per dimension. Optimizer moments and
the average carry their parameter's path, hence its sharding.

Examples are spread over the axes `data` and `fsdp` (and any other name but `context` and `tensor`):
along those two, all devices see the same examples, and networks split tokens or heads; they find
the mesh by `jax.sharding.get_abstract_mesh`.
"""

import math
import re

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from exp_jax.errors import UserError
from exp_jax.training.optimizers import path_name

WITHIN_EXAMPLES = ('context', 'tensor')


def make_mesh(axes: tuple[tuple[str, int], ...], devices=None) -> Mesh:
  """A mesh from ordered (name, size) pairs. Size -1, at most once, takes all devices left.

  Args:
    devices: those to use; None takes all there are. Devices of a topology that is only described
      serve as well.

  Raises:
    UserError: if the sizes do not multiply to the number of devices.
  """
  names, sizes = zip(*axes)
  count = jax.device_count() if devices is None else len(devices)
  known = math.prod(size for size in sizes if size > 0)
  sizes = tuple(size if size > 0 else count // known for size in sizes)
  if math.prod(sizes) != count:
    raise UserError(
      f'the mesh {dict(zip(names, sizes))} needs {math.prod(sizes)} devices, there are {count}: '
      'change `mesh` in the config'
    )
  found = mesh_utils.create_device_mesh(sizes, devices=devices, allow_split_physical_axes=True)
  return Mesh(found, names, axis_types=(AxisType.Auto,) * len(names))


def _example_axes(mesh: Mesh) -> tuple[str, ...]:
  return tuple(name for name in mesh.axis_names if name not in WITHIN_EXAMPLES)


def over_examples(mesh: Mesh) -> NamedSharding:
  """The sharding of a batch along its first axis."""
  return NamedSharding(mesh, P(_example_axes(mesh)))


def own_rows(mesh: Mesh, batch_size: int, accumulate: int = 1) -> tuple[int, int]:
  """[first, last) row of a global batch that this process hands over; hosts that share examples get
  the same.

  Raises:
    UserError: if the examples of one part of a batch do not divide among the devices.
  """
  sharding = over_examples(mesh)
  shards = math.prod(mesh.shape[name] for name in _example_axes(mesh))
  if batch_size % (shards * accumulate):
    raise UserError(
      f'batch_size {batch_size} does not divide by {shards} devices along {_example_axes(mesh)}'
      + (f' times {accumulate} accumulated parts' if accumulate > 1 else '')
    )
  slices = [index[0] for index in sharding.addressable_devices_indices_map((batch_size,)).values()]
  rows = sorted({i.indices(batch_size)[:2] for i in slices})
  first, last = rows[0][0], rows[-1][1]
  if sum(b - a for a, b in rows) != last - first:
    raise UserError(
      f'the examples of this host are not neighbours in the mesh {dict(mesh.shape)}: put `data` '
      'first'
    )
  return first, last


def partition(shape: tuple[int, ...], spec, mesh: Mesh) -> P:
  """The PartitionSpec of one array; see the head of this file."""
  if spec is None or not shape:
    return P()
  if isinstance(spec, str):
    if spec not in mesh.shape:
      raise UserError(
        f'param_sharding names the axis {spec!r}, the mesh has {tuple(mesh.axis_names)}'
      )
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
        if (
          name.startswith('opt_state') and isinstance(spec, tuple) and len(spec) != len(leaf.shape)
        ):
          return NamedSharding(mesh, P())  # a factored moment of the parameter, a vector or less
        return NamedSharding(mesh, partition(leaf.shape, spec, mesh))
    return NamedSharding(mesh, P())

  return jax.tree_util.tree_map_with_path(one, tree)
