"""Who an actor is: sex, age, build, ancestry and the shape coefficients that follow from them.

The prior is a sum of few directions, capped: many strong directions at once make heads that no one
has.
"""

import dataclasses

import numpy as np

from exp_jax.heads.model import HeadModel

_MACRO = ('sex', 'age', 'youth', 'weight', 'muscle', 'african', 'asian', 'caucasian')
_UNFIT = (
  'head-trans',
  'neck-trans',
  'ear-shape-pointed',
  'ear-shape-triangle',
  'ear-shape-square',
  'torso-scale-depth',
  'head-square',
  'head-rectangular',
  'mouth-trans',
  'eye-push',
)
_FEW, _STRENGTH, _LIMIT, _CAP = 26, 0.8, 1.6, 4.2


@dataclasses.dataclass(frozen=True)
class Traits:
  """What is drawn first of a person; everything visible follows from it."""

  sex: float  # -1 female .. 1 male
  age: float  # 0 young adult .. 1 old
  youth: float  # 0 adult .. 1 child
  weight: float  # -1 thin .. 1 heavy
  muscle: float
  african: float  # shares of ancestry, summing to 1
  asian: float
  caucasian: float
  melanin: float  # 0 pale .. 1 dark


def sample_traits(rng: np.random.Generator) -> Traits:
  """Draws a person: one in twelve is a child, ages of adults lean to the young."""
  sex = float(np.clip(rng.choice([-1, 1]) * rng.normal(0.8, 0.2), -1, 1))
  child = rng.random() < 0.08
  age = 0.0 if child else float(rng.beta(1.0, 1.3))
  shares = rng.dirichlet([0.35, 0.35, 0.35])
  melanin = shares @ [0.78, 0.32, 0.18] + rng.normal(0, 0.08)
  return Traits(
    sex=sex * (0.3 if child else 1),
    age=age,
    youth=float(rng.uniform(0.15, 0.4)) if child else 0.0,
    weight=float(np.clip(rng.normal(0, 0.35), -0.7, 0.9)),
    muscle=float(np.clip(rng.normal(0, 0.3), -0.6, 0.6)),
    african=float(shares[0]),
    asian=float(shares[1]),
    caucasian=float(shares[2]),
    melanin=float(np.clip(melanin, 0.03, 1)),
  )


def sample_shape(rng: np.random.Generator, head: HeadModel, traits: Traits) -> np.ndarray:
  """[S] float32: the macro directions of `traits`, a few signed features, slight asymmetry."""
  names = head.shape_names
  shape = np.zeros(len(names))
  lopsided = np.array([n.startswith('asym') or n.endswith('lopsided') for n in names])
  usable = np.array([n not in _MACRO and not n.startswith(_UNFIT) for n in names])
  features = np.flatnonzero(usable & ~lopsided)
  few = rng.choice(features, min(_FEW, len(features)), replace=False)
  shape[few] = np.clip(rng.normal(0, _STRENGTH, len(few)), -_LIMIT, _LIMIT)
  shape *= min(1.0, _CAP / max(np.linalg.norm(shape), 1e-6))
  if lopsided.any():
    shape[lopsided] = 0.28 * rng.normal(0, 1, lopsided.sum()) * (rng.random(lopsided.sum()) < 0.4)
  for k, name in enumerate(names):
    if name in _MACRO:
      shape[k] = getattr(traits, name)
  return shape.astype(np.float32)
