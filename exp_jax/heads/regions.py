"""Soft region masks on meshes: smoothing over the vertex graph, distances to polylines, smooth
steps."""

import numpy as np

from exp_jax.geometry.meshes import unique_edges

# Every region a head may name; a head without teeth leaves 'teeth' out, readers use
# `region_or_zero`.
NAMES = (
  'face',
  'scalp',
  'ears',
  'neck',
  'clothing',
  'lips',
  'lids',
  'eyeballs',
  'inner_mouth',
  'teeth',
  'tongue',
  'brows',
)


def smooth_step(value: np.ndarray, low: float, high: float) -> np.ndarray:
  """0 at `low`, 1 at `high` (which may be the smaller), cubic between, constant outside."""
  t = np.clip((value - low) / (high - low), 0, 1)
  return t * t * (3 - 2 * t)


def feather(values: np.ndarray, faces: np.ndarray, *, rounds: int) -> np.ndarray:
  """Averages [V] or [V, C] `values` with their neighbours `rounds` times (half own, half the mean
  around)."""
  edges = unique_edges(faces)
  both = np.concatenate([edges, edges[:, ::-1]])
  degree = np.maximum(np.bincount(both[:, 0], minlength=len(values)), 1)
  degree = degree.reshape(-1, *[1] * (values.ndim - 1))
  for _ in range(rounds):
    around = np.zeros_like(values)
    np.add.at(around, both[:, 0], values[both[:, 1]])
    values = 0.5 * values + 0.5 * np.where(degree > 0, around / degree, values)
  return values


def polyline_distance(points: np.ndarray, line: np.ndarray) -> np.ndarray:
  """[N] distance of [N, C] points to a polyline given by its [M, C] corners."""
  start, along = line[:-1], np.diff(line, axis=0)
  relative = points[:, None] - start
  t = np.clip(np.einsum('nmc,mc->nm', relative, along) / np.einsum('mc,mc->m', along, along), 0, 1)
  return np.linalg.norm(relative - t[..., None] * along, axis=-1).min(1)


def region_or_zero(regions: dict, name: str, like):
  """The mask called `name`, or zeros shaped as `like` [V] where the head has no such part."""
  return regions[name] if name in regions else 0 * like
