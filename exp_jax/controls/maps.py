"""Posed heads and their control maps: what the video model is driven by.

ExpPortrait sec. 3.3: normals of the personalized head in camera space, encoded n / 2 + 1/2 (y up, z
to the viewer: a face is bluish), background 0, one map a frame. Toward the edge where the model is
cut through the chest the map fades to black, so that the cut is no feature of the control. Letters:
T frames, N dense vertices, M with dynamic offsets, J joints.
"""

import collections.abc

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.csgraph
import scipy.spatial

from exp_jax.controls.reenact import Motion
from exp_jax.geometry import HEAD_TO_CAMERA, Camera, clip_coordinates
from exp_jax.heads.densify import Dense, dense_vertices
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.regions import smooth_step
from exp_jax.heads.skinning import joint_transforms
from exp_jax.rendering import Topology, antialias, interpolate, rasterize
from exp_jax.rendering.shading import camera_normals, encode_normals, mask_map, unit

_FADE = 0.02  # metres of surface over which the map fades toward the cut through the chest


def own_motion(subject: Subject) -> Motion:
  """A subject's own parameters, for self-reenactment."""
  return Motion(subject.expression, subject.pose, subject.translation)


def full_offsets(subject: Subject, dynamic: np.ndarray | None = None) -> np.ndarray:
  """[M, 3] or [T, M, 3] offsets of the subject's moving vertices -> [N, 3] or [T, N, 3]; None:
  those of the file."""
  values = subject.dynamic_offsets if dynamic is None else dynamic
  full = np.zeros((*values.shape[:-2], *subject.static_offsets.shape), np.float32)
  full[..., subject.dynamic_vertices, :] = values
  return full


def subject_camera(subject: Subject, size: int | None = None) -> Camera:
  """The camera of a subject's crop, scaled to size x size pixels."""
  height, width = subject.image_size
  scale = 1.0 if size is None else size / height
  shape = (height, width) if size is None else (size, round(width * scale))
  return Camera(
    rotation=jnp.asarray(HEAD_TO_CAMERA),
    translation=jnp.zeros(3),
    focal=jnp.asarray(subject.focal, jnp.float32) * scale,
    center=jnp.asarray(subject.center, jnp.float32) * scale,
    image_size=shape,
  )


@jax.jit
def posed_head(
  head: HeadModel, dense: Dense, params: HeadParams, static: jax.Array, dynamic: jax.Array
):
  """[N, 3] posed dense vertices and [J, 4, 4] joint transforms."""
  return dense_vertices(head, dense, params, static, dynamic), joint_transforms(head, params)


def posed_heads(
  head: HeadModel, dense: Dense, subject: Subject, motion: Motion, dynamic: np.ndarray | None
) -> collections.abc.Iterator[tuple[jax.Array, jax.Array]]:
  """Yields (vertices, transforms) of each frame of a motion; dynamic [T, N, 3] or None for none."""
  shape, static = jnp.asarray(subject.shape), jnp.asarray(subject.static_offsets)
  zero = jnp.zeros_like(static)
  for i in range(len(motion.expression)):
    params = HeadParams(
      shape,
      jnp.asarray(motion.expression[i]),
      jnp.asarray(motion.pose[i]),
      jnp.asarray(motion.translation[i]),
    )
    yield posed_head(
      head, dense, params, static, zero if dynamic is None else jnp.asarray(dynamic[i])
    )


def template_vertices(head: HeadModel, dense: Dense) -> np.ndarray:
  """[N, 3] metres: the dense mesh of the model's template, nobody's shape."""
  return np.einsum(
    'nkc,nk->nc',
    np.asarray(head.template)[np.asarray(dense.coarse_ids)],
    np.asarray(dense.barycentric),
  )


def edge_fade(head: HeadModel, dense: Dense, *, width: float = _FADE) -> np.ndarray:
  """[N] float32: 0 on the open edges below the neck, where the model is cut, rising to 1 `width`
  metres away.

  Open edges higher up (the lips, eye sockets of other models) do not fade. A model without a cut is
  1 everywhere.
  """
  faces = np.asarray(dense.faces)
  sides = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
  sides, uses = np.unique(sides, axis=0, return_counts=True)
  opened = sides[uses == 1]
  vertices = template_vertices(head, dense)
  graph = scipy.sparse.coo_matrix((np.ones(len(opened)), tuple(opened.T)), (len(vertices),) * 2)
  _, loop = scipy.sparse.csgraph.connected_components(graph, directed=False)
  highest = np.full(loop.max() + 1, -np.inf)
  np.maximum.at(highest, loop, vertices[:, 1])
  neck = float(head.joint_template[head.joint('neck'), 1])
  cut = opened[highest[loop[opened[:, 0]]] < neck]
  if not len(cut):
    return np.ones(len(vertices), np.float32)
  along = np.linspace(0, 1, 5)[:, None, None]
  points = ((1 - along) * vertices[cut[:, 0]] + along * vertices[cut[:, 1]]).reshape(-1, 3)
  distance, _ = scipy.spatial.cKDTree(points).query(vertices)
  return smooth_step(distance, 0.0, width).astype(np.float32)


@jax.jit
def _control_map(
  vertices: jax.Array, fade: jax.Array, camera: Camera, topology: Topology
) -> jax.Array:
  """The encoded normal map [H, W, 3] of posed vertices [N, 3], faded by [N]."""
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, topology, camera.image_size)
  surface = interpolate(
    jnp.concatenate([camera_normals(vertices, topology.faces, camera), fade[:, None]], -1),
    clip,
    topology,
    fragments,
  )
  image = jnp.concatenate([unit(surface[..., :3]), mask_map(fragments)], -1) * surface[..., 3:]
  image = antialias(image, clip, topology, fragments)
  return encode_normals(image[..., :3], image[..., 3:])


def to_bytes(maps) -> np.ndarray:
  """Maps in 0..1 -> uint8, stacked."""
  return np.rint(np.clip(np.stack([np.asarray(m) for m in maps]), 0, 1) * 255).astype(np.uint8)


def each_control_map(
  head: HeadModel,
  dense: Dense,
  subject: Subject,
  motion: Motion,
  dynamic: np.ndarray | None,
  *,
  size: int,
) -> collections.abc.Iterator[jax.Array]:
  """The same maps one by one, float32 [size, size, 3] in 0..1, each drawn when it is asked for."""
  camera, topology = subject_camera(subject, size), Topology.from_faces(np.asarray(dense.faces))
  fade = jnp.asarray(edge_fade(head, dense))
  for vertices, _ in posed_heads(head, dense, subject, motion, dynamic):
    yield _control_map(vertices, fade, camera, topology)


def control_maps(
  head: HeadModel,
  dense: Dense,
  subject: Subject,
  motion: Motion,
  dynamic: np.ndarray | None,
  *,
  size: int,
) -> np.ndarray:
  """uint8 [T, size, size, 3] encoded normal maps of a motion seen by the subject's camera, faded at
  the cut."""
  return to_bytes(each_control_map(head, dense, subject, motion, dynamic, size=size))
