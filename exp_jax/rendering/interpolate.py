"""Differentiable surface attributes by homogeneous barycentric coordinates.

With the pixel centre at (X, Y) in normalized device coordinates and corners (x_k, y_k, w_k), let
q_k = (x_k - X w_k, y_k - Y w_k). Then b_k = a_k / sum(a) with a_k = q_{k+1} x q_{k+2} is
perspective-correct, needs no division by w and no clipping, and plain autodiff gives the gradients
within a pixel. Between pixels and vertices there is one gather forward, one gather and one scatter
backward, of x, y, w and all attributes together. The visibility is constant.

Source: Olano & Greer, Triangle Scan Conversion using 2D Homogeneous Coordinates, 1997, with Laine
et al., Modular Primitives for High-Performance Differentiable Rendering, 2020, sec. 3.2.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from exp_jax.rendering.rasterize import Fragments
from exp_jax.rendering.streams import over_frames, visit_chosen
from exp_jax.rendering.topology import Topology


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
  corners = clip[topology.faces[jnp.maximum(fragments.face_id, 0)]]  # [H, W, 3, 4]
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
  values = interpolate_and_shade(_as_they_are, attributes, clip, topology, fragments)
  if isinstance(background, float | int) and background == 0:
    return values
  return jnp.where(fragments.face_id[..., None] >= 0, values, background)


def _as_they_are(values):
  return values


def interpolate_and_shade(
  shade: Callable[[jax.Array], jax.Array],
  attributes: jax.Array,
  clip: jax.Array,
  topology: Topology,
  fragments: Fragments,
) -> jax.Array:
  """`interpolate`, and a function of the attributes of each filled pixel in the same pass.

  Args:
    shade: [C, K] attributes of K pixels -> [D, K]; differentiable, a named function (it is a key of
      a cache) that closes over no arrays.
    attributes: [V, C].

  Returns:
    [H, W, D], 0 where empty.
  """
  if not topology.faces.shape[0]:
    probe = jax.ShapeDtypeStruct((attributes.shape[-1], 1), attributes.dtype)
    channels = jax.eval_shape(shade, probe).shape[0]
    return jnp.zeros((*fragments.face_id.shape, channels), attributes.dtype)
  table = jnp.concatenate([clip[:, :2], clip[:, 3:], attributes], -1)  # [V, 3 + C]
  return _look_up(shade, table, topology.faces, fragments.face_id)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _look_up(shade, table, faces, face_id):
  """table [V, 3 + C] of x, y, w and attributes -> [H, W, D], 0 where empty."""
  return _lifted(_look_up_frames, shade)(table, faces, face_id)


def _forward(shade, table, faces, face_id):
  return _look_up(shade, table, faces, face_id), (table, faces, face_id)


def _backward(shade, residuals, cotangent):
  return _lifted(_look_up_transposed, shade)(*residuals, cotangent), None, None


_look_up.defvjp(_forward, _backward)


@functools.cache
def _lifted(frames_function, shade):
  return over_frames(functools.partial(frames_function, shade), shared=(1,))


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
    rows = table[corners]
    pixel = jnp.where(valid, pixel, face_id.size)
    corners = jnp.where(valid[:, None], corners, len(table))
    return visit(state, pixel, corners, rows, (x_ndc, y_ndc))

  return visit_chosen(face_id >= 0, state, some)


def _if_seen(function, nothing, table, faces, face_id, *cotangent):
  """function(...) where anything is seen, else zeros like `nothing`.

  The condition also keeps XLA from starting on this before the visibility is known, and from
  holding the buffers of both.
  """
  empty = lambda *_: jnp.zeros(nothing.shape, nothing.dtype)
  return lax.cond(jnp.any(face_id >= 0), function, empty, table, faces, face_id, *cotangent)


def _columns(rows):
  """Rows [K, 3, 3 + C] -> x, y, w, each three of [K], and the attributes [C, 3, K].

  Number by number the pixels lie side by side, as vector instructions want them.
  """
  columns = rows.transpose(2, 1, 0)
  return *(list(columns[axis]) for axis in range(3)), columns[3:]


def _mix(weights, attributes):
  """[C, K] of weights, three of [K], and attributes [C, 3, K]."""
  return sum(weights[k] * attributes[:, k] for k in range(3))


def _look_up_frames(shade, table, faces, face_id):
  """table [B, V, 3 + C], faces [B or 1, F, 3], face_id [B, H, W] -> [B, H, W, D]."""
  probe = jax.ShapeDtypeStruct((table.shape[-1] - 3, 1), table.dtype)
  channels = jax.eval_shape(shade, probe).shape[0]
  shape = jax.ShapeDtypeStruct((*face_id.shape, channels), table.dtype)
  look_up = functools.partial(_look_up_seen, shade, channels)
  return _if_seen(look_up, shape, table, faces, face_id)


def _look_up_seen(shade, channels, table, faces, face_id):
  def visit(values, pixel, _, rows, ndc):
    *xyw, attributes = _columns(rows)
    shaded = shade(_mix(_weights(*xyw, *ndc), attributes))
    return values.at[pixel].set(shaded.T, mode='drop', unique_indices=True)

  empty = jnp.zeros((face_id.size, channels), table.dtype)
  return _visit_filled(table, faces, face_id, empty, visit).reshape(*face_id.shape, channels)


def _look_up_transposed(shade, table, faces, face_id, cotangent):
  """The cotangent of the table, in the frame of `_look_up_frames`."""
  transposed = functools.partial(_look_up_transposed_seen, shade)
  return _if_seen(transposed, table, table, faces, face_id, cotangent)


def _look_up_transposed_seen(shade, table, faces, face_id, cotangent):
  cotangent = cotangent.reshape(face_id.size, -1)

  def visit(d_table, pixel, corners, rows, ndc):
    *xyw, attributes = _columns(rows)
    d_shaded = cotangent.at[pixel].get(mode='fill', fill_value=0).T
    weights, transpose = jax.vjp(lambda *xyw: _weights(*xyw, *ndc), *xyw)
    (d_values,) = jax.vjp(shade, _mix(weights, attributes))[1](d_shaded)
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
