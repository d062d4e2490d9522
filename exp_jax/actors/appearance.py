"""Colours of an actor: linear RGB albedo [N, 3] per dense vertex, gloss, eyes. Colours are drawn in
sRGB."""

import numpy as np

from exp_jax.actors.detail import Style
from exp_jax.actors.identity import Traits
from exp_jax.actors.stage import Stage, fractal_noise, value_noise
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
)


def linear(srgb) -> np.ndarray:
  """sRGB in 0..1 to linear light."""
  srgb = np.clip(srgb, 0, 1)
  return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _blend(colour, mask, other):
  return colour + mask[:, None] * (other - colour)


def skin_colour(melanin: float) -> np.ndarray:
  steps = np.linspace(0, 1, len(_SKIN))
  return np.array([np.interp(melanin, steps, _SKIN[:, c]) for c in range(3)])


def hair_colour(rng: np.random.Generator, traits: Traits) -> np.ndarray:
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
  grey = np.clip((traits.age - 0.45) * rng.uniform(0.0, 2.2), 0, 1)
  return colour + grey * (np.array([0.78, 0.77, 0.76]) * rng.uniform(0.75, 1.0) - colour)


def sample_appearance(stage: Stage, rng: np.random.Generator, traits: Traits, style: Style):
  """Draws colours.

  Returns:
    albedo: [N, 3] linear, float32. gloss: [N] 0..1 strength of the highlight. iris: [3] linear.
  """
  place, a, r = stage.place, stage.anatomy, stage.regions
  x, y, z = place.T
  spot = lambda centre, size: np.exp(
    -0.5 * ((np.abs(x) - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / size**2
  )
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

  hair = hair_colour(rng, traits)
  if traits.sex > 0 and traits.youth == 0:  # the shadow of a shaved beard
    jaw = (
      smooth_step(y, a.mouth[1] + 0.008, a.mouth[1] - 0.012)
      * smooth_step(y, a.chin[1] - 0.03, a.chin[1] - 0.008)
      * r['face']
    )
    upper = spot(a.mouth + [0, 0.014, 0], 0.011)
    stubble = np.clip(jaw + upper, 0, 1) * rng.uniform(0.0, 0.42) * (1 - hair.mean() * 0.8)
    colour = _blend(
      colour, stubble * (0.8 + 0.3 * value_noise(place, rng, size=0.004)), 0.45 * base + 0.3 * hair
    )
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
  colour = _blend(colour, lash * (0.85 if traits.sex < 0 else 0.6), base * 0.15)
  brow = style.brows * rng.uniform(0.55, 0.95) * (0.8 + 0.4 * value_noise(place, rng, size=0.003))
  colour = _blend(colour, np.clip(brow, 0, 1), 0.75 * hair + 0.05 * base)
  shade = (1 + 0.30 * style.strands)[:, None]
  # a triangle with one corner drawn out is coloured as hair or cloth all over
  spread = lambda mask: mask[np.asarray(stage.assets.dense.neighbours)].max(1)
  hairy = smooth_step(spread(style.hair), 0.3, 0.6)
  colour = _blend(colour, hairy, hair * shade)
  colour = _blend(
    colour, smooth_step(style.beard, 0.08, 0.5) * (0.85 + 0.15 * style.strands), hair * 0.9 * shade
  )
  colour = _blend(
    colour,
    smooth_step(spread(style.cloth), 0.3, 0.6) * (1 - hairy),
    cloth_colours(place, rng, style),
  )
  colour = _blend(colour, r['inner_mouth'], np.array([0.30, 0.09, 0.09]))
  colour = _blend(
    colour,
    r['tongue'],
    np.array([0.62, 0.27, 0.28]) * (1 + 0.06 * value_noise(place, rng, size=0.003))[:, None],
  )
  colour = _blend(colour, r['teeth'], np.array([0.90, 0.87, 0.80]) * rng.uniform(0.88, 1.0))
  colour = _blend(colour, r['eyeballs'], np.array([0.90, 0.87, 0.86]))
  # deep in the mouth little light arrives
  deep = np.clip(r['inner_mouth'] + r['tongue'] + r['teeth'], 0, 1) * smooth_step(
    z, a.mouth[2] - 0.012, a.mouth[2] - 0.045
  )
  albedo = linear(colour) * (1 - deep * (0.85 - 0.45 * r['tongue']))[:, None]

  skin = np.clip(1 - style.hair - style.cloth - style.beard, 0, 1)
  gloss = (
    skin * (0.18 + 0.25 * r['lips'] + 0.10 * spot(a.nose, 0.01)) * rng.uniform(0.5, 1.4)
    + 0.12 * style.hair
    + 0.3 * r['teeth']
    + 0.3 * r['tongue']
  )
  irises = list(_IRIS)
  fair = traits.caucasian * (1 - traits.melanin)
  odds = np.array([0.8, 1.0 - 0.8 * fair, 0.3 * fair, 0.4 * fair, 0.8 * fair, 0.3 * fair]) + 1e-3
  iris = linear(
    np.array(_IRIS[irises[rng.choice(len(irises), p=odds / odds.sum())]])
    / 255
    * rng.uniform(0.85, 1.15)
  )
  return albedo.astype(np.float32), gloss.astype(np.float32), iris.astype(np.float32)


def cloth_colours(place: np.ndarray, rng: np.random.Generator, style: Style) -> np.ndarray:
  """[N, 3] sRGB: plain, stripes, checks or speckles, a jacket of another colour over it."""
  x, y, _ = place.T
  first, second, third = (
    np.array(_CLOTH[k]) / 255 * rng.uniform(0.85, 1.1)
    for k in rng.choice(len(_CLOTH), 3, replace=False)
  )
  wave = lambda t, period: smooth_step(np.sin(2 * np.pi * t / period), -0.3, 0.3)
  period = rng.uniform(0.018, 0.05)
  kind = rng.choice(
    ('plain', 'rows', 'columns', 'checks', 'speckles'), p=(0.5, 0.18, 0.1, 0.12, 0.1)
  )
  pattern = {
    'plain': 0 * x,
    'rows': wave(y, period),
    'columns': wave(x, period),
    'checks': 0.5 * wave(y, period) + 0.5 * wave(x, period),
    'speckles': smooth_step(value_noise(place, rng, size=0.01), 0.3, 0.6),
  }[kind]
  colour = first + pattern[:, None] * (second - first)
  colour = _blend(colour, style.jacket, third)
  return colour * (1 + 0.05 * fractal_noise(place, rng, size=0.012))[:, None]
