"""Deformation maps of a head, which Loki's head expression follow (HEF) compares.

  map_g     the target's deformation over sigma, drawn with the target's pose, shape and camera
  map_swap  the same with the generated clip's expression, eyes and jaw

Deformation is what expression, jaw and eyes do to the resting head, without turns of head and neck.
Neck and clothing do
not count. Letters: T frames, V vertices.
Source: Loki (arXiv 2605.24176), metric code; here on any head of ours instead of FLAME.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.geometry import Camera, clip_coordinates
from exp_jax.heads.deformation import SIGMA, deformation
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import head_vertices
from exp_jax.rendering import Topology, interpolate, rasterize

SIZE = 256  # pixels; the mean over the head hardly depends on it


@functools.cache
def _topology(faces: bytes, count: int) -> Topology:
  return Topology.from_faces(np.frombuffer(faces, np.int32).reshape(count, 3))


@functools.partial(jax.jit, static_argnames='size')
def _maps(
  head: HeadModel,
  topology: Topology,
  target: HeadParams,
  expression,
  pose,
  camera: Camera,
  size: int,
):
  moved = lambda e, p: deformation(head, target.shape, e, p) / SIGMA
  torso = sum(head.regions.get(name, 0 * head.template[:, 0]) for name in ('neck', 'clothing'))
  scale = size / camera.image_size[0]
  camera = camera.replace(
    focal=camera.focal * scale, center=camera.center * scale, image_size=(size, size)
  )
  clip = clip_coordinates(head_vertices(head, target), camera)
  values = jnp.concatenate(
    [moved(target.expression, target.pose), moved(expression, pose), (torso < 0.5)[:, None]], -1
  )
  fragments = rasterize(clip, topology, (size, size))
  drawn = interpolate(values, clip, topology, fragments)
  return drawn[..., :3], drawn[..., 3:6], (fragments.face_id >= 0) & (drawn[..., 6] > 0.5)


def expression_maps(
  head: HeadModel, target, result, *, size: int = SIZE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Maps of the target and with the result's expression, [T, size, size, 3] each, and the mask [T,
  size, size].

  Args:
    target, result: records with shape [S], expression [T, E], pose [T, J, 3], translation [T, 3]
      and camera of a square
      picture, NaN in frames that were not fitted: there the mask is empty.
  """
  count = len(target.expression)
  out = [np.zeros((count, size, size, 3), np.float32) for _ in range(2)] + [
    np.zeros((count, size, size), bool)
  ]
  if target.camera is None or result.camera is None:
    return tuple(out)
  topology = _topology(np.asarray(head.faces, np.int32).tobytes(), len(head.faces))
  known = np.isfinite(target.expression).all(-1) & np.isfinite(result.expression).all(-1)
  for t in np.flatnonzero(known):
    params = HeadParams(
      *(
        jnp.asarray(v, jnp.float32)
        for v in (target.shape, target.expression[t], target.pose[t], target.translation[t])
      )
    )
    found = _maps(
      head,
      topology,
      params,
      jnp.asarray(result.expression[t], jnp.float32),
      jnp.asarray(result.pose[t], jnp.float32),
      target.camera,
      size,
    )
    for array, value in zip(out, found):
      array[t] = value
  return tuple(out)
