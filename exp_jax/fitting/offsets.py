"""Detail stage: static and dynamic vertex offsets of the dense head, through the rasterizer, by Adam.

The coarse fit explains the landmarks; hair, clothes, the outline, fine shape and wrinkles are offsets
in the rest pose:

  rest(i) = U canonical(beta, psi_i, Theta_i) + rounding + static + face * dynamic_i        ExpPortrait eqs. 2-4
  loss    = data terms (energies.py) + prior, magnitude, Laplacian, zero mean, temporal      eq. 7

What keeps identity and expression apart (sec. 3.1.3): static offsets start where depth shows hair
(hair_shell.py) or along the normal where it is expected, and are fitted alone at first; dynamic ones are small, zero-mean
deviations; at the end the mean over the clip moves exactly from the dynamic to the static field, and
a few polishing steps follow. With one picture `epsilon` damps static offsets on the face.

A field is the sum of a coarse one, lifted and smoothed, and a fine one along the normals, hardly
smoothed, so that steps of Adam move regions and wrinkles alike (after Nicolet et al., Large Steps in Inverse Rendering,
2021). Per-frame unknowns are stepped only when their frame is in the batch, with moments of their
own. One compiled program a bucket of clip lengths; `fit_many` maps it over subjects.
Letters: T frames, B of a step, V coarse and N dense vertices, E expressions.
"""

import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from exp_jax.fitting.coarse import bucket, landmark_trust
from exp_jax.fitting.coarse_solver import CoarseFit, make_camera
from exp_jax.fitting.disentangle import mean_over_clip, recentred
from exp_jax.fitting.energies import TERMS, Targets, frame_losses, take_frame
from exp_jax.fitting.hair_shell import hair_shell
from exp_jax.fitting.landmark_head import landmark_weights
from exp_jax.fitting.static_field import initial_static, magnitude, region, smooth, solid, static_mask
from exp_jax.geometry.meshes import vertex_normals
from exp_jax.heads.densify import Dense, densify, laplacian, lift, rounding
from exp_jax.heads.model import HeadModel, HeadParams
from exp_jax.heads.skinning import canonical_vertices, joint_transforms, pose_vertices
from exp_jax.rendering import Topology

LOSS_TERMS = (*TERMS, 'regularizers')
_CENTIMETRE = 0.01
_LIMIT = 0.05  # metres; no hair style needs more of the scalp, longer hair is not the head model's
_DYNAMIC = ('dynamic_coarse', 'dynamic_fine')
_MESH_FIELDS = ('static_coarse', 'static_fine', *_DYNAMIC)
_CLIP = 4.0  # root mean squares of a field's gradient that make a full step


@dataclasses.dataclass(frozen=True)
class OffsetOptions:
  """Weights of the energies (spec sec. 3), steps of Adam; hashable, because it is compiled in."""

  steps: int = 160
  polish: int = 20  # of them after the mean has moved
  batch: int = 4
  static_rate: float = 2e-3  # metres, the largest step
  dynamic_rate: float = 2e-4
  smoothing: int = 6  # rounds on the coarse field
  fine_smoothing: int = 2
  landmarks: float = 3000.0  # of squared half heights: one pixel of 512 is 0.05
  # share of a static offset that landmarks go along with. They lie on flesh and under beards, which nobody tells apart: at 1
  # they hold every relief down, at 0 the face drifts, since normals hardly see how far it has come
  follow: float = 0.5
  normals: float = 1.0
  depth: float = 0.3
  silhouette: float = 1.0
  photometric: float = 2.0
  # share of it that moves geometry, where there are normals and once albedo and light have settled
  shading: float = 0.25
  expression: float = 1e-3
  shape: float = 15.0  # of what is added to the coarse fit's
  magnitude_static: float = 1e-3
  magnitude_face: float = 1e-2  # static offsets inside the face
  # static offsets across the normal: maps of normals hardly see them, and one that slides carries the wrong wrinkle
  magnitude_tangent: float = 10.0
  magnitude_dynamic: float = 0.1
  laplacian: float = 0.1  # of what bends over the distance of two vertices
  laplacian_dynamic: float = 20.0  # one frame's estimates are noisy, the clip's mean is not
  zero_mean: float = 1.0
  temporal: float = 1e-2
  parameters: bool = True  # also refine shape, expression and pose
  dynamic: bool = True  # False, one frame, or no normals: static only
  disentangle: bool = True  # False: none of what keeps the two fields apart (for ablations)


@flax.struct.dataclass
class OffsetFit:
  """What the stage found; T frames."""

  static: jax.Array  # [N, 3] metres, rounding included
  dynamic: jax.Array  # [T, N, 3] metres, zero mean over the clip
  shape: jax.Array  # [S]
  expression: jax.Array  # [T, E]
  pose: jax.Array  # [T, J, 3]
  translation: jax.Array  # [T, 3]
  albedo: jax.Array  # [N, 3] linear; as it started where there was no picture
  light: jax.Array  # [9, 3] camera frame
  losses: jax.Array  # [steps, 6] in the order of LOSS_TERMS


@flax.struct.dataclass
class _Problem:
  """What differs from subject to subject; T frames, of which those with valid = 1 exist."""

  params: HeadParams  # shape [S], the rest [T, ...]
  focal: jax.Array  # []
  points: jax.Array  # [T, K, 2]
  weights: jax.Array  # [T, K]
  valid: jax.Array  # [T]
  targets: Targets
  rounded: jax.Array  # [N, 3] what rounds the coarse fit off
  start: jax.Array  # [N, 3] static offsets, beside rounding, to start from
  along: jax.Array  # [N, 3] directions of the coarse fit at rest, along which the fine field moves
  rng: jax.Array


@flax.struct.dataclass
class _Adam:
  """Moments of the shared unknowns by optax's definition, and of each frame's by themselves."""

  first: dict
  second: dict
  count: jax.Array  # [] or [T]


def _rates(options: OffsetOptions, moving: bool) -> dict:
  """Step sizes; metres, radians, or coefficients."""
  on = 1.0 if options.parameters else 0.0
  return {
    'shared': {'static_coarse': options.static_rate, 'static_fine': options.static_rate / 2,
               'shape': 1e-2 * on, 'albedo': 2e-2, 'light': 2e-2},
    'frame': {'dynamic_coarse': options.dynamic_rate * moving, 'dynamic_fine': options.dynamic_rate * moving,
              'expression': 1e-2 * on, 'head': 1e-3 * on, 'jaw': 2e-3 * on, 'translation': 3e-4 * on},
  }  # fmt: skip


def _fields(coarse, dense, options, along, start, masks, extra, shared, rows):
  """Static offsets from the rounded surface [N, 3], and dynamic ones [B, N, 3] before the face mask."""
  field = _field(coarse, dense, options, along, shared['static_coarse'], shared['static_fine'])
  static = start + extra + field * masks
  length = jnp.sqrt(jnp.sum(static**2, -1, keepdims=True) + 1e-12)
  static = static * jnp.minimum(1, _LIMIT / length)
  each = functools.partial(_field, coarse, dense, options, along)
  return static, jax.vmap(each)(rows['dynamic_coarse'], rows['dynamic_fine'])


def _field(coarse, dense, options, along, broad, fine):
  """[V, 3] and, along the normals `along` [N, 3], [N, 1] -> [N, 3]."""
  broad = lift(dense, smooth(coarse, broad, options.smoothing))
  return broad + smooth(dense, fine, options.fine_smoothing) * along


def _moved(head: HeadModel, params: HeadParams, shape, rows) -> HeadParams:
  """The coarse parameters of one frame with what the stage adds to them."""
  joint = {name: k for k, name in enumerate(head.joint_names)}
  pose = params.pose
  for name in ('neck', 'head'):
    pose = pose.at[joint[name]].add(0.5 * rows['head'])
  return HeadParams(
    params.shape + shape,
    params.expression + rows['expression'],
    pose.at[joint['jaw']].add(rows['jaw']),
    params.translation + rows['translation'],
  )


@functools.partial(jax.jit, static_argnames=('options', 'image_size', 'at_once', 'mesh'))
def _optimise(head, dense, coarse, topology, problems, image_size, options, at_once, mesh):
  """Problems with a leading axis of subjects -> OffsetFit likewise; every device has subjects of its own."""
  def share(head, dense, coarse, topology, problems):
    one = functools.partial(_optimise_one, head, dense, coarse, topology, image_size, options)
    return jax.lax.map(one, problems, batch_size=at_once)

  where = (P(), P(), P(), P(), P('subjects'))
  return jax.shard_map(share, mesh=mesh, in_specs=where, out_specs=P('subjects'), check_vma=False)(
    head, dense, coarse, topology, problems)


def _optimise_one(head, dense, coarse, topology, image_size, options, problem):
  num_frames, batch = len(problem.points), min(options.batch, len(problem.points))
  along = problem.along
  shape_seen = num_frames > 1 and problem.targets.normals is not None
  moving = options.dynamic and shape_seen  # colours take paint, shadow and jitter for wrinkles
  masks, face = static_mask(dense, shape_seen=shape_seen), (region(dense, 'face') * solid(dense))[:, None]
  camera = make_camera(problem.focal, image_size)
  skin = jnp.stack([solid(dense), region(dense, 'face')], -1)
  start = problem.start if options.disentangle else jnp.zeros_like(problem.start)
  count, few = dense.coarse_ids.shape[0], coarse.coarse_ids.shape[0]
  weights = jnp.array([getattr(options, term) for term in TERMS])
  zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
  light = zeros(9, 3).at[0].set(0.8 / 0.282095).at[2].set(-0.4 / 0.488603)
  fine = shape_seen  # otherwise there is no evidence for detail
  raw = {
    'shared': {'static_coarse': zeros(few, 3), 'static_fine': zeros(count, 1),
               'shape': jnp.zeros_like(problem.params.shape), 'albedo': zeros(count, 3) + 0.3, 'light': light},
    'frame': {'dynamic_coarse': zeros(num_frames, few if moving else 1, 3),
              'dynamic_fine': zeros(num_frames, count if moving else 1, 1),
              'expression': jnp.zeros_like(problem.params.expression), 'head': zeros(num_frames, 3),
              'jaw': zeros(num_frames, 3), 'translation': zeros(num_frames, 3)},
  }  # fmt: skip
  rates = _rates(options, moving)
  if not fine:
    rates['shared']['static_fine'] = 0.0
  valid = problem.valid / problem.valid.sum()
  scale = 1 / _CENTIMETRE
  flat = lift(dense, head.template)
  beside = jnp.linalg.norm(flat[dense.neighbours] - flat[:, None], axis=-1).sum(1)
  spacing = jnp.maximum(beside / jnp.maximum(dense.degree, 1), 3e-4)[:, None]  # [N, 1] metres

  def field_of(row):  # the dynamic fields of one frame -> [N, 3]; only the face moves
    return _field(coarse, dense, options, along, *(row[name] for name in _DYNAMIC)) * face

  def loss_fn(shared, rows, frames, raw, extra, trimmed, shading):
    if moving:
      static, dynamic = _fields(coarse, dense, options, along, start, masks, extra, shared, rows)
      dynamic = dynamic * face
    else:
      still = rows | {'dynamic_coarse': zeros(len(frames), few, 3), 'dynamic_fine': zeros(len(frames), count, 1)}
      static, dynamic = _fields(coarse, dense, options, along, start, masks, extra, shared, still)
    present = problem.valid[frames]

    def one(arguments):
      frame, rows, dynamic = arguments
      params = jax.tree.map(lambda a: a[frame], problem.params.replace(shape=zeros(num_frames, 0)))
      pose = _moved(head, params.replace(shape=problem.params.shape), shared['shape'], rows)
      plain, transforms = canonical_vertices(head, pose), joint_transforms(head, pose)
      vertices = pose_vertices(lift(dense, plain) + problem.rounded + static + dynamic, dense.weights, transforms)
      marked = pose_vertices(plain + options.follow * static[:few], head.weights, transforms)
      return frame_losses(vertices, marked, shared['albedo'], shared['light'], head, camera, topology,
                          problem.points[frame], problem.weights[frame], skin,
                          take_frame(problem.targets, frame), trimmed, shading)  # fmt: skip

    each = jax.lax.map(one, (frames, rows, dynamic))
    data = jnp.einsum('bk,b->k', each, present) / jnp.maximum(present.sum(), 1)
    penalty = magnitude(static, face, on_face=options.magnitude_face, elsewhere=options.magnitude_static)
    moved = static - start
    slip = moved - jnp.sum(moved * along, -1, keepdims=True) * along
    penalty += options.magnitude_tangent * jnp.mean(jnp.sum((scale * slip) ** 2, -1))
    rough = laplacian(dense, moved) / spacing
    penalty += options.laplacian * jnp.mean(jnp.sum(rough**2, -1))
    psi = problem.params.expression[frames] + rows['expression']
    mean_of = lambda values: jnp.sum(present * values) / jnp.maximum(present.sum(), 1)
    penalty += options.expression * mean_of(jnp.sum(psi**2, -1))
    # what landmarks and normals settled is left only where the maps insist: it slides along ears and scalp unseen
    penalty += options.shape * jnp.mean(shared['shape'] ** 2)
    for name, sigma in (('expression', 0.3), ('head', 0.05), ('jaw', 0.1), ('translation', 0.01)):
      penalty += 1e-3 * mean_of(jnp.sum((rows[name] / sigma) ** 2, -1))
    if problem.targets.image is not None:
      flat = laplacian(dense, shared['albedo'])
      penalty += 0.3 * jnp.mean(jnp.sum(flat**2, -1)) + 1e-3 * jnp.sum((shared['light'] - light) ** 2)
    if moving:
      penalty += options.laplacian_dynamic * mean_of(
        jnp.stack([jnp.mean(jnp.sum((laplacian(dense, d) / spacing) ** 2, -1)) for d in dynamic])
      )
      if options.disentangle:
        small = jnp.mean(jnp.sum((scale * dynamic) ** 2, -1), -1)
        penalty += options.magnitude_dynamic * mean_of(small)
        mean = field_of({name: mean_over_clip(valid, raw[name], frames, rows[name]) for name in _DYNAMIC})
        penalty += options.zero_mean * jnp.mean(jnp.sum((scale * mean) ** 2, -1))
      for ahead in (-1, 1):  # towards the neighbours in time as they stand
        other = jnp.clip(frames + ahead, 0, num_frames - 1)
        both = (present * problem.valid[other])[:, None, None]
        for name in ('dynamic_coarse', 'dynamic_fine'):
          step = both * (rows[name] - raw[name][other])
          penalty += 0.5 * options.temporal * jnp.mean(jnp.sum((scale * step) ** 2, -1))
        jump = both[..., 0] * (psi - problem.params.expression[other] - raw['expression'][other])
        penalty += 0.5 * options.temporal * jnp.mean(jnp.sum(jump**2, -1))
    return jnp.sum(weights * data) + penalty, jnp.append(data, penalty)

  schedule = optax.cosine_decay_schedule(1.0, options.steps, alpha=0.1)
  main = options.steps - (options.polish if moving and options.disentangle else 0)
  alone = options.steps // 3 if options.disentangle else 0

  def with_zero_mean(raw, extra):
    fields, extra = recentred({k: raw['frame'][k] for k in _DYNAMIC}, extra, valid, field_of)
    return raw | {'frame': raw['frame'] | fields}, extra

  def step(carry, i):
    raw, extra, states = carry
    if moving and options.disentangle:
      raw, extra = jax.lax.cond(i == main, with_zero_mean, lambda r, e: (r, e), raw, extra)
    # frames that exist come first, in random order
    order = jax.random.uniform(jax.random.fold_in(problem.rng, i), (num_frames,)) - 2 * problem.valid
    frames = jnp.argsort(order)[:batch]
    rows = jax.tree.map(lambda a: a[frames], raw['frame'])
    trimmed = (i > options.steps // 4).astype(jnp.float32)
    shading = options.shading * shape_seen * (i >= options.steps // 3)
    grads, losses = jax.grad(loss_fn, argnums=(0, 1), has_aux=True)(
      raw['shared'], rows, frames, raw['frame'], extra, trimmed, shading
    )
    rate = schedule(i)
    shared, state = _adam_step(raw['shared'], grads[0], states['shared'], rates['shared'], rate)
    state_rows = jax.tree.map(lambda a: a[frames], states['frame'])
    late = {k: jnp.where((i < alone) & k.startswith('dynamic'), 0.0, r) for k, r in rates['frame'].items()}
    present = problem.valid[frames]
    rows, state_rows = _adam_step(rows, grads[1], state_rows, late, rate * present)
    put = lambda whole, part: jax.tree.map(lambda w, p: w.at[frames].set(p), whole, part)
    raw = {'shared': shared, 'frame': put(raw['frame'], rows)}
    states = {'shared': state, 'frame': put(states['frame'], state_rows)}
    return (raw, extra, states), losses

  empty = lambda tree, shape: _Adam(
    jax.tree.map(jnp.zeros_like, tree), jax.tree.map(jnp.zeros_like, tree), jnp.zeros(shape, jnp.int32)
  )
  states = {'shared': empty(raw['shared'], ()), 'frame': empty(raw['frame'], num_frames)}
  carry = raw, jnp.zeros_like(start), states
  (raw, extra, _), losses = jax.lax.scan(step, carry, jnp.arange(options.steps))
  if moving and options.disentangle:
    raw, extra = with_zero_mean(raw, extra)
  rows = raw['frame'] if moving else raw['frame'] | {
    'dynamic_coarse': zeros(1, few, 3), 'dynamic_fine': zeros(1, count, 1)}  # fmt: skip
  static, _ = _fields(coarse, dense, options, along, start, masks, extra, raw['shared'],
                      {k: rows[k][:1] for k in ('dynamic_coarse', 'dynamic_fine')})  # fmt: skip
  dynamic = jax.lax.map(field_of, {name: rows[name] for name in _DYNAMIC})
  at = lambda frame, rows: _moved(
    head, problem.params.replace(expression=frame[0], pose=frame[1], translation=frame[2]),
    raw['shared']['shape'], rows)  # fmt: skip
  params = jax.vmap(at)(
    (problem.params.expression, problem.params.pose, problem.params.translation), raw['frame']
  )
  return OffsetFit(
    static=problem.rounded + static,
    dynamic=dynamic if moving else zeros(num_frames, count, 3),
    shape=params.shape[0],
    expression=params.expression,
    pose=params.pose,
    translation=params.translation,
    albedo=jnp.clip(raw['shared']['albedo'], 0, 1),
    light=raw['shared']['light'],
    losses=losses,
  )


def _adam_step(values: dict, grads: dict, state: _Adam, rates: dict, rate):
  """Adam (0.9, 0.99) with a step size per unknown; `rate` [] or, of rows, [B], scales it.

  Adam alone would move a vertex that nothing sees as far as one that all pixels pull; so mesh fields
  share one second moment, and the largest steps are clipped.

  Source: Kingma & Ba, Adam, 2015, algorithm 1; the shared moment after Nicolet et al., 2021, sec. 4.
  """
  count = state.count + 1
  along = lambda value, x: x.reshape(x.shape + (1,) * (value.ndim - x.ndim))
  first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.first, grads)
  second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, state.second, grads)
  rate = jnp.asarray(rate)

  def moved(name, value, m, v):
    steps = along(value, count)
    m, v = m / (1 - 0.9**steps), v / (1 - 0.99**steps)
    if name in _MESH_FIELDS:  # one scale for the whole field: what is hidden hardly moves
      spread = jnp.sqrt(jnp.mean(v, axis=(-2, -1), keepdims=True))
      direction = jnp.clip(m / (_CLIP * spread + 1e-12), -1, 1)
    else:
      direction = m / (jnp.sqrt(v) + 1e-8)
    return value - rates[name] * along(value, rate) * direction

  result = {k: moved(k, values[k], first[k], second[k]) for k in values}
  return result, _Adam(first, second, count)


def fit_offsets(
  head: HeadModel,
  dense: Dense,
  fit: CoarseFit,
  points: np.ndarray,
  found: np.ndarray,
  targets: Targets,
  *,
  options: OffsetOptions = OffsetOptions(),
  seed: int = 0,
) -> OffsetFit:
  """Fits offsets of one subject on top of a coarse fit.

  Args:
    points: [T, 478, 2] landmarks in pixels of fit.image_size; found: [T] or trust [T, 478] in 0..1.
    targets: maps of the same T frames.
  """
  return fit_many(head, dense, [fit], [points], [found], [targets], options=options, seed=seed)[0]


def fit_many(
  head: HeadModel,
  dense: Dense,
  fits: list[CoarseFit],
  points: list[np.ndarray],
  found: list[np.ndarray],
  targets: list[Targets],
  *,
  options: OffsetOptions = OffsetOptions(),
  seed: int = 0,
  at_once: int | None = None,
) -> list[OffsetFit]:
  """Fits offsets of many subjects in one compiled program; arguments as of `fit_offsets`, in lists.

  Clips are padded to the next length of `bucket`; padding is never looked at. All clips must have
  the same kinds of maps, sizes and image sizes. Subjects are shared out over the devices of this host, which
  never speak with each other; several hosts split the list (`launch/fit_subjects.sh`).

  Args:
    at_once: subjects of a device that are vectorised together; by default one on CPU, whose cache holds the
      maps of one, and 16 elsewhere.

  Raises:
    ValueError: subjects that differ in image size or in the maps they have.
  """
  if len({f.image_size for f in fits}) > 1 or len({jax.tree.structure(t) for t in targets}) > 1:
    raise ValueError('subjects of one call must have equal image sizes and kinds of maps')
  length, rounder, coarse = bucket(max(len(p) for p in points)), rounding(head, dense), densify(head, 0)
  topology = Topology.from_faces(np.asarray(dense.faces))
  problems = [
    _problem(head, dense, *each, length, jax.random.key(seed), rounder, coarse, topology)  # not its place: alone it fits the same
    for each in zip(fits, points, found, targets)
  ]
  devices = jax.local_devices()[:len(problems)]
  mesh = jax.make_mesh((len(devices),), ('subjects',), axis_types=(AxisType.Auto,), devices=devices)
  problems += problems[-1:] * (-len(problems) % len(devices))
  stacked = jax.device_put(jax.tree.map(lambda *parts: jnp.stack(parts), *problems), NamedSharding(mesh, P('subjects')))
  at_once = at_once or (1 if jax.default_backend() == 'cpu' else 16)
  result = _optimise(
    head, dense, coarse, topology, stacked,
    fits[0].image_size, options, min(at_once, len(problems) // len(devices)), mesh)  # fmt: skip
  cut = lambda index, count: OffsetFit(**{
    name: getattr(result, name)[index][:count] if name in ('dynamic', 'expression', 'pose', 'translation')
    else getattr(result, name)[index] for name in result.__dataclass_fields__})  # fmt: skip
  return [cut(index, len(p)) for index, p in enumerate(points)]


def _problem(head, dense, fit, points, found, targets, length, rng, rounder, coarse, topology) -> _Problem:
  count = len(points)
  extend = lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], length - count, 0)]) if length > count else a
  neutral = HeadParams(
    fit.shape, jnp.zeros_like(fit.expression[0]), jnp.zeros_like(fit.pose[0]), jnp.zeros(3)
  )
  vertices = canonical_vertices(head, neutral)
  along = vertex_normals(lift(dense, vertices), dense.faces)
  start = initial_static(dense, along)
  if count > 1 and targets.normals is not None and targets.depth is not None:
    start, along = hair_shell(head, dense, coarse, fit, vertices, along, targets, topology)
  found = np.asarray(found, np.float32)
  trust = landmark_weights() * (found[:, None] if found.ndim == 1 else found)
  trust = trust * landmark_trust(head, fit, points)
  return _Problem(
    params=HeadParams(fit.shape, extend(fit.expression), extend(fit.pose), extend(fit.translation)),
    focal=fit.focal,
    points=extend(jnp.asarray(points, jnp.float32)),
    weights=extend(jnp.asarray(trust)),
    valid=(jnp.arange(length) < count).astype(jnp.float32),
    targets=jax.tree.map(extend, targets),
    rounded=jnp.asarray(rounder @ np.asarray(vertices, np.float64), jnp.float32),
    start=start,
    along=along,
    rng=rng,
  )
