"""Offset fields on the dense mesh, each the sum of a coarse field, lifted and smoothed, and a fine
one along the normals.

  rest(i) = U canonical(beta, psi_i, Theta_i) + rounding + static + face * dynamic_i        ExpPortrait eqs. 2-4

The fine field is hardly smoothed, so that steps of Adam move regions and wrinkles alike (after
Nicolet et al., Large Steps
in Inverse Rendering, 2021). Letters: B frames of a step, V coarse and N dense vertices.
"""

import flax
import jax
import jax.numpy as jnp

from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.offsets.static_field import smooth
from exp_jax.heads.densify import Dense, lift
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.rendering import Topology

DYNAMIC = ('dynamic_coarse', 'dynamic_fine')
MESH_FIELDS = ('static_coarse', 'static_fine', *DYNAMIC)
_LIMIT = 0.05  # metres; no hair style needs more of the scalp, longer hair is not the head model's


@flax.struct.dataclass
class Meshes:
  """The meshes of a head model: whole, dense, the coarse one as a dense one of level 0, and
  triangles of the dense one."""

  head: HeadModel
  dense: Dense
  coarse: Dense
  topology: Topology


@flax.struct.dataclass
class Surface:
  """Where and along what the offsets of one subject act.

  Attributes:
    meshes: of the head model.
    along: [N, 3] unit directions of the fine field.
    start: [N, 3] static offsets to start from, metres.
    masks: [N, 1] 0..1 where static offsets act.
    face: [N, 1] 0..1 where dynamic offsets act.
  """

  meshes: Meshes
  along: jax.Array
  start: jax.Array
  masks: jax.Array
  face: jax.Array


def _field(
  surface: Surface, options: OffsetOptions, broad: jax.Array, fine: jax.Array
) -> jax.Array:
  """[V, 3] and, along the directions of the surface, [N, 1] -> [N, 3]."""
  dense, coarse = surface.meshes.dense, surface.meshes.coarse
  broad = lift(dense, smooth(coarse, broad, options.smoothing))
  return broad + smooth(dense, fine, options.fine_smoothing) * surface.along


def static_offsets(
  surface: Surface, options: OffsetOptions, shared: dict, extra: jax.Array
) -> jax.Array:
  """[N, 3] metres from the rounded surface; `extra` [N, 3] is what has moved there from the dynamic
  fields."""
  static = (
    surface.start
    + extra
    + _field(surface, options, shared['static_coarse'], shared['static_fine']) * surface.masks
  )
  length = jnp.sqrt(jnp.sum(static**2, -1, keepdims=True) + 1e-12)
  return static * jnp.minimum(1, _LIMIT / length)


def dynamic_offsets(surface: Surface, options: OffsetOptions, row: dict) -> jax.Array:
  """The dynamic fields of one frame -> [N, 3] metres; only the face moves."""
  return _field(surface, options, *(row[name] for name in DYNAMIC)) * surface.face


def moved(head: HeadModel, params: HeadParams, shape: jax.Array, rows: dict) -> HeadParams:
  """The coarse parameters of one frame with what the stage adds to them."""
  pose = params.pose
  for name in ('neck', 'head'):
    pose = pose.at[head.joint(name)].add(0.5 * rows['head'])
  if head.has_joint('jaw'):
    pose = pose.at[head.joint('jaw')].add(rows['jaw'])
  return HeadParams(
    params.shape + shape,
    params.expression + rows['expression'],
    pose,
    params.translation + rows['translation'],
  )
