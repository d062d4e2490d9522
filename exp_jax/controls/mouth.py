"""The inside of a mouth in the textured preview: teeth drawn on a plain band, and the light that
comes in between the lips.

Head models have two smooth bands where teeth are. A place on a band is given by how far along the
arch it is and how far from the biting edge; widths and heights of crowns are those of adults
(Wheeler, Dental Anatomy). What is inside is lit through the opening alone,

  E(x) = 1/(2 pi) sum_i angle_i  n . unit(r_(i+1) x r_i),      r_i from x to the corners of the inner lips,

which is Lambert's formula for a polygon that shines evenly (Lambert 1760, art. 161). Letters: N
vertices, K corners, H, W pixels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.interpolate
import scipy.sparse
import scipy.sparse.csgraph

from exp_jax.heads.model import HeadModel

# MediaPipe's, a loop
INNER_LIPS = (
  78,
  191,
  80,
  81,
  82,
  13,
  312,
  311,
  310,
  415,
  308,
  324,
  318,
  402,
  317,
  14,
  87,
  178,
  88,
  95,
)
GUMS = (0.66, 0.38, 0.36)  # in white light, two thirds as bright as the crowns before them
# from the middle of the arch to the back, millimetres: widths of crowns, and heights of those above
# and below
_WIDTHS = {
  True: (8.5, 6.5, 7.6, 7.0, 6.8, 10.0, 9.0, 8.5),
  False: (5.2, 5.7, 6.8, 7.0, 7.1, 11.0, 10.5, 10.0),
}
_HEIGHTS = {
  True: (10.3, 8.8, 9.8, 8.5, 8.0, 7.5, 7.0, 6.5),
  False: (8.8, 9.0, 10.0, 8.8, 8.0, 7.5, 7.0, 7.0),
}
# exponent of the light that comes in, and the share that is always there
_DEEP, _AMBIENT = 0.25, 0.08
_MM = 1e3
# millimetres of the front teeth that lips at rest leave in view, mean of women and men
_SHOWN = {True: 2.6, False: 0.9}
_MOST_SHIFT = 0.006  # metres
# a face's colour in white light, of which the picture's light is read
SKIN = np.array([0.72, 0.55, 0.47])


def inner_lips(head: HeadModel) -> tuple[jax.Array, jax.Array] | None:
  """Corners [K, 3] int32 and shares [K, 3] of the loop of the inner lips among the head's vertices,
  with which each of its dense meshes begins; None for a head without MediaPipe's landmarks."""
  if len(head.landmark_faces) <= max(INNER_LIPS):
    return None
  ids = np.array(INNER_LIPS)
  return (
    jnp.asarray(np.asarray(head.faces)[np.asarray(head.landmark_faces)[ids]], jnp.int32),
    jnp.asarray(np.asarray(head.landmark_barycentric)[ids], jnp.float32),
  )


@functools.partial(jax.jit, inline=True)
def loop_of(vertices: jax.Array, lips: tuple[jax.Array, jax.Array]) -> jax.Array:
  """[K, 3] where `inner_lips` are on vertices [N, 3]."""
  return jnp.einsum('kcd,kc->kd', vertices[lips[0]], lips[1])


def aperture_light(points: jax.Array, normals: jax.Array, loop: jax.Array) -> jax.Array:
  """How much of an evenly bright outside reaches points through an opening, [N] in 0..1.

  Args:
    points: [N, 3]; normals: [N, 3] unit.
    loop: [K, 3] corners of the opening, clockwise as seen from outside, as `INNER_LIPS` are. Points
      on the outer side get 1.
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


@functools.partial(jax.jit, inline=True)
def mouth_light(points: jax.Array, normals: jax.Array, loop: jax.Array) -> jax.Array:
  """[N] brightness of what is inside a mouth, 0..1; arguments as of `aperture_light`.

  What walls throw back is a constant share.
  """
  return _AMBIENT + (1 - _AMBIENT) * aperture_light(points, normals, loop) ** _DEEP


def labial_faces(template: np.ndarray, faces: np.ndarray, places: np.ndarray) -> np.ndarray:
  """The faces of bands of teeth that look out of the mouth, [C, 3]; arguments and places as of
  `tooth_places`.

  A band turns over at the biting edge, where vertex normals point up or down: light by those would
  fade from the gum to the edge, which no crown does. Normals of these faces alone stand on the
  crowns up to the edge.
  """
  own = faces[(places[:, 2] != 0)[faces].all(-1)]
  if not len(own):
    return own
  corner = template[own]
  normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
  back = np.array([template[places[:, 2] == which, 2].min() for which in (1, -1)])
  middle = corner.mean(1)
  outward = np.stack(
    [middle[:, 0], 0 * middle[:, 0], middle[:, 2] - back[(places[own[:, 0], 2] < 0).astype(int)]],
    -1,
  )
  cosine = (normal * outward).sum(-1) / np.maximum(
    np.linalg.norm(normal, axis=-1) * np.linalg.norm(outward, axis=-1), 1e-12
  )
  return own[cosine > 0.35]


@functools.partial(jax.jit, inline=True)
def tooth_light(points: jax.Array, normals: jax.Array, loop: jax.Array) -> jax.Array:
  """[N] brightness of crowns, 0..1; arguments as of `aperture_light`, normals those of
  `labial_faces`.

  Enamel is translucent: light that enters where a crown faces the opening leaves all over it, so a
  crown is lit as one that is turned half-way towards the opening.
  """
  towards = loop.mean(0) - points
  towards = towards / jnp.maximum(jnp.linalg.norm(towards, axis=-1, keepdims=True), 1e-9)
  turned = normals + towards
  return mouth_light(
    points, turned / jnp.maximum(jnp.linalg.norm(turned, axis=-1, keepdims=True), 1e-9), loop
  )


def tooth_shift(
  template: np.ndarray, places: np.ndarray, lips: tuple[jax.Array, jax.Array] | None
) -> np.ndarray:
  """[N, 3] metres by which rows of teeth are moved up or down so that as much of them shows under
  resting lips as people show.

  Shapes of a head move its lips, its teeth hardly. Source of `_SHOWN`: Vig & Brundo, The kinetics
  of anterior tooth display, 1978.

  Args:
    template: [N, 3] the person at rest; places: of `tooth_places`; lips: of `inner_lips`.
  """
  shift = np.zeros_like(template)
  if lips is None:
    return shift
  rows = np.asarray(loop_of(jnp.asarray(template), lips))
  for upper, which in ((True, 1), (False, -1)):
    lip = rows[INNER_LIPS.index(13 if upper else 14), 1]
    front = (places[:, 2] == which) & (np.abs(places[:, 0]) < 8)
    if front.any():
      edge = which * (which * template[front, 1]).min()
      wanted = lip - which * _SHOWN[upper] / _MM
      shift[places[:, 2] == which, 1] = np.clip(wanted - edge, -_MOST_SHIFT, _MOST_SHIFT)
  return shift


def shown_edge(share: np.ndarray, columns: tuple[float, float]) -> float | None:
  """Pixel row where the upper teeth of a picture end, the middle of columns; None where less than
  half of these show teeth.

  share: [H, W] of `tooth_share` between the lips; columns: first and last. What a lower lip hides
  is not known: teeth may be longer.
  """
  ends = []
  first, last = int(max(columns[0], 0)), int(min(columns[1], share.shape[1] - 1))
  for column in range(first, last + 1):
    rows = np.flatnonzero(share[:, column] > 0.5)
    if len(rows):
      breaks = np.flatnonzero(np.diff(rows) > 2)
      ends.append(rows[breaks[0] if len(breaks) else -1] + 1.0)
  return float(np.median(ends)) if last >= first and len(ends) >= (last - first + 1) / 2 else None


def tooth_share(colours: np.ndarray, skin: np.ndarray) -> np.ndarray:
  """How much pixels [..., 3] between lips look like teeth, 0..1: hardly coloured in the light that
  falls on skin [3], not dark."""
  white = colours / np.clip(skin / SKIN, 0.05, None)
  bright = white.max(-1)
  step = lambda low, high, x: np.clip((x - low) / (high - low), 0, 1)
  return step(0.40, 0.28, 1 - white.min(-1) / np.maximum(bright, 1e-6)) * step(0.25, 0.42, bright)


def tooth_places(template: np.ndarray, faces: np.ndarray, teeth: np.ndarray) -> np.ndarray:
  """Where on a band of teeth each vertex is.

  Args:
    template: [N, 3] metres at rest, y up, z forwards; faces: [F, 3]; teeth: [N] bool.

  Returns:
    [N, 3] float32: millimetres along the arch from its middle (the person's left is positive),
      millimetres from the biting edge
    towards the gum, and 1 for upper, -1 for lower teeth; zeros elsewhere, and everywhere unless
    there are just two bands.
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
    places[band] = np.stack(
      [
        _MM * np.interp(turn, middles, length),
        _MM * (height - biting),
        0 * turn + (1 if upper else -1),
      ],
      -1,
    )
  return places


def paint_teeth(
  places: jax.Array, enamel: jax.Array, gums: jax.Array, pixel: jax.Array | float = 0.0
) -> jax.Array:
  """Colour [..., 3] of places [..., 3] of `tooth_places`, before light; enamel and gums: [3];
  pixel: millimetres that one is wide, over which what is finer is spread.

  Crowns end in a bow at the gum, stand apart by a dark line, are rounded, and a little yellower
  towards the gum.
  """
  along, height, which = jnp.split(places, 3, axis=-1)
  both = [_crown(jnp.abs(along), height, upper, pixel) for upper in (True, False)]
  crown, shade = (jnp.where(which > 0, a, b) for a, b in zip(*both))
  warm = enamel * jnp.array([1.0, 0.96, 0.88])
  share = jnp.clip(height / 10, 0, 1)
  tooth = (enamel + share * (warm - enamel)) * shade
  return gums + crown * (tooth - gums)


def _crown(
  along: jax.Array, height: jax.Array, upper: bool, pixel: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
  """Share of crown, not gum, and its brightness, [..., 1] each."""
  ends = jnp.cumsum(jnp.array(_WIDTHS[upper]))
  number = jnp.minimum(jnp.searchsorted(ends, along), len(ends) - 1)
  width, tall = jnp.array(_WIDTHS[upper])[number], jnp.array(_HEIGHTS[upper])[number]
  across = jnp.clip(2 * (along - (ends[number] - width / 2)) / width, -1, 1)  # -1..1 over one tooth
  gum = tall * (1 - 0.22 * across**2)
  crown = jax.nn.sigmoid((gum - height) / (0.25 + 0.3 * pixel))
  gap = (1 - jnp.abs(across)) * width / 2  # millimetres from its side
  corner = jnp.clip(1.2 - height, 0, 1.2) * 0.25  # sides give way at the biting edge
  apart = jax.nn.sigmoid((gap - 0.12 - corner) / (0.10 + 0.5 * pixel))
  return crown, (0.62 + 0.38 * apart) * (1 - 0.12 * across**2)
