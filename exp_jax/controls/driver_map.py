"""Loki's driver map: what a parametric head looks like in a picture, without whose face it is. 45
channels a frame.

  P   the head model's template coordinates of the point that is seen, the same for everybody: where each part of a face lies
  D   its deformation by expression, jaw and eyes over sigma (heads/deformation.py)
  M   1 where the head is seen; 0 on neck, cloth and background

  map = M [sin(2^k P_x) k = 0..6, cos(2^k P_x) k = 0..6, the same of y, of z, D / sigma]

One rasterization a frame, nearest surface, back faces left out. P and D are stored as maps of half
precision; the 42 channels of the encoding are made inside the compiled step. Turns of the head
change where values lie, not the values.

Letters: T frames, H, W pixels, V vertices of head and mouth cavity.
Source: Loki, arXiv 2605.24176, figures 4 and 6 and its published renderer: what is encoded are
template coordinates, not places on the screen ('ndc' is that other reading). Interpolation is exact
in perspective; the renderer's is affine on the screen.
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
from exp_jax.geometry import Camera, clip_coordinates
from exp_jax.heads.deformation import SIGMA, deformation
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.mouth_cavity import MouthCavity, mouth_cavity, neutral_cavity, posed_cavity
from exp_jax.heads.personalized import Subject
from exp_jax.heads.skinning import head_vertices
from exp_jax.rendering import Topology, interpolate, rasterize

OCTAVES = 7
POSITION_CHANNELS, DEFORMATION_CHANNELS = 6 * OCTAVES, 3
CHANNELS = POSITION_CHANNELS + DEFORMATION_CHANNELS
POINTS = ('template', 'ndc')


@flax.struct.dataclass
class DriverSurface:
  """What a head's maps depend on beside the person.

  Attributes:
    places: [V, 3] template coordinates, centred, over their largest value.
    shown: [F'] bool, faces of the head.
    topology: of the head and, where it has one, the cavity.
    cavity: or None.
  """

  places: jax.Array
  shown: jax.Array
  topology: Topology
  cavity: MouthCavity | None


@dataclasses.dataclass(frozen=True)
class DriverMaps:
  """Maps of T frames, without the encoding.

  Attributes:
    places: float16 [T, H, W, 3] P.
    depth: float16 [T, H, W] distance over the head's mean distance, less one; for the 'ndc'
      reading.
    deformation: float16 [T, H, W, 3] D / sigma.
    mask: uint8 [T, H, W] 255 where the head is seen.
  """

  places: np.ndarray
  depth: np.ndarray
  deformation: np.ndarray
  mask: np.ndarray


def channel_names() -> tuple[str, ...]:
  """Of the 45 channels, in their order."""
  encoded = tuple(
    f'{function} 2^{k} {axis}'
    for axis in 'xyz'
    for function in ('sin', 'cos')
    for k in range(OCTAVES)
  )
  return (*encoded, *(f'deformation {axis}' for axis in 'xyz'))


def of_head(head: HeadModel) -> np.ndarray:
  """[V] bool: vertices that are neither neck nor cloth."""
  others = sum(
    np.asarray(head.regions[name]) for name in ('neck', 'clothing') if name in head.regions
  )
  return np.broadcast_to(np.asarray(others) < 0.5, len(head.template))


def driver_surface(head: HeadModel) -> DriverSurface:
  """Made once for a head.

  Raises:
    UserError: no vertex of it belongs to a head.
  """
  own, cavity = of_head(head), mouth_cavity(head)
  if not own.any():
    raise UserError(
      f'the head model {head.name!r} is all neck and cloth by its regions; convert it again with '
      'its masks'
    )
  template, faces = np.asarray(head.template, np.float64), np.asarray(head.faces)
  middle = template[own].mean(0)
  largest = (template[own] - middle).max()
  places, shown = template - middle, own[faces].any(1)
  if cavity is not None:
    inside = (
      np.asarray(neutral_cavity(head, cavity, jnp.zeros(head.shape_basis.shape[-1])), np.float64)
      - middle
    )
    places, shown = (
      np.concatenate([places, inside]),
      np.append(shown, np.ones(len(cavity.faces), bool)),
    )
    faces = np.concatenate([faces, np.asarray(cavity.faces) + len(template)])
  return DriverSurface(
    jnp.asarray(places / largest, jnp.float32),
    jnp.asarray(shown),
    Topology.from_faces(faces.astype(np.int32)),
    cavity,
  )


def surface_points(
  head: HeadModel, surface: DriverSurface, params: HeadParams
) -> tuple[jax.Array, jax.Array]:
  """(posed [V, 3] metres, deformation [V, 3] metres) of head and cavity, whose deformation is 0."""
  points, moved = (
    head_vertices(head, params),
    deformation(head, params.shape, params.expression, params.pose),
  )
  if surface.cavity is None:
    return points, moved
  inside = posed_cavity(head, surface.cavity, params)
  return jnp.concatenate([points, inside]), jnp.concatenate([moved, 0 * inside])


@functools.partial(jax.jit, static_argnames='size')
def driver_map_of(
  head: HeadModel, surface: DriverSurface, params: HeadParams, camera: Camera, size: int
):
  """(P [size, size, 3], depth [size, size], D / sigma [size, size, 3], mask bool [size, size]) of
  one frame; 0 beyond the mask.

  Args:
    camera: of a square picture, of `size` pixels.
  """
  points, moved = surface_points(head, surface, params)
  clip = clip_coordinates(points, camera)
  fragments = rasterize(clip, surface.topology, (size, size), cull='back')
  depth = clip[:, 3:] / clip[:, 3].mean() - 1
  drawn = interpolate(
    jnp.concatenate([surface.places, depth, moved / SIGMA], -1), clip, surface.topology, fragments
  )
  mask = (fragments.face_id >= 0) & surface.shown[jnp.maximum(fragments.face_id, 0)]
  drawn = jnp.where(mask[..., None], drawn, 0.0)
  return drawn[..., :3], drawn[..., 3], drawn[..., 4:], mask


def driver_maps(
  head: HeadModel,
  surface: DriverSurface,
  subject: Subject,
  motion: Motion,
  *,
  size: int,
  cameras: list[Camera] | None = None,
) -> DriverMaps:
  """Maps of a motion on a subject's shape: substituting the motion is all of reenactment.

  Args:
    size: pixels.
    cameras: one a frame; None: the subject's own for all.
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
        driver_map_of(head, surface, params, own if cameras is None else cameras[t], size)
      )
    )
  places, depth, moved, mask = (np.stack(part) for part in zip(*found))
  half = lambda values: np.clip(values, -6e4, 6e4).astype(np.float16)
  return DriverMaps(half(places), half(depth), half(moved), mask.astype(np.uint8) * 255)


def positional_encoding(points: jax.Array) -> jax.Array:
  """[..., 3] -> float32 [..., 42]: per axis seven sines, then seven cosines, of 1, 2, 4, ... 64
  times the coordinate."""
  angles = jnp.asarray(points, jnp.float32)[..., None] * 2.0 ** jnp.arange(OCTAVES)  # [..., 3, 7]
  return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -2).reshape(
    *points.shape[:-1], POSITION_CHANNELS
  )


def screen_points(depth: jax.Array) -> jax.Array:
  """The 'ndc' reading: [..., H, W] relative depths -> [..., H, W, 3] places on the screen in -1..1,
  and the depth."""
  H, W = depth.shape[-2:]
  x, y = (2 * jnp.arange(W) + 1.0) / W - 1, (2 * jnp.arange(H)[:, None] + 1.0) / H - 1
  depth = jnp.asarray(depth, jnp.float32)
  return jnp.stack([x + 0 * depth, y + 0 * depth, depth], -1)


def encoded(
  points: jax.Array,
  moved: jax.Array,
  mask: jax.Array,
  *,
  positions: bool = True,
  deformed: bool = True,
) -> jax.Array:
  """The map that the encoder sees, zero beyond the mask.

  Args:
    points: [..., H, W, 3] P, or `screen_points`.
    moved: [..., H, W, 3] D / sigma.
    mask: [..., H, W], above 0 where the head is seen.
    positions, deformed: whether those channels are there.

  Returns:
    float32 [..., H, W, 45], or 42, or 3.
  """
  parts = ([positional_encoding(points)] if positions else []) + (
    [jnp.asarray(moved, jnp.float32)] if deformed else []
  )
  return jnp.concatenate(parts, -1) * (mask > 0)[..., None]
