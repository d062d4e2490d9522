"""What a portrait's colours on the dense head are kept as, and how they are drawn.

Letters: N dense vertices, H, W image.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.mouth import mouth_light, paint_teeth, tooth_light
from exp_jax.controls.preview.skin import kept_share, openness, pressure, rim_lines, shut_share
from exp_jax.geometry.meshes import vertex_normals

OPACITY, EYEBALL, NEAR_EYES, INSIDE = 6, 7, 10, 14  # numbers of those attributes
DARKEST = (
  0.3  # of the light between lips in the portrait that colours of teeth are divided by, at least
)
_WARM = 4.0  # of a fold's depth, how far its own tint goes with it
_TURNED = (0.08, 0.30)  # by how much more a place must face the viewer than in the portrait
ATTRIBUTES, _EASED = 15, 9  # of all, and of the folds


@flax.struct.dataclass
class HeadTexture:
  """attributes [N, 15]: portrait pixel 2, seen 1, fill colour 3, opacity 1, eyeball 1, three
  numbers by what a vertex is, place on a
  tooth 3, inside of the mouth 1. The three of an eyeball: rest direction from its centre; of all
  else: light on teeth in the portrait, how much of the portrait's folds is to go, skin about the
  eyes.
  """

  attributes: jax.Array
  sclera: jax.Array  # [3]
  iris: jax.Array  # [3]
  iris_cosine: jax.Array  # [] cosine of the angle between the eye's axis and the iris's rim
  gums: jax.Array  # [3]
  lashes: jax.Array  # [3]
  skin: jax.Array  # [3] the face's median colour
  pixel: jax.Array  # [] millimetres that a pixel of the portrait is wide on the face
  mouth: jax.Array  # [M] int32, the vertices inside the mouth, which are lit through the lips
  mouth_faces: jax.Array  # [Q, 3] int32, all faces at those
  crowns: jax.Array  # [C] int32, those of them on the outer side of teeth
  labial: jax.Array  # [L, 3] int32, their faces
  # [E, 3] int32, faces that can be stretched: of lids, and what was seen at a flat angle
  skin_faces: jax.Array
  skin_area: jax.Array  # [E] as seen in the portrait
  lids: jax.Array  # [N] 1 on the skin about the eyes, falling to 0
  rims: tuple[jax.Array, jax.Array] | None  # of `skin.rims_of`
  rim: jax.Array  # [2, N] rims of the right and left eye, of `skin.rim_weights`
  upper: jax.Array  # [2, N] their lashes
  openness: jax.Array  # [2] `skin.openness` in the portrait
  fold_faces: jax.Array  # [P, 3] int32, faces that are pressed together in the portrait
  fold_rest: jax.Array  # [P] their area at rest
  fold_sides: jax.Array  # [2, P] weights of the two sides of the face
  fold_pressure: jax.Array  # [2] `skin.pressure` in the portrait
  folds: jax.Array  # [2, N] how much of a fold there is, of the two sides
  # Where the fitted face reaches beyond the person in the portrait, it is not drawn there; where a
  # head that turns brings such a place to view, it is skin.
  beyond: jax.Array  # [N] share of opacity that comes back
  beyond_faces: jax.Array  # [B, 3] int32, all faces at those
  beyond_facing: jax.Array  # [N] `facing_camera` in the portrait

  def opacity(self) -> jax.Array:
    """[N] how much of each vertex is drawn."""
    return self.attributes[:, OPACITY]

  def lit(self, vertices: jax.Array, lips: jax.Array, wrinkles: jax.Array) -> jax.Array:
    """`wrinkles` [N], inside the mouth replaced by the light that comes in through the loop of lips
    [K, 3]."""
    light = mouth_light(
      vertices[self.mouth], vertex_normals(vertices, self.mouth_faces)[self.mouth], lips
    )
    wrinkles = wrinkles.at[self.mouth].set(light)
    normals = vertex_normals(vertices, self.labial)[self.crowns]
    return wrinkles.at[self.crowns].set(tooth_light(vertices[self.crowns], normals, lips))

  def now(self, vertices: jax.Array) -> jax.Array:
    """[N, 15] attributes of a frame: where skin is stretched, the portrait's pixels are not
    trusted."""
    left = pressure(vertices, self.fold_faces, self.fold_rest, self.fold_sides)
    eased = jnp.clip(1 - left / jnp.maximum(self.fold_pressure, 1e-6), 0, 1)
    kept = kept_share(vertices, self.skin_faces, self.skin_area, self.lids)
    attributes = self.attributes
    if self.rims is not None:
      shut = shut_share(openness(rim_lines(vertices, self.rims)), self.openness)
      kept = kept * (1 - jnp.clip(3 * shut - 2, 0, 1) @ self.rim)
      lashed = ((1 - shut) @ self.upper)[:, None]
      attributes = attributes.at[:, 3:6].add(lashed * (self.lashes - attributes[:, 3:6]))
    turned = facing_camera(vertices, self.beyond_faces) - self.beyond_facing
    back = self.beyond * jnp.clip((turned - _TURNED[0]) / (_TURNED[1] - _TURNED[0]), 0, 1)
    return (
      attributes.at[:, 2]
      .multiply(kept)
      .at[:, OPACITY]
      .add(back)
      .at[:, _EASED]
      .add(eased @ self.folds)
    )

  def shade(self, maps: jax.Array, sample, photo: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Colour [H, W, 3] and opacity [H, W] of interpolated attributes [H, W, 16], the last a
    brightness factor.

    photo: [H, W, 4], the last how much a pixel looks like a tooth between the lips, and
    `skin.fold_depth` elsewhere.
    """
    pixel, seen, fill, opacity, eyeball, axis, tooth, _, factor = jnp.split(
      maps, (2, 3, 6, 7, 8, 11, 14, 15), axis=-1
    )
    own, eased, _ = jnp.split(axis, 3, axis=-1)
    length = jnp.linalg.norm(axis, axis=-1, keepdims=True)
    cosine = axis[..., 2:] / jnp.where(length > 1e-6, length, 1)
    iris = jax.nn.sigmoid((cosine - self.iris_cosine) / 0.012)
    pupil = jax.nn.sigmoid((cosine - (1 - 0.16 * (1 - self.iris_cosine))) / 0.004)
    painted = self.sclera * (1 - iris) + self.iris * iris * (1 - 0.85 * pupil)
    fill = jnp.where(eyeball > 0.5, painted, fill)
    is_tooth = jnp.abs(tooth[..., 2:]) > 0.5
    fill = jnp.where(is_tooth, paint_teeth(tooth, fill, self.gums, self.pixel), fill)
    shown = sample(photo, pixel)
    seen = seen * jnp.where(is_tooth, shown[..., 3:], 1)
    # Teeth that the portrait shows are lit as they were there, or less.
    photo_factor = jnp.where(is_tooth, jnp.minimum(factor / jnp.maximum(own, DARKEST), 1), 0)
    # Folds are lightened by the colour of skin: their own is too warm, light in them has gone from
    # skin to skin.
    tint = self.skin / self.skin.mean()
    fold = jnp.where(is_tooth | (eyeball > 0.5), 0, eased * shown[..., 3:])
    bright = shown[..., :3].mean(-1, keepdims=True)
    skin = shown[..., :3] + jnp.expm1(fold) * bright * tint
    skin = skin + (1 - jnp.exp(-_WARM * fold)) * (skin.mean(-1, keepdims=True) * tint - skin)
    shown = skin * jnp.where(is_tooth, photo_factor, factor)
    colour = fill * factor + seen * (shown - fill * factor)
    return jnp.clip(colour, 0, 1), opacity[..., 0]


@functools.partial(jax.jit, inline=True)
def facing_camera(vertices: jax.Array, faces: jax.Array) -> jax.Array:
  """[N] cosine between the normals of some faces [B, 3] at vertices [N, 3] and the direction to the
  camera at the origin; 0 where none of the faces meets."""
  towards = -vertices / jnp.maximum(jnp.linalg.norm(vertices, axis=-1, keepdims=True), 1e-9)
  return jnp.sum(vertex_normals(vertices, faces) * towards, -1)


def smooth_step(low: float, high: float, x: np.ndarray) -> np.ndarray:
  """0 up to `low`, 1 from `high` on, smooth between."""
  t = np.clip((x - low) / (high - low), 0, 1)
  return t * t * (3 - 2 * t)
