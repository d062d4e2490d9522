"""Maps beside the normals: depth, shaded, iris, inner mouth.

What users look at, and extra control channels.

ExpPortrait conditions on normals alone (`controls.maps`); the others are extensions, each a channel
group of its own so that the baseline stays intact (spec, sec. 6.1 and 6.2). All come from one
rasterization, so that they agree to the pixel.
Letters: T frames, N dense vertices, H, W image.

  normals  [T, H, W, 3]  n / 2 + 1/2, y up, z to the viewer, faded at the cut; background 0
  depth    [T, H, W, 1]  1 at `NEAR` before the head joint of the reference, 0 at `NEAR` behind it and in the background
  shaded   [T, H, W, 3]  soft frontal light on the subject's albedo, or on grey; background 0
  iris     [T, H, W, 3]  disc of the iris with its pupil; yaw and pitch of the eye in the head, x / 1.2 rad + 1/2; all only where
                         an eyeball is seen between the lids
  mouth    [T, H, W, 3]  upper teeth, lower teeth, rest of the cavity
  mouth_depth [T, H, W, 1]  there: distance behind the foremost point of the lips over 80 mm
"""

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.maps import (
  edge_fade,
  posed_heads,
  subject_camera,
  template_vertices,
  to_bytes,
)
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.geometry import Camera, clip_coordinates
from exp_jax.heads.densify import Dense
from exp_jax.heads.model import HeadModel
from exp_jax.heads.personalized import Subject
from exp_jax.heads.regions import region_or_zero
from exp_jax.rendering import Topology, antialias, interpolate, rasterize
from exp_jax.rendering.shading import (
  camera_normals,
  encode_normals,
  frontal_light,
  mask_map,
  shade_harmonics,
  unit,
)

NEAR = 0.2  # metres before and behind the head joint that the depth map spans
_GAZE = 0.6  # radians at which gaze channels reach 0 and 1
_IRIS, _PUPIL = 0.0059, 0.0024  # metres, radii
_CAVITY = 0.08  # metres of the mouth's depth map
_GREY = 0.75
# groups that may follow the normals, and their channels
EXTRAS = {'depth': 1, 'shaded': 3, 'iris': 3, 'mouth': 3, 'mouth_depth': 1}


def extra_channels(names: tuple[str, ...]) -> int:
  """How many channels these groups have together. UserError for a name that is none."""
  if unknown := [name for name in names if name not in EXTRAS]:
    raise UserError(f'unknown control channels {unknown[0]!r}, choose from {", ".join(EXTRAS)}')
  return sum(EXTRAS[name] for name in names)


def surface_attributes(head: HeadModel, dense: Dense, subject: Subject) -> jax.Array:
  """[N, 14]: fade 1, albedo 3, mouth classes 3, unit rest direction from the eye 3, left and right
  eyeball 2, radius 1, lips 1."""
  template, fade = template_vertices(head, dense), edge_fade(head, dense)
  region = lambda name: np.asarray(region_or_zero(dense.regions, name, fade))
  albedo = np.full((len(fade), 3), _GREY, np.float32) if subject.albedo is None else subject.albedo
  ball = region('eyeballs') > 0.5
  centre = np.asarray(head.joint_template)[[head.joint('left_eye'), head.joint('right_eye')]]
  away = template[:, None] - centre  # [N, 2, 3]
  length = np.linalg.norm(away, axis=-1)
  nearest = length.argmin(1)
  each = np.stack([ball & (nearest == side) for side in (0, 1)], 1)
  axis = (
    np.take_along_axis(away / np.maximum(length, 1e-6)[..., None], nearest[:, None, None], 1)[:, 0]
    * ball[:, None]
  )
  radius = np.where(ball, np.take_along_axis(length, nearest[:, None], 1)[:, 0], 0)
  teeth, lower = region('teeth') > 0.5, np.zeros(len(fade), bool)
  if head.has_joint('jaw'):  # without one no vertex tells lower teeth from upper
    lower = np.asarray(dense.weights)[:, head.joint('jaw')] > 0.5
  cavity = np.clip(region('inner_mouth') + region('tongue'), 0, 1) * ~teeth
  return jnp.asarray(
    np.concatenate(
      [
        fade[:, None],
        albedo,
        np.stack([teeth & ~lower, teeth & lower, cavity], 1),
        axis,
        each,
        radius[:, None],
        region('lips')[:, None],
      ],
      1,
    ),
    jnp.float32,
  )


@jax.jit
def _channels(
  vertices: jax.Array,
  gaze: jax.Array,
  attributes: jax.Array,
  light: jax.Array,
  distance: jax.Array,
  camera: Camera,
  topology: Topology,
) -> dict[str, jax.Array]:
  """All maps of one frame. gaze [2, 2]: yaw and pitch of the left and the right eye; distance:
  camera to head joint."""
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, topology, camera.image_size)
  surface = interpolate(
    jnp.concatenate(
      [camera_normals(vertices, topology.faces, camera), clip[:, 3:], attributes], -1
    ),
    clip,
    topology,
    fragments,
  )
  normal, depth, fade, albedo, classes, axis, eyes, radius, _ = jnp.split(
    surface, (3, 4, 5, 8, 11, 14, 16, 17), -1
  )
  mask, normal = mask_map(fragments), unit(normal)
  lit = jnp.clip(albedo * jnp.maximum(shade_harmonics(normal, light), 0), 0, 1)
  image = jnp.concatenate([normal, mask, lit], -1) * fade
  image = antialias(image, clip, topology, fragments)
  near = jnp.clip(0.5 - (depth - distance) / (2 * NEAR), 0, 1) * mask

  inside = (eyes.sum(-1, keepdims=True) > 0.5) * mask
  # metres from the eye's axis
  across = jnp.sqrt(jnp.clip(1 - unit(axis)[..., 2:] ** 2, 0, 1)) * radius
  front = axis[..., 2:] > 0
  pixel = radius / 12  # a soft rim
  disc = jax.nn.sigmoid((_IRIS - across) / pixel) - 0.5 * jax.nn.sigmoid((_PUPIL - across) / pixel)
  turn = jnp.clip(
    jnp.einsum('hwe,ec->hwc', eyes / jnp.maximum(eyes.sum(-1, keepdims=True), 1e-6), gaze) / _GAZE,
    -1,
    1,
  )
  iris = jnp.concatenate([disc * front, turn / 2 + 0.5], -1) * inside

  mouth = (classes > 0.5) * mask
  lips = attributes[:, -1] > 0.5
  foremost = jnp.min(jnp.where(lips, clip[:, 3], jnp.inf))
  hollow = jnp.clip((depth - foremost) / _CAVITY, 0, 1) * mouth.max(-1, keepdims=True)
  return {
    'normals': encode_normals(image[..., :3], image[..., 3:4]),
    'depth': near,
    'shaded': image[..., 4:],
    'iris': iris,
    'mouth': mouth.astype(jnp.float32),
    'mouth_depth': hollow,
  }


def control_channels(
  head: HeadModel,
  dense: Dense,
  subject: Subject,
  motion: Motion,
  dynamic: np.ndarray | None,
  *,
  size: int,
) -> dict[str, np.ndarray]:
  """All maps of a motion seen by the subject's camera: uint8 [T, size, size, 1 or 3] each, see the
  top of the file.

  Args:
    subject: whose shape, static offsets, albedo and camera.
    dynamic: [T, N, 3] dynamic offsets in the rest pose, metres, or None for none.
  """
  camera, topology = subject_camera(subject, size), Topology.from_faces(np.asarray(dense.faces))
  attributes, light = surface_attributes(head, dense, subject), jnp.asarray(frontal_light())
  eyes = [head.joint('left_eye'), head.joint('right_eye')]
  distance = jnp.float32(-subject.translation[0, 2])
  frames = []
  for pose, (vertices, _) in zip(motion.pose, posed_heads(head, dense, subject, motion, dynamic)):
    gaze = jnp.asarray(pose[eyes][:, [1, 0]] * [1, -1], jnp.float32)  # a turn about x looks down
    frames.append(_channels(vertices, gaze, attributes, light, distance, camera, topology))
  return {name: to_bytes([frame[name] for frame in frames]) for name in frames[0]}


def extra_maps(
  head: HeadModel,
  dense: Dense,
  subject: Subject,
  motion: Motion,
  dynamic: np.ndarray | None,
  names: tuple[str, ...],
  *,
  size: int,
) -> np.ndarray:
  """uint8 [T, size, size, E]: the groups `names` one after the other; arguments as of
  `control_channels`."""
  extra_channels(names)
  drawn = control_channels(head, dense, subject, motion, dynamic, size=size)
  return np.concatenate([drawn[name] for name in names], axis=-1)
