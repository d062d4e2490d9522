"""Solver of the coarse stage, all of it one program.

  stage 1  key frames, all unknowns together (`levenberg.solve_jointly`). Where normals were
           estimated, the face is then registered to their maps and those of depth as well
           (`relief`)
  stage 2  every frame with beta and f fixed, then sweeps in which each frame is also drawn towards
           the mean of its neighbours: the temporal prior is inside the solve, not a filter behind
             it. It acts on what is seen to
           move: expression, jaw, eyes, and the head's rotation and place in the camera, however
             torso, neck and
           translation share them; the torso is a course of its own, so that the share does not
           wander

Residuals are in units of their standard deviation, landmarks of 1.2 % of the inter-ocular distance.
Source: ExpPortrait sec. 3.1.2, eqs. 5 and 7. Letters: C clips, K landmarks, T frames, S shape, P
unknowns of one frame.
"""

import functools

import flax
import jax
import jax.numpy as jnp

from exp_jax.files.programs.traced import kept_traced
from exp_jax.fitting.coarse.coarse_fit import FOCAL_PRIOR, CoarseFit
from exp_jax.fitting.coarse.landmark_jacobian import LandmarkHead
from exp_jax.fitting.coarse.levenberg import Observed, solve_frames, solve_jointly
from exp_jax.fitting.coarse.priors import course
from exp_jax.fitting.coarse.relief import ReliefMaps
from exp_jax.fitting.coarse.residuals import LANDMARK_SIGMA, distances
from exp_jax.fitting.coarse.unknowns import pose_from_unknowns, unpack

_RELIEF_STEPS = 40


@flax.struct.dataclass
class ClipData:
  """One clip, padded; what differs from subject to subject."""

  observed: Observed  # of T frames
  vectors: jax.Array  # [T, P] first guess
  shape: jax.Array  # [S] to start from, or to keep
  # [] logarithm of focal length over `FOCAL_PRIOR` heights, to start from or to keep
  log_focal: jax.Array
  camera: jax.Array  # [2] what is expected of it, and the standard deviation
  relief: ReliefMaps | None  # [8, h, w] of the key frames; None: no normals were estimated
  keys: jax.Array  # [8] frames that shape and focal length are found from; [1] for a picture


@kept_traced(static_argnames=('camera_size', 'known', 'sweeps', 'at_once'), result=CoarseFit)
def solve(
  corners: LandmarkHead,
  triangles: LandmarkHead | None,
  clips: ClipData,
  *,
  camera_size: tuple[int, int],
  known: bool,
  sweeps: int,
  at_once: int,
) -> CoarseFit:
  """The whole stage for clips [C, ...] in one program.

  Args:
    corners: the head as its landmarks see it.
    triangles: those of `relief_triangles`, or None where no clip has maps.
    clips: with a leading axis.
    camera_size: height and width of all clips, pixels.
    known: shape and focal length are kept.
    sweeps: of stage 2; a picture needs none.
    at_once: clips that are vectorised together.

  Returns:
    The fits, with a leading axis as the clips.
  """

  def one(clip):
    shared, vectors, frames = (
      jnp.append(clip.shape, clip.log_focal),
      clip.vectors,
      len(clip.observed.points),
    )
    if not known:
      start, observed = jax.tree.map(lambda each: each[clip.keys], (vectors, clip.observed))
      settings = dict(camera=clip.camera, camera_size=camera_size)
      shared, solved = solve_jointly(corners, shared, start, observed, **settings)
      if clip.relief is not None:
        shared, solved = solve_jointly(
          corners,
          shared,
          solved,
          observed,
          **settings,
          steps=_RELIEF_STEPS,
          relief=(triangles, clip.relief),
        )
      vectors = vectors.at[clip.keys].set(solved)
    each_frame = functools.partial(solve_frames, corners, shared, camera_size=camera_size)
    if known or frames > 1:
      vectors = each_frame(vectors, clip.observed, None, steps=14)

    def sweep(vectors, _):
      courses = jax.vmap(functools.partial(course, corners.head, shared[:-1]))(vectors)
      padded = jnp.concatenate([courses[:1], courses, courses[-1:]])
      goals = (padded[:-2] + padded[2:]) / 2
      return each_frame(vectors, clip.observed, goals, steps=2, damping=1e-4), None

    vectors, _ = jax.lax.scan(sweep, vectors, None, length=sweeps if frames > 2 else 0)
    missed = jax.vmap(lambda v, p: distances(corners, shared, v, p, camera_size))(
      vectors, clip.observed.points
    )
    error = (
      jnp.sqrt(jnp.mean(jnp.sum(missed[..., :468] ** 2, 1), -1))
      * LANDMARK_SIGMA
      / clip.observed.scales
    )
    unknowns = unpack(vectors)
    pose = jax.vmap(lambda u: pose_from_unknowns(corners.head, u))(unknowns)
    return CoarseFit(
      shape=shared[:-1],
      expression=unknowns['expression'],
      pose=pose,
      translation=unknowns['translation'],
      focal=FOCAL_PRIOR * camera_size[0] * jnp.exp(shared[-1]),
      error=error,
      image_size=camera_size,
    )

  return jax.lax.map(one, clips, batch_size=at_once)
