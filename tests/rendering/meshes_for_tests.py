"""Meshes and slow references that the tests of this room share. Plain numpy, int64 and float64."""

import jax.numpy as jnp
import numpy as np

from exp_jax.geometry import perspective_camera
from exp_jax.rendering import Topology


def bumpy_head(rings, sectors, *, height=0.13, width=0.1):
  """A head-sized closed surface with bumps: vertices [V, 3] metres, faces [F, 3] outward."""
  t = np.linspace(0, np.pi, rings + 2)[1:-1]
  p = np.arange(sectors) / sectors * 2 * np.pi
  t, p = np.meshgrid(t, p, indexing='ij')
  bumps = np.sin(t) ** 2 * (
    0.05 * np.sin(5 * t) * np.cos(4 * p) + 0.01 * np.sin(21 * t) * np.sin(17 * p)
  )
  r = 1 + bumps
  xyz = [
    width * r * np.sin(t) * np.cos(p),
    -height * r * np.cos(t),
    width * r * np.sin(t) * np.sin(p),
  ]
  body = np.stack(xyz, -1).reshape(-1, 3)
  poles = np.array([[0, -height, 0], [0, height, 0]])
  i, j = np.meshgrid(np.arange(rings - 1), np.arange(sectors), indexing='ij')
  a, b = i * sectors + j, i * sectors + (j + 1) % sectors
  c, d = b + sectors, a + sectors
  quads = [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
  ring = np.arange(sectors)
  following = (ring + 1) % sectors
  last = (rings - 1) * sectors
  top = np.stack([np.full(sectors, len(body)), following, ring], -1)
  bottom = np.stack([np.full(sectors, len(body) + 1), last + ring, last + following], -1)
  faces = np.concatenate([*quads, top, bottom])[:, ::-1].astype(np.int32)
  return np.concatenate([body, poles]).astype(np.float32), faces


def padded(rows, faces, *, vertices=1600, triangles=3200):
  """Vertex rows [V, C] and a Topology, padded by faces and edges that draw nothing.

  Meshes of one size share what is compiled for it, which is where tests spend their time.
  """
  topology = Topology.from_faces(np.asarray(faces))
  pad = lambda x, size: np.pad(np.asarray(x), ((0, size - len(x)), (0, 0)))
  topology = Topology(
    faces=jnp.asarray(pad(topology.faces, triangles)),
    edges=jnp.asarray(pad(topology.edges, 3 * triangles // 2 + 100)),
    edge_faces=jnp.asarray(pad(topology.edge_faces, 3 * triangles // 2 + 100)),
  )
  return jnp.asarray(pad(rows, vertices)), topology


def front_camera(image_size, distance=0.7):
  return perspective_camera(image_size, field_of_view=np.radians(25.0), distance=distance)


def brute_force(clip, faces, image_size, sub_bits=8):
  """Integer z-buffer: every face against every pixel of its box, int64. For w > 0, inside the guard
  band.

  Returns:
    face_id [H, W] (-1 = empty, lowest of equally near), inv_w [H, W] float64, and how often each
    pixel was covered [H, W].
  """
  height, width = image_size
  clip = np.asarray(clip, np.float32)
  half = np.array([width, height], np.float32) * np.float32(2.0 ** (sub_bits - 1))
  xy = np.rint(clip[:, :2] / clip[:, 3:] * half).astype(np.int64)
  inv_w = 1 / clip[:, 3].astype(np.float64)
  unit = 1 << sub_bits
  origin = np.array([width, height]) * (unit // 2)
  ids, near = np.full((height, width), -1), np.zeros((height, width))
  times = np.zeros((height, width), int)
  for index, face in enumerate(np.asarray(faces)):
    (ax, ay), (bx, by), (cx, cy) = corners = xy[face] + origin
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0:
      continue
    order = face if area > 0 else face[[0, 2, 1]]
    corners = xy[order] + origin
    low = np.maximum(-((unit // 2 - corners.min(0)) // unit), 0)
    high = np.minimum((corners.max(0) - unit // 2) // unit, np.array([width, height]) - 1)
    if (high < low).any():
      continue
    x = np.arange(low[0], high[0] + 1)[None, :] * unit + unit // 2
    y = np.arange(low[1], high[1] + 1)[:, None] * unit + unit // 2
    covered, depth = True, 0.0
    for k in range(3):
      (sx, sy), (ex, ey) = corners[(k + 1) % 3], corners[(k + 2) % 3]
      value = (ex - sx) * (y - sy) - (ey - sy) * (x - sx)
      left_or_top = ey < sy or (ey == sy and ex > sx)
      covered = covered & ((value > 0) | ((value == 0) & left_or_top))
      depth = depth + value * inv_w[order[k]]
    depth = depth / abs(area)
    box = np.s_[low[1] : high[1] + 1, low[0] : high[0] + 1]
    times[box] += covered
    nearer = covered & (depth > near[box])
    ids[box] = np.where(nearer, index, ids[box])
    near[box] = np.where(nearer, depth, near[box])
  return ids, near, times


def soup(rng, count, image_size, *, size, exact=False):
  """Unconnected random triangles as clip coordinates [3 * count, 4]; corners on sub-pixels if
  exact.
  """
  height, width = image_size
  centre = rng.uniform(-1.1, 1.1, (count, 1, 2))
  xy = (centre + rng.normal(0, size, (count, 3, 2))).reshape(-1, 2)
  if exact:
    half = np.array([width, height]) * 128
    xy = np.rint(xy * half) / half
  w = rng.uniform(0.3, 2.0, (len(xy), 1))
  return np.concatenate([xy * w, w, w], -1).astype(np.float32), np.arange(len(xy)).reshape(-1, 3)
