"""Offset stage: static and dynamic vertex offsets of the dense head, through the rasterizer, by Adam.

The coarse fit explains the landmarks; hair, clothes, the outline and fine shape are offsets in the rest pose:

  rest(i) = U canonical(beta, psi_i, Theta_i) + static + face * dynamic_i         ExpPortrait eqs. 2-4
  loss    = landmarks + normals + silhouette + magnitude + Laplacian + zero mean + temporal     eqs. 5-7

Static offsets are damped on the face by `epsilon` when there is only one picture (sec. 3.1.1), start along the
normal where hair and clothes are expected (sec. 3.1.3), and after the fit take over the mean of the dynamic ones.
Offsets are optimised as a smoothed field, S raw with S a few rounds of neighbour averaging: steps of Adam then
move regions instead of single vertices (after Nicolet et al., Large Steps in Inverse Rendering, 2021).
The whole stage is one compiled program. Letters: T frames, B frames a step, N dense vertices, h, w maps.
"""

import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from exp_jax.fitting.coarse import CoarseFit, make_camera
from exp_jax.fitting.landmark_head import landmark_weights
from exp_jax.geometry import clip_coordinates, project
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import Dense, densify, laplacian, lift, rest_vertices
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import joint_transforms, pose_vertices
from exp_jax.rendering import Topology, antialias, interpolate, rasterize

_CENTIMETRE = 0.01
_LIMIT = 0.05  # metres; no hair style needs more of the scalp, longer hair is not the head model's


@dataclasses.dataclass(frozen=True)
class OffsetOptions:
  """Weights of the energies (spec sec. 3) and the schedule; hashable, because it is compiled in."""
  steps: int = 160
  batch: int = 4
  learning_rate: float = 5e-4       # metres
  smoothing: int = 6
  landmarks: float = 10.0
  normals: float = 1.0
  silhouette: float = 1.0
  magnitude_static: float = 1e-3
  magnitude_face: float = 1e-2      # static offsets inside the face
  magnitude_dynamic: float = 2.5e-2
  laplacian: float = 1.0
  zero_mean: float = 1e-2
  temporal: float = 1e-2
  dynamic: bool = True              # False, or one frame: static only


@flax.struct.dataclass
class Targets:
  """What the rendered maps are compared with, [T, h, w]; absent estimates have weight 0 everywhere."""
  normals: jax.Array           # [T, h, w, 3] unit, head frame seen by the camera (x right, y up, z to viewer)
  normal_weights: jax.Array    # [T, h, w]
  matte: jax.Array             # [T, h, w] in 0..1
  matte_weights: jax.Array     # [T, h, w]


@flax.struct.dataclass
class OffsetFit:
  """static [N, 3], dynamic [T, N, 3] metres; losses [steps, terms] in the order of `LOSS_TERMS`."""
  static: jax.Array
  dynamic: jax.Array
  losses: jax.Array


LOSS_TERMS = ('landmarks', 'normals', 'silhouette', 'regularizers')


def make_targets(matte: np.ndarray | None, points: np.ndarray, size: int, *, normals: np.ndarray | None = None,
                 normal_weights: np.ndarray | None = None) -> Targets:
  """Scales observed maps to size x size.

  Args:
    matte: [T, H, W] uint8 or None. Below the chin it speaks of clothes, not of the head, and is not compared.
    points: [T, 478, 2] landmarks in pixels of the H x W frame.
    normals: [T, size, size, 3] or None, with weights [T, size, size].
  """
  count = len(points)
  empty = np.zeros((count, size, size), np.float32)
  if matte is None:
    target, weights = empty, empty
  else:
    height, width = matte.shape[1:]
    step = np.arange(size)
    rows, columns = (step + 0.5) * height / size, (step + 0.5) * width / size
    target = matte[:, rows.astype(int)][:, :, columns.astype(int)].astype(np.float32) / 255
    chin = points[:, 152, 1][:, None, None] * size / height
    weights = np.broadcast_to(np.clip((chin - step[:, None]) / 6, 0, 1), target.shape).astype(np.float32)
  return Targets(normals=jnp.asarray(np.zeros((*empty.shape, 3), np.float32) if normals is None else normals),
                 normal_weights=jnp.asarray(empty if normal_weights is None else normal_weights),
                 matte=jnp.asarray(target), matte_weights=jnp.asarray(weights))


_SINGLE_FACE, _SINGLE_REST = 0.1, 0.03  # how far one picture is believed on the face, and off face and scalp


def static_mask(dense: Dense, num_frames: int) -> jax.Array:
  """[N, 1]: where static offsets may act: not on eyes and teeth, and where a single picture says little, little.

  The outline of one picture is that of hair and clothes as well: it may move the scalp, hardly ears and neck.
  """
  region = lambda name: jnp.clip(dense.regions.get(name, jnp.zeros(dense.coarse_ids.shape[0])), 0, 1)
  mask = jnp.ones(dense.coarse_ids.shape[0])
  if num_frames == 1:
    mask = jnp.maximum(jnp.maximum(region('scalp'), _SINGLE_FACE * region('face')), _SINGLE_REST)
    mask = smooth(dense, mask[:, None], 12)[:, 0]
  for name in ('eyeballs', 'teeth', 'tongue', 'inner_mouth'):
    mask = mask * (1 - region(name))
  return mask[:, None]


def initial_static(dense: Dense, rest: jax.Array) -> jax.Array:
  """[N, 3]: outward 8 mm on the scalp and 4 mm on clothes. Source: spec sec. 2.1.9."""
  depth = 0.008 * dense.regions['scalp'] + 0.004 * dense.regions.get('clothing', 0)
  return depth[:, None] * vertex_normals(rest, dense.faces)


def smooth(dense: Dense, field: jax.Array, rounds: int) -> jax.Array:
  """[N, 3]: `rounds` half-steps towards the mean of the neighbours."""
  for _ in range(rounds):
    field = field + 0.5 * laplacian(dense, field)
  return field


def _render(vertices, camera, topology, size):
  """Normals [h, w, 3] and coverage [h, w] with antialiased outline."""
  clip = clip_coordinates(vertices, camera)
  fragments = rasterize(clip, topology, size)
  normals = interpolate(vertex_normals(vertices, topology.faces), clip, topology, fragments)
  length = jnp.sqrt(jnp.maximum(jnp.sum(normals ** 2, -1, keepdims=True), 1e-12))
  maps = jnp.concatenate([normals / length, (fragments.face_id >= 0)[..., None].astype(jnp.float32)], -1)
  maps = antialias(maps, clip, topology, fragments)
  return maps[..., :3], maps[..., 3]


def _frame_losses(vertices, head, camera, topology, points, weights, target):
  """[3] landmarks, normals, silhouette of one posed frame [N, 3]."""
  corners = vertices[head.faces[head.landmark_faces]]             # coarse vertices lead the dense ones
  pixels, _ = project(jnp.einsum('kcd,kc->kd', corners, head.landmark_barycentric), camera)
  half = camera.image_size[0] / 2
  landmarks = jnp.sum(weights * jnp.sum(((pixels - points) / half) ** 2, -1)) / jnp.maximum(weights.sum(), 1e-6)
  small = target.matte.shape
  scaled = camera.replace(focal=camera.focal * small[0] / camera.image_size[0],
                          center=camera.center * small[0] / camera.image_size[0], image_size=small)
  normals, coverage = _render(vertices, scaled, topology, small)
  difference = jnp.abs(normals - target.normals).sum(-1)
  normal = jnp.sum(target.normal_weights * coverage * difference) / jnp.maximum(target.normal_weights.sum(), 1)
  silhouette = jnp.sum(target.matte_weights * jnp.abs(coverage - target.matte)) / jnp.maximum(
    target.matte_weights.sum(), 1)
  return jnp.stack([landmarks, normal, silhouette])


@functools.partial(jax.jit, static_argnames=('options', 'image_size'))
def _optimise(head, dense, coarse, topology, params, focal, image_size, points, weights, targets, static, rng, options):
  num_frames = len(points)
  masks = static_mask(dense, num_frames)
  face = (dense.regions['face'] * (1 - dense.regions['eyeballs']))[:, None]
  moving = options.dynamic and num_frames > 1
  camera = make_camera(focal, image_size)
  start = static

  def fields(raw):
    # One picture has no evidence for detail: its field lives on the coarse mesh and is smoother.
    field = (lift(dense, smooth(coarse, raw['static'], 2 * options.smoothing)) if num_frames == 1
             else smooth(dense, raw['static'], options.smoothing))
    limited = start + field * masks
    length = jnp.sqrt(jnp.sum(limited ** 2, -1, keepdims=True) + 1e-12)
    static = limited * jnp.minimum(1, _LIMIT / length)
    dynamic = jax.vmap(lambda d: smooth(dense, d, options.smoothing))(raw['dynamic']) * face if moving else (
      jnp.zeros((num_frames, 1, 3)))
    return static, dynamic

  def loss_fn(raw, frames):
    static, dynamic = fields(raw)

    def one(frame):
      pose = jax.tree.map(lambda a: a[frame], params)
      rest = rest_vertices(head, dense, pose, static, dynamic[frame])
      vertices = pose_vertices(rest, dense.weights, joint_transforms(head, pose))
      return _frame_losses(vertices, head, camera, topology, points[frame], weights[frame],
                           jax.tree.map(lambda a: a[frame], targets))

    data = jnp.mean(jax.lax.map(one, frames), 0)
    scaled = static / _CENTIMETRE
    inside = options.magnitude_face * face + options.magnitude_static * (1 - face)
    regularizer = jnp.mean(jnp.sum(inside * scaled ** 2, -1))
    regularizer += options.laplacian * jnp.mean(jnp.sum(laplacian(dense, scaled - start / _CENTIMETRE) ** 2, -1))
    if moving:
      d = dynamic / _CENTIMETRE
      regularizer += options.magnitude_dynamic * jnp.mean(jnp.sum(d ** 2, -1))
      regularizer += options.laplacian * jnp.mean(jax.lax.map(
        lambda frame: jnp.mean(jnp.sum(laplacian(dense, d[frame]) ** 2, -1)), frames))
      regularizer += options.zero_mean * jnp.mean(jnp.sum(jnp.mean(d, 0) ** 2, -1))
      regularizer += options.temporal * jnp.mean(jnp.sum((d[1:] - d[:-1]) ** 2, -1))
    weights_ = jnp.array([options.landmarks, options.normals, options.silhouette])
    return jnp.sum(weights_ * data) + regularizer, jnp.append(data, regularizer)

  schedule = optax.cosine_decay_schedule(options.learning_rate, options.steps, alpha=0.1)
  tx = optax.adam(schedule)
  free = static.shape if num_frames > 1 else coarse.coarse_ids.shape
  raw = {'static': jnp.zeros(free), 'dynamic': jnp.zeros((num_frames if moving else 1, *static.shape))}

  def step(carry, i):
    raw, state = carry
    key = jax.random.fold_in(rng, i)
    frames = jax.random.permutation(key, num_frames)[:min(options.batch, num_frames)]
    grads, losses = jax.grad(loss_fn, has_aux=True)(raw, frames)
    updates, state = tx.update(grads, state)
    # Static first: the dynamic field only explains what the average geometry cannot (sec. 3.1.3).
    updates['dynamic'] = jnp.where(i < options.steps // 3, 0, updates['dynamic'])
    return (optax.apply_updates(raw, updates), state), losses

  (raw, _), losses = jax.lax.scan(step, (raw, tx.init(raw)), jnp.arange(options.steps))
  static, dynamic = fields(raw)
  mean = jnp.mean(dynamic, 0)
  return OffsetFit(static=static + mean, dynamic=dynamic - mean, losses=losses)


def fit_offsets(head: HeadModel, dense: Dense, fit: CoarseFit, points: np.ndarray, found: np.ndarray,
                targets: Targets, *, options: OffsetOptions = OffsetOptions(), seed: int = 0) -> OffsetFit:
  """Fits offsets on top of a coarse fit.

  Args:
    points: [T, 478, 2] landmarks in pixels of fit.image_size; found: [T].
    targets: maps of the same T frames.
  """
  count = len(points)
  params = HeadParams(jnp.broadcast_to(fit.shape, (count, *fit.shape.shape)), fit.expression, fit.pose,
                      fit.translation)
  neutral = HeadParams(fit.shape, jnp.zeros_like(fit.expression[0]), jnp.zeros_like(fit.pose[0]), jnp.zeros(3))
  zero = jnp.zeros((dense.coarse_ids.shape[0], 3))
  start = initial_static(dense, rest_vertices(head, dense, neutral, zero, zero))
  weights = landmark_weights() * np.asarray(found, np.float32)[:, None]
  result = _optimise(head, dense, densify(head, 0), Topology.from_faces(np.asarray(dense.faces)), params, fit.focal, fit.image_size,
                     jnp.asarray(points), jnp.asarray(weights), targets, start, jax.random.key(seed), options)
  if result.dynamic.shape[1] == 1:
    result = result.replace(dynamic=jnp.zeros((count, *zero.shape)))
  return result
