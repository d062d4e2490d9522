"""Posed heads and their control maps: what the video model is driven by.

ExpPortrait sec. 3.3: normals of the personalized head in camera space, encoded n / 2 + 1/2 (y up, z to the viewer:
a face is bluish), background 0, one map a frame. Letters: T frames, N dense vertices, M with dynamic offsets, J joints.
"""

import collections.abc

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.reenact import Motion
from exp_jax.geometry import Camera, clip_coordinates
from exp_jax.heads.densify import Dense, dense_vertices
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import joint_transforms
from exp_jax.rendering import Topology, antialias, interpolate, rasterize
from exp_jax.rendering.shading import camera_normals, encode_normals, mask_map, normal_control_map, unit

_PLACE_CENTER, _PLACE_RADIUS = (0.0, -0.05, 0.0), 0.28  # metres about the head joint: head, neck and shoulders


def own_motion(subject: Subject) -> Motion:
  """A subject's own parameters, for self-reenactment."""
  return Motion(subject.expression, subject.pose, subject.translation)


def full_offsets(subject: Subject, dynamic: np.ndarray | None = None) -> np.ndarray:
  """[M, 3] or [T, M, 3] offsets of the subject's moving vertices -> [N, 3] or [T, N, 3]; None: those of the file."""
  values = subject.dynamic_offsets if dynamic is None else dynamic
  full = np.zeros((*values.shape[:-2], *subject.static_offsets.shape), np.float32)
  full[..., subject.dynamic_vertices, :] = values
  return full


def subject_camera(subject: Subject, size: int | None = None) -> Camera:
  """The camera of a subject's crop, scaled to size x size pixels."""
  height, width = subject.image_size
  scale = 1.0 if size is None else size / height
  shape = (height, width) if size is None else (size, round(width * scale))
  return Camera(rotation=jnp.diag(jnp.array([1.0, -1, -1])), translation=jnp.zeros(3),
                focal=jnp.asarray(subject.focal, jnp.float32) * scale,
                center=jnp.asarray(subject.center, jnp.float32) * scale, image_size=shape)


@jax.jit
def posed_head(head: HeadModel, dense: Dense, params: HeadParams, static: jax.Array, dynamic: jax.Array):
  """[N, 3] posed dense vertices and [J, 4, 4] joint transforms."""
  return dense_vertices(head, dense, params, static, dynamic), joint_transforms(head, params)


def posed_heads(head: HeadModel, dense: Dense, subject: Subject, motion: Motion, dynamic: np.ndarray | None
                ) -> collections.abc.Iterator[tuple[jax.Array, jax.Array]]:
  """Yields (vertices, transforms) of each frame of a motion; dynamic [T, N, 3] or None for none."""
  shape, static = jnp.asarray(subject.shape), jnp.asarray(subject.static_offsets)
  zero = jnp.zeros_like(static)
  for i in range(len(motion.expression)):
    params = HeadParams(shape, jnp.asarray(motion.expression[i]), jnp.asarray(motion.pose[i]),
                        jnp.asarray(motion.translation[i]))
    yield posed_head(head, dense, params, static, zero if dynamic is None else jnp.asarray(dynamic[i]))


@jax.jit
def _control_map(vertices: jax.Array, camera: Camera, topology: Topology) -> jax.Array:
  return normal_control_map(vertices, camera, topology)


def control_maps(head: HeadModel, dense: Dense, subject: Subject, motion: Motion, dynamic: np.ndarray | None,
                 *, size: int) -> np.ndarray:
  """uint8 [T, size, size, 3] encoded normal maps of a motion seen by the subject's camera."""
  camera, topology = subject_camera(subject, size), Topology.from_faces(np.asarray(dense.faces))
  maps = [np.asarray(_control_map(vertices, camera, topology))
          for vertices, _ in posed_heads(head, dense, subject, motion, dynamic)]
  return np.rint(np.stack(maps) * 255).astype(np.uint8)


def template_places(head: HeadModel, dense: Dense) -> jax.Array:
  """[N, 3] in 0..1: where each dense vertex lies on the model's template, the same for every person and frame."""
  joint = head.joint_template[list(head.joint_names).index('head')]
  rest = jnp.einsum('nkc,nk->nc', head.template[dense.coarse_ids], dense.barycentric) - joint
  return jnp.clip((rest - jnp.asarray(_PLACE_CENTER)) / (2 * _PLACE_RADIUS) + 0.5, 1 / 255, 1)


@jax.jit
def _control_and_place(vertices: jax.Array, places: jax.Array, camera: Camera, topology: Topology):
  """Both maps from one rasterization; the first equals `normal_control_map`."""
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, topology, camera.image_size)
  surface = interpolate(jnp.concatenate([camera_normals(vertices, topology.faces, camera), places], -1), clip,
                        topology, fragments)
  image = jnp.concatenate([unit(surface[..., :3]), mask_map(fragments)], -1)
  image = antialias(image, clip, topology, fragments)
  return encode_normals(image[..., :3], image[..., 3:]), surface[..., 3:]


def control_and_place_maps(head: HeadModel, dense: Dense, subject: Subject, motion: Motion, dynamic: np.ndarray | None,
                           *, size: int) -> tuple[np.ndarray, np.ndarray]:
  """uint8 [T, size, size, 3] twice: `control_maps`, and the template place that each pixel shows, background 0.

  Equal place colours in two frames are the same point of the person: training truth for matching a reference with
  driving maps (`systems.expportrait.correspond`).
  """
  camera, topology = subject_camera(subject, size), Topology.from_faces(np.asarray(dense.faces))
  places = template_places(head, dense)
  pairs = [_control_and_place(vertices, places, camera, topology)
           for vertices, _ in posed_heads(head, dense, subject, motion, dynamic)]
  to_bytes = lambda maps: np.rint(np.stack([np.asarray(m) for m in maps]) * 255).astype(np.uint8)
  return to_bytes([a for a, _ in pairs]), to_bytes([b for _, b in pairs])
