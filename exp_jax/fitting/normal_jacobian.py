"""Normals of the coarse mesh beside estimated ones: what tells the relief of a face, to which landmarks are nearly blind.

  n = unit(R (e_1 x e_2)),   e = edges of a triangle before posing, linear in beta and psi;   R blended rotation

A face seen from the front may be deeper or shallower, its chin nearer or farther, at almost the same landmarks; its
normals then differ by degrees everywhere. Columns come first and triangles last, as in `landmark_jacobian`.
Source: ExpPortrait sec. 3.1.2, eq. 6a, here for the linear model alone.
Letters: M triangles, c corners, S shape, E expression, H x W pixels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.landmark_jacobian import LandmarkHead, landmark_corners, landmark_points
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import joint_transforms

_MOST = 1000         # triangles; more tell nothing new
_ALIKE = 0.77        # cosine of 40 degrees; what differs by more is an occluder or hair
_TOWARDS = 0.35      # cosine to the viewer below which a triangle is seen too obliquely
_HARD = ('eyeballs', 'teeth', 'tongue', 'inner_mouth', 'lids')


def face_triangles(head: HeadModel) -> LandmarkHead:
  """Up to 1000 triangles of the skin of the face, spread evenly; their middles are the 'landmarks' of the record."""
  region = lambda name: np.asarray(head.regions.get(name, np.zeros(len(head.template))))
  soft = region('face') - sum(region(name) for name in _HARD)
  faces = np.asarray(head.faces)
  chosen = np.flatnonzero(soft[faces].min(1) > 0.5)
  chosen = chosen[np.linspace(0, len(chosen) - 1, min(_MOST, len(chosen))).round().astype(int)]
  return landmark_corners(head.replace(
    landmark_faces=jnp.asarray(chosen), landmark_barycentric=jnp.full((len(chosen), 3), 1 / 3)))


def linearise_normals(triangles: LandmarkHead, params: HeadParams, pose_of, motion: jax.Array):
  """Unit normals and their derivatives; arguments as of `landmark_jacobian.linearise`.

  Returns:
    normals [3, M] in the head's frame (x right, y up, z to the viewer), and the Jacobians of shape [S, 3, M], expression
    [E, 3, M] and motion [M', 3, M]. Shape moves joints, but turns none.
  """
  rest = (triangles.template + jnp.einsum('scdm,s->cdm', triangles.shape, params.shape)
          + jnp.einsum('ecdm,e->cdm', triangles.expression, params.expression))
  first, second = rest[1] - rest[0], rest[2] - rest[0]                                  # [3, M]
  across = _cross(first, second)
  length = jnp.sqrt(jnp.maximum(jnp.sum(across ** 2, 0), 1e-20))
  flat = across / length
  share = triangles.weights.sum(1)                                                      # [J, M]

  def turned(motion, vectors):
    pose, translation = pose_of(motion)
    turns = joint_transforms(triangles.head, params.replace(pose=pose, translation=translation))[:, :3, :3]
    blended = jnp.einsum('jab,jm->abm', turns, share)
    return sum(blended[:, b] * vectors[..., b, :][..., None, :] for b in range(3))      # [..., 3, M]

  normals = turned(motion, flat)
  size = jnp.sqrt(jnp.maximum(jnp.sum(normals ** 2, 0), 1e-12))                         # blends of rotations shrink a little
  unit = lambda change: (change - normals / size * jnp.sum(normals / size * change, -2, keepdims=True)) / size

  def columns(basis):
    """[B, 3, 3, M] -> [B, 3, M]"""
    one, two = basis[:, 1] - basis[:, 0], basis[:, 2] - basis[:, 0]
    change = (_cross(one, second) + _cross(first, two)) / length
    return unit(turned(motion, change - flat * jnp.sum(flat * change, -2, keepdims=True)))

  by_motion = jax.vmap(lambda tangent: jax.jvp(lambda m: turned(m, flat), (motion,), (tangent,))[1])(jnp.eye(len(motion)))
  return normals / size, columns(triangles.shape), columns(triangles.expression), unit(by_motion)


def sample_normals(triangles: LandmarkHead, params: HeadParams, project, maps: jax.Array, believed: jax.Array):
  """What the estimated maps say at the middles of the triangles.

  Args:
    params: of one frame. project: points [3, M] -> pixels [2, M] of the maps.
    maps: [H, W, 3] unit normals, towards the viewer. believed: [H, W] 0..1.

  Returns:
    normals [3, M] and weights [M]: 0 where a triangle is turned away or the two disagree grossly.
  """
  pixels = project(landmark_points(triangles, params))
  height, width = believed.shape
  column, row = (jnp.clip(jnp.floor(p), 0, n - 1).astype(jnp.int32) for p, n in zip(pixels, (width, height)))
  seen = maps[row, column].T
  inside = (pixels[0] >= 0) & (pixels[0] < width) & (pixels[1] >= 0) & (pixels[1] < height)
  own = linearise_normals(triangles, params, lambda m: (params.pose, params.translation), jnp.zeros(1))[0]
  good = inside & (own[2] > _TOWARDS) & (jnp.sum(own * seen, 0) > _ALIKE)
  return seen, believed[row, column] * good


def _cross(a, b):
  """[..., 3, M] x [..., 3, M]"""
  a, b = (jnp.moveaxis(x, -2, 0) for x in (a, b))
  return jnp.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]], -2)
