"""The loss of one step of the offset stage: data terms of its frames, and what regularizes the
fields.

  loss = data terms (energies.py) + prior, magnitude, Laplacian, zero mean, temporal      ExpPortrait eq. 7

Letters: T frames, B of a step, N dense vertices, E expressions.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from exp_jax.fitting.coarse.coarse_fit import make_camera
from exp_jax.fitting.offsets.disentangle import mean_over_clip
from exp_jax.fitting.offsets.energies import TERMS, Scene, Seen, frame_losses
from exp_jax.fitting.offsets.fields import (
  DYNAMIC,
  Meshes,
  Surface,
  dynamic_offsets,
  moved,
  static_offsets,
)
from exp_jax.fitting.offsets.options import OffsetOptions
from exp_jax.fitting.offsets.problem import Problem
from exp_jax.fitting.offsets.static_field import CENTIMETRE, magnitude, region, solid, static_mask
from exp_jax.fitting.offsets.targets import take_frame
from exp_jax.heads.densify import laplacian, lift
from exp_jax.heads.skinning import canonical_vertices, joint_transforms, pose_vertices

LOSS_TERMS = (*TERMS, 'regularizers')
_SCALE = 1 / CENTIMETRE  # offsets count in centimetres


@dataclasses.dataclass(frozen=True)
class Setup:
  """What stays the same while the offsets of one subject are fitted.

  Attributes:
    problem: the subject.
    options: of the stage.
    surface: where offsets act.
    scene: what its frames are compared by.
    weights: [5] of the data terms.
    light: [9, 3] to start from.
    valid: [T] share of each frame in the mean over the clip.
    spacing: [N, 1] metres between neighbours.
  """

  problem: Problem
  options: OffsetOptions
  surface: Surface
  scene: Scene
  weights: jax.Array
  light: jax.Array
  valid: jax.Array
  spacing: jax.Array

  @property
  def moving(self) -> bool:
    """Whether there are dynamic offsets; colours take paint, shadow and jitter for wrinkles."""
    return self.options.dynamic and self.problem.shape_seen


def make_setup(
  meshes: Meshes, problem: Problem, options: OffsetOptions, image_size: tuple[int, int]
) -> Setup:
  """Everything that the steps of one subject share."""
  head, dense = meshes.head, meshes.dense
  masks = static_mask(dense, shape_seen=problem.shape_seen, picture_face=options.picture_face)
  face = (region(dense, 'face') * solid(dense))[:, None]
  camera = make_camera(problem.focal, image_size)
  skin = jnp.stack([solid(dense), region(dense, 'face')], -1)
  start = problem.start if options.disentangle else jnp.zeros_like(problem.start)
  weights = jnp.array([getattr(options, term) for term in TERMS])
  light = jnp.zeros((9, 3)).at[0].set(0.8 / 0.282095).at[2].set(-0.4 / 0.488603)
  valid = problem.valid / problem.valid.sum()
  flat = lift(dense, head.template)
  around = jnp.linalg.norm(flat[dense.neighbours] - flat[:, None], axis=-1).sum(1)
  spacing = jnp.maximum(around / jnp.maximum(dense.degree, 1), 3e-4)[:, None]
  return Setup(
    problem,
    options,
    Surface(meshes, problem.along, start, masks, face),
    Scene(head, camera, meshes.topology, skin),
    weights,
    light,
    valid,
    spacing,
  )


def step_loss(
  setup: Setup,
  shared: dict,
  rows: dict,
  raw: dict,
  *,
  frames: jax.Array,
  extra: jax.Array,
  trimmed: jax.Array,
  shading: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The loss [] of some frames, and its parts [6] in the order of LOSS_TERMS.

  Args:
    setup: of the subject.
    shared: unknowns of the whole clip.
    rows: unknowns of the frames of this step, [B, ...].
    raw: unknowns of all frames as they stood before the step, [T, ...].
    frames: [B] int32.
    extra: [N, 3] what has moved from the dynamic fields to the static one.
    trimmed: as of `frame_losses`.
    shading: as of `frame_losses`.
  """
  static = static_offsets(setup.surface, setup.options, shared, extra)
  if setup.moving:
    each = functools.partial(dynamic_offsets, setup.surface, setup.options)
    dynamic = jax.vmap(each)({name: rows[name] for name in DYNAMIC})
  else:
    dynamic = jnp.zeros((len(frames), *static.shape))
  present = setup.problem.valid[frames]
  mean_of = lambda values: jnp.sum(present * values) / jnp.maximum(present.sum(), 1)
  data = _data_terms(setup, shared, rows, frames, static, dynamic, trimmed=trimmed, shading=shading)
  data = jnp.einsum('bk,b->k', data, present) / jnp.maximum(present.sum(), 1)
  psi = setup.problem.params.expression[frames] + rows['expression']
  terms = [
    *_static_terms(setup, static),
    *_parameter_terms(setup.options, shared, rows, psi, mean_of),
  ]
  if setup.problem.targets.image is not None:
    terms.append(_colour_term(setup, shared))
  if setup.moving:
    terms += [
      *_dynamic_terms(setup, rows, frames, raw, dynamic, mean_of),
      *_temporal_terms(setup, rows, frames, raw, psi, present),
    ]
  penalty = functools.reduce(operator.add, terms)
  return jnp.sum(setup.weights * data) + penalty, jnp.append(data, penalty)


def _data_terms(setup, shared, rows, frames, static, dynamic, *, trimmed, shading) -> jax.Array:
  """[B, 5] of each frame."""
  problem, meshes, options = setup.problem, setup.surface.meshes, setup.options
  head, few = meshes.head, meshes.coarse.coarse_ids.shape[0]

  def one(arguments):
    frame, rows, dynamic = arguments
    params = jax.tree.map(
      lambda a: a[frame], problem.params.replace(shape=jnp.zeros((len(problem.points), 0)))
    )
    pose = moved(head, params.replace(shape=problem.params.shape), shared['shape'], rows)
    plain, transforms = canonical_vertices(head, pose), joint_transforms(head, pose)
    vertices = pose_vertices(
      lift(meshes.dense, plain) + problem.rounded + static + dynamic,
      meshes.dense.weights,
      transforms,
    )
    marked = pose_vertices(plain + options.follow * static[:few], head.weights, transforms)
    seen = Seen(problem.points[frame], problem.weights[frame], take_frame(problem.targets, frame))
    return frame_losses(
      vertices,
      marked,
      setup.scene,
      seen,
      albedo=shared['albedo'],
      light=shared['light'],
      trimmed=trimmed,
      shading=shading,
    )

  return jax.lax.map(one, (frames, rows, dynamic))


def _static_terms(setup, static) -> Iterator[jax.Array]:
  """Static offsets are small, move along the normals, and do not bend."""
  options, surface = setup.options, setup.surface
  along = surface.along
  yield magnitude(
    static, surface.face, on_face=options.magnitude_face, elsewhere=options.magnitude_static
  )
  moved = static - surface.start
  slip = moved - jnp.sum(moved * along, -1, keepdims=True) * along
  yield options.magnitude_tangent * jnp.mean(jnp.sum((_SCALE * slip) ** 2, -1))
  rough = laplacian(surface.meshes.dense, moved) / setup.spacing
  yield options.laplacian * jnp.mean(jnp.sum(rough**2, -1))


def _parameter_terms(options, shared, rows, psi, mean_of) -> Iterator[jax.Array]:
  """The linear model's parameters stay near the coarse fit, and expressions near rest."""
  yield options.expression * mean_of(jnp.sum(psi**2, -1))
  # what landmarks and normals settled is left only where the maps insist: it slides along ears and
  # scalp unseen
  yield options.shape * jnp.mean(shared['shape'] ** 2)
  for name, sigma in (('expression', 0.3), ('head', 0.05), ('jaw', 0.1), ('translation', 0.01)):
    yield 1e-3 * mean_of(jnp.sum((rows[name] / sigma) ** 2, -1))


def _colour_term(setup, shared) -> jax.Array:
  """Albedo is smooth, and light near what it starts from."""
  flat = laplacian(setup.surface.meshes.dense, shared['albedo'])
  return 0.3 * jnp.mean(jnp.sum(flat**2, -1)) + 1e-3 * jnp.sum((shared['light'] - setup.light) ** 2)


def _dynamic_terms(setup, rows, frames, raw, dynamic, mean_of) -> Iterator[jax.Array]:
  """Dynamic offsets do not bend; they are small and have zero mean over the clip."""
  options, dense = setup.options, setup.surface.meshes.dense
  yield options.laplacian_dynamic * mean_of(
    jnp.stack([jnp.mean(jnp.sum((laplacian(dense, d) / setup.spacing) ** 2, -1)) for d in dynamic])
  )
  if options.disentangle:
    yield options.magnitude_dynamic * mean_of(jnp.mean(jnp.sum((_SCALE * dynamic) ** 2, -1), -1))
    mean = dynamic_offsets(
      setup.surface,
      options,
      {name: mean_over_clip(setup.valid, raw[name], frames, rows[name]) for name in DYNAMIC},
    )
    yield options.zero_mean * jnp.mean(jnp.sum((_SCALE * mean) ** 2, -1))


def _temporal_terms(setup, rows, frames, raw, psi, present) -> Iterator[jax.Array]:
  """Neighbours in time are alike; they are taken as they stand."""
  options, valid = setup.options, setup.problem.valid
  for ahead in (-1, 1):
    other = jnp.clip(frames + ahead, 0, len(valid) - 1)
    both = (present * valid[other])[:, None, None]
    for name in DYNAMIC:
      step = both * (rows[name] - raw[name][other])
      yield 0.5 * options.temporal * jnp.mean(jnp.sum((_SCALE * step) ** 2, -1))
    jump = both[..., 0] * (psi - setup.problem.params.expression[other] - raw['expression'][other])
    yield 0.5 * options.temporal * jnp.mean(jnp.sum(jump**2, -1))
