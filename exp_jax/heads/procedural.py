"""A small head made of formulas, for tests and for a first look without any download.

One tube of rings from the chest over neck, jaw and skull to the crown, its radius a function of
height and angle, and two eyeballs that look out of it. Names of joints, shapes and expressions are
a subset of those of the larger heads, so that code written for one runs on the other. Metres, head
joint at zero.
"""

import dataclasses
import functools

import numpy as np

from exp_jax.heads.model import HeadModel, make_head
from exp_jax.heads.regions import feather, smooth_step

_COLUMNS, _EYE = 24, 0.012
# height, half width (x), front depth (+z), back depth (-z), all metres
_PROFILE = np.array(
  [
    [-0.270, 0.205, 0.085, 0.110],
    [-0.220, 0.200, 0.080, 0.110],
    [-0.180, 0.185, 0.070, 0.105],
    [-0.150, 0.155, 0.055, 0.095],
    [-0.125, 0.100, 0.045, 0.080],
    [-0.105, 0.068, 0.042, 0.068],
    [-0.085, 0.058, 0.044, 0.060],
    [-0.068, 0.056, 0.052, 0.058],
    [-0.056, 0.054, 0.080, 0.060],
    [-0.048, 0.055, 0.094, 0.064],
    [-0.038, 0.059, 0.098, 0.070],
    [-0.028, 0.063, 0.099, 0.076],
    [-0.018, 0.066, 0.097, 0.082],
    [-0.006, 0.069, 0.095, 0.088],
    [0.008, 0.072, 0.092, 0.094],
    [0.022, 0.074, 0.088, 0.099],
    [0.036, 0.075, 0.084, 0.103],
    [0.050, 0.076, 0.088, 0.106],
    [0.064, 0.076, 0.090, 0.108],
    [0.080, 0.075, 0.086, 0.107],
    [0.096, 0.071, 0.078, 0.102],
    [0.112, 0.062, 0.065, 0.090],
    [0.126, 0.047, 0.046, 0.070],
    [0.136, 0.026, 0.024, 0.042],
  ]
)
_JOINTS = {
  'spine': (-1, (0, -0.25, -0.05)),
  'neck': (0, (0, -0.10, -0.03)),
  'head': (1, (0, 0, 0)),
  'jaw': (2, (0, 0.005, 0.012)),
  'left_eye': (2, (0.030, 0.036, 0.070)),
  'right_eye': (2, (-0.030, 0.036, 0.070)),
}
_PLACES = {  # metres, on the face
  'brow_left': (0.030, 0.064, 0.085),
  'brow_right': (-0.030, 0.064, 0.085),
  'glabella': (0, 0.06, 0.09),
  'lid_left': (0.030, 0.044, 0.083),
  'lid_right': (-0.030, 0.044, 0.083),
  'nose': (0, 0.004, 0.115),
  'mouth_left': (0.022, -0.028, 0.093),
  'mouth_right': (-0.022, -0.028, 0.093),
  'lips': (0, -0.028, 0.102),
  'cheek_left': (0.045, 0.0, 0.07),
  'cheek_right': (-0.045, 0.0, 0.07),
  'chin': (0, -0.050, 0.09),
}


def _bump(vertices, centre, size):
  """[V] a Gaussian of width `size` metres about `centre`."""
  return np.exp(-0.5 * (np.linalg.norm(vertices - centre, axis=1) / size) ** 2)


def _surface():
  angle = 2 * np.pi * np.arange(_COLUMNS) / _COLUMNS  # 0 faces +z, then toward +x
  height, width, front, back = _PROFILE[:, :, None].transpose(1, 0, 2)
  depth = np.where(np.cos(angle) > 0, front, back)
  tube = np.stack(
    [width * np.sin(angle), np.broadcast_to(height, depth.shape), depth * np.cos(angle)], -1
  )
  vertices = np.concatenate([tube.reshape(-1, 3), [[0, 0.141, 0.0]]])
  vertices[:, 2] += 0.022 * _bump(vertices, (0, 0.004, 0.095), 0.012)  # nose
  vertices[:, 2] += 0.004 * _bump(vertices, (0, -0.028, 0.098), 0.012)  # lips
  row, column = np.meshgrid(np.arange(len(_PROFILE) - 1), np.arange(_COLUMNS), indexing='ij')
  a, b = row * _COLUMNS + column, row * _COLUMNS + (column + 1) % _COLUMNS
  c, d = a + _COLUMNS, b + _COLUMNS
  faces = [np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)]
  last = (len(_PROFILE) - 1) * _COLUMNS + np.arange(_COLUMNS)
  faces.append(np.stack([last, np.roll(last, -1), np.full(_COLUMNS, len(vertices) - 1)], -1))
  return vertices, np.concatenate(faces)


def _ball(centre, *, rings=5, columns=10):
  """A closed sphere of radius `_EYE`, its poles on z so that one pole is the pupil."""
  tilt = np.pi * np.arange(1, rings + 1) / (rings + 1)
  turn = 2 * np.pi * np.arange(columns) / columns
  body = np.stack(
    [
      np.sin(tilt)[:, None] * np.cos(turn),
      np.sin(tilt)[:, None] * np.sin(turn),
      np.broadcast_to(np.cos(tilt)[:, None], (rings, columns)),
    ],
    -1,
  ).reshape(-1, 3)
  vertices = centre + _EYE * np.concatenate([body, [[0, 0, 1]], [[0, 0, -1]]])
  row, column = np.meshgrid(np.arange(rings - 1), np.arange(columns), indexing='ij')
  a, b = row * columns + column, row * columns + (column + 1) % columns
  first, last = np.arange(columns), (rings - 1) * columns + np.arange(columns)
  front, back = np.full(columns, len(body)), np.full(columns, len(body) + 1)
  faces = [
    np.stack([a, a + columns, b + columns], -1).reshape(-1, 3),
    np.stack([a, b + columns, b], -1).reshape(-1, 3),
    np.stack([front, first, np.roll(first, -1)], -1),
    np.stack([last, back, np.roll(last, -1)], -1),
  ]
  return vertices, np.concatenate(faces)


@dataclasses.dataclass(frozen=True)
class _Mesh:
  """Skin and two eyeballs."""

  vertices: np.ndarray  # [V, 3] metres
  faces: np.ndarray  # [F, 3]
  skin: np.ndarray  # [V] bool
  eyes: dict[str, np.ndarray]  # 'left' and 'right' -> [V] bool
  near: dict[str, np.ndarray]  # name of `_PLACES` -> [V] 0..1, how near the skin is to it


def _mesh() -> _Mesh:
  skin, faces = _surface()
  parts, triangles, count = [skin], [faces], len(skin)
  for name in ('left_eye', 'right_eye'):
    ball, ball_faces = _ball(np.array(_JOINTS[name][1]))
    parts.append(ball), triangles.append(ball_faces + count)
    count += len(ball)
  vertices, is_skin = np.concatenate(parts), np.arange(count) < len(skin)
  eyes = {
    side: ~is_skin & (sign * vertices[:, 0] > 0) for side, sign in (('left', 1), ('right', -1))
  }
  near = {
    name: _bump(vertices, np.array(place), 0.014) * is_skin for name, place in _PLACES.items()
  }
  return _Mesh(vertices, np.concatenate(triangles), is_skin, eyes, near)


def _push(mask, *way):
  """[V, 3] a move along `way`, as far as the mask [V] says."""
  return mask[:, None] * np.array(way)


def _expressions(mesh: _Mesh) -> dict[str, np.ndarray]:
  """Facial actions, [V, 3] metres each; eyeballs stay."""
  near, x = mesh.near, mesh.vertices[:, 0]
  out = np.stack([np.sign(x), 0 * x, 0 * x], 1)
  table = {
    'browInnerUp': _push(near['glabella'], 0, 0.009, 0.001),
    'browDownLeft': _push(near['brow_left'], -0.002, -0.007, 0),
    'browDownRight': _push(near['brow_right'], 0.002, -0.007, 0),
    'eyeBlinkLeft': _push(near['lid_left'], 0, -0.010, 0.009),
    'eyeBlinkRight': _push(near['lid_right'], 0, -0.010, 0.009),
    'mouthSmileLeft': _push(near['mouth_left'], 0.009, 0.008, -0.003),
    'mouthSmileRight': _push(near['mouth_right'], -0.009, 0.008, -0.003),
    'mouthPucker': _push(near['lips'], 0, 0, 0.008)
    - 0.006 * (near['mouth_left'] + near['mouth_right'])[:, None] * out,
    'cheekPuff': 0.008 * (near['cheek_left'] + near['cheek_right'])[:, None] * out,
    'noseSneerLeft': _push(near['nose'], 0.002, 0.004, 0),
  }
  for field in table.values():
    field[~mesh.skin] = 0
  return table


def _shapes(mesh: _Mesh) -> dict[str, np.ndarray]:
  """Directions of identity, [V, 3] metres each; eyeballs move as rigid bodies."""
  near, (x, y, z) = mesh.near, mesh.vertices.T
  out = np.stack([np.sign(x), 0 * x, 0 * x], 1)
  skull, body = smooth_step(y, -0.06, -0.02), smooth_step(y, -0.09, -0.14)
  table = {
    'sex': 0.003 * (near['chin'] + near['brow_left'] + near['brow_right'])[:, None] * [0, 0, 1]
    + 0.03 * body[:, None] * out * np.abs(x)[:, None] * 5,
    'age': _push(near['cheek_left'] + near['cheek_right'], 0, -0.003, -0.003),
    'weight': (0.006 * smooth_step(y, 0.06, -0.02) * mesh.skin)[:, None] * out,
    'head-width': np.stack([0.05 * x * skull, 0 * x, 0 * x], 1),
    'head-height': np.stack([0 * x, 0.05 * (y + 0.02) * skull, 0 * x], 1),
    'head-depth': np.stack([0 * x, 0 * x, 0.05 * z * skull], 1),
    'nose': _push(near['nose'], 0, 0, 0.006),
    'chin': _push(near['chin'], 0, -0.003, 0.005),
    'neck': (0.006 * smooth_step(np.abs(y + 0.08), 0.04, 0.01))[:, None] * out,
    'shoulders': (0.02 * body)[:, None] * out,
  }
  for field in table.values():
    for side in mesh.eyes.values():
      field[side] = field[side].mean(0)
  return table


def _weights(mesh: _Mesh) -> np.ndarray:
  """[V, 6] skinning weights."""
  x, y, z = mesh.vertices.T
  head_share, spine_share = smooth_step(y, -0.085, -0.035), smooth_step(y, -0.11, -0.16)
  jaw_share = smooth_step(y, -0.018, -0.034) * smooth_step(z, 0.0, 0.045) * head_share
  weights = np.stack(
    [spine_share, 1 - head_share - spine_share, head_share - jaw_share, jaw_share, 0 * x, 0 * x], 1
  )
  weights[:, 1] = np.clip(weights[:, 1], 0, None)
  for k, side in enumerate(mesh.eyes.values()):
    weights[side] = np.eye(6)[4 + k]
  return weights / weights.sum(1, keepdims=True)


def _regions(mesh: _Mesh) -> dict[str, np.ndarray]:
  """[V] masks in 0..1."""
  vertices, is_skin, near, (x, y, z) = mesh.vertices, mesh.skin, mesh.near, mesh.vertices.T
  frontal = smooth_step(z, 0.02, 0.05) * is_skin
  regions = {
    'face': frontal * smooth_step(y, -0.062, -0.045) * smooth_step(y, 0.10, 0.085),
    'scalp': is_skin
    * np.maximum(
      smooth_step(y, 0.085, 0.10), smooth_step(z, 0.0, -0.03) * smooth_step(y, -0.02, 0.01)
    ),
    'ears': is_skin
    * np.maximum(_bump(vertices, (0.074, 0.02, 0), 0.01), _bump(vertices, (-0.074, 0.02, 0), 0.01)),
    'neck': is_skin * smooth_step(y, -0.04, -0.06) * smooth_step(y, -0.13, -0.11),
    'clothing': is_skin * smooth_step(y, -0.11, -0.13),
    'lips': is_skin
    * (z > 0.05)
    * smooth_step(np.abs(x), 0.032, 0.018)
    * smooth_step(np.abs(y + 0.028), 0.018, 0.008),
    'lids': np.clip(near['lid_left'] + near['lid_right'], 0, 1),
    'brows': np.clip(near['brow_left'] + near['brow_right'], 0, 1),
  }
  regions = {
    name: np.clip(feather(mask, mesh.faces, rounds=1), 0, 1) for name, mask in regions.items()
  }
  return regions | {'eyeballs': (~is_skin).astype(np.float64)}


@functools.cache
def procedural_head() -> HeadModel:
  """About 650 vertices, 10 shape and 10 expression directions, 6 joints, 12 landmarks."""
  mesh = _mesh()
  expressions, shapes = _expressions(mesh), _shapes(mesh)
  joint_shape = np.zeros((6, 3, len(shapes)))
  for k, field in enumerate(shapes.values()):
    for j, side in ((4, 'left'), (5, 'right')):
      joint_shape[j, :, k] = field[mesh.eyes[side]].mean(0)
  closest = [
    np.argmin(np.linalg.norm(mesh.vertices - place, axis=1) + 9 * ~mesh.skin)
    for place in _PLACES.values()
  ]
  found = [np.argwhere(mesh.faces == vertex)[0] for vertex in closest]
  stack = lambda table: np.stack(list(table.values()), -1)
  return make_head(
    {
      'template': mesh.vertices,
      'faces': mesh.faces,
      'weights': _weights(mesh),
      'shape_basis': stack(shapes),
      'expression_basis': stack(expressions),
      'joint_template': np.array([place for _, place in _JOINTS.values()], np.float64),
      'joint_shape': joint_shape,
      'joint_expression': np.zeros((6, 3, len(expressions))),
      'landmark_faces': np.array([f for f, _ in found]),
      'landmark_barycentric': np.array([0.9 * np.eye(3)[c] + 0.1 / 3 for _, c in found]),
    },
    _regions(mesh),
    parents=tuple(parent for parent, _ in _JOINTS.values()),
    name='procedural',
    license='part of this program',
    joint_names=tuple(_JOINTS),
    shape_names=tuple(shapes),
    expression_names=tuple(expressions),
    landmark_names=tuple(_PLACES),
  )
