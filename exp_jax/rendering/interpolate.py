"""Differentiable surface attributes by homogeneous barycentric coordinates.

With the pixel centre at (X, Y) in normalized device coordinates and corners (x_k, y_k, w_k), let
q_k = (x_k - X w_k, y_k - Y w_k). Then b_k = a_k / sum(a) with a_k = q_{k+1} x q_{k+2} is
perspective-correct, needs no division by w and no clipping, and plain autodiff gives the gradients.
The visibility is constant.

Source: Olano & Greer, Triangle Scan Conversion using 2D Homogeneous Coordinates, 1997, with Laine
et al., Modular Primitives for High-Performance Differentiable Rendering, 2020, sec. 3.2.
"""

import jax
import jax.numpy as jnp

from exp_jax.rendering.rasterize import Fragments
from exp_jax.rendering.topology import Topology


def pixel_corners(topology: Topology, fragments: Fragments) -> jax.Array:
  """[H, W, 3] vertex indices of the visible face; face 0 in empty pixels."""
  return topology.faces[jnp.maximum(fragments.face_id, 0)]


def barycentrics(clip: jax.Array, topology: Topology, fragments: Fragments) -> jax.Array:
  """Perspective-correct barycentric coordinates of the pixel centres.

  They may leave [0, 1] by the snapping of the rasterizer, about 1/256 pixel; clamping would cut
  gradients.

  Args:
    clip: [V, 4] clip coordinates, as given to `rasterize`.
    topology: the faces.
    fragments: of [H, W]; constant.

  Returns:
    [H, W, 3], summing to one; zero where the pixel is empty.
  """
  if not topology.faces.shape[0]:
    return jnp.zeros((*fragments.face_id.shape, 3), clip.dtype)
  corners = clip[pixel_corners(topology, fragments)]  # [H, W, 3, 4]
  return _barycentrics(corners, fragments.face_id >= 0)


def _barycentrics(corners, filled):
  height, width = filled.shape
  x_ndc = (2 * jnp.arange(width) + 1.0) / width - 1
  y_ndc = (2 * jnp.arange(height)[:, None] + 1.0) / height - 1
  x, y, w = (corners[..., axis] for axis in (0, 1, 3))
  qx = [jnp.where(filled, x[..., k] - x_ndc * w[..., k], 0.0) for k in range(3)]
  qy = [jnp.where(filled, y[..., k] - y_ndc * w[..., k], 0.0) for k in range(3)]
  a = [qx[(k + 1) % 3] * qy[(k + 2) % 3] - qy[(k + 1) % 3] * qx[(k + 2) % 3] for k in range(3)]
  area = a[0] + a[1] + a[2]
  usable = filled & (area != 0)
  scale = jnp.where(usable, 1 / jnp.where(usable, area, 1.0), 0.0)
  return jnp.stack(a, -1) * scale[..., None]


def interpolate(
  attributes: jax.Array,
  clip: jax.Array,
  topology: Topology,
  fragments: Fragments,
  *,
  background: float = 0.0,
) -> jax.Array:
  """Vertex attributes at the pixel centres; differentiable in the attributes and in `clip`.

  Args:
    attributes: [V, C].
    clip: [V, 4].
    topology: the faces.
    fragments: of [H, W]; constant.
    background: value of empty pixels.

  Returns:
    [H, W, C].
  """
  filled = fragments.face_id >= 0
  if not topology.faces.shape[0]:
    return jnp.full((*filled.shape, attributes.shape[-1]), background, attributes.dtype)
  weights = barycentrics(clip, topology, fragments)
  values = attributes[pixel_corners(topology, fragments)]  # [H, W, 3, C]
  values = jnp.where(filled[..., None, None], values, 0.0)
  return jnp.where(filled[..., None], jnp.einsum('hwk,hwkc->hwc', weights, values), background)
