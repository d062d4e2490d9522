"""Differentiable surface attributes by homogeneous barycentric coordinates.

With the pixel centre at (X, Y) in normalized device coordinates and corners (x_k, y_k, w_k), let
q_k = (x_k - X w_k, y_k - Y w_k). Then b_k = a_k / sum(a) with a_k = q_{k+1} x q_{k+2} is
perspective-correct, needs no division by w and no clipping, and plain autodiff gives the gradients
within a pixel. Between pixels and vertices there is one gather forward, one gather and one scatter
backward, of x, y, w and all attributes together. The visibility is constant.

Source: Olano & Greer, Triangle Scan Conversion using 2D Homogeneous Coordinates, 1997, with Laine
et al., Modular Primitives for High-Performance Differentiable Rendering, 2020, sec. 3.2.
"""

import jax
import jax.numpy as jnp
from jax import lax

from exp_jax.rendering.rasterize import Fragments
from exp_jax.rendering.streams import over_frames, visit_chosen
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
  filled = fragments.face_id >= 0
  height, width = filled.shape
  x_ndc = (2 * jnp.arange(width) + 1.0) / width - 1
  y_ndc = (2 * jnp.arange(height)[:, None] + 1.0) / height - 1
  corners = jnp.where(filled[..., None, None], corners, 0.0)
  x, y, w = ([corners[..., k, axis] for k in range(3)] for axis in (0, 1, 3))
  return jnp.stack(_weights(x, y, w, x_ndc, y_ndc), -1)


def _weights(x, y, w, x_ndc, y_ndc):
  """The three weights of corners x, y, w (three arrays each); 0 where they span no area."""
  qx = [x[k] - x_ndc * w[k] for k in range(3)]
  qy = [y[k] - y_ndc * w[k] for k in range(3)]
  a = [qx[(k + 1) % 3] * qy[(k + 2) % 3] - qy[(k + 1) % 3] * qx[(k + 2) % 3] for k in range(3)]
  area = a[0] + a[1] + a[2]
  scale = jnp.where(area != 0, 1 / jnp.where(area != 0, area, 1.0), 0.0)
  return [value * scale for value in a]


def interpolate(
  attributes: jax.Array,
  clip: jax.Array,
  topology: Topology,
  fragments: Fragments,
  *,
  background: float = 0.0,
) -> jax.Array:
  """Vertex attributes at the pixel centres; differentiable in the attributes and in `clip`
  (reverse mode).

  Args:
    attributes: [V, C]; several at once cost less than one after the other.
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
  table = jnp.concatenate([clip[:, :2], clip[:, 3:], attributes], -1)  # [V, 3 + C]
  values = _look_up(table, topology.faces, fragments.face_id)
  if isinstance(background, float | int) and background == 0:
    return values
  return jnp.where(filled[..., None], values, background)


@jax.custom_vjp
def _look_up(table, faces, face_id):
  """table [V, 3 + C] of x, y, w and attributes -> [H, W, C], 0 where empty."""
  return _look_up_lifted(table, faces, face_id)


def _forward(table, faces, face_id):
  return _look_up_lifted(table, faces, face_id), (table, faces, face_id)


def _backward(residuals, cotangent):
  return _look_up_transposed_lifted(*residuals, cotangent), None, None


_look_up.defvjp(_forward, _backward)


def _visit_filled(table, faces, face_id, state, visit):
  """Folds `visit` over the filled pixels.

  Args:
    table: [B, V, 3 + C]. faces: [B or 1, F, 3]. face_id: [B, H, W].
    visit: (state, pixel [K], corners [K, 3], rows [K, 3, 3 + C], ndc ([K], [K])) -> state; pixel
      and corners count through all frames and are out of range where they mean nothing.
  """
  (frames, height, width), vertices = face_id.shape, table.shape[1]
  face_id, own_faces = face_id.reshape(-1), faces.shape[0] > 1
  faces, table = faces.reshape(-1, 3), table.reshape(frames * vertices, -1)

  def some(state, pixel, valid):
    frame = pixel // (height * width)
    face = jnp.maximum(face_id[pixel], 0) + frame * (len(faces) // frames if own_faces else 0)
    corners = faces[face] + (vertices * frame)[:, None]
    within = pixel - frame * (height * width)
    row = within // width
    x_ndc = (2 * (within - row * width) + 1) / jnp.array(width, table.dtype) - 1
    y_ndc = (2 * row + 1) / jnp.array(height, table.dtype) - 1
    rows = lax.optimization_barrier(table[corners])
    pixel = jnp.where(valid, pixel, face_id.size)
    corners = jnp.where(valid[:, None], corners, len(table))
    return visit(state, pixel, corners, rows, (x_ndc, y_ndc))

  return visit_chosen(face_id >= 0, state, some)


def _columns(rows):
  """Rows [K, 3, 3 + C] -> x, y, w, each three of [K], and the attributes [C, 3, K].

  Number by number the pixels lie side by side, as vector instructions want them.
  """
  columns = lax.optimization_barrier(rows.transpose(2, 1, 0))
  return *(list(columns[axis]) for axis in range(3)), columns[3:]


def _look_up_frames(table, faces, face_id):
  """table [B, V, 3 + C], faces [B or 1, F, 3], face_id [B, H, W] -> [B, H, W, C]."""
  channels = table.shape[-1] - 3

  def visit(values, pixel, _, rows, ndc):
    *xyw, attributes = _columns(rows)
    weights = _weights(*xyw, *ndc)
    mixed = sum(weights[k] * attributes[:, k] for k in range(3))  # [C, K]
    return values.at[pixel].set(mixed.T, mode='drop', unique_indices=True)

  values = _visit_filled(
    table, faces, face_id, jnp.zeros((face_id.size, channels), table.dtype), visit
  )
  return values.reshape(*face_id.shape, channels)


def _look_up_transposed(table, faces, face_id, cotangent):
  """The cotangent of the table, in the frame of `_look_up_frames`."""
  cotangent = cotangent.reshape(face_id.size, -1)

  def visit(d_table, pixel, corners, rows, ndc):
    *xyw, attributes = _columns(rows)
    d_values = cotangent.at[pixel].get(mode='fill', fill_value=0).T
    weights, transpose = jax.vjp(lambda *xyw: _weights(*xyw, *ndc), *xyw)
    d_xyw = transpose([(d_values * attributes[:, k]).sum(0) for k in range(3)])
    # Column by column: XLA would compute everything anew for each entry of a row.
    for k in range(3):
      d_row = [*(d[k] for d in d_xyw), *(weights[k] * d for d in d_values)]
      d_table = [d.at[corners[:, k]].add(x, mode='drop') for d, x in zip(d_table, d_row)]
    return d_table

  frames, vertices, width = table.shape
  empty = [jnp.zeros(frames * vertices, table.dtype)] * width
  columns = _visit_filled(table, faces, face_id, empty, visit)
  return jnp.stack(columns, -1).reshape(table.shape)


_look_up_lifted = over_frames(_look_up_frames, shared=(1,))
_look_up_transposed_lifted = over_frames(_look_up_transposed, shared=(1,))
