"""Task 'expportrait/transfer': learns a target's dynamic offsets from fitted (or synthetic) subjects.

  loss = mean |offset error| / 1 cm   +   `edge` * mean |difference of the error along an edge| / edge length

on sampled face vertices. The second term stands for the normals that the video model sees: a slope error of the
surface is an offset error that changes along an edge. Subjects, not frames, are held out.
Letters: B examples, P sampled vertices, E expression.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.heads.densify import densify
from exp_jax.heads.model import load_head
from exp_jax.heads.personalized import check_head, load_subject
from exp_jax.systems.expportrait.transfer import POOL_STRIDE, build, neutral_of
from exp_jax.training.task import Task

_UNIT = 0.01  # metres


class SubjectFrames:
  """Random access to (subject, frame) pairs of all subject files in a folder, identity by identity."""

  def __init__(self, path: str, head_name: str, *, part: str, holdout: int):
    files = sorted(pathlib.Path(path).glob('*.npz'))
    if not files:
      raise UserError(f'no subject files (*.npz) in {path!r}: make them with `python -m exp_jax.fit` or '
                      '`python -m exp_jax.actors` and set config.data.path')
    if part not in ('train', 'held_out'):
      raise UserError(f"part must be 'train' or 'held_out', got {part!r}")
    # The last `holdout` identities in sorted order are never trained on.
    chosen = files[:len(files) - holdout] if part == 'train' else files[len(files) - holdout:]
    if not chosen:
      raise UserError(f'{path!r} has {len(files)} subjects, {holdout} of them held out: none is left')
    self.head = load_head(head_name)
    self.subjects = [load_subject(file) for file in chosen]
    self.dense = densify(self.head, self.subjects[0].levels)
    for subject in self.subjects:
      check_head(subject, self.head, self.dense)
    self.neutrals = [neutral_of(self.head, self.dense, subject) for subject in self.subjects]
    self.index = [(s, t) for s, subject in enumerate(self.subjects) for t in range(subject.num_frames)]
    self.jaw = list(self.head.joint_names).index('jaw')
    self.neighbours = np.asarray(self.dense.neighbours)
    self.face = np.flatnonzero(self.neutrals[0].mask > 0.02)

  def __len__(self):
    return len(self.index)

  def __getitem__(self, i):
    return int(i)


def task(config) -> Task:
  """See `Task`. Config: `model`, `data` (path, head, points, pool), `batch_size`, `loss`."""
  model, count, points = build(config), config.batch_size, 2 * config.data.points
  shape = lambda *axes: jax.ShapeDtypeStruct((count, *axes), jnp.float32)
  spec = dict(expression=shape(config.model.expression), jaw=shape(3), neutral=shape(points, 3),
              normals=shape(points, 3), template=shape(points, 3), mask=shape(points),
              pool=shape(config.data.pool, 6), target=shape(points, 3))
  inputs = ('expression', 'jaw', 'neutral', 'normals', 'template', 'mask', 'pool')

  def init_fn(rng):
    return model.init(rng, *(jnp.zeros((1, *spec[k].shape[1:])) for k in inputs))['params']

  def errors(params, batch):
    predicted = model.apply({'params': params}, *(batch[k] for k in inputs))
    error = predicted - batch['target']
    at, beside = jnp.split(error, 2, axis=1)                       # a vertex and one of its neighbours
    edge = jnp.split(batch['neutral'], 2, axis=1)
    length = jnp.maximum(jnp.linalg.norm(edge[0] - edge[1], axis=-1), 5e-4)
    weight = jnp.split(batch['mask'], 2, axis=1)[0]
    return error, jnp.sum(jnp.abs(at - beside), -1) / length * weight

  def loss_fn(params, batch, rng):
    del rng
    error, slope = errors(params, batch)
    distance = jnp.mean(jnp.sum(jnp.abs(error), -1)) / _UNIT
    return distance + config.loss.edge * jnp.mean(slope), {
      'error_mm': 1e3 * jnp.mean(jnp.linalg.norm(error, axis=-1)),
      'zero_mm': 1e3 * jnp.mean(jnp.linalg.norm(batch['target'], axis=-1))}

  def evaluate(params, batch, rng):
    return loss_fn(params, batch, rng)[1]

  return Task(init_fn, loss_fn, spec, (('transfer', evaluate),))


def held_out(config) -> tuple | None:
  """As `examples`, of the subjects that are not trained on; None if `data.holdout` is 0."""
  return examples(config, part='held_out') if config.data.holdout else None


def examples(config, *, part: str = 'train') -> tuple:
  """(source, transform) of this task's batches."""
  data = config.data
  source = SubjectFrames(data.path, data.head, part=part, holdout=data.holdout)
  pool = len(np.arange(0, source.head.template.shape[0], POOL_STRIDE))
  if pool != data.pool or source.head.expression_basis.shape[-1] != config.model.expression:
    raise UserError(f'the head {data.head!r} has {source.head.expression_basis.shape[-1]} expressions and {pool} '
                    f'pooled vertices; set config.model.expression and config.data.pool accordingly')

  def transform(i, rng):
    s, t = source.index[i]
    subject, seen = source.subjects[s], source.neutrals[s]
    full = np.zeros((len(seen.mask), 3), np.float32)
    full[subject.dynamic_vertices] = subject.dynamic_offsets[t]
    # Half of the vertices are drawn where something happens, half anywhere on the face.
    size = np.linalg.norm(full[source.face], axis=-1)
    chance = size / max(size.sum(), 1e-9) + 1 / len(size)
    at = rng.choice(source.face, data.points, p=chance / chance.sum())
    beside = source.neighbours[at, rng.integers(0, 4, data.points)]
    both = np.concatenate([at, beside])
    return dict(expression=subject.expression[t], jaw=subject.pose[t, source.jaw], neutral=seen.neutral[both],
                normals=seen.normals[both], template=seen.template[both], mask=seen.mask[both].astype(np.float32),
                pool=seen.pool, target=full[both] * seen.mask[both][:, None])

  return source, transform
