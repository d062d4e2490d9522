"""Soft shadows of the head on itself: how much of each direction's light reaches a vertex.

Computed once per head model, on the smooth template: the head is rasterized from many directions,
and what each vertex sees is projected on spherical harmonics (a transfer vector). At render time
the ratio of shadowed to unshadowed irradiance, in the turned head's own light, darkens eye sockets,
nostrils, the underside of nose and chin, the neck and the mouth cavity.

Source: Sloan, Kautz & Snyder, Precomputed Radiance Transfer, SIGGRAPH 2002 (diffuse, shadowed).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from exp_jax.actors.lighting import BAND_SHARE, sh_basis
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.rendering import Topology, rasterize

_DIRECTIONS = 128
_SIZE = 224  # pixels of a view
_FAR = 20.0  # metres to the camera: nearly orthographic
_SLACK = 0.004  # metres that a vertex may lie behind the visible surface
_PROBES = 24  # directions that carry a light from one frame to another


def spread_directions(count: int) -> np.ndarray:
  """[count, 3] unit vectors, evenly spread over the sphere (golden-angle spiral)."""
  k = np.arange(count) + 0.5
  z, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
  ring = np.sqrt(1 - z**2)
  return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], 1)


def _turn_to(direction: np.ndarray) -> np.ndarray:
  """[3, 3] rows right, down, forward of a camera that looks against `direction`."""
  forward = -direction
  side = np.cross(np.eye(3)[np.abs(direction).argmin()], forward)
  side = side / np.linalg.norm(side)
  return np.stack([side, np.cross(forward, side), forward])


def transfer_vectors(place: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """[N, 3] vertices, metres, and [F, 3] faces -> [N, 9] float32, `sh_basis` order.

  Its product with light coefficients of the same frame is the shadowed irradiance, as
  `sh_basis(normal) @ light` is the unshadowed one.
  """
  directions = spread_directions(_DIRECTIONS)
  cameras = np.stack([_turn_to(d) for d in directions])
  centre = (place.max(0) + place.min(0)) / 2
  reach = np.linalg.norm(place - centre, axis=1).max() * 1.02
  transfer = _transfer(
    jnp.asarray(place - centre, jnp.float32),
    Topology.from_faces(np.asarray(faces)),
    jnp.asarray(directions, jnp.float32),
    jnp.asarray(cameras, jnp.float32),
    jnp.float32(reach),
  )
  return np.asarray(transfer)


@jax.jit
def _transfer(points, topology, directions, cameras, reach):
  normals = vertex_normals(points, topology.faces)

  def one(total, view):
    direction, camera = view
    seen = points @ camera.T
    depth = seen[:, 2] + _FAR
    xy = seen[:, :2] / reach * (_FAR / depth[:, None])
    clip = jnp.concatenate([xy * depth[:, None], depth[:, None], depth[:, None]], 1)
    fragments = rasterize(clip, topology, (_SIZE, _SIZE))
    at = jnp.clip(((xy + 1) * _SIZE / 2).astype(jnp.int32), 0, _SIZE - 1)
    nearest = 1 / jnp.maximum(fragments.inv_w[at[:, 1], at[:, 0]], 1e-6)
    visible = jnp.where(depth < nearest + _SLACK, 1.0, 0.0)
    received = visible * jnp.clip(normals @ direction, 0, 1)
    return total + received[:, None] * sh_basis(direction), None

  total, _ = lax.scan(one, jnp.zeros((len(points), 9)), (directions, cameras))
  return total * (4 * jnp.pi / _DIRECTIONS) / jnp.asarray(BAND_SHARE)


def turned_light(light: jax.Array, rotation: jax.Array) -> jax.Array:
  """Light [9, 3] of a frame in which vectors are `rotation` [3, 3] times those of another, in the
  other frame."""
  probes = spread_directions(_PROBES)
  return jnp.asarray(np.linalg.pinv(sh_basis(probes)), jnp.float32) @ (
    sh_basis(jnp.asarray(probes, jnp.float32) @ rotation.T) @ light
  )


def shadow(transfer: jax.Array, normals: jax.Array, light: jax.Array) -> jax.Array:
  """[N] share of the irradiance that is left, 0.05..1.1.

  Args:
    transfer: [N, 9] of `transfer_vectors`. normals: [N, 3] of the same template.
    light: [9, 3] in the template's frame.
  """
  white = light.mean(-1)
  open_sky = jnp.maximum(sh_basis(normals) @ white, 0.08)
  return jnp.clip(jnp.maximum(transfer @ white, 0.0) / open_sky, 0.05, 1.1)
