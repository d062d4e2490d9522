"""A portrait's colours on the dense head: photograph where it was seen, filled in where it was not.

The photograph is not baked into vertices: each vertex keeps the pixel where the portrait showed it,
and colours are looked up per rendered pixel, so the preview is as sharp as the portrait. Vertices
that were turned away, hidden or outside the person's matte take the colour of their mirror image,
and what is still open is diffused over the
surface. Letters: N dense vertices, H, W image.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.spatial

from exp_jax.controls.mouth import (
  GUMS,
  SKIN,
  labial_faces,
  loop_of,
  tooth_light,
  tooth_places,
  tooth_share,
)
from exp_jax.controls.preview.hidden_side import diffuse, neighbour_average, with_mirrored
from exp_jax.controls.preview.skin import (
  areas,
  eye_skin,
  fold_depth,
  folded,
  kept_share,
  lid_colours,
  openness,
  pressed_share,
  pressure,
  rim_lines,
  rim_weights,
  seen_area,
)
from exp_jax.controls.preview.texture import DARKEST, HeadTexture, facing_camera, smooth_step
from exp_jax.geometry import Camera, project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import Dense
from exp_jax.rendering import Fragments, Topology

_IRIS_RADIUS = 0.0059  # metres; varies little between people
# before light
_DEFAULTS = {
  'inner_mouth': (0.42, 0.17, 0.16),
  'tongue': (0.66, 0.33, 0.32),
  'teeth': (0.80, 0.76, 0.69),
}
_SEEN_ANGLE = (0.12, 0.40)  # cosine between normal and view: below not trusted, above fully
_BEYOND = 0.1  # of the matte, below which the portrait shows the background
_FOLD_ROUNDS = 6  # rings of vertices about pressed skin in which lines count as folds
_FACES_AT_ONCE = 16384
_FLAT = (
  0.5  # cosine between normal and view, above which turning a head cannot stretch pixels to streaks
)


def _eyes(
  template: np.ndarray,
  centers: np.ndarray,
  eyeball: np.ndarray,
  colours: np.ndarray,
  seen: np.ndarray,
):
  """The eyeballs [N] bool: (axis [N, 3] from the eye's centre, cosine of the iris's edge, sclera
  [3], iris [3])."""
  nearest = np.argmin(np.linalg.norm(template[:, None] - centers[None], axis=-1), -1)
  axis = np.where(eyeball[:, None], template - centers[nearest], 0)
  radius = np.median(np.linalg.norm(axis[eyeball], axis=-1)) if eyeball.any() else 0.012
  iris_cosine = np.sqrt(max(1 - (_IRIS_RADIUS / radius) ** 2, 0.3))
  return (
    axis,
    iris_cosine,
    *_eye_colours(colours, axis / radius, eyeball & (seen > 0.5), iris_cosine),
  )


def _teeth(
  photo: np.ndarray,
  mouth: np.ndarray,
  skin: np.ndarray,
  tint: np.ndarray,
  *,
  dense: Dense,
  template: np.ndarray,
  vertices: jax.Array,
  lips: tuple | None,
) -> dict:
  """Places on teeth [N, 3], labial faces [L, 3], their vertices and how they face the camera [C],
  light on them in the portrait [N], enamel [3], and how much each pixel of the portrait looks like
  a tooth [H, W]."""
  faces, teeth = (
    np.asarray(dense.faces),
    np.asarray(dense.regions.get('teeth', np.zeros(len(template)))) > 0.5,
  )
  places = tooth_places(template, faces, teeth)
  labial = labial_faces(template, faces, places)
  crowns, own = np.unique(labial).astype(int), np.ones(len(template), np.float32)
  normals = vertex_normals(vertices, jnp.asarray(labial, jnp.int32))[crowns]
  facing = np.asarray(
    -jnp.sum(normals * vertices[crowns], -1) / jnp.linalg.norm(vertices[crowns], axis=-1)
  )
  if lips is not None and len(crowns):
    own[crowns] = np.asarray(tooth_light(vertices[crowns], normals, loop_of(vertices, lips)))
  share = tooth_share(photo, skin) * mouth
  enamel = np.array(_DEFAULTS['teeth']) * tint
  if (share > 0.5).sum() >= 30:
    # What shows was dimmed by the lips: that is taken off, within what enamel can be.
    middle = crowns[np.abs(places[crowns, 0]) < 15]
    dimmed = np.clip(np.median(own[middle]) if len(middle) else 1.0, DARKEST, 1)
    shown = photo[share > 0.5]
    shown = np.median(shown[shown.mean(-1) >= np.median(shown.mean(-1))], axis=0) / dimmed
    enamel = shown * np.clip(shown.mean(), 0.8 * enamel.mean(), 1.2 * enamel.mean()) / shown.mean()
  return dict(
    places=places,
    labial=labial,
    crowns=crowns,
    facing=facing,
    own=own,
    enamel=enamel,
    share=share.astype(np.float32),
  )


def _pad(faces: np.ndarray) -> np.ndarray:
  """Filled up with faces of no area, so that portraits share a compiled program."""
  return np.pad(
    faces, ((0, -len(faces) % _FACES_AT_ONCE if len(faces) else _FACES_AT_ONCE), (0, 0))
  )


def _folds(
  photo,
  mouth,
  region,
  inside_mouth,
  near_eyes,
  *,
  dense: Dense,
  template: np.ndarray,
  vertices: jax.Array,
) -> tuple[dict, np.ndarray]:
  """Fields of `HeadTexture` on folds, and the depth [H, W] of the portrait's."""
  empty = np.zeros(len(template), np.float32)
  skin = region['face'] * (
    1
    - np.clip(
      inside_mouth
      + near_eyes
      + sum(region.get(name, empty) for name in ('lips', 'lids', 'eyeballs', 'brows')),
      0,
      1,
    )
  )
  faces = np.asarray(dense.faces)
  faces = faces[(skin[faces] > 0.5).all(-1)]
  found = folded(pressed_share(np.asarray(vertices), template, faces)) * skin
  average = neighbour_average(dense)
  wide = found
  for _ in range(_FOLD_ROUNDS):  # lines lie at the border of what is pressed
    wide = np.maximum(wide, average @ wide)
  side = smooth_step(-0.01, 0.01, template[:, 0])
  sides = np.stack([side, 1 - side])
  faces = _pad(faces[(found[faces] > 0).any(-1)])
  rest, weights = (
    np.asarray(areas(jnp.asarray(template), faces)),
    (sides * found)[:, faces].mean(-1),
  )
  depth = fold_depth(photo) * ~scipy.ndimage.binary_dilation(
    mouth, iterations=max(1, photo.shape[0] // 128)
  )
  return dict(
    fold_faces=faces,
    fold_rest=rest,
    fold_sides=weights,
    folds=sides * np.clip(3 * wide, 0, 1) * skin,
    fold_pressure=pressure(vertices, jnp.asarray(faces), jnp.asarray(rest), jnp.asarray(weights)),
  ), depth


def make_texture(
  photo: np.ndarray,
  matte: np.ndarray,
  mouth: np.ndarray,
  *,
  dense: Dense,
  template: np.ndarray,
  vertices: jax.Array,
  camera: Camera,
  topology: Topology,
  fragments: Fragments,
  eye_centers: np.ndarray,
  lips: tuple | None,
  rims: tuple | None,
  shut: jax.Array | None,
) -> tuple[HeadTexture, np.ndarray]:
  """Looks the dense head up in the portrait; also returns [H, W], the last channel of
  `HeadTexture.shade`'s photo.

  Args:
    photo: [H, W, 3] in 0..1; matte: [H, W] in 0..1; mouth: [H, W] bool, the opening between the
      lips.
    template: [N, 3] rest vertices; vertices: [N, 3] posed as in the portrait.
    fragments: of `vertices` seen by `camera`.
    eye_centers: [2, 3] left and right eye joint, rest coordinates.
    lips: of `mouth.inner_lips`; rims: of `skin.rims_of`; shut: `vertices` with the eyes shut.
  """
  region = {name: np.asarray(mask) for name, mask in dense.regions.items()}
  empty = np.zeros(len(template), np.float32)
  mouth_parts = [region.get(name, empty) for name in ('teeth', 'tongue', 'inner_mouth')]
  inside_mouth = np.clip(sum(mouth_parts), 0, 1)
  eyeball, near_eyes = region['eyeballs'] > 0.5, eye_skin(template, rims, region['eyeballs'] > 0.5)
  place = _places(matte, vertices, camera, topology, fragments)
  colours = photo[place.row, place.column]
  seen, foreign, skin = _trusted(place, colours, mouth, region, inside_mouth, dense)
  posed = dict(normals=place.normals, facing=place.facing, bare=_bare_skin(region, inside_mouth))
  mixed, trust = with_mirrored(colours, seen, template=template, dense=dense, **posed)
  geometry = dict(dense=dense, template=template, vertices=vertices)
  tint = np.clip(skin / SKIN, 0.35, 1.15)  # the mouth is lit like the face
  teeth = _teeth(photo, mouth, skin, tint, lips=lips, **geometry)
  _paint_mouth(mixed, trust, region, seen, tint=tint, enamel=teeth['enamel'])
  fill = diffuse(mixed.astype(np.float32), trust, dense)
  folds, depth = _folds(photo, mouth, region, inside_mouth, near_eyes[0], **geometry)
  opacity = _opacity(place, foreign, region, inside_mouth, dense)
  axis, iris_cosine, sclera, iris = _eyes(template, eye_centers, eyeball, colours, seen)
  faces, inside = np.asarray(dense.faces), inside_mouth > 0.5
  flat = (seen > 0) & ((near_eyes[0] > 0) | (place.facing < _FLAT))
  skin_faces, area = _stretched_faces(faces, flat, eyeball | inside, vertices)
  if shut is not None and rims is not None:
    bare = trust * ~eyeball * (1 - region.get('brows', empty))
    kept = np.asarray(kept_share(shut, skin_faces, area, near_eyes[0]))
    under, colour = lid_colours(mixed, bare, near_eyes[1:], kept=kept, points=template)
    fill[under] = colour
  crowns, pads = teeth['crowns'], dict(skin_faces=skin_faces, fold_faces=folds['fold_faces'])
  seen[crowns] = place.visible[crowns] * smooth_step(*_SEEN_ANGLE, teeth['facing'])
  special = np.where(eyeball[:, None], axis, np.stack([teeth['own'], empty, near_eyes[0]], -1))
  columns = [each[:, None] for each in (seen, *fill.T, opacity, eyeball)]
  attributes = [place.pixels, *columns, special, teeth['places'], inside[:, None]]
  pixel = 1e3 * np.median(-np.asarray(vertices)[:, 2]) / np.asarray(camera.focal).mean()
  arrays = dict(
    attributes=np.concatenate(attributes, -1),
    sclera=sclera,
    iris=iris,
    iris_cosine=iris_cosine,
    skin=skin,
    pixel=pixel,
    gums=np.array(GUMS) * tint,
    lashes=_lash_colour(colours, seen, region.get('brows', empty), near_eyes, skin),
    lids=near_eyes[0],
    skin_area=area,
    **dict(zip(('rim', 'upper'), rim_weights(template, rims, near_eyes[2], eyeball))),
    openness=np.zeros(2) if rims is None else openness(rim_lines(vertices, rims)),
  )
  beyond, pads['beyond_faces'] = _beyond(opacity, region, inside, faces, vertices)
  arrays |= beyond | {
    name: folds[name] for name in ('fold_rest', 'fold_sides', 'fold_pressure', 'folds')
  }
  numbers = {name: teeth[name] for name in ('crowns', 'labial')} | pads
  numbers |= dict(mouth=np.flatnonzero(inside), mouth_faces=faces[inside[faces].any(-1)])
  return _texture(arrays, numbers, rims), np.where(mouth, teeth['share'], depth)


def _stretched_faces(faces, flat, left_out, vertices) -> tuple[np.ndarray, jax.Array]:
  """Faces at vertices [N] bool of lids and of what was seen at a flat angle, which can be stretched,
  and their area as seen."""
  found = _pad(faces[flat[faces].any(-1) & ~left_out[faces].any(-1)])
  return found, seen_area(vertices, jnp.asarray(found))


def _lash_colour(colours, seen, brows, near_eyes, skin) -> np.ndarray:
  """[3] of the darkest hairs of brows and lids, darker than skin in any case."""
  hairs = (seen > 0.5) & ((brows > 0.5) | (near_eyes[1] < 1.5))
  dark = np.percentile(colours[hairs], 5, axis=0) if hairs.sum() >= 20 else 0.3 * skin
  return np.minimum(dark, 0.45 * skin)


def _bare_skin(region: dict, inside_mouth: np.ndarray) -> np.ndarray:
  """[N] bool: skin of the face without brows, lids, lips and eyes."""
  features = [region.get(name, 0) for name in ('brows', 'lids', 'lips', 'eyeballs')]
  return (region['face'] > 0.5) & (sum(features) < 0.5) & (inside_mouth < 0.5)


def _beyond(opacity, region, inside, faces, vertices) -> tuple[dict, np.ndarray]:
  """Fields of `HeadTexture` on the places of the face that the portrait does not show as the
  person's, and the faces at them."""
  beyond = (region['face'] > 0.5) * (1 - opacity) * (1 - inside)
  at = _pad(faces[(beyond[faces] > 0.01).any(-1)])
  return dict(beyond=beyond, beyond_facing=facing_camera(vertices, jnp.asarray(at))), at


def _paint_mouth(mixed, trust, region, seen, *, tint: np.ndarray, enamel: np.ndarray) -> None:
  """Gives what is inside the mouth, where the portrait does not show it, colours [N, 3] and trust
  [N], in place."""
  for name, default in _DEFAULTS.items():
    part = (region.get(name, np.zeros(len(seen))) > 0.5) & (seen < 0.5)
    mixed[part], trust[part] = enamel if name == 'teeth' else np.array(default) * tint, 1


def _texture(arrays: dict, numbers: dict, rims: tuple | None) -> HeadTexture:
  """The texture of arrays of float32 and of int32, on the device."""
  as_type = lambda some, kind: {k: np.asarray(v).astype(kind) for k, v in some.items()}
  fields = as_type(arrays, np.float32) | as_type(numbers, np.int32)
  return HeadTexture(**jax.device_put(fields), rims=None if rims is None else jax.device_put(rims))


@dataclasses.dataclass(frozen=True)
class _Places:
  """Where the portrait shows each vertex: pixels [N, 2], row and column [N], within the picture and
  visible [N] bool, normals [N, 3], facing [N] their cosine to the view, inner [N] matte."""

  pixels: np.ndarray
  row: np.ndarray
  column: np.ndarray
  within: np.ndarray
  visible: np.ndarray
  normals: np.ndarray
  facing: np.ndarray
  inner: np.ndarray


def _places(matte, vertices, camera, topology, fragments) -> _Places:
  height, width = matte.shape
  pixels, depth = (np.asarray(a) for a in project(vertices, camera))
  normals = np.asarray(vertex_normals(vertices, topology.faces))
  towards = -np.asarray(vertices) / np.linalg.norm(vertices, axis=-1, keepdims=True)
  column = np.clip(pixels[:, 0].astype(int), 0, width - 1)
  row = np.clip(pixels[:, 1].astype(int), 0, height - 1)
  within = ((pixels >= 0) & (pixels < [width, height])).all(-1)
  surface = np.asarray(fragments.inv_w)
  surface = np.where(surface > 0, 1 / np.maximum(surface, 1e-6), 0)
  surface = scipy.ndimage.maximum_filter(surface, 3)
  visible, facing = (
    within & (depth < surface[row, column] + 0.003),
    np.einsum('nc,nc->n', normals, towards),
  )
  return _Places(
    pixels,
    row,
    column,
    within,
    visible,
    normals,
    facing,
    scipy.ndimage.gaussian_filter(matte, height / 256)[row, column],
  )


def _trusted(
  place: _Places, colours, mouth, region, inside_mouth, dense
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(seen [N], how much of a vertex's colour is the portrait's; foreign [N], what lies over it; the
  face's median colour [3])."""
  seen = (
    place.visible * smooth_step(*_SEEN_ANGLE, place.facing) * smooth_step(0.5, 0.8, place.inner)
  )
  neighbours = np.asarray(dense.neighbours)
  # Holes of a vertex or two, as beside a nostril, are no larger than the fit is wrong: what the
  # portrait shows there is nearer to the truth than colour from the other side of the face.
  closed = seen[neighbours].max(1)[neighbours].max(1)[neighbours].min(1)[neighbours].min(1)
  seen = np.where((region['face'] > 0.5) & (place.facing > 0.05), np.maximum(seen, closed), seen)
  # A seen vertex next to an unseen one may show what lies before it (chin on neck): trust shrinks
  # by two rings, but not in the narrow openings of eyes and mouth, where little would be left.
  narrow = np.clip(
    sum(region.get(n, 0) for n in ('lips', 'lids', 'eyeballs', 'teeth', 'inner_mouth')), 0, 1
  )
  for _ in range(2):
    seen = narrow * np.minimum(seen, seen[neighbours].mean(1) * 1.5) + (1 - narrow) * seen[
      neighbours
    ].min(1)
  # Inside the mouth all but teeth is painted, in the picture's colours: a fit's tongue is never
  # quite where the picture's is.
  seen = seen * (1 - inside_mouth) * ~mouth[place.row, place.column]
  # Off the face, what the portrait shows on the head may be hair, a collar or a strap: only what
  # looks like the face's skin is taken for skin, the rest is left to the cut-out.
  off_face = 1 - np.clip(region['face'] + narrow, 0, 1)
  trusted = (seen > 0.5) & (region['face'] > 0.5)
  skin = np.median(colours[trusted], axis=0) if trusted.any() else np.full(3, 0.6)
  alike = np.exp(-((np.linalg.norm(colours - skin, axis=-1) / 0.3) ** 2))
  foreign = off_face * place.visible * (1 - smooth_step(0.25, 0.6, alike))
  return seen * (1 - foreign), foreign, skin


def _opacity(place: _Places, foreign, region, inside_mouth, dense) -> np.ndarray:
  """[N] how much of each vertex is drawn."""
  drawn = (smooth_step(0.15, 0.5, place.inner) * (1 - foreign))[:, None].astype(np.float32)
  front = place.visible & (place.facing > 0.05)
  # Where the portrait shows the background, there is nothing of the person: neither in front nor
  # behind.
  beyond = place.within & (place.inner < _BEYOND)
  trust = np.maximum(front * (1 - 0.7 * foreign), beyond).astype(np.float32)
  opacity = diffuse(np.where(beyond[:, None], 0, drawn), trust, dense, rounds=30)[:, 0]
  # What the portrait does not show is there or is not: between the two it would be a veil on a head
  # that turns.
  opacity = np.where(front, opacity, np.maximum(opacity, smooth_step(0.35, 0.65, opacity)))
  # Hair, ears and clothes are left to the cut-out, which has their true outline and grain.
  for name, full in (('clothing', 0.35), ('scalp', 0.6), ('ears', 0.6)):
    opacity = opacity * (1 - smooth_step(0.0, full, region.get(name, np.zeros(len(opacity)))))
  return np.where(inside_mouth > 0.5, 1.0, opacity)


def _eye_colours(colours, axis, seen, iris_cosine):
  """Sclera and iris [3] from the seen eyeball vertices; plain defaults where too few are seen."""
  white = seen & (axis[:, 2] < iris_cosine - 0.06)
  coloured = seen & (axis[:, 2] > iris_cosine + 0.02)
  sclera = (
    np.percentile(colours[white], 75, axis=0) if white.sum() >= 4 else np.array([0.80, 0.76, 0.73])
  )
  iris = (
    np.median(colours[coloured], axis=0) if coloured.sum() >= 3 else np.array([0.25, 0.17, 0.12])
  )
  return np.maximum(sclera, 0.35), iris
