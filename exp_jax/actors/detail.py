"""What does not move with the expression: smooth skin surface, hair, beard, brows, clothes, old
lines.

Everything is an offset [N, 3] in the rest pose, metres. Hair is a shell: scalp vertices move out to
a rounded volume, which for long hair covers the ears and hangs to the shoulders. A style is drawn
once, here, so that offsets and colours (appearance.py) agree.
"""

import dataclasses

import numpy as np

from exp_jax.actors.identity import Traits
from exp_jax.actors.noise import fractal_noise, value_noise
from exp_jax.actors.stage import Stage
from exp_jax.heads.regions import smooth_step


@dataclasses.dataclass(frozen=True)
class Style:
  """Masks [N] in 0..1, signed distances [N] and sizes in metres."""

  hair: np.ndarray  # coverage
  hair_volume: float
  curly: bool
  beard: np.ndarray  # coverage
  beard_length: float
  brows: np.ndarray
  cloth: np.ndarray  # signed distance to the garment's edge, positive where it covers
  jacket: np.ndarray  # the same


def hair_mask(stage: Stage, rng: np.random.Generator, kind: str) -> np.ndarray:
  """[N] 0..1 where the scalp grows hair; `kind` is one of the style's names, 'bald' for none."""
  x, y, z = stage.place.T
  a = stage.anatomy
  if kind == 'bald':
    return np.zeros(len(x))
  scalp = stage.regions['scalp'].astype(np.float64)
  rough = 0.010 * fractal_noise(stage.place, rng, size=0.03)
  lift = rng.normal(0.0, 0.006)
  # receding temples for some, a fringe for others
  recede = max(rng.normal(0, 0.008), 0) * smooth_step(np.abs(x), 0.015, 0.045)
  line = a.hairline + lift + recede + 0.4 * rough
  front = smooth_step(z, a.ear[2] + 0.02, a.ear[2] + 0.05)
  mask = scalp * (1 - front + front * smooth_step(y, line - 0.003, line + 0.003))
  if kind in ('long', 'bob'):
    low = a.mouth[1] - (0.015 if kind == 'bob' else 0.085) + rough
    # behind a surface that runs just before the ears and, below the jaw, round the sides of the
    # neck
    jaw = smooth_step(y, a.mouth[1] + 0.01, a.chin[1] - 0.01)
    back = smooth_step(z - a.ear[2] - 0.024 + 0.034 * jaw, 0.004, -0.004)
    curtain = back * smooth_step(y, low - 0.004, low + 0.004) * (1 - stage.regions['eyeballs'])
    inside = np.maximum(
      stage.regions['inner_mouth'], stage.regions['tongue'] + stage.regions['teeth']
    )
    mask = np.maximum(
      mask, curtain * (1 - np.clip(inside, 0, 1)) * smooth_step(np.abs(x), 0.105, 0.09)
    )
    if rng.random() < 0.5:  # a fringe
      depth = rng.uniform(0.004, 0.020)
      fringe = smooth_step(y, a.hairline - depth - 0.003, a.hairline - depth + 0.003) * (
        z > a.ear[2]
      )
      mask = np.maximum(
        mask, fringe * stage.regions['face'] * smooth_step(a.eye[2] - 0.05 - z, 0.0, -0.01)
      )
  elif kind == 'sides':
    mask = mask * smooth_step(y, a.top - 0.022, a.top - 0.04) * (1 - front)
  return np.clip(mask, 0, 1)


def hair_shell(stage: Stage, mask: np.ndarray, volume: float, kind: str) -> np.ndarray:
  """[N, 3] offsets from the template to a rounded volume `volume` metres outside the skull."""
  x, y, z = stage.place.T
  a = stage.anatomy
  centre = np.array([0, a.eye[1] + 0.012, a.ear[2] - 0.008])
  half = np.array([0.078, a.top - centre[1], 0.100]) + volume * np.array([0.8, 1.0, 0.8])
  relative = stage.place - centre
  if kind in ('long', 'bob'):  # below the centre the ellipsoid becomes a tapering curtain
    drop = np.minimum(relative[:, 1], 0)
    widen = 1 - 0.9 * drop.clip(-0.12, 0) * (-1 if kind == 'bob' else -0.3)
    flat = np.stack(
      [
        relative[:, 0] / (half[0] * widen),
        np.maximum(relative[:, 1], 0) / half[1],
        relative[:, 2] / half[2],
      ],
      1,
    )
    radius = np.linalg.norm(flat, axis=1, keepdims=True)
    target = relative / np.maximum(radius, 0.2)
    target[:, 1] = np.where(relative[:, 1] < 0, relative[:, 1], target[:, 1])
    out = np.where(
      radius < 1,
      target - relative,
      0.25 * volume * relative / np.linalg.norm(relative, axis=1, keepdims=True),
    )
  else:
    # cut close round the ears and at the nape, full on top
    full = smooth_step(y, a.ear[1] - 0.015, a.eye[1] + 0.045)
    out = relative / np.linalg.norm(relative, axis=1, keepdims=True) * [0.8, 1.1, 0.8]
    out = out * (np.minimum(volume, 0.004) + full * np.maximum(volume - 0.004, 0))[:, None]
  # colour starts at a lower mask than the offset, so that what is drawn out is never skin
  return smooth_step(mask, 0.4, 0.95)[:, None] * out


def beard_mask(stage: Stage, rng: np.random.Generator, kind: str) -> np.ndarray:
  """[N] 0..1 where the lower face grows hair; `kind` as sampled by `sample_style`."""
  x, y, z = stage.place.T
  a, r = stage.anatomy, stage.regions
  skin = (
    np.clip(r['face'] + 0.8 * r['neck'], 0, 1)
    * (1 - r['lips'])
    * (1 - r['inner_mouth'])
    * (1 - r['eyeballs'])
  )
  edge = 0.006 * fractal_noise(stage.place, rng, size=0.02)
  below = a.mouth[1] + 0.006 + 0.55 * np.maximum(np.abs(x) - a.mouth_half, 0) + edge
  jaw = smooth_step(y, below + 0.004, below - 0.008) * smooth_step(
    y, a.chin[1] - 0.030, a.chin[1] - 0.014
  )
  jaw = jaw * smooth_step(z, a.ear[2] - 0.002, a.ear[2] + 0.012)
  moustache = (
    smooth_step(np.abs(x), a.mouth_half + 0.006, a.mouth_half - 0.002)
    * smooth_step(y, a.mouth[1] - 0.004, a.mouth[1])
    * smooth_step(y, a.nose[1] - 0.006 - 0.1 * np.abs(x), a.nose[1] - 0.010 - 0.1 * np.abs(x))
  )
  chin = jaw * smooth_step(np.abs(x), a.mouth_half + 0.006, a.mouth_half - 0.004)
  pick = {
    'none': 0 * x,
    'full': np.maximum(jaw, moustache),
    'moustache': moustache,
    'goatee': np.maximum(chin, moustache),
  }
  return np.clip(pick[kind] * skin, 0, 1)


def brow_mask(stage: Stage, rng: np.random.Generator, traits: Traits) -> np.ndarray:
  """[N] 0..1 of the eyebrows: a tapering arch over each eye, thicker in men."""
  x, y, z = stage.place.T
  a = stage.anatomy
  thick = rng.uniform(0.0028, 0.0046) * (1 + 0.25 * traits.sex)
  arch, tilt = rng.uniform(0.002, 0.006), rng.normal(0.0, 0.06)
  t = (np.abs(x) - a.brow[0]) / 0.021
  middle = a.brow[1] + arch * (1 - t**2) - 0.003 + tilt * 0.02 * t - 0.002 * (t > 0) * t**2
  thick = thick * smooth_step(np.abs(t), 1.1, 0.4) * (1 - 0.25 * t)
  across = np.abs(y - middle) / np.maximum(thick, 1e-4)
  return (
    smooth_step(across, 1.3, 0.6)
    * smooth_step(np.abs(t), 1.15, 0.9)
    * (z > a.eye[2] - 0.03)
    * (1 - stage.regions['eyeballs'])
  )


def cloth_distance(stage: Stage, rng: np.random.Generator, kind: str) -> np.ndarray:
  """[N] metres to the edge of the garment, positive inside; distances interpolate where masks
  would show the triangles."""
  x, y, z = stage.place.T
  a = stage.anatomy
  # the painted region blurs over 16 mm about its edge
  region = stage.regions['clothing'].astype(np.float64)
  inside = 0.016 * (region - 0.5) + 0.02 * ((region > 0.98) * 1.0 - (region < 0.02))
  if kind == 'turtle':
    return np.maximum(inside, a.chin[1] - 0.026 - y - 0.25 * np.maximum(a.ear[2] - z, 0))
  edge_here = (region > 0.4) & (region < 0.6) & (z > 0) & (np.abs(x) < 0.05)
  edge = np.median(y[edge_here]) if edge_here.any() else a.chin[1] - 0.06
  depth = {'crew': 0.012, 'vee': 0.085, 'wide': 0.035}[kind] * rng.uniform(0.8, 1.2)
  width = {'crew': 0.075, 'vee': 0.055, 'wide': 0.11}[kind] * rng.uniform(0.9, 1.1)
  if kind == 'vee':
    shape = np.clip(1 - np.abs(x) / width, 0, 1)
  else:
    shape = np.sqrt(np.clip(1 - (x / width) ** 2, 0, 1))
  below = edge + 0.004 - depth * shape - y
  return np.where(z > -0.03, np.minimum(inside, below), inside)


def _sample_kind(rng: np.random.Generator, traits: Traits) -> tuple[str, float]:
  """The kind of hair and its volume, metres."""
  kinds, odds = (
    ('bald', 'buzz', 'short', 'full', 'bob', 'long', 'sides'),
    np.array([0.05, 0.2, 0.35, 0.2, 0.03, 0.03, 0.04]),
  )
  if traits.sex < 0:
    odds = np.array([0.01, 0.04, 0.15, 0.2, 0.3, 0.3, 0.0])
  if traits.age < 0.35:
    odds[[0, 6]] = 0
  kind = rng.choice(kinds, p=odds / odds.sum())
  volume = {
    'bald': 0.0,
    'buzz': 0.003,
    'short': rng.uniform(0.008, 0.018),
    'full': rng.uniform(0.02, 0.038),
    'bob': rng.uniform(0.016, 0.03),
    'long': rng.uniform(0.012, 0.024),
    'sides': rng.uniform(0.006, 0.012),
  }[kind]
  return kind, volume


def _hair(
  stage: Stage, rng: np.random.Generator, traits: Traits, kind: str, volume: float
) -> tuple[np.ndarray, bool, np.ndarray]:
  """Coverage [N], whether it is curly, and offsets [N, 3]."""
  place = stage.place
  hair = hair_mask(stage, rng, kind)
  x, y, z = place.T
  angle, height = np.arctan2(x, z + 0.01), y - stage.anatomy.eye[1]
  curl = bool(rng.random() < 0.3 + 0.5 * traits.african)
  grain = np.stack([angle * 0.10, height * (1.0 if curl else 0.16)], 1)
  strands = np.clip(
    fractal_noise(grain, rng, size=0.008, octaves=3) + 0.5 * value_noise(grain, rng, size=0.03),
    -1,
    1,
  )
  offsets = hair_shell(stage, hair, volume, kind)
  outward = place / np.linalg.norm(place, axis=1, keepdims=True)
  offsets += (hair * strands * min(0.08 * volume, 0.0015))[:, None] * outward
  lumps = fractal_noise(place, rng, size=0.05, octaves=2)
  high = smooth_step(place[:, 1], stage.anatomy.ear[1], stage.anatomy.eye[1] + 0.04)
  offsets += (hair * lumps * high * 0.30 * volume)[:, None] * outward
  return hair, curl, offsets


def _beard(
  stage: Stage, rng: np.random.Generator, traits: Traits
) -> tuple[np.ndarray, float, np.ndarray]:
  """Coverage [N], length in metres, and offsets [N, 3]."""
  place = stage.place
  male = traits.sex > 0 and traits.youth == 0
  beard_kind = (
    rng.choice(('none', 'full', 'moustache', 'goatee'), p=(0.6, 0.22, 0.08, 0.10))
    if male
    else 'none'
  )
  length = rng.uniform(0.002, 0.012) if beard_kind == 'full' else rng.uniform(0.0015, 0.005)
  beard = beard_mask(stage, rng, beard_kind)
  front = place - np.array([0, place[:, 1].mean() * 0, stage.anatomy.ear[2]])
  front = front / np.linalg.norm(front, axis=1, keepdims=True)
  offsets = (
    smooth_step(beard, 0.25, 0.95)
    * length
    * (1 + 0.25 * fractal_noise(place, rng, size=0.008, octaves=2))
  )[:, None] * (front * [1, 0.2, 1] + [0, -0.4, 0])
  return beard, length, offsets


def _clothes(
  stage: Stage, rng: np.random.Generator, hair: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
  """Signed distances [N] of garment and jacket, and their offsets [N, 3], one after the other."""
  place, (x, y, z) = stage.place, stage.place.T
  cloth = cloth_distance(
    stage, rng, rng.choice(('crew', 'vee', 'wide', 'turtle'), p=(0.5, 0.2, 0.15, 0.15))
  )
  thick = rng.uniform(0.003, 0.008)
  around = np.stack([x, 0 * y, z + 0.03], 1)
  around = around / np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1e-6) + [0, 0.5, 0]
  folds = fractal_noise(place * [1, 0.5, 1], rng, size=0.06, octaves=3)
  lift = smooth_step(cloth, -0.003, 0.006) * (1 - hair)
  offsets = [(lift * (thick + 0.004 * folds))[:, None] * around]
  jacket = np.full(len(place), -0.03)
  if rng.random() < 0.35:
    gap = 0.02 + 0.45 * np.clip(y - y.min(), 0, None) * rng.uniform(0.2, 0.6)
    top = y[cloth > 0].max() - 0.012
    jacket = np.maximum(np.minimum(np.abs(x) - gap, top - y), -0.02 - z)
    offsets.append((0.006 * smooth_step(jacket, -0.002, 0.004) * lift)[:, None] * around)
  return cloth, jacket, offsets


def sample_style(
  stage: Stage, rng: np.random.Generator, traits: Traits
) -> tuple[Style, np.ndarray]:
  """Draws a style and makes its offsets [N, 3] (smooth surface included)."""
  kind, volume = _sample_kind(rng, traits)
  hair, curly, offsets = _hair(stage, rng, traits, kind, volume)
  beard, length, beard_offsets = _beard(stage, rng, traits)
  offsets += beard_offsets
  brows = brow_mask(stage, rng, traits)
  offsets += (0.0009 * brows)[:, None] * [0, 0, 1.0]
  cloth, jacket, layers = _clothes(stage, rng, hair)
  for layer in layers:
    offsets += layer
  style = Style(
    hair=hair,
    hair_volume=volume,
    curly=curly,
    beard=beard,
    beard_length=length,
    brows=brows,
    cloth=cloth,
    jacket=jacket,
  )
  return style, offsets
