"""Maps of a clip: what networks estimate of it, and what its offsets are compared with.

Letters: T frames.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.coarse.coarse_fit import CoarseFit
from exp_jax.fitting.offsets.targets import Targets, make_targets
from exp_jax.fitting.seen_clip import SeenClip
from exp_jax.geometry import Camera
from exp_jax.heads.densify import Dense, dense_vertices
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.observe.maps.map_sources import observe_maps
from exp_jax.observe.maps.onnx_networks import MapEstimator
from exp_jax.rendering import Topology, surface_maps

_MAP_SIZE = 256


def with_maps(
  clip: SeenClip,
  coarse: CoarseFit,
  estimators: tuple[MapEstimator, ...],
  *,
  head: HeadModel,
  dense: Dense,
  cache: pathlib.Path | None = None,
) -> SeenClip:
  """The clip with the normals, depth and matte that networks estimate of crops of its head.

  Args:
    clip: with landmarks.
    coarse: its fit, whose rendered normals say where the head is.
    estimators: the networks.
    head: of the fit.
    dense: of the head.
    cache: folder of maps by content hash.
  """
  rendered = _rendered_normals(head, dense, coarse, len(clip.pictures))
  return dataclasses.replace(
    clip,
    observation=observe_maps(
      clip.pictures,
      clip.observation,
      list(estimators),
      name=clip.name,
      rendered=rendered,
      cache=cache,
    ),
  )


def clip_targets(clip: SeenClip) -> Targets:
  """What the offsets of a clip are compared with."""
  seen = clip.observation
  weights = next((w for w in (seen.normal_weights, seen.depth_weights) if w is not None), None)
  return make_targets(
    seen.points,
    _MAP_SIZE,
    matte=seen.matte,
    frames=clip.pictures,
    normals=seen.normals,
    depth=seen.depth,
    weights=weights,
    shown=clip.shown,
  )


def _rendered_normals(head: HeadModel, dense: Dense, coarse: CoarseFit, count: int) -> np.ndarray:
  """[T, H, W, 3] normals of the coarse fit, towards the viewer, zero elsewhere."""
  topology, camera = Topology.from_faces(np.asarray(dense.faces)), coarse.camera()
  drawn = (drawn_normals(head, dense, topology, camera, coarse.params(t)) for t in range(count))
  return np.stack([np.asarray(normals) * [1, -1, -1] for normals in drawn])


@jax.jit
def drawn_normals(
  head: HeadModel, dense: Dense, topology: Topology, camera: Camera, params: HeadParams
) -> jax.Array:
  """[H, W, 3] normals of a head without offsets, in camera coordinates; one program for all people
  and cameras."""
  zero = jnp.zeros((dense.coarse_ids.shape[0], 3))
  return surface_maps(dense_vertices(head, dense, params, zero, zero), camera, topology)['normal']
