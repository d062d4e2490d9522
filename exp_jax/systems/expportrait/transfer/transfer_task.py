"""Task 'expportrait/transfer': learns a person's dynamic offsets from many people's.

  loss = mean over people of  rms offset error, mm  +  `normal` * rms difference of unit triangle
  normals

over the frames of a batch and sampled triangles of the skin; normals are what the video model sees.
Half of the triangles are drawn where this person moves, half anywhere, and weights undo the
preference, so that the sample stands for the whole skin: no separate pass over all vertices is
needed. Every other batch is mirrored, left for right, where the head's expressions have sides. A
share of the neutral heads are fits of pictures (`data.fits`, a folder; `data.fits_share`), and
`data.noise` roughens a share of the others as errors of a fit do, so that lines are believed only
as far as the geometry is to be trusted. People, not frames, are held out, and scored beside the two
baselines of the paper: the driver's own offsets (direct copy) and none (the linear model alone).
Letters: B people, T frames, P skin vertices, G triangles, E expression.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.heads.densify import densify
from exp_jax.heads.head_files import load_head
from exp_jax.heads.trained_head import HEAD, told_of
from exp_jax.systems.expportrait.transfer.network import build, mirrored_expressions
from exp_jax.systems.expportrait.transfer.transfer_data import ActorFaces, FitNoise, SubjectFaces
from exp_jax.systems.expportrait.transfer.transfer_features import neutral_of, surface_of
from exp_jax.training.task import Task

_HELD_OUT_FRAMES = 8
_MM = 1e3
_SEEN = ('expression', 'jaw', 'neutral', 'normals', 'relief')  # what the module is given


def faces_of(data, *, part: str):
  """The people of a config's `data` section: 'train' or 'held_out'.

  Raises:
    UserError: no such source, no files, or nobody left.
  """
  if data.fits and data.source != 'actors':
    raise UserError(
      f'config.data.fits names fits of actors, but config.data.source is {data.source!r}; subjects '
      'are fits themselves'
    )
  if data.source == 'subjects':
    return SubjectFaces(data.path, data.head, part=part, holdout=data.holdout)
  if data.source != 'actors':
    raise UserError(f"config.data.source is {data.source!r}; choose 'subjects' or 'actors'")
  # Seeds differ, so nobody is in both parts.
  count, seed = (data.count, data.seed) if part == 'train' else (data.holdout, data.seed + 1)
  return ActorFaces(
    data.head,
    count=count,
    seed=seed,
    frames_per_second=data.frames_per_second,
    levels=data.levels,
    fits=data.fits if part == 'train' else '',
  )


def mirror(place, batch: dict, order) -> tuple[jax.Array, dict]:
  """The same people and frames seen in a mirror: x changes sign, left and right actions change
  places."""
  across = jnp.array([-1.0, 1, 1])
  return place * across, batch | {
    'expression': batch['expression'][..., order],
    'jaw': batch['jaw'] * -across,
    **{name: batch[name] * across for name in ('neutral', 'normals', 'target')},
  }


def _triangle_normals(corners: jax.Array) -> jax.Array:
  """[..., 3 G, 3], three corners after one another -> unit normals [..., G, 3]."""
  a, b, c = jnp.moveaxis(corners.reshape(*corners.shape[:-2], -1, 3, 3), -2, 0)
  normal = jnp.cross(b - a, c - a)
  square = jnp.sum(normal**2, -1, keepdims=True)
  usable = square > 1e-24  # metres^4: a triangle without area has no normal
  return jnp.where(usable, normal / jnp.sqrt(jnp.where(usable, square, 1)), 0)


def _root_mean(square: jax.Array, axes) -> jax.Array:
  # mm^2 or rad^2: keeps the derivative finite at a perfect fit
  return jnp.sqrt(jnp.mean(square, axes) + 1e-10)


def task(config) -> Task:
  """See `Task`. Config: `model`, `data`, `batch_size` (people), `loss`."""
  data = config.data
  model, head = build(config), load_head(data.head)
  surface = surface_of(head, densify(head, data.levels))
  place, area, mask = (jnp.asarray(a) for a in (surface.place, surface.area, surface.mask))
  order = mirrored_expressions(head.expression_names) if data.mirror else None
  skin = len(surface.ids)
  spec = _batch_spec(config, skin)
  inputs = lambda batch, place: (*(batch[k] for k in _SEEN), place, area, mask, batch['at'])
  apply = lambda params, place, batch: model.apply({'params': params}, *inputs(batch, place))

  def init_fn(rng):
    one = {k: jnp.zeros((1, *s.shape[1:]), s.dtype) for k, s in spec.items()}
    return model.init(rng, *inputs(one, place))['params']

  def loss_fn(params, batch, rng):
    where = place
    if order is not None:
      turned_place, turned = mirror(place, batch, order)
      flip = jax.random.bernoulli(rng)
      where = jnp.where(flip, turned_place, place)
      batch = {k: jnp.where(flip, turned[k], v) for k, v in batch.items()}
    error = apply(params, where, batch) - batch['target']
    weight = batch['weight'][:, None]
    # a triangle's mean over its corners
    square = jnp.sum((_MM * error).reshape(*error.shape[:2], -1, 9) ** 2, -1) / 3 * weight
    corners = (
      jnp.take_along_axis(batch['neutral'], batch['at'][..., None], 1)[:, None] + batch['target']
    )
    turn = (
      jnp.sum((_triangle_normals(corners + error) - _triangle_normals(corners)) ** 2, -1) * weight
    )
    distance, angle = _root_mean(square, (1, 2)), _root_mean(turn, (1, 2))
    none = jnp.sum((_MM * batch['target']).reshape(*error.shape[:2], -1, 9) ** 2, -1) / 3 * weight
    return jnp.mean(distance + config.loss.normal * angle), {
      'error_mm': jnp.mean(distance),
      'none_mm': jnp.mean(_root_mean(none, (1, 2))),
      'normal_degrees': jnp.rad2deg(jnp.mean(angle)),
    }

  @functools.cache
  def held_out():
    with jax.ensure_compile_time_eval():  # asked for while `evaluate` is traced, once
      return {k: jnp.asarray(v) for k, v in held_out_pairs(config).items()}

  def evaluate(params, batch, rng):
    del batch, rng
    pairs, everywhere = held_out(), jnp.arange(skin)[None]

    def one(pair):
      found = apply(params, place, {k: v[None] for k, v in pair.items()} | {'at': everywhere})[0]
      rms = lambda guess: _root_mean(jnp.sum((_MM * (guess - pair['target'])) ** 2, -1), (0, 1))
      return rms(found), rms(pair['copy']), rms(0 * found)

    error, copy, none = jax.lax.map(one, pairs)
    error, copy, none = jnp.mean(error), jnp.mean(copy), jnp.mean(none)
    return {
      'error_mm': error,
      'copy_mm': copy,
      'none_mm': none,
      'of_copy': error / copy,
      'of_none': error / none,
    }

  return Task(init_fn, loss_fn, spec, (('held_out', evaluate),))


def _batch_spec(config, skin: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch; skin: number of vertices that move."""
  data, points = config.data, 3 * config.data.triangles
  shape = lambda *axes: jax.ShapeDtypeStruct((config.batch_size, *axes), jnp.float32)
  return dict(
    expression=shape(data.frames, config.model.expression),
    jaw=shape(data.frames, 3),
    neutral=shape(skin, 3),
    normals=shape(skin, 3),
    relief=shape(skin, config.model.scales),
    weight=shape(data.triangles),
    target=shape(data.frames, points, 3),
    at=jax.ShapeDtypeStruct((config.batch_size, points), jnp.int32),
  )


def held_out_pairs(config) -> dict[str, np.ndarray]:
  """People who are not trained on, each with the expressions of the next one, as arrays [K, ...]
  over the whole skin.

  `copy` [K, T, P, 3] is the driver's own offset. For actors `target` is the truth of this person
  making the driver's
  faces. A subject file knows only its own frames: there the person's own frames are the target, and
  `copy` is the frame of the next person whose expression is nearest.
  """
  faces = faces_of(config.data, part='held_out')
  rows = []
  for i in range(len(faces)):
    rng, other = np.random.default_rng([7, i]), (i + 1) % len(faces)
    seen = faces.neutral(i)
    if isinstance(faces, ActorFaces):
      expression, jaw, copy = faces.frames(other, rng, _HELD_OUT_FRAMES)
      target = faces.offsets(i, expression)
    else:
      expression, jaw, target = faces.frames(i, rng, _HELD_OUT_FRAMES)
      theirs, _, offsets = faces.frames(
        other, np.random.default_rng(0), faces.subjects[other].num_frames
      )
      copy = offsets[np.linalg.norm(expression[:, None] - theirs[None], axis=-1).argmin(1)]
    rows.append(
      dict(
        expression=expression,
        jaw=jaw,
        neutral=seen.neutral,
        normals=seen.normals,
        relief=seen.relief,
        target=target,
        copy=copy,
      )
    )
  return {k: np.stack([row[k] for row in rows]).astype(np.float32) for k in rows[0]}


def held_out(config) -> tuple | None:
  """As `examples`, of the people that are not trained on; None if `data.holdout` is 0."""
  return examples(config, part='held_out') if config.data.holdout else None


def export_texts(config) -> dict[str, str]:
  """What an export carries beside its parameters: which head it was trained on."""
  return {HEAD: told_of(load_head(config.data.head))}


def examples(config, *, part: str = 'train') -> tuple:
  """(source, transform) of this task's batches: numbers of people, and a person's frames at sampled
  triangles."""
  data = config.data
  faces = faces_of(data, part=part)
  surface = faces.surface
  if faces.head.expression_basis.shape[-1] != config.model.expression:
    raise UserError(
      f'the head {data.head!r} has {faces.head.expression_basis.shape[-1]} expressions; set '
      'config.model.expression accordingly'
    )
  if faces.dense.levels != data.levels:
    raise UserError(
      f'the subjects in {data.path!r} have a mesh of level {faces.dense.levels}; set '
      'config.data.levels'
    )

  noise, fits = None, data.fits and part == 'train'  # held-out people are of another seed
  if data.noise.share:
    mean = neutral_of(
      faces.head,
      faces.dense,
      surface,
      np.zeros(faces.head.shape_basis.shape[-1]),
      np.zeros((surface.count, 3), np.float32),
    )
    noise = FitNoise(surface, mean.normals)

  def transform(i, rng):
    i = int(i)
    fitted = fits and rng.random() < data.fits_share
    seen = faces.fitted(i, rng) if fitted else faces.neutral(i)
    if noise is not None and not fitted and rng.random() < data.noise.share:
      seen = noise(seen, rng, np.exp(rng.uniform(*np.log([data.noise.least, data.noise.most]))))
    expression, jaw, offsets = faces.frames(i, rng, data.frames)
    moves = np.sqrt(np.mean(np.sum(offsets**2, -1), 0))[surface.faces].max(1)
    moves = moves + 0.1 * moves.mean() + 1e-6  # metres; nobody moving: all alike
    chance = 0.5 / len(moves) + 0.5 * moves / moves.sum()
    picked = rng.choice(len(chance), data.triangles, p=chance / chance.sum())
    at = surface.faces[picked].reshape(-1)
    return dict(
      expression=expression,
      jaw=jaw.astype(np.float32),
      neutral=seen.neutral,
      normals=seen.normals,
      relief=seen.relief,
      weight=(1 / (len(chance) * chance[picked])).astype(np.float32),
      target=offsets[:, at].astype(np.float32),
      at=at.astype(np.int32),
    )

  return range(len(faces)), transform
