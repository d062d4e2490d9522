"""Wrinkles that come with expressions: skin folds where the facial actions compress it, deeper with
age.

A wrinkle is a curve on the face, a valley profile across it and a row of gains: which facial
actions drive it. Its depth is depth_k (1 - exp(-1.5 max(0, gains_k . expression))), so a face at
rest has none, and the displacement is along the rest normal. Metres. N dense vertices, K
wrinkles, E expressions.
"""

import numpy as np

from exp_jax.actors.motion import action_row
from exp_jax.actors.stage import Anatomy, Stage

_WIDTH = 0.0023  # metres, valley half width; the dense mesh has a vertex every 1.8 mm there
_SAMPLES = 25


def _curves(stage: Stage, rng: np.random.Generator):
  """(points [n, 2] on the left half or across the middle, gains, relative depth, mirrored) per
  wrinkle."""
  return [
    *_forehead(stage.anatomy, rng),
    *_eyes_and_cheeks(stage.anatomy, rng),
    *_nose_and_chin(stage.anatomy),
  ]


def _forehead(a: Anatomy, rng: np.random.Generator):
  """Lines across the forehead, and the frown between the brows."""
  jitter, lines = lambda size: rng.normal(0, size), []
  count, shown = 4, int(rng.integers(3, 5))  # all people have equally many curves, some unseen
  low, high = a.brow[1] + 0.013, a.hairline - 0.006
  for k in range(count):
    y, sag = low + (high - low) * (k + 0.5) / shown + jitter(0.0015), 0.003 + jitter(0.001)
    t = np.linspace(-1, 1, 9)
    # the middle third answers the inner brow, the sides the outer brows
    middle = np.stack([0.018 * t, y + 0.001 * np.cos(6 * t + jitter(1))], 1)
    side = np.stack([0.028 + 0.018 * t, y - sag * (t + 1) ** 2 / 4 + 0.004 * (t + 1) / 2], 1)
    lines.append((middle, {'browInnerUp': 1.3}, float(k < shown), False))
    lines.append((side, {'browOuterUp?': 1.2, 'browInnerUp': 0.5}, 0.9 * (k < shown), True))
  inner = np.array([0.0065 + jitter(0.0008), a.brow[1] - 0.006])
  frown = np.stack([inner, inner + [0.0012, 0.010], inner + [0.0005, 0.018]])
  return [*lines, (frown, {'browDown?': 1.3, 'noseSneer?': 0.4}, 1.0, True)]


def _eyes_and_cheeks(a: Anatomy, rng: np.random.Generator):
  """Crow's feet, the fold from nose to mouth, bags under the eyes; their order fixes which random
  number is whose."""
  jitter, lines, eye = lambda size: rng.normal(0, size), [], a.eye[:2]
  outer = eye + [0.017, -0.001]
  for k, angle in enumerate(np.array([0.55, 0.05, -0.5]) + jitter(0.08)):
    way = np.array([np.cos(angle), np.sin(angle)])
    start = outer + 0.005 * way + [0, 0.002 * (1 - k)]
    foot = np.stack([start, start + 0.008 * way, start + 0.017 * way + [0, -0.002]])
    lines.append(
      (
        foot,
        {'eyeSquint?': 0.8, 'cheekSquint?': 0.8, 'mouthSmile?': 0.6, 'eyeBlink?': 0.12},
        0.9,
        True,
      )
    )
  wing, corner = np.array([0.019, a.nose[1] + 0.004]), _corner(a)
  fold = np.stack(
    [wing, (wing + corner) / 2 + [0.006, 0.003], corner + [0.003, 0.0], corner + [0.002, -0.009]]
  )
  gains = {
    'mouthSmile?': 1.0,
    'noseSneer?': 0.8,
    'mouthUpperUp?': 0.8,
    'cheekSquint?': 0.3,
    'mouthStretch?': 0.4,
  }
  lines.append((fold, gains, 1.3, True))
  bag = eye - [0, 0.013 + jitter(0.001)]
  below = np.stack([bag + [-0.012, 0.001], bag + [0, -0.003], bag + [0.012, 0.001]])
  return [*lines, (below, {'cheekSquint?': 0.9, 'eyeSquint?': 0.7, 'mouthSmile?': 0.4}, 0.8, True)]


def _nose_and_chin(a: Anatomy):
  """Across the root of the nose, below the corners of the mouth, and above the chin."""
  corner, lines = _corner(a), []
  for y in (a.eye[1] - 0.002, a.eye[1] - 0.002 - 0.008):
    root = np.array([[-0.008, y + 0.002], [0, y], [0.008, y + 0.002]])
    lines.append((root, {'noseSneerLeft': 0.6, 'noseSneerRight': 0.6}, 0.7, False))
  sad = np.stack([corner + [-0.004, -0.006], corner + [0.0, -0.015], corner + [-0.001, -0.024]])
  lines.append((sad, {'mouthFrown?': 1.1, 'mouthDimple?': 0.5, 'mouthPress?': 0.4}, 1.0, True))
  middle = np.array([0.0, (a.mouth[1] + a.chin[1]) / 2 - 0.002])
  chin = np.stack([middle + [-0.014, -0.002], middle, middle + [0.014, -0.002]])
  gains = {
    'mouthShrugLower': 1.2,
    'mouthFrownLeft': 0.2,
    'mouthFrownRight': 0.2,
    'mouthPucker': 0.3,
  }
  return [*lines, (chin, gains, 1.0, False)]


def _corner(a: Anatomy) -> np.ndarray:
  """[2] beside the left corner of the mouth."""
  return np.array([a.mouth_half + 0.008, a.mouth[1]])


def wrinkle_bank(stage: Stage, rng: np.random.Generator, *, age: float):
  """One person's wrinkles.

  Args:
    stage: of the head model. rng: numpy generator. age: 0 young .. 1 old.

  Returns:
    profiles: [M, K] relief at full depth, metres, along the normals of `stage.assets.skin_ids`.
    gains: [K, E] of the facial actions.
  """
  head = stage.assets.head
  ids = np.asarray(stage.assets.skin_ids)
  place = stage.place[ids]
  keep = np.clip(stage.regions['face'] + stage.regions['lids'], 0, 1)[ids] * (
    1 - stage.regions['lips'][ids]
  )
  profiles, gains = [], []
  for points, drivers, relative, mirrored in _curves(stage, rng):
    personal = relative * float(np.exp(rng.normal(0, 0.35)))
    for side, suffix in ((1, 'Left'), (-1, 'Right')) if mirrored else ((1, ''),):
      row = np.zeros(len(head.expression_names))
      for name, gain in drivers.items():
        action = action_row(head, name.replace('?', suffix))
        row += gain * action / max(action @ action, 1e-12)
      depth = (0.0006 + 0.0019 * age) * personal * float(np.exp(rng.normal(0, 0.1)))
      profiles.append(depth * keep * _valley(points * [side, 1], place))
      gains.append(row)
  return np.stack(profiles, 1).astype(np.float32), np.stack(gains).astype(np.float32)


def _valley(points: np.ndarray, place: np.ndarray) -> np.ndarray:
  """[M] a valley of depth 1 with raised flanks along the curve [n, 2], fading at its ends."""
  t = np.linspace(0, 1, len(points))
  fine = np.linspace(0, 1, _SAMPLES)
  curve = np.stack([np.interp(fine, t, points[:, k]) for k in range(2)], 1)
  reach = 5 * _WIDTH
  near = ((place[:, :2] > curve.min(0) - reach) & (place[:, :2] < curve.max(0) + reach)).all(1)
  relief, place = np.zeros(len(place)), place[near]
  if not len(place):
    return relief
  # prefers the front
  flat = np.linalg.norm(place[:, None, :2] - curve, axis=-1) - 0.3 * place[:, 2:]
  depth = np.convolve(np.pad(place[flat.argmin(0), 2], 2, 'edge'), np.full(5, 0.2), 'valid')
  line = np.concatenate([curve, depth[:, None]], 1)
  distance = np.linalg.norm(place[:, None] - line, axis=-1)
  nearest = distance.argmin(1)
  across = distance[np.arange(len(place)), nearest] / _WIDTH
  fade = np.sin(np.pi * np.clip(fine, 0.02, 0.98))[nearest] ** 0.6
  relief[near] = fade * (0.45 * across**2 - 1) * np.exp(-0.5 * across**2)
  return relief


def wrinkle_depths(gains, expression, numpy=np):
  """[K] how far each wrinkle is formed, 0..1; exactly zero at zero expression [E]."""
  drive = numpy.maximum(gains @ expression, 0.0)
  return 1 - numpy.exp(-1.5 * drive)
