"""What an actor is painted with: colours drawn in sRGB, kept in linear light; see materials.py."""

import functools

import jax.numpy as jnp
import numpy as np

from exp_jax.actors.detail import Style
from exp_jax.actors.identity import Traits
from exp_jax.actors.lighting import linear
from exp_jax.actors.materials import FIELDS, PATTERNS, Look
from exp_jax.actors.noise import fractal_noise, value_noise
from exp_jax.actors.stage import Stage
from exp_jax.heads.regions import smooth_step

_SKIN = (
  np.array(
    [[250, 217, 198], [236, 188, 160], [214, 158, 122], [172, 116, 82], [120, 77, 54], [78, 50, 38]]
  )
  / 255
)
_HAIR = {
  'black': (24, 20, 19),
  'dark': (52, 36, 27),
  'brown': (92, 62, 40),
  'auburn': (120, 62, 36),
  'red': (158, 84, 44),
  'blond': (196, 160, 104),
  'light': (224, 200, 150),
  'dyed': (90, 70, 130),
}
_IRIS = {
  'brown': (84, 52, 32),
  'dark': (48, 32, 24),
  'hazel': (118, 92, 52),
  'green': (96, 116, 78),
  'blue': (96, 134, 168),
  'grey': (124, 136, 142),
}
_CLOTH = (
  (30, 34, 46),
  (228, 226, 220),
  (120, 28, 34),
  (36, 78, 60),
  (44, 70, 126),
  (150, 150, 152),
  (212, 168, 60),
  (88, 58, 96),
  (64, 60, 56),
  (186, 104, 84),
  (130, 166, 190),
  (20, 20, 22),
  (196, 70, 60),
  (110, 120, 70),
)  # fmt: skip


def _blend(colour, mask, other):
  return colour + mask[:, None] * (other - colour)


def skin_colour(melanin: float) -> np.ndarray:
  """sRGB [3] of skin, `melanin` 0 pale .. 1 dark."""
  steps = np.linspace(0, 1, len(_SKIN))
  return np.array([np.interp(melanin, steps, _SKIN[:, c]) for c in range(3)])


def hair_colour(rng: np.random.Generator, traits: Traits) -> tuple[np.ndarray, float]:
  """sRGB [3] of the pigmented strands, and the share of white ones."""
  fair = traits.caucasian * (1 - traits.melanin)
  names = list(_HAIR)
  odds = np.array(
    [
      0.5 + 2 * (1 - traits.caucasian),
      0.8,
      0.1 + 1.2 * fair,
      0.5 * fair,
      0.35 * fair,
      0.8 * fair,
      0.5 * fair,
      0.04,
    ]
  )
  colour = np.array(_HAIR[names[rng.choice(len(names), p=odds / odds.sum())]]) / 255
  grey = float(np.clip((traits.age - 0.45) * rng.uniform(0.0, 2.4), 0, 1))
  return colour, grey


def _spot(stage: Stage, centre, size: float) -> np.ndarray:
  """[N] a Gaussian of width `size` metres about `centre` on the left and its mirror image."""
  x, y, z = stage.place.T
  return np.exp(
    -0.5 * ((np.abs(x) - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / size**2
  )


def _skin(stage: Stage, rng: np.random.Generator, traits: Traits) -> tuple[np.ndarray, np.ndarray]:
  """sRGB [3] of the skin, and [N, 3] with what blood, sun and age do to it."""
  place, a, r, spot = stage.place, stage.anatomy, stage.regions, functools.partial(_spot, stage)
  base = skin_colour(traits.melanin) * (1 + rng.normal(0, 0.02, 3))
  red = np.array([0.06, -0.05, -0.05]) * (1 - 0.6 * traits.melanin)
  cheek = np.array([0.042, a.nose[1] + 0.004, a.eye[2] - 0.005])
  flush = rng.uniform(0.3, 1.3) * (
    spot(cheek, 0.016) + 0.8 * spot(a.nose, 0.012) + 0.6 * r['ears'] + 0.4 * spot(a.chin, 0.012)
  )
  colour = base + flush[:, None] * red
  colour = colour * (1 + 0.035 * fractal_noise(place, rng, size=0.02))[:, None]
  colour = colour + 0.012 * value_noise(place, rng, size=0.006)[:, None] * [1, 0.4, 0.4]
  under = spot(a.eye - [0, 0.014, -0.01], 0.008) * rng.uniform(0.2, 1.0)
  colour = colour * (1 - under[:, None] * np.array([0.10, 0.14, 0.09]))
  if rng.random() < 0.25 * (1 - traits.melanin) + 0.05:  # freckles
    dots = smooth_step(value_noise(place, rng, size=0.0042), 0.35, 0.7) * (
      spot(cheek, 0.022) + spot(a.nose, 0.02)
    ).clip(0, 1)
    colour = colour * (1 - dots[:, None] * [0.10, 0.17, 0.20] * rng.uniform(0.5, 1.2))
  if traits.age > 0.5:  # age spots
    dots = smooth_step(fractal_noise(place, rng, size=0.012), 0.6, 0.9)
    colour = colour * (1 - 0.16 * traits.age * dots[:, None] * [0.6, 1, 1])
  for _ in range(rng.integers(0, 3)):  # a mole
    where = place[rng.choice(len(place), p=r['face'] / r['face'].sum())]
    colour = _blend(
      colour,
      0.7 * np.exp(-0.5 * (np.linalg.norm(place - where, axis=1) / 0.0016) ** 2),
      base * 0.35,
    )
  return base, colour


def _stubble(
  stage: Stage, rng: np.random.Generator, traits: Traits, hair: np.ndarray
) -> np.ndarray:
  """[N] the shadow of a shaved beard."""
  a, r, (x, y, _) = stage.anatomy, stage.regions, stage.place.T
  if traits.sex <= 0 or traits.youth != 0:
    return 0 * x
  jaw = (
    smooth_step(y, a.mouth[1] + 0.008, a.mouth[1] - 0.012)
    * smooth_step(y, a.chin[1] - 0.03, a.chin[1] - 0.008)
    * r['face']
  )
  upper = _spot(stage, a.mouth + [0, 0.014, 0], 0.011)
  return np.clip(jaw + upper, 0, 1) * rng.uniform(0.0, 0.5) * (1 - hair.mean() * 0.8)


def _lips_and_eyes(
  stage: Stage, rng: np.random.Generator, traits: Traits, base: np.ndarray, colour: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Skin colours [N, 3] with lips, mouth and eyeballs, and the lashes [N]."""
  place, a, r, spot = stage.place, stage.anatomy, stage.regions, functools.partial(_spot, stage)
  x, y, z = place.T
  lips = base * [0.88, 0.60, 0.60] + [0.06, 0.01, 0.02]
  if traits.sex < -0.2 and rng.random() < 0.45:
    lips = np.array([rng.uniform(0.5, 0.8), rng.uniform(0.12, 0.35), rng.uniform(0.18, 0.4)])
    shadow = spot(a.eye + [0, 0.008, 0.008], 0.008) * rng.uniform(0.0, 0.6)
    colour = _blend(colour, shadow, np.array(rng.uniform(0.2, 0.5, 3)))
  colour = _blend(
    colour, 0.9 * r['lips'] * (1 + 0.1 * value_noise(place * [4, 1, 1], rng, size=0.006)), lips
  )
  lash = smooth_step(
    np.linalg.norm(place - a.eye * np.where(x[:, None] > 0, [1, 1, 1], [-1, 1, 1]), axis=1)
    - a.eye_radius,
    0.0022,
    0.0008,
  )
  lash = lash * (z > a.eye[2]) * (1 - r['eyeballs']) * np.where(y > a.eye[1] - 0.001, 1.0, 0.45)
  lash = lash * (0.9 if traits.sex < 0 else 0.65)
  colour = _blend(colour, r['inner_mouth'], np.array([0.42, 0.17, 0.16]))
  colour = _blend(
    colour,
    r['tongue'],
    np.array([0.62, 0.27, 0.28]) * (1 + 0.06 * value_noise(place, rng, size=0.003))[:, None],
  )
  colour = _blend(colour, r['teeth'], np.array([0.90, 0.87, 0.80]) * rng.uniform(0.88, 1.0))
  colour = _blend(colour, r['eyeballs'], np.array([0.90, 0.87, 0.86]))
  return colour, lash


def _iris(rng: np.random.Generator, traits: Traits) -> np.ndarray:
  """[3] linear."""
  irises = list(_IRIS)
  fair = traits.caucasian * (1 - traits.melanin)
  odds = np.array([0.8, 1.0 - 0.8 * fair, 0.3 * fair, 0.4 * fair, 0.8 * fair, 0.3 * fair]) + 1e-3
  return linear(
    np.array(_IRIS[irises[rng.choice(len(irises), p=odds / odds.sum())]])
    / 255
    * rng.uniform(0.85, 1.15)
  )


def sample_appearance(stage: Stage, rng: np.random.Generator, traits: Traits, style: Style) -> Look:
  """Draws colours and materials."""
  a, r = stage.anatomy, stage.regions
  base, colour = _skin(stage, rng, traits)
  hair, grey = hair_colour(rng, traits)
  stubble = _stubble(stage, rng, traits, hair)
  colour, lash = _lips_and_eyes(stage, rng, traits, base, colour)
  skin = linear(colour)
  gloss = (
    (0.18 + 0.25 * r['lips'] + 0.10 * _spot(stage, a.nose, 0.01)) * rng.uniform(0.5, 1.4)
    + 0.3 * r['teeth']
    + 0.3 * r['tongue']
  )
  iris = _iris(rng, traits)
  # a triangle with one corner drawn out is hair all over
  spread = style.hair[np.asarray(stage.assets.dense.neighbours)].max(1)
  covers = dict(
    hair=np.maximum(style.hair, 0.9 * spread),
    beard=style.beard,
    brows=style.brows * rng.uniform(0.7, 1.0),
    stubble=stubble,
    cloth=np.clip(100 * style.cloth, -3, 3),
    jacket=np.clip(100 * style.jacket, -3, 3),
    lash=lash,
  )
  cloth = np.array(_CLOTH)[rng.choice(len(_CLOTH), 3, replace=False)] / 255
  cloth = linear(cloth * rng.uniform(0.85, 1.1, (3, 1)))
  curly = style.curly
  as32 = lambda value: jnp.asarray(value, jnp.float32)
  return Look(
    skin=as32(skin),
    gloss=as32(gloss),
    fields=as32(np.stack([covers[name] for name in FIELDS], 1)),
    iris=as32(iris),
    hair=as32(linear(hair)),
    brow=as32(linear(0.75 * hair + 0.03 * base)),
    grey=as32(grey),
    strand=as32([rng.uniform(0.0013, 0.0020), 2.0 if curly else rng.uniform(8, 18)]),
    cloth=as32(cloth),
    pattern=as32(np.eye(len(PATTERNS))[rng.choice(len(PATTERNS), p=(0.5, 0.18, 0.1, 0.12, 0.1))]),
    period=as32(rng.uniform(0.018, 0.05)),
    pores=as32(rng.uniform(0.5, 1.0) * (1 - 0.6 * traits.youth) * (0.75 + 0.25 * traits.age)),
    seed=as32(rng.uniform(0, 1, 3)),
  )


def vertex_albedo(look: Look) -> np.ndarray:
  """[N, 3] linear albedo per vertex, everything over everything: what a textured mesh would
  show."""
  skin, fields = np.asarray(look.skin), np.asarray(look.fields)
  part = {name: fields[:, k] for k, name in enumerate(FIELDS)}
  hair, brow, cloth = (np.asarray(value) for value in (look.hair, look.brow, look.cloth))
  hair = hair + float(look.grey) ** 2 * (np.array([0.62, 0.61, 0.60]) - hair)
  colour = _blend(skin, 0.7 * part['stubble'], 0.3 * skin + 0.4 * hair)
  colour = _blend(colour, part['lash'], 0.06 * skin)
  colour = _blend(colour, smooth_step(part['brows'], 0.2, 0.8), brow)
  colour = _blend(colour, smooth_step(part['beard'], 0.2, 0.6), 0.9 * hair)
  hairy = smooth_step(part['hair'], 0.35, 0.65)
  colour = _blend(colour, hairy, hair)
  fabric = _blend(
    np.broadcast_to(cloth[0], skin.shape), smooth_step(part['jacket'], -0.2, 0.2), cloth[2]
  )
  return _blend(colour, smooth_step(part['cloth'], -0.2, 0.2) * (1 - hairy), fabric).astype(
    np.float32
  )
