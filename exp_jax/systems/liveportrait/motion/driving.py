"""What the source does when the driver moves: Eqs. 7 and 8, regions, single pictures, filters,
weights of regions.

  x_d,i = s (x_c,s R + delta) + t         with the parts of the source replaced, region by region:

  relative   R = R_d,i R_d,0^T R_s    delta = delta_s + delta_d,i - delta_d,0    s = s_s s_d,i / s_d,0    t = t_s + t_d,i - t_d,0
  absolute   R = R_d,i                delta = delta_d,i, moving keypoints     s = s_s                  t = t_d,i

A picture as driver has no first frame to be relative to: `NEUTRAL` stands for its expression at
rest, and pose, scale and translation stay the source's. A clip as source is smoothed, and keeps its
own scale and translation.

Everything is numpy, float32, all frames at once. Letters: T frames, K = 21 keypoints.
Source: LivePortrait (arXiv 2407.03168), Eqs. 7, 8, appendices D and E; tables of the published
pipeline.
"""

import dataclasses

import numpy as np

from exp_jax.errors import UserError
from exp_jax.systems.liveportrait.motion.smoothing import (
  kalman_smooth,
  nearest_rotations,
  rotation_power,
)
from exp_jax.systems.liveportrait.networks.keypoints import transform
from exp_jax.systems.liveportrait.networks.motion import KEYPOINTS, Motion
from exp_jax.systems.liveportrait.pipeline_options import REGIONS, DrivingOptions

LIP = (6, 12, 14, 17, 19, 20)
EYES = (11, 13, 15, 16, 18)
ONE_EYE, OTHER_EYE = (11, 13), (15, 16)  # keypoint 18 carries no expression
NEUTRAL = np.array(
  [
    [-9.4524e-5, 2.4222e-4, -4.00974e-5],
    [2.08596e-4, 4.68054e-4, 1.27464e-5],
    [-1.24602e-4, 3.24972e-4, 4.425e-6],
    [1.19652e-4, -4.56624e-4, 5.40852e-5],
    [-2.65254e-4, -7.4598e-5, -1.5528e-5],
    [-3.34884e-5, -1.83036e-4, -3.49404e-6],
    [-4.75428e-7, -4.52466e-7, 1.59498e-6],
    [-5.41296e-4, 2.6328e-3, 7.2486e-6],
    [-1.1694e-5, 5.00502e-6, 9.9888e-6],
    [8.0286e-7, 5.19132e-6, -4.09344e-4],
    [1.66878e-4, -1.9815e-5, -8.8548e-5],
    [-1.51536e-5, 8.2506e-5, 5.94012e-6],
    [-2.61054e-7, 2.7591e-6, 2.21028e-6],
    [-6.6282e-5, -6.8286e-5, -3.45318e-6],
    [-8.3262e-4, -1.79592e-3, -2.59176e-6],
    [6.9714e-6, 3.65514e-5, -1.8978e-6],
    [-4.80876e-6, 7.1148e-6, -1.03236e-5],
    [-6.3684e-4, -1.1661e-3, 5.62314e-5],
    [2.8329e-4, -1.45656e-5, 1.09746e-5],
    [-4.16022e-6, -1.50906e-2, -2.5494e-3],
    [2.22474e-4, 5.62788e-3, 2.72646e-3],
  ],
  np.float32,
)


def _moving() -> np.ndarray:
  """[K, 3] bool: the coordinates that absolute motion and clips as sources take from the driver."""
  mask = np.zeros((KEYPOINTS, 3), bool)
  mask[[1, 2, 6, *range(11, 21)]] = True
  mask[3:5, 1] = mask[5, 2] = mask[8, 2] = True
  mask[9, 1:] = True
  return mask


MOVING = _moving()


def take(motion: Motion, index) -> Motion:
  """The motion at an index or a slice of its frames."""
  return Motion(**{f.name: getattr(motion, f.name)[index] for f in dataclasses.fields(motion)})


def stack(motions) -> Motion:
  """Motions joined along their first axis."""
  return Motion(
    **{
      f.name: np.concatenate([getattr(m, f.name) for m in motions])
      for f in dataclasses.fields(Motion)
    }
  )


def filtered(motion: Motion, filters: tuple[float, float, float, float]) -> Motion:
  """A driver's motion [T] with each of its parts smoothed by a variance of its own; rotations stay
  rotations."""
  rotation, expression, scale, translation = filters
  turned = kalman_smooth(motion.rotation, rotation)
  return motion.replace(
    rotation=nearest_rotations(turned) if rotation else turned,
    expression=kalman_smooth(motion.expression, expression),
    scale=kalman_smooth(motion.scale, scale),
    translation=kalman_smooth(motion.translation, translation),
  )


def compose(
  source: Motion,
  driving: Motion,
  options: DrivingOptions,
  *,
  reference: Motion | None = None,
  source_is_video: bool = False,
  driving_is_video: bool = True,
  animals: bool = False,
) -> Motion:
  """The driven motion of the source.

  Args:
    source: of [1] frame (a picture), or of [T] (a clip).
    driving: of [T] frames, or [1] (a picture).
    reference: of [1]: the driver's frame that corresponds to the source; None: its first.
    source_is_video, driving_is_video: pictures and clips are treated differently, whatever their
      length.
    animals: absolute motion of all keypoints, as for weights tuned on animals.

  Returns:
    Motion of T frames with the source's canonical keypoints; T of the source if the driver is a
    picture.

  Raises:
    ValueError: for an unknown region or mode, or clips of different length.
    UserError: scale_mode is 'damped', and sizes of the driver have different signs.
  """
  if options.region not in REGIONS:
    raise ValueError(f'unknown region {options.region!r}, choose from {REGIONS}')
  if options.video_edit not in ('code', 'paper') or options.scale_mode not in (
    'relative',
    'damped',
    'fixed',
  ):
    raise ValueError(f'unknown mode {options.video_edit!r} or {options.scale_mode!r}')
  T = max(len(source.scale), len(driving.scale))
  if {len(source.scale), len(driving.scale)} - {1, T}:
    raise ValueError(
      f'{len(source.scale)} source frames and {len(driving.scale)} driving frames do not go '
      'together'
    )
  driving = filtered(driving, options.filters)
  spread = lambda m: Motion(
    **{k: np.array(np.broadcast_to(v, (T, *v.shape[1:]))) for k, v in vars(m).items()}
  )
  first = take(driving, slice(0, 1)) if reference is None else reference
  source, driving = spread(source), spread(driving)
  if animals:
    return source.replace(
      rotation=driving.rotation, expression=driving.expression, translation=driving.translation
    )
  parts = _relative if options.relative else _absolute
  rotation, expression, scale, translation = parts(
    source, driving, first, options, source_is_video, driving_is_video
  )
  if (
    source_is_video
    and driving_is_video
    and options.smooth
    and (options.video_edit == 'code' or not options.relative)
  ):
    rotation, expression = (
      kalman_smooth(rotation, options.smooth),
      kalman_smooth(expression, options.smooth),
    )
    rotation = nearest_rotations(rotation) if options.project else rotation
  region = options.region
  driven = Motion(
    source.canonical,
    rotation if region in ('all', 'pose') else source.rotation,
    np.where(_driven_points(options, source_is_video), expression, source.expression),
    scale if region == 'all' else source.scale,
    translation if region in ('all', 'pose') else source.translation,
  )
  return weighted(source, driven, options)


def _driven_points(options: DrivingOptions, source_is_video: bool) -> np.ndarray:
  """[K, 3] which coordinates of the keypoints take the driver's expression."""
  chosen = np.zeros((KEYPOINTS, 3), bool)
  if options.region in ('all', 'exp'):
    everything = options.relative and (not source_is_video or options.video_edit == 'paper')
    chosen[:] = True if everything else MOVING
  elif options.region in ('lip', 'eyes'):
    chosen[list(LIP if options.region == 'lip' else EYES)] = True
  return chosen


def _relative(source, driving, first, options, source_is_video, driving_is_video):
  """(R, delta, s, t) of every frame, all keypoints, before smoothing and the choice of a region."""
  if not driving_is_video:
    # the eyes of a picture are taken as they are, but only where they alone are asked for
    rest = 0.0 if options.region == 'eyes' and not source_is_video else NEUTRAL
    return (
      source.rotation,
      source.expression + (driving.expression - rest),
      source.scale,
      source.translation,
    )
  rotation = driving.rotation @ first.rotation.transpose(0, 2, 1) @ source.rotation
  change, ratio = driving.expression - first.expression, driving.scale / first.scale
  translation = source.translation + (driving.translation - first.translation)
  if source_is_video and options.video_edit == 'paper':
    following = np.concatenate([driving.expression[1:], driving.expression[-1:]])
    change = 0.5 * (driving.expression + following) - first.expression
  elif source_is_video:
    ratio, translation = np.ones_like(ratio), source.translation
  return (
    rotation,
    source.expression + change,
    source.scale * _growth(ratio, options.scale_mode),
    translation,
  )


def _growth(ratio: np.ndarray, mode: str) -> np.ndarray:
  """What the source's size is multiplied with, where the driver's size is `ratio` [T] times that of
  its reference frame.

  Raises:
    UserError: half of a growth is asked for, and a ratio is not positive. Sizes of heads are; a
      network that is not trained gives others.
  """
  if mode == 'fixed':
    return np.ones_like(ratio)
  if mode == 'relative':
    return ratio
  if not (ratio > 0).all():
    frame = int(np.argmin(ratio > 0))
    raise UserError(
      f'the head of the driver has {ratio[frame]:.4g} times the size of its reference in frame '
      f'{frame}, which has no '
      "root: use scale_mode 'relative' or 'fixed', or other weights"
    )
  return np.sqrt(ratio)


def _absolute(source, driving, first, options, source_is_video, driving_is_video):
  del first, options, source_is_video, driving_is_video
  return driving.rotation, driving.expression, source.scale, driving.translation


def weighted(source: Motion, driven: Motion, options: DrivingOptions) -> Motion:
  """`driven` [T], each part of it only by its weight; with all weights 1 it is returned as it is.

  Which keypoints belong to which eye is read off the source itself: the viewer's left one has the
  smaller x.
  """
  each = (
    options.pose,
    options.eyes,
    options.left_eye,
    options.right_eye,
    options.lips,
    options.other,
  )
  if all(w == 1 for w in each):
    return driven
  place = transform(
    source.canonical, source.rotation, source.expression, source.scale, source.translation
  )
  one_is_left = (place[:, ONE_EYE, 0].mean(1) <= place[:, OTHER_EYE, 0].mean(1))[:, None]
  share = np.full((len(place), KEYPOINTS), options.other, np.float32)
  share[:, LIP], share[:, EYES] = options.lips, options.eyes
  left, right = options.left_eye, options.right_eye
  share[:, ONE_EYE] *= np.where(one_is_left, left, right)
  share[:, OTHER_EYE] *= np.where(one_is_left, right, left)
  turn = rotation_power(
    nearest_rotations(driven.rotation @ source.rotation.transpose(0, 2, 1)), options.pose
  )
  return driven.replace(
    rotation=turn @ source.rotation if options.pose != 1 else driven.rotation,
    expression=source.expression + share[..., None] * (driven.expression - source.expression),
    scale=source.scale + options.pose * (driven.scale - source.scale),
    translation=source.translation + options.pose * (driven.translation - source.translation),
  )


def hull_volume(points: np.ndarray) -> float:
  """Volume of the convex hull of [K, 3] points; 0 if they lie in a plane."""
  from scipy.spatial import ConvexHull, QhullError

  try:
    return float(ConvexHull(points).volume)
  except QhullError:
    return 0.0


def expression_friendly(source: np.ndarray, driven: np.ndarray) -> np.ndarray:
  """x_i <- (x_i - x_0) sqrt(V(x_s)) / sqrt(V(x_0)) + x_s: motion in the proportions of the source's
  own keypoints.

  With relative motion x_0 is x_s and nothing changes; it matters for absolute motion, and for
  animals.

  Args:
    source: [1, K, 3] keypoints of the picture.
    driven: [T, K, 3].
  """
  volume = hull_volume(driven[0])
  factor = np.sqrt(hull_volume(source[0]) / volume) if volume > 0 else 1.0
  return ((driven - driven[:1]) * factor + source).astype(np.float32)


def resample(motion: Motion, times: np.ndarray, wanted: np.ndarray) -> Motion:
  """A motion known at `times` [T] seconds (rising) at other times [N]; linear, turns about the axis
  between two frames.

  Times outside hold the ends. Where the times are the same up to 0.1 ms, the very numbers come
  back.
  """
  place = np.clip(np.interp(wanted, times, np.arange(len(times))), 0, len(times) - 1)
  nearest = np.rint(place).astype(int)
  near = np.abs(times[nearest] - wanted) < 1e-4
  place = np.where(near, nearest, place)
  low = np.floor(place).astype(int)
  high, share = np.minimum(low + 1, len(times) - 1), (place - low).astype(np.float32)
  mix = lambda x: x[low] + share.reshape(-1, *[1] * (x.ndim - 1)) * (x[high] - x[low])
  out = Motion(**{k: np.asarray(mix(v), np.float32) for k, v in vars(motion).items()})
  turn = motion.rotation[low].transpose(0, 2, 1) @ motion.rotation[high]
  rotation = motion.rotation[low] @ rotation_power(turn, share)
  rotation = np.where(share[:, None, None] == 0, motion.rotation[low], rotation)
  return out.replace(rotation=rotation.astype(np.float32))
