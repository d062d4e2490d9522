"""The inside of a mouth in the textured preview: teeth drawn on a plain band, and the light that comes in between the lips.

Head models have two smooth bands where teeth are. A place on a band is told by how far along the arch it is and how far from the
biting edge; widths and heights of crowns are those of adults (Wheeler, Dental Anatomy). What is inside is lit through the opening
alone,

  E(x) = 1/(2 pi) sum_i angle_i  n . unit(r_(i+1) x r_i),      r_i from x to the corners of the inner lips,

which is Lambert's formula for a polygon that shines evenly (Lambert 1760, art. 161). Letters: N vertices, K corners, H, W pixels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.interpolate
import scipy.sparse
import scipy.sparse.csgraph

from exp_jax.heads.model import HeadModel

INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)   # MediaPipe's, a loop
GUMS = (0.52, 0.26, 0.25)
# from the middle of the arch to the back, millimetres: widths of crowns, and heights of those above and below
_WIDTHS = {True: (8.5, 6.5, 7.6, 7.0, 6.8, 10.0, 9.0, 8.5), False: (5.2, 5.7, 6.8, 7.0, 7.1, 11.0, 10.5, 10.0)}
_HEIGHTS = {True: (10.3, 8.8, 9.8, 8.5, 8.0, 7.5, 7.0, 6.5), False: (8.8, 9.0, 10.0, 8.8, 8.0, 7.5, 7.0, 7.0)}
_DEEP, _AMBIENT = 0.25, 0.08      # exponent of the light that comes in, and the share that is always there
_MM = 1e3


def inner_lips(head: HeadModel) -> tuple[jax.Array, jax.Array] | None:
  """Corners [K, 3] int32 and shares [K, 3] of the loop of the inner lips among the head's vertices, with which each of its dense
  meshes begins; None for a head without MediaPipe's landmarks."""
  if len(head.landmark_faces) <= max(INNER_LIPS):
    return None
  ids = np.array(INNER_LIPS)
  return (jnp.asarray(np.asarray(head.faces)[np.asarray(head.landmark_faces)[ids]], jnp.int32),
          jnp.asarray(np.asarray(head.landmark_barycentric)[ids], jnp.float32))


def loop_of(vertices: jax.Array, lips: tuple[jax.Array, jax.Array]) -> jax.Array:
  """[K, 3] where `inner_lips` are on vertices [N, 3]."""
  return jnp.einsum('kcd,kc->kd', vertices[lips[0]], lips[1])


def aperture_light(points: jax.Array, normals: jax.Array, loop: jax.Array) -> jax.Array:
  """How much of an evenly bright outside reaches points through an opening, [N] in 0..1.

  Args:
    points: [N, 3]; normals: [N, 3] unit.
    loop: [K, 3] corners of the opening, clockwise as seen from outside, as `INNER_LIPS` are. Points on the outer side get 1.
  """
  middle = loop.mean(0)
  area = -0.5 * jnp.sum(jnp.cross(loop - middle, jnp.roll(loop, -1, 0) - middle), 0)
  rays = loop[None] - points[:, None]
  rays = rays / jnp.maximum(jnp.linalg.norm(rays, axis=-1, keepdims=True), 1e-9)
  following = jnp.roll(rays, -1, 1)
  cross = jnp.cross(rays, following)
  sine = jnp.linalg.norm(cross, axis=-1)
  angle = jnp.arctan2(sine, jnp.sum(rays * following, -1))
  along = jnp.einsum('nkc,nc->nk', cross, normals) / jnp.maximum(sine, 1e-9)
  inside = jnp.clip(-jnp.sum(angle * along, -1) / (2 * jnp.pi), 0, 1)
  unit = area / jnp.maximum(jnp.linalg.norm(area), 1e-12)
  return jnp.where((points - middle) @ unit > 0, 1.0, inside)


def mouth_light(points: jax.Array, normals: jax.Array, loop: jax.Array) -> jax.Array:
  """[N] brightness of what is inside a mouth, 0..1; arguments as of `aperture_light`. What walls throw back is a constant share."""
  return _AMBIENT + (1 - _AMBIENT) * aperture_light(points, normals, loop) ** _DEEP


def tooth_places(template: np.ndarray, faces: np.ndarray, teeth: np.ndarray) -> np.ndarray:
  """Where on a band of teeth each vertex is.

  Args:
    template: [N, 3] metres at rest, y up, z forwards; faces: [F, 3]; teeth: [N] bool.

  Returns:
    [N, 3] float32: millimetres along the arch from its middle (the person's left is positive), millimetres from the biting edge
    towards the gum, and 1 for upper, -1 for lower teeth; zeros elsewhere, and everywhere unless there are just two bands.
  """
  places = np.zeros((len(template), 3), np.float32)
  own = faces[teeth[faces].all(-1)]
  pairs = np.concatenate([own[:, [0, 1]], own[:, [1, 2]]])
  graph = scipy.sparse.coo_matrix((np.ones(len(pairs)), pairs.T), (len(template),) * 2)
  _, label = scipy.sparse.csgraph.connected_components(graph, directed=False)
  bands = [np.flatnonzero(teeth & (label == one)) for one in np.unique(label[teeth])]
  if len(bands) != 2:
    return places
  for band, upper in zip(sorted(bands, key=lambda ids: template[ids, 1].mean()), (False, True)):
    points = template[band]
    side, away = points[:, 0], points[:, 2] - points[:, 2].min()
    turn = np.arctan2(side, away + 1e-6)
    # the arch: the outermost points by angle, along which lengths are measured
    edges = np.linspace(turn.min(), turn.max(), 33)
    middles = (edges[:-1] + edges[1:]) / 2
    far = np.hypot(side, away)
    bins = np.clip(np.digitize(turn, edges) - 1, 0, len(middles) - 1)
    known = np.unique(bins)
    reach = np.interp(middles, middles[known], [far[bins == b].max() for b in known])
    arch = np.stack([np.sin(middles), np.cos(middles)], -1) * reach[:, None]
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(arch, axis=0), axis=-1))])
    length -= np.interp(0, middles, length)
    height = points[:, 1] if upper else -points[:, 1]
    biting = np.interp(middles, middles[known], [height[bins == b].min() for b in known])
    biting = scipy.interpolate.make_smoothing_spline(middles, biting, lam=1e-4)(turn)
    places[band] = np.stack([_MM * np.interp(turn, middles, length), _MM * (height - biting), 0 * turn + (1 if upper else -1)], -1)
  return places


def paint_teeth(places: jax.Array, enamel: jax.Array, gums: jax.Array) -> jax.Array:
  """Colour [..., 3] of places [..., 3] of `tooth_places`, before light; enamel and gums: [3].

  Crowns end in a bow at the gum, stand apart by a dark line, are rounded, and a little yellower towards the gum.
  """
  along, height, which = jnp.split(places, 3, axis=-1)
  both = [_crown(jnp.abs(along), height, upper) for upper in (True, False)]
  crown, shade = (jnp.where(which > 0, a, b) for a, b in zip(*both))
  warm = enamel * jnp.array([1.0, 0.96, 0.88])
  share = jnp.clip(height / 10, 0, 1)
  tooth = (enamel + share * (warm - enamel)) * shade
  return gums + crown * (tooth - gums)


def _crown(along: jax.Array, height: jax.Array, upper: bool) -> tuple[jax.Array, jax.Array]:
  """Share of crown, not gum, and its brightness, [..., 1] each."""
  ends = jnp.cumsum(jnp.array(_WIDTHS[upper]))
  number = jnp.minimum(jnp.searchsorted(ends, along), len(ends) - 1)
  width, tall = jnp.array(_WIDTHS[upper])[number], jnp.array(_HEIGHTS[upper])[number]
  across = jnp.clip(2 * (along - (ends[number] - width / 2)) / width, -1, 1)      # -1..1 over one tooth
  gum = tall * (1 - 0.22 * across**2)
  crown = jax.nn.sigmoid((gum - height) / 0.25)
  gap = (1 - jnp.abs(across)) * width / 2                                         # millimetres from its side
  corner = jnp.clip(1.2 - height, 0, 1.2) * 0.25                                  # sides give way at the biting edge
  apart = jax.nn.sigmoid((gap - 0.12 - corner) / 0.10)
  return crown, (0.62 + 0.38 * apart) * (1 - 0.12 * across**2)
