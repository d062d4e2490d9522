"""Levenberg-Marquardt with robust reweighting: all frames together with what they share, or every
frame by itself.

Source: Nocedal & Wright, Numerical Optimization, ch. 10.
Letters: K landmarks, T frames, S shape, R residuals, P unknowns of one frame, C numbers of a
course.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp

from exp_jax.fitting.coarse.elimination import apart, eliminate, frame_apart, placed, solve_positive
from exp_jax.fitting.coarse.landmark_jacobian import LandmarkHead
from exp_jax.fitting.coarse.priors import frame_priors, shared_priors
from exp_jax.fitting.coarse.relief import ReliefMaps, relief_cost, relief_equations
from exp_jax.fitting.coarse.residuals import distances, linearised, pixels_of, robust_weights
from exp_jax.fitting.coarse.unknowns import PLACE, frame_arguments, params_of
from exp_jax.layers import batching

# a step in which no unknown changes by more is the last; frames converge faster
_SETTLED, _SETTLED_FRAME = 1e-4, 1e-3
_ROUNDING = 2e-6  # share by which float32 may tell the cost wrong


@flax.struct.dataclass
class Observed:
  """What was observed of T frames, or of one without the leading axis."""

  points: jax.Array  # [T, 2, K] pixels
  trust: jax.Array  # [T, K]
  scales: jax.Array  # [T] pixels of one standard deviation
  gaze: jax.Array  # [T, 2, 3]
  watched: jax.Array  # [T] 1 where gaze was seen


def until_settled(step: Callable, start, steps: int):
  """Repeats step(carry) -> (carry, settled) until settled, at most `steps` times."""

  def again(state):
    count, settled, _ = state
    return (count < steps) & ~settled

  def once(state):
    carry, settled = step(state[2])
    return state[0] + 1, settled, carry

  return jax.lax.while_loop(again, once, (0, False, start))[2]


def _damped(damping, good):
  """Levenberg-Marquardt's rule: trust the linear model more after a step that helped."""
  return jnp.clip(jnp.where(good, damping / 10, damping * 5), 1e-7, 1e6)


def _with_priors(residual, jacobian, function, vector):
  """[...], [P, ...] of the data and residuals of a frame's priors -> both as [R], [P, R]."""
  flat = jacobian.reshape(len(jacobian), -1)
  return jnp.concatenate([residual.ravel(), function(vector)]), jnp.concatenate(
    [flat, jax.jacfwd(function)(vector).T], 1
  )


@dataclasses.dataclass(frozen=True, eq=False)
class _Joint:
  """The problem of `solve_jointly`; arguments as there.

  Attributes:
    shape: [S] about which the priors of frames are laid.
  """

  corners: LandmarkHead
  observed: Observed
  shape: jax.Array
  camera: jax.Array
  camera_size: tuple[int, int]
  relief: tuple[LandmarkHead, ReliefMaps] | None

  @property
  def triangles(self) -> LandmarkHead | None:
    """Of the skin that is registered to maps."""
    return None if self.relief is None else self.relief[0]

  @property
  def maps(self) -> ReliefMaps | None:
    """Of the T frames."""
    return None if self.relief is None else self.relief[1]

  def onto_maps(self, points, log_focal):
    """Places on the maps, of points in the frame of the head."""
    share = self.maps.believed.shape[-1] / self.camera_size[1]
    return share * pixels_of(points, log_focal, self.camera_size)

  def priors(self, observed: Observed):
    """The priors of one frame, as a function of its vector."""
    return functools.partial(
      frame_priors,
      shape=self.shape,
      goal=None,
      head=self.corners.head,
      gaze=observed.gaze,
      watched=observed.watched,
    )

  def cost(self, shared, vectors, weights, kept):
    """[] of all frames and the priors, for given robust weights [T, K] and kept pixels of maps."""
    data = jax.vmap(lambda v, p: distances(self.corners, shared, v, p, self.camera_size))(
      vectors, self.observed.points
    )
    bend = 0.0
    if self.relief is not None:
      bend = jax.vmap(
        lambda v, m, w: relief_cost(
          self.triangles,
          params_of(self.triangles, shared, v),
          lambda p: self.onto_maps(p, shared[-1]),
          m,
          w,
        )
      )(vectors, self.maps, kept).sum()
    return (
      bend
      + jnp.sum(weights[:, None] * (data / self.observed.scales[:, None, None]) ** 2)
      + jnp.sum(jax.vmap(lambda v, seen: self.priors(seen)(v))(vectors, self.observed) ** 2)
      + jnp.sum(shared_priors(shared, self.camera) ** 2)
    )

  def frame_equations(self, shared, vector, seen, maps):
    """Normal equations of one frame: weights, kept pixels, blocks, right-hand sides, and what
    `apart` took out."""
    r, j_shared, j_frame = linearised(self.corners, shared, vector, seen.points, self.camera_size)
    weights = robust_weights(jnp.sum(r**2, 0), seen.trust, seen.scales)
    root = jnp.sqrt(weights) / seen.scales
    r, j_shared, j_frame = root * r, root * j_shared, root * j_frame
    flat = lambda j: j.reshape(len(j), -1)
    r, j_shared, j_frame = r.ravel(), flat(j_shared), flat(j_frame)
    kept = None
    if self.relief is not None:
      kept, *more = relief_equations(
        self.triangles,
        *frame_arguments(self.triangles, shared, vector),
        shared[-1],
        project=self.onto_maps,
        maps=maps,
      )
      r, j_shared, j_frame = (
        jnp.concatenate(pair, -1) for pair in zip((r, j_shared, j_frame), more)
      )
    r, j_frame = _with_priors(r, j_frame, self.priors(seen), vector)
    j_shared = jnp.pad(j_shared, ((0, 0), (0, len(r) - j_shared.shape[1])))
    j_shared, of_shared = apart(j_shared, j_frame[PLACE])
    j_frame, of_frame = frame_apart(j_frame)
    return (
      weights,
      kept,
      j_shared @ j_shared.T,
      j_shared @ j_frame.T,
      j_frame @ j_frame.T,
      j_shared @ r,
      j_frame @ r,
      of_shared,
      of_frame,
    )

  def step(self, carry):
    """(shared, vectors, damping), one step on, and whether it settled."""
    shared, vectors, damping = carry
    weights, kept, a, b, c, g_shared, g_frame, *shares = jax.vmap(
      functools.partial(self.frame_equations, shared)
    )(vectors, self.observed, self.maps)
    prior = functools.partial(shared_priors, camera=self.camera)
    r_prior, j_prior = prior(shared), jax.jacfwd(prior)(shared)
    a, g_shared = a.sum(0) + j_prior.T @ j_prior, g_shared.sum(0) + j_prior.T @ r_prior
    c = c + damping * jax.vmap(jnp.diag)(jnp.einsum('tpp->tp', c) + 1e-6)
    a = a + damping * jnp.diag(jnp.diag(a))
    d_shared, d_frame = _schur_step(a, b, c, g_shared, g_frame)
    d_frame = jax.vmap(
      lambda d, of_shared, of_frame: placed(placed(d, d, of_frame), d_shared, of_shared)
    )(d_frame, *shares)
    before, after = (
      self.cost(shared, vectors, weights, kept),
      self.cost(shared + d_shared, vectors + d_frame, weights, kept),
    )
    good = after < (1 + _ROUNDING) * before  # False for NaN: damping grows until it is none
    shared = jnp.where(good, shared + d_shared, shared)
    vectors = jnp.where(good, vectors + d_frame, vectors)
    small = jnp.maximum(jnp.abs(d_shared).max(), jnp.abs(d_frame).max()) < _SETTLED
    return (shared, vectors, _damped(damping, good)), good & small


def solve_jointly(
  corners: LandmarkHead,
  shared: jax.Array,
  vectors: jax.Array,
  observed: Observed,
  *,
  camera: jax.Array,
  camera_size: tuple[int, int],
  steps: int = 25,
  relief: tuple[LandmarkHead, ReliefMaps] | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Shape, focal and key frames together; the blocks of frames are eliminated by a Schur
  complement.

  Args:
    corners: the head.
    shared: [S + 1] to start from.
    vectors: [T, P] to start from.
    observed: of the T frames.
    camera: [2] the logarithm of the focal length over `FOCAL_PRIOR` heights that is expected, and
      its standard deviation.
    camera_size: height and width, pixels.
    steps: the most.
    relief: (triangles, maps of the frames) to be met as well, or None.

  Returns:
    shared [S + 1] and vectors [T, P].
  """
  joint = _Joint(corners, observed, shared[:-1], camera, camera_size, relief)
  start = shared, vectors, jnp.float32(1e-2)
  shared, vectors, _ = until_settled(joint.step, start, steps)
  return shared, vectors


def _schur_step(a, b, c, g_shared, g_frame):
  """Minus the solution of [[a, b], [b', c]]: a [S+1, S+1], blocks b [T, S+1, P] and c [T, P, P] ->
  [S+1] and [T, P]."""
  solved = eliminate(c, jnp.concatenate([b.swapaxes(1, 2), g_frame[..., None]], -1))  # [T, P, S+2]
  schur = a - jnp.einsum('tsp,tpu->su', b, solved[..., :-1])
  right = g_shared - jnp.einsum('tsp,tp->s', b, solved[..., -1])
  d_shared = -solve_positive(schur, right)
  return d_shared, -(solved[..., -1] + jnp.einsum('tpu,u->tp', solved[..., :-1], d_shared))


def _at_once(frames: int) -> int:
  """Frames to vectorise, a divisor of `frames`: all wait for the slowest, and a CPU gains nothing
  from more than four."""
  most = batching.at_once(on_cpu=4)
  return next(count for count in range(most, 0, -1) if frames % count == 0)


def solve_frames(
  corners: LandmarkHead,
  shared: jax.Array,
  vectors: jax.Array,
  observed: Observed,
  goals: jax.Array | None,
  *,
  camera_size: tuple[int, int],
  steps: int,
  damping: float = 1e-2,
) -> jax.Array:
  """Every frame by itself with the shared unknowns fixed.

  Args:
    corners: the head.
    shared: [S + 1].
    vectors: [T, P] to start from.
    observed: of the T frames.
    goals: [T, C] the `course` that each frame is drawn towards, or None.
    camera_size: height and width, pixels.
    steps: the most.
    damping: to start from.

  Returns:
    vectors [T, P].
  """

  def solve(vector, seen, goal):
    priors = functools.partial(
      frame_priors,
      shape=shared[:-1],
      goal=goal,
      head=corners.head,
      gaze=seen.gaze,
      watched=seen.watched,
    )

    def step(carry):
      vector, damping = carry
      r, _, jacobian = linearised(corners, shared, vector, seen.points, camera_size)
      weights = robust_weights(jnp.sum(r**2, 0), seen.trust, seen.scales) / seen.scales**2
      residual, jacobian = _with_priors(
        jnp.sqrt(weights) * r, jnp.sqrt(weights) * jacobian, priors, vector
      )
      jacobian, shares = frame_apart(jacobian)
      c, g = jacobian @ jacobian.T, jacobian @ residual
      delta = -solve_positive(c + damping * jnp.diag(jnp.diag(c) + 1e-6), g)
      delta = placed(delta, delta, shares)
      cost = lambda r, v: jnp.sum(weights * r**2) + jnp.sum(priors(v) ** 2)
      moved = vector + delta
      before, after = (
        cost(r, vector),
        cost(distances(corners, shared, moved, seen.points, camera_size), moved),
      )
      good = after < (1 + _ROUNDING) * before
      return (jnp.where(good, moved, vector), _damped(damping, good)), good & (
        jnp.abs(delta).max() < _SETTLED_FRAME
      )

    return until_settled(step, (vector, jnp.float32(damping)), steps)[0]

  return jax.lax.map(
    lambda a: solve(*a), (vectors, observed, goals), batch_size=_at_once(len(vectors))
  )
