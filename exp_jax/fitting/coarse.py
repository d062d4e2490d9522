"""Coarse stage of the personalized head: shape, expression, pose and camera from landmarks, normals and depth where known.

Per clip: shape beta and focal length f. Per frame: expression psi, rotation of the head (shared by neck and head
joint), of the torso, of the jaw and of the eyes, translation tau. `coarse_solver` holds the mathematics; here clips
are made ready for it and its answers judged. Source: ExpPortrait sec. 3.1.2, eqs. 5, 6a and 7.
Letters: K landmarks, T frames, S shape, E expression, P unknowns of one frame.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.errors import UserError
from exp_jax.fitting.coarse_solver import (
  FOCAL_KNOWN,
  FOCAL_PRIOR,
  FOCAL_SPREAD,
  KEY_FRAMES,
  LANDMARK_SIGMA,
  ClipData,
  CoarseFit,
  robust_weights,
  solve,
)
from exp_jax.fitting.landmark_head import inter_ocular, landmark_head, landmark_template, landmark_weights
from exp_jax.fitting.landmark_jacobian import landmark_corners
from exp_jax.fitting.relief import relief_maps, relief_triangles
from exp_jax.geometry import project
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import head_landmarks
from exp_jax.observe.observation import Observation


def bucket(frames: int) -> int:
  """The padded length of a clip: 1, then powers of two and the middles between them."""
  sizes = [1, *(base + extra for base in 2 ** np.arange(1, 16) for extra in (0, base // 2))]
  return int(next(size for size in sizes if size >= frames))


def initial_rotation(model_points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
  """Scaled orthography: [3, 3] rotation, head frame, from [K, 3] model points and their [K, 2] pixels.

  Source: DeMenthon & Davis, Model-based object pose in 25 lines of code, 1995 (its first iteration).
  """
  upright = (pixels - pixels.mean(0)) * [1, -1]                   # image y down -> head y up
  affine, *_ = np.linalg.lstsq(model_points - model_points.mean(0), upright, rcond=None)   # [3, 2]
  rows = (affine / np.maximum(np.linalg.norm(affine, axis=0), 1e-9)).T
  u, _, vt = np.linalg.svd(rows, full_matrices=False)
  rows = u @ vt
  return np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])])


def fit_coarse(head: HeadModel, observation: Observation, *, shape: jax.Array | None = None, focal: float | None = None,
               sweeps: int = 3) -> CoarseFit:
  """Fits a clip (T >= 1 frames) to its landmarks.

  Args:
    head: a head with the 478 MediaPipe landmarks.
    observation: in crop pixels (`face_crop.crop_observation`).
    shape: [S] a known shape (the subject's other clip); None solves for it.
    focal: the known focal length, pixels; None: found, or with a known shape the usual one.
    sweeps: temporal sweeps of stage 2; 0 leaves frames independent.

  Raises:
    UserError: the head has no MediaPipe landmarks, or the fit does not explain the landmarks.
  """
  fit = fit_coarse_many(head, [observation], shapes=None if shape is None else [shape], focals=[focal], sweeps=sweeps)[0]
  if complaint := unexplained(fit):
    raise UserError(complaint)
  return fit


def fit_coarse_long(head: HeadModel, observation: Observation, *, chunk: int = 256, overlap: int = 16, progress=lambda x: x
                    ) -> CoarseFit:
  """As `fit_coarse` for a clip of any length: memory and compiled programs are those of `chunk` frames.

  Shape and focal length are found from frames spread over the whole clip, as always; then chunks are solved with both
  known, and neighbours are blended over `overlap` frames.

  Raises:
    UserError: as `fit_coarse`.
  """
  total = len(observation.points)
  if total <= chunk:
    return fit_coarse(head, observation)
  seen = np.flatnonzero(observation.found)
  keys = seen[np.unique(np.linspace(0, len(seen) - 1, KEY_FRAMES).round().astype(int))]
  common = fit_coarse(head, _frames_of(observation, keys), sweeps=0)
  starts = range(0, total - overlap, chunk - overlap)
  per_frame, share = None, np.zeros(total)
  for start in progress(starts):
    stop = min(start + chunk, total)
    fit = fit_coarse_many(head, [_frames_of(observation, np.minimum(np.arange(start, start + chunk), total - 1))],
                          shapes=[common.shape], focals=[float(common.focal)])[0]
    values = [np.asarray(a)[:stop - start] for a in (fit.expression, fit.pose, fit.translation, fit.error)]
    if per_frame is None:
      per_frame = [np.zeros((total, *a.shape[1:])) for a in values]
    ramp = np.minimum(1.0, (np.arange(stop - start) + 1) / (overlap + 1)) if start else np.ones(stop - start)
    fade = np.ones(stop - start) if stop == total else np.minimum(1.0, np.arange(stop - start, 0, -1) / (overlap + 1))
    weight = ramp * fade
    share[start:stop] += weight
    for whole, part in zip(per_frame, values):
      whole[start:stop] += part * weight.reshape(-1, *[1] * (part.ndim - 1))
  expression, pose, translation, error = (
    jnp.asarray(a / share.reshape(-1, *[1] * (a.ndim - 1)), jnp.float32) for a in per_frame)
  fit = common.replace(expression=expression, pose=pose, translation=translation, error=error)
  if complaint := unexplained(fit):
    raise UserError(complaint)
  return fit


def _frames_of(observation: Observation, frames: np.ndarray) -> Observation:
  """Those frames of an observation without maps."""
  cut = lambda value: None if value is None else value[frames]
  return dataclasses.replace(observation, points=observation.points[frames], found=observation.found[frames],
                             matte=cut(observation.matte), trust=cut(observation.trust), gaze=cut(observation.gaze))


def unexplained(fit: CoarseFit) -> str:
  """A sentence if the fit does not explain its landmarks, '' otherwise."""
  typical = float(jnp.median(fit.error))
  if np.isfinite(typical) and typical <= 0.15:
    return ''
  return (f'the head model does not explain the landmarks (error {100 * typical:.0f} % of the eye distance); is this '
          'a human face seen from the front half?')


def fit_coarse_many(head: HeadModel, observations: list[Observation], *, shapes: list[jax.Array] | None = None,
                    focals: list[float | None] | None = None, sweeps: int = 3, at_once: int | None = None) -> list[CoarseFit]:
  """Fits many clips in one compiled program; a clip that cannot be explained harms no other (`unexplained`).

  Args:
    observations, shapes, focals, sweeps: as of `fit_coarse`; clips are padded to the next length of `bucket`.
    at_once: clips that are vectorised together; by default 1 on CPU, 16 elsewhere.

  Raises:
    UserError: the head has no MediaPipe landmarks. ValueError: clips of different image sizes.
  """
  if head.landmark_faces.shape[0] != 478:
    raise UserError(f'the head {head.name!r} has {head.landmark_faces.shape[0]} landmarks, fitting needs the 478 '
                    'of MediaPipe; use a head with a MediaPipe embedding such as "makehuman"')
  sizes = {observation.image_size for observation in observations}
  if len(sizes) > 1:
    raise ValueError(f'clips of one call must have one image size, got {sorted(sizes)}')
  size, counts = sizes.pop(), [len(observation.points) for observation in observations]
  small = landmark_head(head)
  template = np.asarray(landmark_template(small))
  shapes, focals = shapes or [None] * len(counts), focals or [None] * len(counts)
  length = bucket(max(counts))
  clips = [_clip(small, template, *each, length, size) for each in zip(observations, shapes, focals)]
  stacked = jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts)), *clips)
  at_once = min(at_once or (1 if jax.default_backend() == 'cpu' else 16), len(counts))
  triangles = None if clips[0].relief is None else relief_triangles(head)
  fits = solve(landmark_corners(small), triangles, stacked, size, shapes[0] is not None, sweeps, at_once)
  cut = lambda index, count: CoarseFit(**{
    name: getattr(fits, name) if name == 'image_size'
    else getattr(fits, name)[index] if name in ('shape', 'focal') else getattr(fits, name)[index, :count]
    for name in fits.__dataclass_fields__})
  return [cut(index, count) for index, count in enumerate(counts)]


def _clip(head, template, observation, shape, focal, length, size) -> ClipData:
  """Repeats the last frame up to `length`, which spares a compilation for every length of clip."""
  count = len(observation.points)
  frames = np.minimum(np.arange(length), count - 1)
  keys = np.unique(np.linspace(0, count - 1, min(KEY_FRAMES, count)).round().astype(int))
  keys = np.resize(keys, KEY_FRAMES) if length > 1 else keys
  starts = np.stack([_start(head, template, p, size, head.expression_basis.shape[-1]) for p in observation.points])
  relief = None if observation.normals is None or shape is not None else relief_maps(observation, frames[keys])
  gaze = np.zeros((count, 2, 3)) if observation.gaze is None else observation.gaze
  log_focal = 0.0 if focal is None else np.log(focal / (FOCAL_PRIOR * size[0]))
  return ClipData(
    points=observation.points.swapaxes(1, 2)[frames].astype(np.float32),
    trust=(landmark_weights() * seen_trust(observation))[frames].astype(np.float32),
    gaze=gaze[frames].astype(np.float32),
    watched=(observation.found & (np.linalg.norm(gaze, axis=-1).min(-1) > 0.5))[frames].astype(np.float32),
    scales=(LANDMARK_SIGMA * _face_scale(observation.points))[frames], vectors=starts[frames],
    shape=np.zeros(head.shape_basis.shape[-1], np.float32) if shape is None else np.asarray(shape, np.float32),
    log_focal=np.float32(log_focal), camera=np.float32([log_focal, FOCAL_SPREAD if focal is None else FOCAL_KNOWN]),
    relief=relief, keys=keys)


def seen_trust(observation: Observation) -> np.ndarray:
  """[T, 478] 0..1: how far the estimator believes each point; 0 in frames without a face."""
  trust = np.ones(observation.points.shape[:2]) if observation.trust is None else observation.trust
  return (trust * observation.found[:, None]).astype(np.float32)


def landmark_trust(head: HeadModel, fit: CoarseFit, points: np.ndarray) -> jax.Array:
  """[T, 478] 0..1: how well the fit explains each landmark; what it does not, the solver left out too.

  Args:
    points: [T, 478, 2] the observed ones, pixels of fit.image_size.
  """
  small = landmark_head(head)
  scales = jnp.asarray(LANDMARK_SIGMA * _face_scale(np.asarray(points)))

  def one(expression, pose, translation, seen, scale):
    params = HeadParams(fit.shape, expression, pose, translation)
    pixels, _ = project(head_landmarks(small, params), fit.camera())
    return robust_weights(jnp.sum((pixels - seen) ** 2, -1), jnp.ones(len(seen)), scale)

  return jax.vmap(one)(fit.expression, fit.pose, fit.translation, jnp.asarray(points), scales)


def _face_scale(points: np.ndarray) -> np.ndarray:
  """[T] pixels: inter-ocular distance, held up by the face's height where a turned head foreshortens it."""
  height = np.linalg.norm(points[:, 10] - points[:, 152], axis=-1)
  return np.maximum(inter_ocular(points), 0.45 * height).astype(np.float32)


def _start(head, template, points, size, num_expression):
  """[P] first guess of one frame; the solver's first steps settle the rest."""
  skin, focal = slice(0, 468), FOCAL_PRIOR * size[0]              # irises turn with the eyes
  rotation = initial_rotation(template[skin], points[skin])
  joint = np.asarray(head.joint_template)[head.joint('head')]
  mean = rotation @ (template[skin].mean(0) - joint) + joint      # the head turns about its joint
  height = np.linalg.norm((rotation @ (template[10] - template[152]))[:2])
  depth = focal * max(height, 1e-3) / max(np.linalg.norm(points[10] - points[152]), 1e-3)
  center = points[skin].mean(0)
  translation = np.array([(center[0] - size[1] / 2) * depth / focal, -(center[1] - size[0] / 2) * depth / focal,
                          -depth]) - mean
  rotvec = Rotation.from_matrix(rotation).as_rotvec()
  return np.concatenate([np.zeros(num_expression), rotvec, np.zeros(3), np.array([0.02, 0, 0]), np.zeros(4),
                         translation]).astype(np.float32)
