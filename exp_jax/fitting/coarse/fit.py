"""Coarse stage of the personalized head: shape, expression, pose and camera from landmarks, normals
and depth where known.

Per clip: shape beta and focal length f. Per frame: expression psi, rotation of the head (shared by
neck and head joint), of the torso, of the jaw and of the eyes, translation tau. `solver` holds the
mathematics, `clips` makes clips ready for it; here they are fitted, alone, many at once or in
chunks, and the answers are judged.
Source: ExpPortrait sec. 3.1.2, eqs. 5, 6a and 7.
Letters: K landmarks, T frames, S shape, E expression, P unknowns of one frame.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.fitting.coarse.clips import KEY_FRAMES, bucket, clip_data, landmark_scales
from exp_jax.fitting.coarse.coarse_fit import CoarseFit
from exp_jax.fitting.coarse.landmark_jacobian import landmark_corners
from exp_jax.fitting.coarse.relief import relief_triangles
from exp_jax.fitting.coarse.residuals import robust_weights
from exp_jax.fitting.coarse.solver import solve
from exp_jax.fitting.landmark_head import landmark_head
from exp_jax.geometry import project
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import head_landmarks
from exp_jax.layers import batching
from exp_jax.observe.observation import Observation

_LENGTHS = 64, 256  # frames


def fit_coarse(
  head: HeadModel,
  observation: Observation,
  *,
  shape: jax.Array | None = None,
  focal: float | None = None,
  sweeps: int = 3,
) -> CoarseFit:
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
  return _checked(
    fit_coarse_many(
      head, [observation], shapes=None if shape is None else [shape], focals=[focal], sweeps=sweeps
    )[0]
  )


def fit_coarse_long(
  head: HeadModel,
  observation: Observation,
  *,
  keys: Observation | None = None,
  chunk: int = 256,
  overlap: int = 16,
  progress=lambda x: x,
) -> CoarseFit:
  """As `fit_coarse` for a clip of any length: memory and compiled programs are those of `chunk`
  frames.

  Shape and focal length are found from frames spread over the whole clip, as always; then chunks
  are solved with both known, and neighbours are blended over `overlap` frames.

  Args:
    keys: some frames of the clip with maps, the same square; shape and focal length are then their
      means over fits of each frame
      alone (`shape_of_pictures`). None: no maps.

  Raises:
    UserError: as `fit_coarse`.
  """
  total = len(observation.points)
  if keys is None and total <= chunk:
    return fit_coarse(head, observation)
  if keys is None:
    common = fit_coarse(head, chosen_frames(observation, key_frames(observation.found)), sweeps=0)
  else:
    common = shape_of_pictures(head, keys)
  if total == 1:
    return common
  if total <= chunk:
    return _checked(_part(head, observation, common))
  starts = range(0, total - overlap, chunk - overlap)
  per_frame, share = None, np.zeros(total)
  for start in progress(starts):
    stop = min(start + chunk, total)
    fit = _part(
      head,
      chosen_frames(observation, np.minimum(np.arange(start, start + chunk), total - 1)),
      common,
    )
    values = [
      np.asarray(a)[: stop - start] for a in (fit.expression, fit.pose, fit.translation, fit.error)
    ]
    if per_frame is None:
      per_frame = [np.zeros((total, *a.shape[1:])) for a in values]
    ramp = (
      np.minimum(1.0, (np.arange(stop - start) + 1) / (overlap + 1))
      if start
      else np.ones(stop - start)
    )
    fade = (
      np.ones(stop - start)
      if stop == total
      else np.minimum(1.0, np.arange(stop - start, 0, -1) / (overlap + 1))
    )
    weight = ramp * fade
    share[start:stop] += weight
    for whole, part in zip(per_frame, values):
      whole[start:stop] += part * weight.reshape(-1, *[1] * (part.ndim - 1))
  expression, pose, translation, error = (
    jnp.asarray(a / share.reshape(-1, *[1] * (a.ndim - 1)), jnp.float32) for a in per_frame
  )
  return _checked(
    common.replace(expression=expression, pose=pose, translation=translation, error=error)
  )


def key_frames(found: np.ndarray, most: int = KEY_FRAMES) -> np.ndarray:
  """[T] bool, where a face was seen -> the numbers of up to `most` of those frames, spread over the
  clip."""
  seen = np.flatnonzero(found)
  return seen[np.unique(np.linspace(0, len(seen) - 1, most).round().astype(int))]


def shape_of_pictures(head: HeadModel, observation: Observation) -> CoarseFit:
  """The fit of the first frame with the means over frames, each fitted alone, of shape and of the
  logarithm of focal length.

  Landmarks of an estimator and its maps err alike in all frames of a person. Frames that are fitted
  together count as so much evidence, and shapes follow those errors farther than from one picture:
  heads come out turned 2.5 degrees, one by one 2.1 (`docs/results/retouch.md`). It is the program
  that fits a portrait, too.

  Raises:
    UserError: no frame's landmarks are explained.
  """
  fits = [
    fit_coarse_many(head, [chosen_frames(observation, np.array([frame]))])[0]
    for frame in range(len(observation.points))
  ]
  fits = [fit for fit in fits if not unexplained(fit)] or [_checked(fits[0])]
  mean = lambda values: jnp.mean(jnp.stack(values), 0)
  return fits[0].replace(
    shape=mean([fit.shape for fit in fits]),
    focal=jnp.exp(mean([jnp.log(fit.focal) for fit in fits])),
  )


def _part(head: HeadModel, observation: Observation, common: CoarseFit) -> CoarseFit:
  """Frames of a clip whose shape and focal length are known.

  Two lengths do for all clips, so that hardly one has to wait for the compiler: a frame takes 12
  milliseconds, a length 24 seconds (two cores).
  """
  return fit_coarse_many(
    head,
    [observation],
    shapes=[common.shape],
    focals=[float(common.focal)],
    length=next((each for each in _LENGTHS if each >= len(observation.points)), None),
  )[0]


def chosen_frames(observation: Observation, frames: np.ndarray) -> Observation:
  """Those frames of an observation."""
  parts = (
    'points',
    'found',
    'matte',
    'trust',
    'gaze',
    'normals',
    'normal_weights',
    'depth',
    'depth_weights',
  )
  return dataclasses.replace(
    observation,
    **{part: value[frames] for part in parts if (value := getattr(observation, part)) is not None},
  )


def _checked(fit: CoarseFit) -> CoarseFit:
  if complaint := unexplained(fit):
    raise UserError(complaint)
  return fit


def unexplained(fit: CoarseFit) -> str:
  """A sentence if the fit does not explain its landmarks, '' otherwise."""
  typical = float(np.median(fit.error))
  if np.isfinite(typical) and typical <= 0.15:
    return ''
  return (
    f'the head model does not explain the landmarks (error {100 * typical:.0f} % of the eye '
    'distance); is this '
    'a human face seen from the front half?'
  )


def fit_coarse_many(
  head: HeadModel,
  observations: list[Observation],
  *,
  shapes: list[jax.Array] | None = None,
  focals: list[float | None] | None = None,
  sweeps: int = 3,
  length: int | None = None,
  at_once: int | None = None,
) -> list[CoarseFit]:
  """Fits many clips in one compiled program; a clip that cannot be explained harms no other
  (`unexplained`).

  Args:
    observations, shapes, focals, sweeps: as of `fit_coarse`.
    length: frames that clips are padded to; by default the next length of `bucket`.
    at_once: clips that are vectorised together; by default 1 on CPU, 16 elsewhere.

  Raises:
    UserError: the head has no MediaPipe landmarks. ValueError: clips of different image sizes.
  """
  if head.landmark_faces.shape[0] != 478:
    raise UserError(
      f'the head {head.name!r} has {head.landmark_faces.shape[0]} landmarks, fitting needs the 478 '
      'of MediaPipe; `exp-jax convert.landmarks` gives them to a head of any kind'
    )
  sizes = {observation.image_size for observation in observations}
  if len(sizes) > 1:
    raise ValueError(f'clips of one call must have one image size, got {sorted(sizes)}')
  size, counts = sizes.pop(), [len(observation.points) for observation in observations]
  small = landmark_head(head)
  shapes, focals = shapes or [None] * len(counts), focals or [None] * len(counts)
  length = length or bucket(max(counts))
  clips = [
    clip_data(small, observation, length=length, shape=shape, focal=focal)
    for observation, shape, focal in zip(observations, shapes, focals)
  ]
  stacked = jax.device_put(jax.tree.map(lambda *parts: np.stack(parts), *clips))
  at_once = min(batching.at_once(at_once), len(counts))
  triangles = None if clips[0].relief is None else relief_triangles(head)
  fits = solve(
    landmark_corners(small),
    triangles,
    stacked,
    camera_size=size,
    known=shapes[0] is not None,
    sweeps=sweeps,
    at_once=at_once,
  )
  fits = jax.device_get(fits)
  cut = lambda index, count: CoarseFit(
    **{
      name: getattr(fits, name)
      if name == 'image_size'
      else getattr(fits, name)[index]
      if name in ('shape', 'focal')
      else getattr(fits, name)[index, :count]
      for name in fits.__dataclass_fields__
    }
  )
  return [jax.device_put(cut(index, count)) for index, count in enumerate(counts)]


def landmark_trust(head: HeadModel, fit: CoarseFit, points: np.ndarray) -> jax.Array:
  """[T, 478] 0..1: how well the fit explains each landmark; what it does not, the solver left out
  too.

  Args:
    points: [T, 478, 2] the observed ones, pixels of fit.image_size.
  """
  points = np.asarray(points)
  return _trust(landmark_head(head), fit, points, landmark_scales(points))


@jax.jit
def _trust(small: HeadModel, fit: CoarseFit, points, scales) -> jax.Array:
  def one(expression, pose, translation, seen, scale):
    params = HeadParams(fit.shape, expression, pose, translation)
    pixels, _ = project(head_landmarks(small, params), fit.camera())
    return robust_weights(jnp.sum((pixels - seen) ** 2, -1), jnp.ones(len(seen)), scale)

  return jax.vmap(one)(fit.expression, fit.pose, fit.translation, points, scales)
