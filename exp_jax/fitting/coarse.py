"""Coarse stage of the personalized head: shape, expression, pose and camera from landmarks.

Levenberg-Marquardt with robust reweighting. Per clip: shape beta and focal length f. Per frame: expression psi,
rotation of the head (shared by neck and head joint), of the torso, of the jaw and of the eyes, translation tau.

  stage 1  key frames, all unknowns together; the per-frame blocks are eliminated by a Schur complement
  stage 2  every frame with beta and f fixed, `vmap`-ed, then sweeps in which each frame is also drawn towards
           the mean of its neighbours: the temporal prior is inside the solve, not a filter behind it

Residuals are in units of their standard deviation, landmarks of 1.2 % of the inter-ocular distance.
Source: ExpPortrait sec. 3.1.2, eqs. 5 and 7; the solver after Nocedal & Wright, Numerical Optimization, ch. 10.
Letters: K landmarks, T frames, S shape, E expression, R residuals, P unknowns of one frame.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from exp_jax.errors import UserError
from exp_jax.fitting.landmark_head import inter_ocular, landmark_head, landmark_weights
from exp_jax.geometry import Camera, project
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import head_landmarks
from exp_jax.observe.observation import Observation

HEAD_TO_CAMERA = np.diag([1.0, -1.0, -1.0]).astype(np.float32)  # y-up, towards viewer -> OpenCV
FOCAL_PRIOR = 2.5                # image heights: about 23 degrees
_LANDMARK_SIGMA = 0.012          # of the inter-ocular distance
_ROBUST = 4.0                    # residuals beyond this many sigmas lose their pull
_SIGMA = dict(shape=0.7, focal=0.1, expression=0.5, range=0.08, torso=0.12, jaw_side=0.03, jaw=0.25, eyes=0.35)
_SMOOTH = dict(expression=0.06, rotation=0.02, translation=0.002)  # a frame against its neighbours' mean
_KEY_FRAMES = 8


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


def bucket(frames: int) -> int:
  """The padded length of a clip: 1, then powers of two and the middles between them."""
  sizes = [1, *(base + extra for base in 2 ** np.arange(1, 16) for extra in (0, base // 2))]
  return int(next(size for size in sizes if size >= frames))


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


def _unpack(vector: jax.Array, num_expression: int) -> dict:
  """[P] -> named unknowns of one frame."""
  parts, start = {}, 0
  for name, shape in (('expression', (num_expression,)), ('head', (3,)), ('torso', (3,)), ('jaw', (3,)),
                      ('eyes', (2, 2)), ('translation', (3,))):
    size = int(np.prod(shape))
    parts[name] = vector[start:start + size].reshape(shape)
    start += size
  return parts


def _frame_params(head: HeadModel, shape: jax.Array, vector: jax.Array) -> HeadParams:
  unknowns = _unpack(vector, head.expression_basis.shape[-1])
  return HeadParams(shape, unknowns['expression'], pose_from_unknowns(head, unknowns), unknowns['translation'])


def _distances(head, shared, vector, points, camera_size):
  """[K, 2] pixels: projected minus observed landmarks."""
  num_shape = head.shape_basis.shape[-1]
  focal = FOCAL_PRIOR * camera_size[0] * jnp.exp(shared[num_shape])
  landmarks = head_landmarks(head, _frame_params(head, shared[:num_shape], vector))
  pixels, _ = project(landmarks, make_camera(focal, camera_size))
  return pixels - points


def _frame_residuals(head, shared, vector, points, weights, scale, target, camera_size):
  """[R] residuals of one frame: landmarks (`weights` [K] holds trust and robust factors) and priors."""
  unknowns = _unpack(vector, head.expression_basis.shape[-1])
  data = jnp.sqrt(weights)[:, None] * _distances(head, shared, vector, points, camera_size) / scale
  psi = unknowns['expression']
  out_of_range = jnp.minimum(psi, 0) + jnp.maximum(psi - 1, 0)
  sigma = jnp.concatenate([jnp.full(psi.shape, _SMOOTH['expression']), jnp.full(13, _SMOOTH['rotation']),
                           jnp.full(3, _SMOOTH['translation'])])
  goal, strength = target
  return jnp.concatenate([
    data.ravel(), psi / _SIGMA['expression'], out_of_range / _SIGMA['range'],
    unknowns['torso'] / _SIGMA['torso'], unknowns['jaw'][1:] / _SIGMA['jaw_side'],
    jnp.minimum(unknowns['jaw'][:1], 0) / 0.01, unknowns['jaw'][:1] / _SIGMA['jaw'],
    unknowns['eyes'].ravel() / _SIGMA['eyes'],
    (unknowns['eyes'][0] - unknowns['eyes'][1]) / 0.1,            # both eyes look at about the same thing
    strength * (vector - goal) / sigma])


def _shared_residuals(shared):
  return jnp.concatenate([shared[:-1] / _SIGMA['shape'], shared[-1:] / _SIGMA['focal']])


def _robust_weights(distances, trust, scale):
  """Geman-McClure factors times trust, [K]; held fixed within one step (iteratively reweighted)."""
  squared = jnp.sum(distances ** 2, -1) * trust / scale ** 2
  return trust / (1 + squared / _ROBUST ** 2) ** 2


@functools.partial(jax.jit, static_argnames=('camera_size', 'steps'))
def _solve_jointly(head, shared, vectors, points, trust, scales, camera_size, steps=25):
  """Shape, focal and key frames together. vectors [T, P], points [T, K, 2], trust [T, K], scales [T]."""
  still = (jnp.zeros(vectors.shape[1]), 0.0)

  def residuals(shared, vector, points, weights, scale):
    return _frame_residuals(head, shared, vector, points, weights, scale, still, camera_size)

  def weights_of(shared, vectors):
    return jax.vmap(lambda v, p, t, s: _robust_weights(_distances(head, shared, v, p, camera_size), t, s))(
      vectors, points, trust, scales)

  def cost(shared, vectors, weights):
    frames = jax.vmap(residuals, in_axes=(None, 0, 0, 0, 0))(shared, vectors, points, weights, scales)
    return jnp.sum(frames ** 2) + jnp.sum(_shared_residuals(shared) ** 2)

  def step(carry, _):
    shared, vectors, damping = carry
    weights = weights_of(shared, vectors)
    r = jax.vmap(residuals, in_axes=(None, 0, 0, 0, 0))(shared, vectors, points, weights, scales)
    j_shared, j_frame = jax.vmap(jax.jacfwd(residuals, argnums=(0, 1)), in_axes=(None, 0, 0, 0, 0))(
      shared, vectors, points, weights, scales)                   # [T, R, S+1], [T, R, P]
    j_prior = jax.jacfwd(_shared_residuals)(shared)
    a = jnp.einsum('trs,tru->su', j_shared, j_shared) + j_prior.T @ j_prior
    b = jnp.einsum('trs,trp->tsp', j_shared, j_frame)
    c = jnp.einsum('trp,trq->tpq', j_frame, j_frame)
    c = c + damping * jax.vmap(jnp.diag)(jnp.einsum('tpp->tp', c) + 1e-6)
    a = a + damping * jnp.diag(jnp.diag(a))
    g_shared = jnp.einsum('trs,tr->s', j_shared, r) + j_prior.T @ _shared_residuals(shared)
    g_frame = jnp.einsum('trp,tr->tp', j_frame, r)
    solved = jnp.linalg.solve(c, jnp.concatenate([b.swapaxes(1, 2), g_frame[..., None]], -1))  # [T, P, S+2]
    schur = a - jnp.einsum('tsp,tpu->su', b, solved[..., :-1])
    d_shared = -jnp.linalg.solve(schur, g_shared - jnp.einsum('tsp,tp->s', b, solved[..., -1]))
    d_frame = -(solved[..., -1] + jnp.einsum('tpu,u->tp', solved[..., :-1], d_shared))
    before, after = cost(shared, vectors, weights), cost(shared + d_shared, vectors + d_frame, weights)
    good = after < before
    shared = jnp.where(good, shared + d_shared, shared)
    vectors = jnp.where(good, vectors + d_frame, vectors)
    damping = jnp.clip(jnp.where(good, damping / 3, damping * 4), 1e-6, 1e6)
    return (shared, vectors, damping), jnp.where(good, after, before)

  (shared, vectors, _), costs = jax.lax.scan(step, (shared, vectors, 1e-2), None, length=steps)
  return shared, vectors, costs


@functools.partial(jax.jit, static_argnames=('camera_size', 'steps'))
def _solve_frames(head, shared, vectors, points, trust, scales, goals, strength, camera_size, steps=8):
  """Every frame by itself with the shared unknowns fixed; vmapped LM."""

  def solve(vector, points, trust, scale, goal):
    def step(carry, _):
      vector, damping = carry
      weights = _robust_weights(_distances(head, shared, vector, points, camera_size), trust, scale)
      function = lambda v: _frame_residuals(head, shared, v, points, weights, scale, (goal, strength), camera_size)
      r, j = function(vector), jax.jacfwd(function)(vector)
      c = j.T @ j
      delta = -jnp.linalg.solve(c + damping * jnp.diag(jnp.diag(c) + 1e-6), j.T @ r)
      good = jnp.sum(function(vector + delta) ** 2) < jnp.sum(r ** 2)
      return (jnp.where(good, vector + delta, vector),
              jnp.clip(jnp.where(good, damping / 3, damping * 4), 1e-6, 1e6)), None
    (vector, _), _ = jax.lax.scan(step, (vector, 1e-2), None, length=steps)
    return vector

  return jax.lax.map(lambda a: solve(*a), (vectors, points, trust, scales, goals), batch_size=16)


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


def fit_coarse(head: HeadModel, observation: Observation, *, shape: jax.Array | None = None,
               sweeps: int = 3) -> CoarseFit:
  """Fits a clip (T >= 1 frames) to its landmarks.

  Args:
    head: a head with the 478 MediaPipe landmarks.
    observation: in crop pixels (`face_crop.crop_observation`).
    shape: [S] a known shape (the subject's other clip); None solves for it.
    sweeps: temporal sweeps of stage 2; 0 leaves frames independent.

  Raises:
    UserError: the head has no MediaPipe landmarks, or the fit does not explain the landmarks.
  """
  if head.landmark_faces.shape[0] != 478:
    raise UserError(f'the head {head.name!r} has {head.landmark_faces.shape[0]} landmarks, fitting needs the 478 '
                    'of MediaPipe; use a head with a MediaPipe embedding such as "makehuman"')
  small = landmark_head(head)
  size = observation.image_size
  num_shape, num_expression = head.shape_basis.shape[-1], head.expression_basis.shape[-1]
  count = len(observation.points)
  # repeating the last frame spares a compilation for every length of clip
  seen = observation.points[np.minimum(np.arange(bucket(count)), count - 1)]
  found = observation.found[np.minimum(np.arange(bucket(count)), count - 1)]
  points = jnp.asarray(seen)
  scales = jnp.asarray(_LANDMARK_SIGMA * _face_scale(seen))
  trust = jnp.asarray(landmark_weights()[None] * found[:, None].astype(np.float32))
  template = np.asarray(head_landmarks(small, HeadParams(
    jnp.zeros(num_shape), jnp.zeros(num_expression), jnp.zeros((len(head.parents), 3)), jnp.zeros(3))))
  vectors = jnp.asarray(np.stack([_start(head, template, p, size, num_expression) for p in seen]))
  shared = jnp.zeros(num_shape + 1)
  if shape is None:
    keys = np.unique(np.linspace(0, count - 1, min(_KEY_FRAMES, count)).round().astype(int))
    keys = np.resize(keys, _KEY_FRAMES) if count > 1 else keys  # one compilation for all clips
    shared, solved, _ = _solve_jointly(small, shared, vectors[keys], points[keys], trust[keys], scales[keys], size)
    vectors = vectors.at[keys].set(solved)
  else:
    shared = shared.at[:num_shape].set(shape)
  if count > 1 or shape is not None:
    vectors = _solve_frames(small, shared, vectors, points, trust, scales, vectors, 0.0, size, steps=14)
    for _ in range(sweeps if count > 2 else 0):
      padded = jnp.concatenate([vectors[:1], vectors, vectors[-1:]])
      goals = (padded[:-2] + padded[2:]) / 2
      vectors = _solve_frames(small, shared, vectors, points, trust, scales, goals, 1.0, size, steps=4)
  vectors, points, scales = vectors[:count], points[:count], scales[:count]
  distances = jax.vmap(lambda v, p: _distances(small, shared, v, p, size))(vectors, points)
  error = jnp.sqrt(jnp.mean(jnp.sum(distances[:, :468] ** 2, -1), -1)) * _LANDMARK_SIGMA / scales
  unknowns = jax.vmap(lambda v: _unpack(v, num_expression))(vectors)
  fit = CoarseFit(shape=shared[:num_shape], expression=unknowns['expression'],
                  pose=jax.vmap(lambda u: pose_from_unknowns(head, u))(unknowns),
                  translation=unknowns['translation'], focal=FOCAL_PRIOR * size[0] * jnp.exp(shared[-1]),
                  error=error, image_size=size)
  typical = float(jnp.median(error))
  if not np.isfinite(typical) or typical > 0.15:
    raise UserError(f'the head model does not explain the landmarks (error {100 * typical:.0f} % of the eye '
                    'distance); is this a human face seen from the front half?')
  return fit


def landmark_trust(head: HeadModel, fit: CoarseFit, points: np.ndarray) -> jax.Array:
  """[T, 478] 0..1: how well the fit explains each landmark; what it does not, the solver left out too.

  Args:
    points: [T, 478, 2] the observed ones, pixels of fit.image_size.
  """
  small = landmark_head(head)
  scales = jnp.asarray(_LANDMARK_SIGMA * _face_scale(np.asarray(points)))

  def one(expression, pose, translation, seen, scale):
    params = HeadParams(fit.shape, expression, pose, translation)
    pixels, _ = project(head_landmarks(small, params), fit.camera())
    return _robust_weights(pixels - seen, jnp.ones(len(seen)), scale)

  return jax.vmap(one)(fit.expression, fit.pose, fit.translation, jnp.asarray(points), scales)


def _face_scale(points: np.ndarray) -> np.ndarray:
  """[T] pixels: inter-ocular distance, held up by the face's height where a turned head foreshortens it."""
  height = np.linalg.norm(points[:, 10] - points[:, 152], axis=-1)
  return np.maximum(inter_ocular(points), 0.45 * height).astype(np.float32)


def _start(head, template, points, size, num_expression):
  """[P] first guess of one frame; the solver's first steps settle the rest."""
  skin, focal = slice(0, 468), FOCAL_PRIOR * size[0]              # irises turn with the eyes
  rotation = initial_rotation(template[skin], points[skin])
  joint = np.asarray(head.joint_template)[list(head.joint_names).index('head')]
  mean = rotation @ (template[skin].mean(0) - joint) + joint      # the head turns about its joint
  height = np.linalg.norm((rotation @ (template[10] - template[152]))[:2])
  depth = focal * max(height, 1e-3) / max(np.linalg.norm(points[10] - points[152]), 1e-3)
  center = points[skin].mean(0)
  translation = np.array([(center[0] - size[1] / 2) * depth / focal, -(center[1] - size[0] / 2) * depth / focal,
                          -depth]) - mean
  rotvec = Rotation.from_matrix(rotation).as_rotvec()
  return np.concatenate([np.zeros(num_expression), rotvec, np.zeros(3), np.array([0.02, 0, 0]), np.zeros(4),
                         translation]).astype(np.float32)
