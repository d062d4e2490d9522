"""Clips made ready for the solver of the coarse stage: padded, with a first guess, and with what
their landmarks are worth.

Letters: K landmarks, T frames, S shape, P unknowns of one frame.
"""

import jax
import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.fitting.coarse.coarse_fit import FOCAL_PRIOR
from exp_jax.fitting.coarse.levenberg import Observed
from exp_jax.fitting.coarse.relief import relief_maps
from exp_jax.fitting.coarse.residuals import LANDMARK_SIGMA
from exp_jax.fitting.coarse.solver import ClipData
from exp_jax.fitting.landmark_head import inter_ocular, landmark_template, landmark_weights
from exp_jax.heads.model import HeadModel
from exp_jax.observe.observation import Observation

KEY_FRAMES = 8
# standard deviations of the focal length's logarithm, not known and known
_FOCAL_SPREAD, _FOCAL_KNOWN = 0.1, 1e-3


def bucket(frames: int) -> int:
  """The padded length of a clip: 1, then powers of two and the middles between them."""
  sizes = [1, *(base + extra for base in 2 ** np.arange(1, 16) for extra in (0, base // 2))]
  return int(next(size for size in sizes if size >= frames))


def initial_rotation(model_points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
  """Scaled orthography: [3, 3] rotation, head frame, from [K, 3] model points and their [K, 2]
  pixels.

  Source: DeMenthon & Davis, Model-based object pose in 25 lines of code, 1995 (its first
  iteration).
  """
  upright = (pixels - pixels.mean(0)) * [1, -1]  # image y down -> head y up
  affine, *_ = np.linalg.lstsq(model_points - model_points.mean(0), upright, rcond=None)  # [3, 2]
  rows = (affine / np.maximum(np.linalg.norm(affine, axis=0), 1e-9)).T
  u, _, vt = np.linalg.svd(rows, full_matrices=False)
  rows = u @ vt
  return np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])])


def seen_trust(observation: Observation) -> np.ndarray:
  """[T, 478] 0..1: how far the estimator believes each point; 0 in frames without a face."""
  trust = np.ones(observation.points.shape[:2]) if observation.trust is None else observation.trust
  return (trust * observation.found[:, None]).astype(np.float32)


def landmark_scales(points: np.ndarray) -> np.ndarray:
  """[T] pixels of one standard deviation of a landmark of [T, 478, 2]: a share of the inter-ocular
  distance, which is held up by the face's height where a turned head foreshortens it."""
  height = np.linalg.norm(points[:, 10] - points[:, 152], axis=-1)
  return LANDMARK_SIGMA * np.maximum(inter_ocular(points), 0.45 * height).astype(np.float32)


def clip_data(
  head: HeadModel,
  observation: Observation,
  *,
  length: int,
  shape: jax.Array | None,
  focal: float | None,
) -> ClipData:
  """A clip made ready for the solver: its last frame is repeated up to `length`, which spares a
  compilation for every length.

  Args:
    head: cut down by `landmark_head`.
    observation: of the clip, in crop pixels.
    length: of `bucket`.
    shape: [S] if it is known.
    focal: pixels, if it is known.
  """
  size, template = observation.image_size, np.asarray(landmark_template(head))
  count = len(observation.points)
  frames = np.minimum(np.arange(length), count - 1)
  keys = np.unique(np.linspace(0, count - 1, min(KEY_FRAMES, count)).round().astype(int))
  keys = np.resize(keys, KEY_FRAMES) if length > 1 else keys
  starts = np.stack([_start(head, template, p, size) for p in observation.points])
  relief = (
    None
    if observation.normals is None or shape is not None
    else relief_maps(observation, frames[keys])
  )
  gaze = np.zeros((count, 2, 3)) if observation.gaze is None else observation.gaze
  log_focal = 0.0 if focal is None else np.log(focal / (FOCAL_PRIOR * size[0]))
  return ClipData(
    observed=Observed(
      points=observation.points.swapaxes(1, 2)[frames].astype(np.float32),
      trust=(landmark_weights() * seen_trust(observation))[frames].astype(np.float32),
      gaze=gaze[frames].astype(np.float32),
      watched=(observation.found & (np.linalg.norm(gaze, axis=-1).min(-1) > 0.5))[frames].astype(
        np.float32
      ),
      scales=landmark_scales(observation.points)[frames],
    ),
    vectors=starts[frames],
    shape=np.zeros(head.shape_basis.shape[-1], np.float32)
    if shape is None
    else np.asarray(shape, np.float32),
    log_focal=np.float32(log_focal),
    camera=np.float32([log_focal, _FOCAL_SPREAD if focal is None else _FOCAL_KNOWN]),
    relief=relief,
    keys=keys,
  )


def _start(head, template, points, size):
  """[P] first guess of one frame; the solver's first steps settle the rest."""
  skin, focal = slice(0, 468), FOCAL_PRIOR * size[0]  # irises turn with the eyes
  rotation = initial_rotation(template[skin], points[skin])
  joint = np.asarray(head.joint_template)[head.joint('head')]
  mean = rotation @ (template[skin].mean(0) - joint) + joint  # the head turns about its joint
  height = np.linalg.norm((rotation @ (template[10] - template[152]))[:2])
  depth = focal * max(height, 1e-3) / max(np.linalg.norm(points[10] - points[152]), 1e-3)
  center = points[skin].mean(0)
  translation = (
    np.array(
      [
        (center[0] - size[1] / 2) * depth / focal,
        -(center[1] - size[0] / 2) * depth / focal,
        -depth,
      ]
    )
    - mean
  )
  rotvec = Rotation.from_matrix(rotation).as_rotvec()
  return np.concatenate(
    [
      np.zeros(head.expression_basis.shape[-1]),
      rotvec,
      np.zeros(3),
      np.array([0.02, 0, 0]),
      np.zeros(4),
      translation,
    ]
  ).astype(np.float32)
