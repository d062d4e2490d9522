"""Detail stage: static and dynamic vertex offsets of the dense head, of one subject or of many in
one compiled program.

The coarse fit explains the landmarks; hair, clothes, the outline, fine shape and wrinkles are
offsets in the rest pose (`fields`), found by Adam (`descent`) through the rasterizer. One compiled
program a bucket of clip lengths.
Letters: T frames, N dense vertices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from exp_jax.files.programs.traced import kept_traced
from exp_jax.fitting.coarse.clips import bucket
from exp_jax.fitting.coarse.coarse_fit import CoarseFit
from exp_jax.fitting.offsets.descent import OffsetFit, fit_one
from exp_jax.fitting.offsets.fields import Meshes
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.offsets.problem import Problem, make_problem
from exp_jax.fitting.offsets.targets import Targets
from exp_jax.heads.densify import Dense, densify, rounding
from exp_jax.heads.model import HeadModel
from exp_jax.layers import batching
from exp_jax.rendering import Topology


@kept_traced(static_argnames=('options', 'image_size', 'at_once', 'mesh'), result=OffsetFit)
def _fit_all(meshes: Meshes, problems: Problem, *, image_size, options, at_once, mesh) -> OffsetFit:
  """Problems with a leading axis of subjects -> fits with one; every device has subjects of its
  own."""

  def share(meshes, problems):
    one = functools.partial(fit_one, meshes, image_size=image_size, options=options)
    return jax.lax.map(one, problems, batch_size=at_once)

  return jax.shard_map(
    share, mesh=mesh, in_specs=(P(), P('subjects')), out_specs=P('subjects'), check_vma=False
  )(meshes, problems)


def fit_offsets(
  head: HeadModel,
  dense: Dense,
  fit: CoarseFit,
  points: np.ndarray,
  found: np.ndarray,
  targets: Targets,
  *,
  options: OffsetOptions = OffsetOptions(),
  seed: int = 0,
) -> OffsetFit:
  """Fits offsets of one subject on top of a coarse fit.

  Args:
    head: of the fit.
    dense: of the head.
    fit: the coarse fit.
    points: [T, 478, 2] landmarks in pixels of fit.image_size.
    found: [T] or trust [T, 478] in 0..1.
    targets: maps of the same T frames.
    options: of the stage.
    seed: of the batches of frames.
  """
  return fit_many(head, dense, [fit], [points], [found], [targets], options=options, seed=seed)[0]


def fit_many(
  head: HeadModel,
  dense: Dense,
  fits: list[CoarseFit],
  points: list[np.ndarray],
  found: list[np.ndarray],
  targets: list[Targets],
  *,
  options: OffsetOptions = OffsetOptions(),
  seed: int = 0,
  at_once: int | None = None,
) -> list[OffsetFit]:
  """Fits offsets of many subjects in one compiled program; arguments as of `fit_offsets`, in lists.

  Clips are padded to the next length of `bucket`; padding is never looked at. All clips must have
  the same kinds of maps, sizes and image sizes. Subjects are shared out over the devices of this
  host, which never speak with each other; several hosts split the list (`launch/fit_subjects.sh`).

  Args:
    at_once: subjects of a device that are vectorised together; by default one on CPU, whose cache
      holds the maps of one, and 16 elsewhere.

  Raises:
    ValueError: subjects that differ in image size or in the maps they have.
  """
  if len({f.image_size for f in fits}) > 1 or len({jax.tree.structure(t) for t in targets}) > 1:
    raise ValueError('subjects of one call must have equal image sizes and kinds of maps')
  length, rounder = bucket(max(len(p) for p in points)), rounding(head, dense)
  meshes = Meshes(head, dense, densify(head, 0), Topology.from_faces(np.asarray(dense.faces)))
  problems = [
    make_problem(
      meshes, rounder, *each, length=length, rng=jax.random.key(seed)
    )  # not its place: alone it fits the same
    for each in zip(fits, points, found, targets)
  ]
  devices = jax.local_devices()[: len(problems)]
  mesh = jax.make_mesh((len(devices),), ('subjects',), axis_types=(AxisType.Auto,), devices=devices)
  problems += problems[-1:] * (-len(problems) % len(devices))
  stacked = jax.device_put(jax.tree.map(_stacked, *problems), NamedSharding(mesh, P('subjects')))
  at_once = batching.at_once(at_once)
  result = _fit_all(
    meshes,
    stacked,
    image_size=fits[0].image_size,
    options=options,
    at_once=min(at_once, len(problems) // len(devices)),
    mesh=mesh,
  )
  result = jax.device_get(result)
  cut = lambda index, count: OffsetFit(
    **{
      name: getattr(result, name)[index][:count]
      if name in ('dynamic', 'expression', 'pose', 'translation')
      else getattr(result, name)[index]
      for name in result.__dataclass_fields__
    }
  )
  return [jax.device_put(cut(index, len(p))) for index, p in enumerate(points)]


def _stacked(*parts):
  """Parts along a new first axis, on the host, where nothing is compiled for every shape; keys of
  random numbers are stacked by JAX."""
  if jax.dtypes.issubdtype(parts[0].dtype, jax.dtypes.prng_key):
    return jnp.stack(parts)
  return np.stack([np.asarray(part) for part in parts])
