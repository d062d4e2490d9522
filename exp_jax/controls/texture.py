"""A portrait's colours on the dense head: photograph where it was seen, filled in where it was not.

The photograph is not baked into vertices: each vertex keeps the pixel where the portrait showed it, and colours are
looked up per rendered pixel, so the preview is as sharp as the portrait. Vertices that were turned away, hidden or
outside the person's matte take the colour of their mirror image, and what is still open is diffused over the
surface. Letters: N dense vertices, H, W image.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.spatial

from exp_jax.controls.mouth import GUMS, paint_teeth, tooth_places
from exp_jax.geometry import Camera, project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import Dense
from exp_jax.rendering import Fragments, Topology

_IRIS_RADIUS = 0.0059     # metres; varies little between people
_DEFAULTS = {'inner_mouth': (0.42, 0.17, 0.16), 'tongue': (0.66, 0.33, 0.32), 'teeth': (0.80, 0.76, 0.69)}   # before light
_SEEN_ANGLE = (0.12, 0.40)  # cosine between normal and view: below not trusted, above fully
_ROUNDS = 400
INSIDE = 14                 # number of that attribute


@flax.struct.dataclass
class HeadTexture:
  """attributes [N, 15]: portrait pixel 2, seen 1, fill colour 3, opacity 1, eyeball 1, rest direction from eye 3, place on a tooth 3,
  inside of the mouth 1."""
  attributes: jax.Array
  sclera: jax.Array        # [3]
  iris: jax.Array          # [3]
  iris_cosine: jax.Array   # [] cosine of the angle between the eye's axis and the iris's rim
  gums: jax.Array          # [3]
  mouth: jax.Array         # [M] int32, the vertices inside the mouth, which are lit through the lips

  def opacity(self) -> jax.Array:
    """[N] how much of each vertex is drawn."""
    return self.attributes[:, 6]

  def shade(self, maps: jax.Array, sample, photo: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Colour [H, W, 3] and opacity [H, W] of interpolated attributes [H, W, 16], the last a brightness factor."""
    pixel, seen, fill, opacity, eyeball, axis, tooth, _, factor = jnp.split(maps, (2, 3, 6, 7, 8, 11, 14, 15), axis=-1)
    length = jnp.linalg.norm(axis, axis=-1, keepdims=True)
    cosine = axis[..., 2:] / jnp.where(length > 1e-6, length, 1)
    rim = jax.nn.sigmoid((cosine - self.iris_cosine) / 0.012)
    pupil = jax.nn.sigmoid((cosine - (1 - 0.16 * (1 - self.iris_cosine))) / 0.004)
    painted = self.sclera * (1 - rim) + self.iris * rim * (1 - 0.85 * pupil)
    fill = jnp.where(eyeball > 0.5, painted, fill)
    fill = jnp.where(jnp.abs(tooth[..., 2:]) > 0.5, paint_teeth(tooth, fill, self.gums), fill)
    colour = fill + seen * (sample(photo, pixel) - fill)
    return jnp.clip(colour * factor, 0, 1), opacity[..., 0]


def _step(low: float, high: float, x: np.ndarray) -> np.ndarray:
  t = np.clip((x - low) / (high - low), 0, 1)
  return t * t * (3 - 2 * t)


def _neighbour_average(dense: Dense) -> scipy.sparse.csr_array:
  """[N, N] float32, each row the mean over a vertex's neighbours; `dense.neighbours` is padded with the vertex itself."""
  neighbours, degree = np.asarray(dense.neighbours), np.asarray(dense.degree).astype(int)
  used = np.arange(neighbours.shape[1]) < degree[:, None]
  rows = np.repeat(np.arange(len(neighbours)), degree)
  weights = np.repeat(1 / np.maximum(degree, 1), degree).astype(np.float32)
  return scipy.sparse.csr_array((weights, (rows, neighbours[used])), (len(neighbours),) * 2)


def diffuse(values: np.ndarray, known: np.ndarray, dense: Dense, *, rounds: int = _ROUNDS) -> np.ndarray:
  """Spreads known vertex values [N, C] (trust `known` [N] in 0..1) over the surface by repeated averaging.

  Where nothing on a connected part is known, the part keeps its start, the trusted mean of all.
  """
  average = _neighbour_average(dense)
  known = known[:, None].astype(np.float32)
  mean = (values * known).sum(0) / max(known.sum(), 1e-6)
  fixed = known * values
  filled = fixed + (1 - known) * mean
  for _ in range(rounds):
    filled = fixed + (1 - known) * (average @ filled)
  return filled


def _eyes(template: np.ndarray, centers: np.ndarray, eyeball: np.ndarray, colours: np.ndarray, seen: np.ndarray):
  """The eyeballs: (eyeball [N] bool, axis [N, 3] from the eye's centre, cosine of the iris's edge, sclera [3], iris [3])."""
  nearest = np.argmin(np.linalg.norm(template[:, None] - centers[None], axis=-1), -1)
  axis = np.where(eyeball[:, None], template - centers[nearest], 0)
  radius = np.median(np.linalg.norm(axis[eyeball], axis=-1)) if eyeball.any() else 0.012
  iris_cosine = np.sqrt(max(1 - (_IRIS_RADIUS / radius) ** 2, 0.3))
  return eyeball, axis, iris_cosine, *_eye_colours(colours, axis / radius, eyeball & (seen > 0.5), iris_cosine)


def make_texture(photo: np.ndarray, matte: np.ndarray, mouth: np.ndarray, *, dense: Dense, template: np.ndarray, vertices: jax.Array,
                 camera: Camera, topology: Topology, fragments: Fragments, eye_centers: np.ndarray) -> HeadTexture:
  """Looks the dense head up in the portrait.

  Args:
    photo: [H, W, 3] in 0..1; matte: [H, W] in 0..1; mouth: [H, W] bool, the opening between the lips.
    template: [N, 3] rest vertices; vertices: [N, 3] posed as in the portrait.
    fragments: of `vertices` seen by `camera`.
    eye_centers: [2, 3] left and right eye joint, rest coordinates.
  """
  height, width = matte.shape
  region = {name: np.asarray(mask) for name, mask in dense.regions.items()}
  pixels, depth = (np.asarray(a) for a in project(vertices, camera))
  normals = np.asarray(vertex_normals(vertices, topology.faces))
  towards = -np.asarray(vertices) / np.linalg.norm(vertices, axis=-1, keepdims=True)
  facing = np.einsum('nc,nc->n', normals, towards)
  column = np.clip(pixels[:, 0].astype(int), 0, width - 1)
  row = np.clip(pixels[:, 1].astype(int), 0, height - 1)
  within = ((pixels >= 0) & (pixels < [width, height])).all(-1)
  surface = np.asarray(fragments.inv_w)
  surface = np.where(surface > 0, 1 / np.maximum(surface, 1e-6), 0)
  surface = scipy.ndimage.maximum_filter(surface, 3)
  visible = within & (depth < surface[row, column] + 0.003)
  inner = scipy.ndimage.gaussian_filter(matte, height / 256)[row, column]
  seen = visible * _step(*_SEEN_ANGLE, facing) * _step(0.5, 0.8, inner)
  # A seen vertex next to an unseen one may show what lies before it (chin on neck): trust shrinks by two rings,
  # but not in the narrow openings of eyes and mouth, where little would be left.
  neighbours = np.asarray(dense.neighbours)
  narrow = np.clip(sum(region.get(n, 0) for n in ('lips', 'lids', 'eyeballs', 'teeth', 'inner_mouth')), 0, 1)
  for _ in range(2):
    seen = narrow * np.minimum(seen, seen[neighbours].mean(1) * 1.5) + (1 - narrow) * seen[neighbours].min(1)

  # Inside the mouth, lips and teeth of a fit are never quite those of the picture: it is painted, in the picture's colours.
  inside_mouth = np.clip(sum(region.get(n, np.zeros(len(seen))) for n in ('teeth', 'tongue', 'inner_mouth')), 0, 1)
  seen = seen * (1 - inside_mouth) * ~mouth[row, column]

  colours = photo[row, column]
  # Off the face, what the portrait shows on the head may be hair, a collar or a strap: only what looks like the
  # face's skin is taken for skin, the rest is left to the cut-out.
  off_face = 1 - np.clip(region['face'] + narrow, 0, 1)
  trusted = (seen > 0.5) & (region['face'] > 0.5)
  skin = np.median(colours[trusted], axis=0) if trusted.any() else np.full(3, 0.6)
  alike = np.exp(-(np.linalg.norm(colours - skin, axis=-1) / 0.3) ** 2)
  foreign = off_face * visible * (1 - _step(0.25, 0.6, alike))
  seen = seen * (1 - foreign)
  mirror = scipy.spatial.cKDTree(template).query(template * [-1, 1, 1])[1]
  from_mirror = (1 - seen) * seen[mirror] * 0.8
  trust = np.clip(seen + from_mirror, 0, 1)
  mixed = (seen[:, None] * colours + from_mirror[:, None] * colours[mirror]) / np.maximum(seen + from_mirror, 1e-6)[:, None]
  tint = np.clip(skin / np.array([0.72, 0.55, 0.47]), 0.35, 1.15)
  for name, default in _DEFAULTS.items():
    part = region.get(name, np.zeros(len(seen))) > 0.5
    # The mouth is lit like the face; teeth that show set the colour of all.
    colour = np.array(default) * tint
    if name == 'teeth' and mouth.sum() >= 30:
      shown = photo[mouth]
      colour = np.percentile(shown[shown.mean(-1) >= np.median(shown.mean(-1))], 85, axis=0)
    mixed[part & (seen < 0.5)], trust[part & (seen < 0.5)] = colour, 1
  fill = diffuse(mixed.astype(np.float32), trust, dense)

  front = visible & (facing > 0.05)
  inside = _step(0.15, 0.5, inner)
  drawn = (inside * (1 - foreign))[:, None].astype(np.float32)
  opacity = diffuse(drawn, front * (1 - 0.7 * foreign).astype(np.float32), dense, rounds=30)[:, 0]
  # Hair, ears and clothes are left to the cut-out, which has their true outline and grain.
  for name, full in (('clothing', 0.35), ('scalp', 0.6), ('ears', 0.6)):
    opacity = opacity * (1 - _step(0.0, full, region.get(name, np.zeros(len(seen)))))
  opacity = np.where(inside_mouth > 0.5, 1.0, opacity)

  eyeball, axis, iris_cosine, sclera, iris = _eyes(template, eye_centers, region['eyeballs'] > 0.5, colours, seen)
  tooth = tooth_places(template, np.asarray(dense.faces), region.get('teeth', np.zeros(len(seen))) > 0.5)
  inside = inside_mouth[:, None] > 0.5
  attributes = np.concatenate([pixels, seen[:, None], fill, opacity[:, None], eyeball[:, None], axis, tooth, inside], -1)
  return HeadTexture(attributes=jnp.asarray(attributes, jnp.float32), sclera=jnp.asarray(sclera, jnp.float32),
                     iris=jnp.asarray(iris, jnp.float32), iris_cosine=jnp.float32(iris_cosine),
                     gums=jnp.asarray(np.array(GUMS) * tint, jnp.float32), mouth=jnp.asarray(np.flatnonzero(inside), jnp.int32))


def _eye_colours(colours, axis, seen, iris_cosine):
  """Sclera and iris [3] from the seen eyeball vertices; plain defaults where too few are seen."""
  white = seen & (axis[:, 2] < iris_cosine - 0.06)
  coloured = seen & (axis[:, 2] > iris_cosine + 0.02)
  sclera = np.percentile(colours[white], 75, axis=0) if white.sum() >= 4 else np.array([0.80, 0.76, 0.73])
  iris = np.median(colours[coloured], axis=0) if coloured.sum() >= 3 else np.array([0.25, 0.17, 0.12])
  return np.maximum(sclera, 0.35), iris
