"""Metrics of identity, expression, head pose and gaze, from what trackers and networks say of each
frame.

Arrays have a row a frame; NaN in a row marks a frame in which nothing was found, which lowers
coverage. `variant` names the
tracker: the same metric by another one is another number.

  csim   cosine of embeddings                         aed, apd   mean |difference| of expression, pose coefficients
  rmse   root of the mean square difference           gaze_mae   angle between directions, degrees
  hpf    head pose follow (Loki), degrees             hef        head expression follow (Loki), per-vertex deformation maps

Sources: LivePortrait sec. 4.1, MagicPortrait sec. IV, Loki (arXiv 2605.24176) and its metric
definitions.
Letters: T frames, D coefficients.
"""

import numpy as np

from exp_jax.metrics.score import Score, mean_score, root_score


def _rows(a, b, name='coefficients') -> tuple[np.ndarray, np.ndarray]:
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.shape != b.shape or a.ndim < 2:
    raise ValueError(f'{name} must both be [T, ...] of one shape, got {a.shape} and {b.shape}')
  return a, b


def cosines(embeddings: np.ndarray, others: np.ndarray) -> np.ndarray:
  """[T, D] and [T, D] or [D] -> [T]; vectors need not have unit length."""
  a = np.asarray(embeddings, np.float64)
  b = np.broadcast_to(np.asarray(others, np.float64), a.shape)
  lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  with np.errstate(invalid='ignore', divide='ignore'):
    return np.where(lengths > 0, np.sum(a * b, -1) / lengths, np.nan)


def csim(embeddings: np.ndarray, others: np.ndarray, *, variant: str = 'ArcFace') -> Score:
  """Mean cosine between embeddings [T, D] and the truth's [T, D] (self) or the reference's [D]
  (cross)."""
  return mean_score(cosines(embeddings, others), f'cosine of embeddings, {variant}')


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """[T, D] twice -> [T] mean absolute difference over D."""
  a, b = _rows(a, b)
  return np.abs(a - b).reshape(len(a), -1).mean(-1)


def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """[T, D] twice -> [T] mean square difference over D."""
  a, b = _rows(a, b)
  return ((a - b) ** 2).reshape(len(a), -1).mean(-1)


def aed(
  expression: np.ndarray, target: np.ndarray, *, variant: str = 'SMIRK: expression, eyelids, jaw'
) -> Score:
  """Average expression distance: mean over coefficients and frames of |difference|; both [T, D]."""
  return mean_score(distances(expression, target), f'mean absolute difference, {variant}')


def apd(
  pose: np.ndarray, target: np.ndarray, *, variant: str = 'SMIRK: rotation, radians'
) -> Score:
  """Average pose distance: mean over coefficients and frames of |difference|; both [T, D]."""
  return mean_score(distances(pose, target), f'mean absolute difference, {variant}')


def rmse(coefficients: np.ndarray, target: np.ndarray, *, variant: str) -> Score:
  """Root of the mean over frames and coefficients of the square difference (E-RMSE, P-RMSE); both
  [T, D]."""
  return root_score(squares(coefficients, target), f'root mean square difference, {variant}')


def gaze_directions(angles: np.ndarray) -> np.ndarray:
  """[..., 2] yaw, pitch in radians -> unit vectors [..., 3] in the convention of Gaze360."""
  yaw, pitch = np.asarray(angles)[..., 0], np.asarray(angles)[..., 1]
  return -np.stack([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)], -1)


def angles_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """[T, ..., 3] twice -> [T] degrees, mean over what lies between the axes; vectors need not have
  unit length."""
  a, b = _rows(a, b, 'directions')
  # exact for small angles, unlike arccos
  cross, dot = np.linalg.norm(np.cross(a, b), axis=-1), np.sum(a * b, -1)
  found = np.degrees(np.arctan2(cross, dot))
  return found.reshape(len(found), -1).mean(-1)


def gaze_mae(directions: np.ndarray, target: np.ndarray, *, variant: str = 'L2CS-Net') -> Score:
  """Mean angle between gaze directions [T, 3] (or [T, 2, 3], both eyes), degrees."""
  return mean_score(angles_between(directions, target), f'mean angle, degrees, {variant}')


def _turn(rotations: np.ndarray) -> np.ndarray:
  """[T, 3, 3] -> [T] the angle of each, degrees."""
  trace = np.clip((np.trace(rotations, axis1=-2, axis2=-1) - 1) / 2, -1, 1)
  skew = rotations - np.swapaxes(rotations, -1, -2)
  sine = (
    np.linalg.norm(np.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1), axis=-1) / 2
  )
  return np.degrees(np.arctan2(sine, trace))


def follow_angles(rotations: np.ndarray, target: np.ndarray, *, side: str = 'head') -> np.ndarray:
  """[T, 3, 3] twice -> [T] angles between the turns since the first frame in which both are known,
  degrees."""
  a, b = _rows(rotations, target, 'rotations')
  known = np.flatnonzero(np.isfinite(a).all((1, 2)) & np.isfinite(b).all((1, 2)))
  if not len(known):
    return np.full(len(a), np.nan)
  back = lambda r: np.swapaxes(r, -1, -2)
  since = lambda r: r @ back(r[known[0]]) if side == 'head' else back(r[known[0]]) @ r
  return _turn(back(since(a)) @ since(b))


def hpf(
  rotations: np.ndarray, target: np.ndarray, *, side: str = 'head', variant: str = 'exp_jax fit'
) -> Score:
  """Head pose follow: mean over frames of the angle between R[t] R[0]^T of both clips, degrees.

  Args:
    rotations, target: [T, 3, 3] of the head, T >= 2.
    side: 'head' as published, which cancels an offset on the head's side (R B); 'camera' compares
      R[0]^T R[t] instead, which cancels one on the camera's side (C R).

  Raises:
    ValueError: fewer than two frames, or an unknown side.
  """
  if len(rotations) < 2 or side not in ('head', 'camera'):
    raise ValueError(
      f"HPF needs two frames and side 'head' or 'camera', got {len(rotations)} and {side!r}"
    )
  return mean_score(
    follow_angles(rotations, target, side=side),
    f'turn since the first frame, degrees, {side} side, {variant}',
  )


def map_differences(swapped: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """[T, H, W, 3] twice and [T, H, W] -> [T]: mean over the mask's pixels and channels; NaN where
  the mask is empty."""
  swapped, target = _rows(swapped, target, 'maps')
  mask = np.asarray(mask, bool)
  total = mask.sum((1, 2))
  sums = (np.abs(swapped - target).mean(-1) * mask).sum((1, 2))
  return np.where(total > 0, sums / np.maximum(total, 1), np.nan)


def hef(
  swapped: np.ndarray, target: np.ndarray, mask: np.ndarray, *, variant: str = 'exp_jax fit'
) -> Score:
  """Head expression follow: difference of deformation maps that share pose, shape and camera.

  Args:
    swapped, target: [T, H, W, 3] deformation over sigma, with the generated and with the target's
      expression.
    mask: [T, H, W] where the target's head is hit.
  """
  return mean_score(
    map_differences(swapped, target, mask), f'deformation maps, in sigma = 0.0104 m, {variant}'
  )
