"""Solver of the coarse stage: Levenberg-Marquardt with robust reweighting, all of it one program.

  stage 1  key frames, all unknowns together; the per-frame blocks are eliminated by a Schur complement. Where
           normals were estimated, the face is then registered to their maps and those of depth as well (`relief`)
  stage 2  every frame with beta and f fixed, then sweeps in which each frame is also drawn towards the mean of
           its neighbours: the temporal prior is inside the solve, not a filter behind it. It acts on what is seen to
           move: expression, jaw, eyes, and the head's rotation and place in the camera, however torso, neck and
           translation share them; the torso is a course of its own, so that the share does not wander

Residuals are in units of their standard deviation, landmarks of 1.2 % of the inter-ocular distance. Shared unknowns
[S + 1] are shape and the logarithm of the focal length over its prior; those of a frame [P] are named by `unpack`.
Source: ExpPortrait sec. 3.1.2, eqs. 5 and 7; the solver after Nocedal & Wright, Numerical Optimization, ch. 10.
Letters: K landmarks, T frames, S shape, E expression, R residuals, P unknowns of one frame, M triangles.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.fitting.landmark_jacobian import landmark_points, linearise
from exp_jax.fitting.relief import ReliefMaps, relief_cost, relief_equations
from exp_jax.geometry import Camera, project
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import joint_transforms

HEAD_TO_CAMERA = np.diag([1.0, -1.0, -1.0]).astype(np.float32)  # y-up, towards viewer -> OpenCV
FOCAL_PRIOR = 2.5                # image heights: about 23 degrees
FOCAL_SPREAD, FOCAL_KNOWN = 0.1, 1e-3  # standard deviations of its logarithm, not known and known
LANDMARK_SIGMA = 0.012          # of the inter-ocular distance
_ROBUST = 4.0                    # residuals beyond this many sigmas lose their pull
_SIGMA = dict(shape=0.7, expression=0.5, range=0.08, torso=0.12, jaw_side=0.03, jaw=0.25, eyes=0.35, gaze=0.05)
_SMOOTH = dict(expression=0.06, rotation=0.02, place=0.002)  # a frame against its neighbours' mean
KEY_FRAMES = 8
_RELIEF_STEPS = 40
_SETTLED, _SETTLED_FRAME = 1e-4, 1e-3  # a step in which no unknown changes by more is the last; frames converge faster
_ROUNDING = 2e-6                 # share by which float32 may tell the cost wrong


@flax.struct.dataclass
class CoarseFit:
  """Result of `fit_coarse`; all in the crop's pixels and the head's frame (y-up, metres)."""
  shape: jax.Array         # [S]
  expression: jax.Array    # [T, E]
  pose: jax.Array          # [T, J, 3]
  translation: jax.Array   # [T, 3]
  focal: jax.Array         # [] pixels
  error: jax.Array         # [T] root mean square landmark distance, share of the inter-ocular distance
  image_size: tuple[int, int] = flax.struct.field(pytree_node=False)

  def camera(self) -> Camera:
    """The clip's one camera: at the origin of the head's frame, looking down its -z."""
    return make_camera(self.focal, self.image_size)

  def params(self, frame) -> HeadParams:
    """HeadParams of one frame (an int) or, with slice(None), of all with a leading [T] on all but shape."""
    return HeadParams(self.shape, self.expression[frame], self.pose[frame], self.translation[frame])


def make_camera(focal: jax.Array, image_size: tuple[int, int]) -> Camera:
  """A camera at the origin with equal focal lengths and its axis through the image centre."""
  height, width = image_size
  return Camera(rotation=jnp.asarray(HEAD_TO_CAMERA), translation=jnp.zeros(3),
                focal=jnp.stack([focal, focal]), center=jnp.array([width / 2, height / 2]),
                image_size=image_size)


def pose_from_unknowns(head: HeadModel, unknowns: dict) -> jax.Array:
  """[J, 3] axis-angle: the head's rotation is shared by neck and head, both eyes turn about x and y."""
  index = {name: i for i, name in enumerate(head.joint_names)}
  pose = jnp.zeros((len(head.joint_names), 3))
  pose = pose.at[0].set(unknowns['torso'])
  pose = pose.at[index['neck']].set(0.5 * unknowns['head']).at[index['head']].set(0.5 * unknowns['head'])
  pose = pose.at[index['jaw']].set(unknowns['jaw'])
  for i, name in enumerate(('left_eye', 'right_eye')):
    pose = pose.at[index[name], :2].set(unknowns['eyes'][i])
  return pose


_MOTION = (('head', (3,)), ('torso', (3,)), ('jaw', (3,)), ('eyes', (2, 2)), ('translation', (3,)))
_PLACE = np.r_[-16:-13, -3:0]    # head and translation among the unknowns of a frame


def unpack(vector: jax.Array) -> dict:
  """[..., P] -> named unknowns of one frame: expression first, then _MOTION."""
  sizes = [int(np.prod(shape)) for _, shape in _MOTION]
  start = vector.shape[-1] - sum(sizes)
  parts = {'expression': vector[..., :start]}
  for (name, shape), size in zip(_MOTION, sizes):
    parts[name] = vector[..., start:start + size].reshape(*vector.shape[:-1], *shape)
    start += size
  return parts


def _pixels(points, log_focal, camera_size):
  """[3, K] in the head's frame -> [2, K] pixels."""
  return project(points.T, make_camera(FOCAL_PRIOR * camera_size[0] * jnp.exp(log_focal), camera_size))[0].T


def _params(corners, shared, vector):
  unknowns = unpack(vector)
  return HeadParams(shared[:-1], unknowns['expression'], pose_from_unknowns(corners.head, unknowns),
                    unknowns['translation'])


def _distances(corners, shared, vector, points, camera_size):
  """[2, K] pixels: projected minus observed landmarks."""
  return _pixels(landmark_points(corners, _params(corners, shared, vector)), shared[-1], camera_size) - points


def _linearised(corners, shared, vector, points, camera_size):
  """Distances [2, K] and their Jacobians by shape and focal [S + 1, 2, K] and by the frame [P, 2, K]."""
  params = _params(corners, shared, vector)
  pixels, shape, focal, expression, motion = linearise(
    corners, params, functools.partial(_pose_of, corners.head), vector[len(params.expression):], shared[-1],
    functools.partial(_pixels, camera_size=camera_size))
  return pixels - points, jnp.concatenate([shape, focal[None]]), jnp.concatenate([expression, motion])


def course(head, shape, vector):
  """[C] what the temporal prior compares between frames, each in standard deviations of `_SMOOTH`.

  Expression, torso, jaw and eyes, the head's rotation matrix in the camera over sqrt(2), which measures its angle, and where
  its joint is carried.
  """
  unknowns, head_joint = unpack(vector), head.joint('head')
  carried = _transforms(head, shape, unknowns)[head_joint]
  joint = head.joint_template[head_joint] + head.joint_shape[head_joint] @ shape
  angles = [unknowns[name].ravel() for name in ('torso', 'jaw', 'eyes')] + [carried[:3, :3].ravel() / np.sqrt(2)]
  return jnp.concatenate([unknowns['expression'] / _SMOOTH['expression'], jnp.concatenate(angles) / _SMOOTH['rotation'],
                          (carried[:3, :3] @ joint + carried[:3, 3]) / _SMOOTH['place']])


def _priors(vector, shape, goal, *, head, gaze, watched):
  """[R] what one frame is expected to be, in standard deviations.

  `goal` [C] is the `course` it is drawn towards, None: none; where `watched` [] is 1 the eyes look along `gaze` [2, 3].
  """
  unknowns = unpack(vector)
  psi = unknowns['expression']
  out_of_range = jnp.minimum(psi, 0) + jnp.maximum(psi - 1, 0)
  temporal = [] if goal is None else [course(head, shape, vector) - goal]
  return jnp.concatenate([
    psi / _SIGMA['expression'], out_of_range / _SIGMA['range'],
    unknowns['torso'] / _SIGMA['torso'], unknowns['jaw'][1:] / _SIGMA['jaw_side'],
    jnp.minimum(unknowns['jaw'][:1], 0) / 0.01, unknowns['jaw'][:1] / _SIGMA['jaw'],
    unknowns['eyes'].ravel() / _SIGMA['eyes'],
    (unknowns['eyes'][0] - unknowns['eyes'][1]) / 0.1,            # both eyes look at about the same thing
    *temporal, watched * (_gaze(head, shape, unknowns) - gaze).ravel() / _SIGMA['gaze']])


def _transforms(head, shape, unknowns):
  """[J, 4, 4] rest-relative transforms of the joints, expression aside."""
  params = HeadParams(shape, jnp.zeros(head.expression_basis.shape[-1]), pose_from_unknowns(head, unknowns), unknowns['translation'])
  return joint_transforms(head, params)


def _gaze(head, shape, unknowns):
  """[2, 3] where left and right eye look, in the head's frame, which is that of `Observation.gaze`."""
  eyes = jnp.array([head.joint(name) for name in ('left_eye', 'right_eye')])
  return _transforms(head, shape, unknowns)[eyes, :3, 2]           # at rest they look along z


def _shared_priors(shared, camera):
  return jnp.concatenate([shared[:-1] / _SIGMA['shape'], (shared[-1:] - camera[0]) / camera[1]])


def robust_weights(squared, trust, scale):
  """Geman-McClure factors times trust, [K], of squared distances [K]; held fixed within one step (reweighting)."""
  return trust / (1 + squared * trust / scale ** 2 / _ROBUST ** 2) ** 2


def _relief_arguments(triangles, shared, vector):
  """What `relief_equations` takes after the triangles, of one frame."""
  params = _params(triangles, shared, vector)
  return params, functools.partial(_pose_of, triangles.head), vector[len(params.expression):]


def _pose_of(head, motion):
  unknowns = unpack(motion)
  return pose_from_unknowns(head, unknowns), unknowns['translation']


def _with_priors(residual, jacobian, function, vector):
  """[...], [P, ...] of the data and residuals of a frame's priors -> both as [R], [P, R]."""
  flat = jacobian.reshape(len(jacobian), -1)
  return jnp.concatenate([residual.ravel(), function(vector)]), jnp.concatenate([flat, jax.jacfwd(function)(vector).T], 1)


def _apart(jacobian, leading):
  """What unknowns [B, R] do apart from what placing the head [6, R] could do as well, and the shares [B, 6] taken away.

  Torso, jaw, the neck's length within the shape and the focal length carry or scale the whole face. In the normal
  equations such columns all but cancel, and float32 has few digits left for the rest: unknowns would differ by
  thousandths with the order of its sums (many clips at once, or one). This is a change of unknowns, whose own rounding
  does no harm; `_placed` takes the steps back.
  """
  gram = leading @ leading.T
  shares = jacobian @ leading.T @ _eliminate(gram + 1e-6 * jnp.diag(jnp.diag(gram) + 1), jnp.eye(len(leading)))
  return jacobian - shares @ leading, shares


def _frame_apart(jacobian):
  """`_apart` of a frame's [P, R] from the six of its unknowns that place the head, which are left as they are."""
  leading = jacobian[_PLACE]
  rest, shares = _apart(jacobian, leading)
  return rest.at[_PLACE].set(leading), shares.at[_PLACE].set(0)


def _placed(delta, moved, shares):
  """Step [P] in a frame's own unknowns, of one with `moved` [B] apart from it as by `_apart`, shares [B, 6]."""
  return delta.at[_PLACE].add(-moved @ shares)


def _solve_positive(matrix, right):
  """[..., P, P] symmetric and positive definite, [..., P] -> [..., P]."""
  return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right[..., None])[..., 0]


def _eliminate(matrix, right):
  """The same for many right-hand sides [..., P, B], by Gauss-Jordan elimination.

  LAPACK's triangular solver starts threads for these, which on a busy machine cost a hundred times the work.
  """
  def step(i, table):
    row = jax.lax.dynamic_index_in_dim(table, i, -2)
    row = row / jax.lax.dynamic_index_in_dim(row, i, -1)
    column = jax.lax.dynamic_index_in_dim(table, i, -1)
    return table - (column - (jnp.arange(table.shape[-2]) == i)[:, None]) * row

  # metres beside blendshape weights: unit diagonals keep float32 exact enough
  scale = jax.lax.rsqrt(jnp.einsum('...pp->...p', matrix))[..., None]
  table = jnp.concatenate([scale * matrix * scale.swapaxes(-1, -2), scale * right], -1)
  return scale * jax.lax.fori_loop(0, matrix.shape[-1], step, table)[..., matrix.shape[-1]:]


def _until_settled(step, start, steps):
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


def _solve_jointly(corners, shared, camera, vectors, points, trust, scales, gaze, watched, camera_size, steps=25, relief=None):
  """Shape, focal and key frames together. vectors [T, P], points [T, 2, K], trust [T, K], scales [T].

  camera: [2] the logarithm of the focal length over `FOCAL_PRIOR` heights that is expected, and its standard deviation.
  relief: (triangles, `ReliefMaps` of the frames) to be met as well, or None.
  """
  priors_of = lambda gaze, watched: functools.partial(
    _priors, shape=shared[:-1], goal=None, head=corners.head, gaze=gaze, watched=watched)

  triangles, maps = (None, None) if relief is None else relief
  share = 1.0 if relief is None else maps.believed.shape[-1] / camera_size[1]
  onto_maps = lambda points, log_focal: share * _pixels(points, log_focal, camera_size)

  def cost(shared, vectors, weights, kept):
    data = jax.vmap(lambda v, p: _distances(corners, shared, v, p, camera_size))(vectors, points)
    bend = 0.0
    if relief is not None:
      bend = jax.vmap(lambda v, m, w: relief_cost(
        triangles, _params(triangles, shared, v), lambda p: onto_maps(p, shared[-1]), m, w))(vectors, maps, kept).sum()
    return (bend + jnp.sum(weights[:, None] * (data / scales[:, None, None]) ** 2)
            + jnp.sum(jax.vmap(lambda v, g, w: priors_of(g, w)(v))(vectors, gaze, watched) ** 2)
            + jnp.sum(_shared_priors(shared, camera) ** 2))

  def step(carry):
    shared, vectors, damping = carry

    def frame(vector, points, trust, scale, gaze, watched, maps):
      r, j_shared, j_frame = _linearised(corners, shared, vector, points, camera_size)
      weights = robust_weights(jnp.sum(r ** 2, 0), trust, scale)
      root = jnp.sqrt(weights) / scale
      r, j_shared, j_frame = root * r, root * j_shared, root * j_frame
      flat = lambda j: j.reshape(len(j), -1)
      r, j_shared, j_frame = r.ravel(), flat(j_shared), flat(j_frame)
      kept = None
      if relief is not None:
        kept, *more = relief_equations(
          triangles, *_relief_arguments(triangles, shared, vector), shared[-1], onto_maps, maps)
        r, j_shared, j_frame = (jnp.concatenate(pair, -1) for pair in zip((r, j_shared, j_frame), more))
      r, j_frame = _with_priors(r, j_frame, priors_of(gaze, watched), vector)
      j_shared = jnp.pad(j_shared, ((0, 0), (0, len(r) - j_shared.shape[1])))
      j_shared, of_shared = _apart(j_shared, j_frame[_PLACE])
      j_frame, of_frame = _frame_apart(j_frame)
      return (weights, kept, j_shared @ j_shared.T, j_shared @ j_frame.T, j_frame @ j_frame.T, j_shared @ r, j_frame @ r,
              of_shared, of_frame)

    weights, kept, a, b, c, g_shared, g_frame, *shares = jax.vmap(frame)(vectors, points, trust, scales, gaze, watched, maps)
    prior = functools.partial(_shared_priors, camera=camera)
    r_prior, j_prior = prior(shared), jax.jacfwd(prior)(shared)
    a, g_shared = a.sum(0) + j_prior.T @ j_prior, g_shared.sum(0) + j_prior.T @ r_prior
    c = c + damping * jax.vmap(jnp.diag)(jnp.einsum('tpp->tp', c) + 1e-6)
    a = a + damping * jnp.diag(jnp.diag(a))
    solved = _eliminate(c, jnp.concatenate([b.swapaxes(1, 2), g_frame[..., None]], -1))   # [T, P, S+2]
    schur = a - jnp.einsum('tsp,tpu->su', b, solved[..., :-1])
    right = g_shared - jnp.einsum('tsp,tp->s', b, solved[..., -1])
    d_shared = -_solve_positive(schur, right)
    d_frame = -(solved[..., -1] + jnp.einsum('tpu,u->tp', solved[..., :-1], d_shared))
    d_frame = jax.vmap(lambda d, of_shared, of_frame: _placed(_placed(d, d, of_frame), d_shared, of_shared))(d_frame, *shares)
    before, after = cost(shared, vectors, weights, kept), cost(shared + d_shared, vectors + d_frame, weights, kept)
    good = after < (1 + _ROUNDING) * before                       # False for NaN: damping grows until it is none
    shared = jnp.where(good, shared + d_shared, shared)
    vectors = jnp.where(good, vectors + d_frame, vectors)
    small = jnp.maximum(jnp.abs(d_shared).max(), jnp.abs(d_frame).max()) < _SETTLED
    return (shared, vectors, _damped(damping, good)), good & small

  shared, vectors, _ = _until_settled(step, (shared, vectors, jnp.float32(1e-2)), steps)
  return shared, vectors


def _at_once(frames: int) -> int:
  """Frames to vectorise, a divisor of `frames`: all wait for the slowest, and a CPU gains nothing from more than four."""
  most = 4 if jax.default_backend() == 'cpu' else 16
  return next(count for count in range(most, 0, -1) if frames % count == 0)


def _solve_frames(corners, shared, vectors, points, trust, scales, gaze, watched, goals, camera_size, steps,
                  damping=1e-2):
  """Every frame by itself with the shared unknowns fixed, drawn towards goals [T, C] or, for None, nothing; vmapped LM."""

  def solve(vector, points, trust, scale, gaze, watched, goal):
    priors = functools.partial(_priors, shape=shared[:-1], goal=goal, head=corners.head, gaze=gaze, watched=watched)

    def step(carry):
      vector, damping = carry
      r, _, jacobian = _linearised(corners, shared, vector, points, camera_size)
      weights = robust_weights(jnp.sum(r ** 2, 0), trust, scale) / scale ** 2
      residual, jacobian = _with_priors(jnp.sqrt(weights) * r, jnp.sqrt(weights) * jacobian, priors, vector)
      jacobian, shares = _frame_apart(jacobian)
      c, g = jacobian @ jacobian.T, jacobian @ residual
      delta = -_solve_positive(c + damping * jnp.diag(jnp.diag(c) + 1e-6), g)
      delta = _placed(delta, delta, shares)
      cost = lambda r, v: jnp.sum(weights * r ** 2) + jnp.sum(priors(v) ** 2)
      moved = vector + delta
      before, after = cost(r, vector), cost(_distances(corners, shared, moved, points, camera_size), moved)
      good = after < (1 + _ROUNDING) * before
      return (jnp.where(good, moved, vector), _damped(damping, good)), good & (jnp.abs(delta).max() < _SETTLED_FRAME)

    return _until_settled(step, (vector, jnp.float32(damping)), steps)[0]

  return jax.lax.map(lambda a: solve(*a), (vectors, points, trust, scales, gaze, watched, goals), batch_size=_at_once(len(vectors)))


@flax.struct.dataclass
class ClipData:
  """One clip, padded; what differs from subject to subject."""

  points: jax.Array        # [T, 2, K]
  trust: jax.Array         # [T, K]
  scales: jax.Array        # [T] pixels of one standard deviation
  gaze: jax.Array          # [T, 2, 3]
  watched: jax.Array       # [T] 1 where gaze was seen
  vectors: jax.Array       # [T, P] first guess
  shape: jax.Array         # [S] to start from, or to keep
  log_focal: jax.Array     # [] logarithm of focal length over `FOCAL_PRIOR` heights, to start from or to keep
  camera: jax.Array        # [2] what is expected of it, and the standard deviation
  relief: ReliefMaps | None  # [8, h, w] of the key frames; None: no normals were estimated
  keys: jax.Array          # [8] frames that shape and focal length are found from; [1] for a picture


@functools.partial(jax.jit, static_argnames=('camera_size', 'known', 'sweeps', 'at_once'))
def solve(corners, triangles, clips, camera_size, known, sweeps, at_once):
  """The whole stage for clips [C, ...] in one program. known: shape and focal length are kept; a picture needs no stage 2."""

  def one(clip):
    shared, vectors, frames = jnp.append(clip.shape, clip.log_focal), clip.vectors, len(clip.points)
    data = (clip.points, clip.trust, clip.scales, clip.gaze, clip.watched)
    if not known:
      keyed = [each[clip.keys] for each in (vectors, *data)]
      shared, solved = _solve_jointly(corners, shared, clip.camera, *keyed, camera_size)
      if clip.relief is not None:
        shared, solved = _solve_jointly(corners, shared, clip.camera, solved, *keyed[1:], camera_size, steps=_RELIEF_STEPS,
                                        relief=(triangles, clip.relief))
      vectors = vectors.at[clip.keys].set(solved)
    if known or frames > 1:
      vectors = _solve_frames(corners, shared, vectors, *data, None, camera_size, steps=14)

    def sweep(vectors, _):
      courses = jax.vmap(functools.partial(course, corners.head, shared[:-1]))(vectors)
      padded = jnp.concatenate([courses[:1], courses, courses[-1:]])
      goals = (padded[:-2] + padded[2:]) / 2
      return _solve_frames(corners, shared, vectors, *data, goals, camera_size, steps=2, damping=1e-4), None

    vectors, _ = jax.lax.scan(sweep, vectors, None, length=sweeps if frames > 2 else 0)
    distances = jax.vmap(lambda v, p: _distances(corners, shared, v, p, camera_size))(vectors, clip.points)
    error = jnp.sqrt(jnp.mean(jnp.sum(distances[..., :468] ** 2, 1), -1)) * LANDMARK_SIGMA / clip.scales
    unknowns = unpack(vectors)
    pose = jax.vmap(lambda u: pose_from_unknowns(corners.head, u))(unknowns)
    return CoarseFit(shape=shared[:-1], expression=unknowns['expression'], pose=pose, translation=unknowns['translation'],
                     focal=FOCAL_PRIOR * camera_size[0] * jnp.exp(shared[-1]), error=error, image_size=camera_size)

  return jax.lax.map(one, clips, batch_size=at_once)
