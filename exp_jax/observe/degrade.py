"""Makes a true observation as bad as estimators are: jitter, blur, noise, things in the way.

Seeded.

What is measured with degraded truth is measured against known truth; see the fitting tests.
"""

import dataclasses

import numpy as np

from exp_jax.observe.observation import Observation


@dataclasses.dataclass(frozen=True)
class Degradation:
  """How bad.

  Lengths are shares of the distance between the eyes' outer corners, so sizes do not matter.

  jitter: standard deviation of every landmark in every frame. drift: of an error that stays over a
  clip, as
  estimators have it. blur: sigma of the maps and pictures, pixels. noise: standard deviation added
  to normals' components; pictures get 40 times that in levels. depth_scale: depth becomes a d + b +
  noise.
  occluders: rectangles in each clip, `occluder_size` eye distances large, moving slowly.
  lost: share of frames in which no face is found.
  """

  jitter: float = 0.012
  drift: float = 0.008
  blur: float = 1.0
  noise: float = 0.08
  depth_scale: float = 0.5
  occluders: int = 0
  occluder_size: float = 0.8
  lost: float = 0.0


def degrade(
  observation: Observation,
  frames: np.ndarray | None = None,
  *,
  how: Degradation = Degradation(),
  seed: int = 0,
) -> tuple[Observation, np.ndarray | None]:
  """The observation and its frames [T, H, W, 3] uint8, degraded; equal seeds, equal results.

  Under an occluder the matte is 0, normals face the viewer with weight 0, depth has weight 0, and
  landmarks are off three times as far with trust 0.3.
  """
  rng = np.random.default_rng(seed)
  count, points = len(observation.points), observation.points
  eyes = np.linalg.norm(points[:, 263] - points[:, 33], axis=-1)
  eye = float(np.median(eyes)) or 1.0
  boxes = _occluders(rng, observation, how, eye)
  hidden = np.zeros(points.shape[:2], bool)
  covered = np.zeros((count, *observation.image_size), bool)
  for t, left, top, right, bottom in boxes:
    x, y = points[t, :, 0], points[t, :, 1]
    hidden[t] |= (left <= x) & (x < right) & (top <= y) & (y < bottom)
    covered[t, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
  spread = how.jitter * eye * rng.normal(size=points.shape) * np.where(hidden, 3, 1)[..., None]
  still = how.drift * eye * rng.normal(size=points.shape[1:])
  found = observation.found & (rng.random(count) >= how.lost)
  found = observation.found if not found.any() else found
  changes = {'points': (points + spread + still).astype(np.float32), 'found': found}
  trust = np.ones(points.shape[:2], np.float32) if observation.trust is None else observation.trust
  if hidden.any():
    changes['trust'] = (trust * np.where(hidden, 0.3, 1)).astype(np.float32)
  if observation.matte is not None:
    changes['matte'] = np.where(covered, 0, observation.matte).astype(np.uint8)
  if observation.normals is not None:
    weights = np.asarray(observation.normal_weights, np.float32)
    blurred = _blur(np.asarray(observation.normals, np.float32) * weights[..., None], how.blur)
    blurred = blurred + how.noise * rng.normal(size=blurred.shape).astype(np.float32)
    blurred = np.where(covered[..., None], np.float32([0, 0, 1]), blurred)
    blurred /= np.maximum(np.linalg.norm(blurred, axis=-1, keepdims=True), 1e-6)
    changes['normals'] = blurred.astype(np.float16)
    changes['normal_weights'] = np.where(covered, 0, weights).astype(np.float16)
  if observation.depth is not None:
    scale = 1 + how.depth_scale * rng.uniform(-1, 1, (count, 1, 1))
    known = np.asarray(observation.depth_weights, np.float32) > 0
    relief = float(observation.depth[known].std()) if known.any() else 1.0
    depth = scale * observation.depth + rng.normal(size=(count, 1, 1)) * relief
    depth = depth + how.noise * relief * rng.normal(size=depth.shape)
    changes['depth'] = depth.astype(np.float32)
    changes['depth_weights'] = np.where(covered, 0, observation.depth_weights).astype(np.float16)
  if frames is not None:
    picture = _blur(frames.astype(np.float32), how.blur)
    picture = picture + 40 * how.noise * rng.normal(size=picture.shape).astype(np.float32)
    colours = rng.uniform(0, 255, (max(how.occluders, 1), 3))
    for index, (t, left, top, right, bottom) in enumerate(boxes):
      picture[t, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = colours[
        index // count
      ]
    frames = np.round(np.clip(picture, 0, 255)).astype(np.uint8)
  return dataclasses.replace(observation, **changes), frames


def _occluders(rng, observation, how, eye):
  """[(frame, left, top, right, bottom)], all frames of one rectangle after another."""
  boxes = []
  count = len(observation.points)
  for _ in range(how.occluders):
    size = how.occluder_size * eye * rng.uniform(0.6, 1.4, 2)
    start = observation.points[0, rng.integers(468)] + 0.2 * eye * rng.normal(size=2)
    speed = 0.03 * eye * rng.normal(size=2)
    for t in range(count):
      low = start + t * speed - size / 2
      boxes.append((t, *np.round(low).astype(int), *np.round(low + size).astype(int)))
  return boxes


def _blur(values, sigma):
  """[T, H, W, C] blurred over H and W by a Gaussian that keeps constants."""
  if sigma <= 0:
    return values
  matrices = []
  for extent in values.shape[1:3]:
    distance = np.arange(extent)[:, None] - np.arange(extent)[None]
    matrix = np.exp(-0.5 * (distance / sigma) ** 2).astype(np.float32)
    matrices.append(matrix / matrix.sum(1, keepdims=True))
  return np.einsum('ah,thwc,bw->tabc', matrices[0], values, matrices[1], optimize=True)
