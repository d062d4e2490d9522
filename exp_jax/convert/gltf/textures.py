"""Textures over a head's uv: colours, and a normal map of what the coarse triangles cannot show.

Both are drawn by the rasterizer of this program with uv for the place in the picture. Texels that
no triangle covers are filled
from their neighbours, so that no seam bleeds. Letters: N dense vertices, V coarse ones, G dense
faces, P texels of a side.
"""

import jax.numpy as jnp
import numpy as np

from exp_jax.convert.heads.registration import normals_of
from exp_jax.media.fill import push_pull
from exp_jax.rendering import Topology, interpolate, rasterize


def baked(values: np.ndarray, uv: np.ndarray, faces: np.ndarray, size: int) -> np.ndarray:
  """[P, P, C] of values [N, C] at uv [N, 2] (y up), filled everywhere; row 0 is the top, v = 1."""
  clip = np.stack([2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1], 0 * uv[:, 0], 1 + 0 * uv[:, 0]], -1).astype(
    np.float32
  )
  topology = Topology.from_faces(faces)
  fragments = rasterize(jnp.asarray(clip), topology, (size, size))
  image = np.asarray(
    interpolate(jnp.asarray(values, jnp.float32), jnp.asarray(clip), topology, fragments)
  )
  return push_pull(image, (np.asarray(fragments.face_id) >= 0).astype(np.float32))


def tangents(
  vertices: np.ndarray, normals: np.ndarray, uv: np.ndarray, faces: np.ndarray
) -> np.ndarray:
  """[V, 4] unit tangents along u, perpendicular to the normals, and the side on which v grows:
  glTF's TANGENT."""
  edge, step = (
    a[faces[:, 1:]] - a[faces[:, :1]] for a in (vertices.astype(np.float64), uv.astype(np.float64))
  )
  area = step[:, 0, 0] * step[:, 1, 1] - step[:, 0, 1] * step[:, 1, 0]
  safe = np.where(np.abs(area) > 1e-14, area, np.inf)[:, None]
  along_u = (edge[:, 0] * step[:, 1, 1:] - edge[:, 1] * step[:, 0, 1:]) / safe
  along_v = (edge[:, 1] * step[:, 0, :1] - edge[:, 0] * step[:, 1, :1]) / safe
  total_u, total_v = np.zeros(vertices.shape), np.zeros(vertices.shape)
  weight = np.linalg.norm(np.cross(edge[:, 0], edge[:, 1]), axis=1, keepdims=True)
  unit = lambda v: v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-20)
  for k in range(3):
    np.add.at(total_u, faces[:, k], unit(along_u) * weight)
    np.add.at(total_v, faces[:, k], unit(along_v) * weight)
  flat = total_u - normals * np.sum(normals * total_u, -1, keepdims=True)
  # a vertex without area in the picture: any direction will do
  lost = np.linalg.norm(flat, axis=-1) < 1e-12
  flat[lost] = np.cross(
    normals[lost], np.where(np.abs(normals[lost][:, :1]) < 0.9, [[1.0, 0, 0]], [[0, 1.0, 0]])
  )
  flat = unit(flat)
  side = np.where(np.sum(np.cross(normals, flat) * total_v, -1) < 0, -1.0, 1.0)
  return np.concatenate([flat, side[:, None]], -1).astype(np.float32)


def unit_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """[N, 3] unit vertex normals; up where a vertex has no face."""
  found = normals_of(np.asarray(vertices, np.float64), faces)
  found[np.linalg.norm(found, axis=1) < 0.5] = [0, 1, 0]
  return found


def normal_map(
  fine: np.ndarray,
  coarse: np.ndarray,
  tangent: np.ndarray,
  uv: np.ndarray,
  faces: np.ndarray,
  size: int,
) -> np.ndarray:
  """uint8 [P, P, 3]: normals of the fine surface as seen from the coarse one.

  Args:
    fine: [N, 3] unit normals of the dense mesh with its offsets.
    coarse: [N, 3] normals of the coarse mesh, carried to the dense vertices as a renderer
      interpolates them.
    tangent: [N, 4] of the same vertices.
    uv: [N, 2], y up.
    faces: [G, 3].
    size: P.

  Source: glTF 2.0, 3.9.3: red along the tangent, green along the bitangent, which points up in the
  picture.
  """
  drawn = baked(np.concatenate([fine, coarse, tangent], -1), uv, faces, size)
  unit = lambda v: v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)
  up, out, along = unit(drawn[..., :3]), unit(drawn[..., 3:6]), unit(drawn[..., 6:9])
  across = np.sign(drawn[..., 9:]) * np.cross(out, along)
  local = np.stack([np.sum(up * axis, -1) for axis in (along, across, out)], -1)
  # what faces away cannot be stored
  local = unit(np.concatenate([local[..., :2], np.maximum(local[..., 2:], 0.05)], -1))
  return np.uint8(np.rint(255 * (0.5 + 0.5 * local)))


def srgb(linear: np.ndarray) -> np.ndarray:
  """uint8 of linear values 0..1. Source: IEC 61966-2-1."""
  linear = np.clip(linear, 0, 1)
  return np.uint8(
    np.rint(
      255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    )
  )
