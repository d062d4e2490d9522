"""MagicPortrait's guidance: depth, normals and a render of a head without hair, and landmarks for
comparison. Values in 0..1.

  depth      (z_most - z) / (z_most - z_least) over all vertices of the frame: 1 the nearest, 0 the farthest and the background;
             'fixed': 1 at 0.2 m before the head joint, 0 as far behind it, so that it does not
               depend on how the head is turned
  normals    x right, y up, z to the viewer, interpolated and not made unit again; 'clamped': what is negative is 0, as published;
             'signed': n / 2 + 1/2 where the head is seen
  render     albedo times light by nine spherical harmonics of the same normal, clipped; the portrait's albedo and light, never the
             driver's, since who it is may come in here
  landmarks  a square of 3 pixels on each of 68 landmarks, hidden or not: the paper's comparison,
  not its method

One rasterization a frame, nearest surface, back faces too. The camera is weak perspective, as that
of the trackers behind the paper: that of the fit with its focal length over the distance of the
head joint. 'perspective' is the fit's own.
Heads are the linear model, no offsets: that is what both a fit by landmarks and the published
tracker give. Cloth is not drawn.

Letters: T frames, H, W pixels, V vertices, F faces, K landmarks.
Source: MagicPortrait, arXiv 2504.21497, section III-B, and its published code. Light and albedo of
the published tracker: `texture.py`; another albedo is one colour a vertex of the subject file, or
grey.
"""

import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.maps import subject_camera
from exp_jax.controls.reenact import Motion
from exp_jax.errors import UserError
from exp_jax.geometry import Camera, clip_coordinates, project
from exp_jax.geometry.cameras import depth_in_clip
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.landmark_sets import IBUG_FROM_MEDIAPIPE
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_joints, head_landmarks, head_vertices
from exp_jax.rendering import (
  Topology,
  frontal_light,
  interpolate,
  interpolate_corners,
  rasterize,
  sample_texture,
  shade_harmonics,
)
from exp_jax.systems.magicportrait.texture import HeadTexture

MAPS = {'depth': 1, 'normals': 3, 'render': 3, 'landmarks': 1}  # name -> channels that are stored
PUBLISHED = ('depth', 'normals', 'render')
CHOICES = {
  'camera': ('weak', 'perspective'),
  'depth': ('head', 'fixed'),
  'normals': ('clamped', 'signed'),
  'albedo': ('subject', 'grey'),
}
NEAR = 0.2  # metres before and behind the head joint that a 'fixed' depth spans
_GREY = 0.75
_FLIP = np.float32([1, -1, -1])  # a direction of the head's frame in the camera's: y down, z away


@dataclasses.dataclass(frozen=True)
class Conventions:
  """How maps are drawn; the first choice of each is the published one.

  Attributes:
    camera: 'weak' or 'perspective'.
    depth: over the 'head' of the frame, or of a 'fixed' range.
    normals: 'clamped' or 'signed'.
    albedo: of the 'subject' where it has one, or 'grey' always.
  """

  camera: str = 'weak'
  depth: str = 'head'
  normals: str = 'clamped'
  albedo: str = 'subject'

  def __post_init__(self):
    for name, choices in CHOICES.items():
      if getattr(self, name) not in choices:
        raise UserError(
          f"the maps' {name} is {getattr(self, name)!r}, choose from {', '.join(choices)}"
        )


@flax.struct.dataclass
class Appearance:
  """What the render shows.

  Attributes:
    albedo: [V, 3], or a texture [h, w, 3] where there are `corners`.
    corners: [F, 3, 2] places in the texture, (0, 0) its top left; None: one colour a vertex.
    light: [9, 3] of `shade_harmonics`, normals in the frame of the camera.
    linear: whether albedo and light are linear, so that the result is encoded as pictures are
      (sRGB).
  """

  albedo: jax.Array
  corners: jax.Array | None
  light: jax.Array
  linear: bool = flax.struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class GuidanceMaps:
  """Maps of T frames, uint8.

  Attributes:
    depth: [T, H, W].
    normals: [T, H, W, 3].
    render: [T, H, W, 3].
    landmarks: [T, H, W].
    mask: [T, H, W] 255 where the head is seen.
  """

  depth: np.ndarray
  normals: np.ndarray
  render: np.ndarray
  landmarks: np.ndarray
  mask: np.ndarray


def guidance_surface(head: HeadModel) -> Topology:
  """The faces that are drawn: all but cloth.

  Raises:
    UserError: there are none.
  """
  faces = np.asarray(head.faces)
  cloth = (
    np.asarray(head.regions['clothing'])
    if 'clothing' in head.regions
    else np.zeros(len(head.template))
  )
  faces = faces[(cloth < 0.5)[faces].all(1)]
  if not len(faces):
    raise UserError(
      f'the head model {head.name!r} is all cloth by its regions; convert it again with its masks'
    )
  return Topology.from_faces(faces.astype(np.int32))


def appearance_of(
  head: HeadModel, subject: Subject, conventions: Conventions, texture: HeadTexture | None = None
) -> Appearance:
  """Of the subject whose picture is the reference: its own albedo, else the texture, else grey; its
  light, else a frontal one.

  Raises:
    UserError: the texture is of another head.
  """
  count, light = (
    len(head.template),
    subject.light if subject.light is not None else np.repeat(frontal_light(), 3, 1),
  )
  light = jnp.asarray(light, jnp.float32)
  if conventions.albedo == 'subject' and subject.albedo is not None:
    # a dense mesh begins with the coarse
    return Appearance(jnp.asarray(subject.albedo[:count], jnp.float32), None, light, True)
  if conventions.albedo == 'subject' and texture is not None:
    if len(texture.corners) != len(head.faces):
      raise UserError(
        f'the texture is of {len(texture.corners)} faces, the head {head.name!r} has '
        f'{len(head.faces)}: it belongs to '
        'another head'
      )
    cloth = np.asarray(head.regions['clothing']) if 'clothing' in head.regions else np.zeros(count)
    drawn = (cloth < 0.5)[np.asarray(head.faces)].all(1)
    return Appearance(jnp.asarray(texture.image), jnp.asarray(texture.corners[drawn]), light, False)
  return Appearance(jnp.full((count, 3), _GREY), None, light, subject.light is not None)


def weak_camera(camera: Camera, distance: jax.Array) -> Camera:
  """The orthographic camera that shows what is `distance` metres away at the place and size that
  `camera` does."""
  return camera.replace(focal=camera.focal / distance, model='orthographic')


def encoded_picture(light: jax.Array) -> jax.Array:
  """Linear light in 0..1 as pictures store it (IEC 61966-2-1)."""
  return jnp.where(
    light <= 0.0031308, 12.92 * light, 1.055 * jnp.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
  )


def _dots(pixels: jax.Array, size: int) -> jax.Array:
  """[size, size] 1 on squares of three pixels about [K, 2]; what lies outside is left out."""
  column, row = jnp.floor(pixels).astype(jnp.int32).T
  column, row = (jnp.where((n >= 0) & (n < size), n, 2 * size) for n in (column, row))
  offsets = jnp.arange(-1, 2)
  rows, columns = row[:, None, None] + offsets[:, None], column[:, None, None] + offsets
  rows, columns = (jnp.where(n < 0, 2 * size, n) for n in (rows, columns))
  return jnp.zeros((size, size)).at[rows, columns].set(1.0, mode='drop')


@functools.partial(jax.jit, static_argnames=('size', 'conventions'))
def guidance_of(
  head: HeadModel,
  surface: Topology,
  params: HeadParams,
  camera: Camera,
  appearance: Appearance,
  *,
  size: int,
  conventions: Conventions,
) -> dict[str, jax.Array]:
  """Maps of one frame: depth [size, size], normals and render [size, size, 3], landmarks and mask
  [size, size]; float32 in 0..1.

  Args:
    camera: perspective, of a square picture of `size` pixels.
    appearance: whose `corners` are of the faces of `surface`.
  """
  vertices = head_vertices(head, params)
  distance = -head_joints(head, params)[head.joint('head') if head.has_joint('head') else 0, 2]
  if conventions.camera == 'weak':
    camera = weak_camera(camera, jnp.maximum(distance, 1e-3))
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, surface, (size, size))
  behind = depth_in_clip(clip, camera)  # [V, 1] metres
  if conventions.depth == 'head':
    used = jnp.zeros(len(vertices), bool).at[surface.faces].set(True)[:, None]
    least, most = jnp.where(used, behind, jnp.inf).min(), jnp.where(used, behind, -jnp.inf).max()
    near = (most - behind) / jnp.maximum(most - least, 1e-6)
  else:
    near = 0.5 - (behind - distance) / (2 * NEAR)
  per_vertex = [near, vertex_normals(vertices, surface.faces)] + (
    [] if appearance.corners is not None else [appearance.albedo]
  )
  drawn = interpolate(jnp.concatenate(per_vertex, -1), clip, surface, fragments)
  mask = (fragments.face_id >= 0)[..., None]
  depth, normals, albedo = drawn[..., 0], drawn[..., 1:4], drawn[..., 4:]
  if appearance.corners is not None:
    albedo = sample_texture(
      appearance.albedo, interpolate_corners(appearance.corners, clip, surface, fragments)
    )
  render = jnp.clip(albedo * shade_harmonics(normals * _FLIP, appearance.light), 0.0, 1.0)
  render = encoded_picture(render) if appearance.linear else render
  normals = normals if conventions.normals == 'clamped' else 0.5 * normals + 0.5
  points = head_landmarks(head, params)
  points = points[np.array(IBUG_FROM_MEDIAPIPE)] if len(points) == 478 else points
  pixels, _ = project(points, camera)
  return {
    'depth': jnp.clip(depth, 0, 1) * mask[..., 0],
    'normals': jnp.clip(normals, 0, 1) * mask,
    'render': render * mask,
    'landmarks': _dots(pixels, size),
    'mask': mask[..., 0] * 1.0,
  }


def guidance_maps(
  head: HeadModel,
  surface: Topology,
  subject: Subject,
  motion: Motion,
  *,
  size: int,
  conventions: Conventions,
  appearance: Appearance,
  cameras: list[Camera] | None = None,
) -> GuidanceMaps:
  """Maps of a motion on a subject's shape.

  Args:
    surface: of `guidance_surface`.
    size: pixels.
    appearance: of the subject.
    cameras: perspective, one a frame; None: the subject's own for all.
  """
  own = subject_camera(subject, size)
  found = []
  for t in range(len(motion.expression)):
    params = HeadParams(
      *(
        jnp.asarray(a, jnp.float32)
        for a in (subject.shape, motion.expression[t], motion.pose[t], motion.translation[t])
      )
    )
    found.append(
      jax.device_get(
        guidance_of(
          head,
          surface,
          params,
          own if cameras is None else cameras[t],
          appearance,
          size=size,
          conventions=conventions,
        )
      )
    )
  whole = lambda name: np.rint(255 * np.stack([frame[name] for frame in found])).astype(np.uint8)
  return GuidanceMaps(*(whole(field.name) for field in dataclasses.fields(GuidanceMaps)))


def shown_maps(names: tuple[str, ...], maps: dict) -> dict[str, jax.Array]:
  """What the encoders see: {name: float32 [..., H, W, 3] in 0..1} of uint8 maps; what has one
  channel is repeated."""
  found = {name: jnp.asarray(maps[name]).astype(jnp.float32) / 255 for name in names}
  return {
    name: x if MAPS[name] == 3 else jnp.repeat(x[..., None], 3, axis=-1)
    for name, x in found.items()
  }
