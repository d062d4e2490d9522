"""Task 'estimator/face_maps': normals, depth and parts of heads in pictures, learned from
`portraits.py` alone.

Config: `model` (variant and overrides of `networks/face_maps.py`; `weights` an export to start
from, or 'scratch'), `data.path` and `data.held_out` (folders of `python -m exp_jax.estimator`),
`data.side` (pixels trained on), `batch_size`, `loss` (weights of terms).
"""

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.estimator.losses import losses
from exp_jax.estimator.spoil import spoil
from exp_jax.files import record_bytes
from exp_jax.files.array_records import ArrayRecords, DamagedRecord
from exp_jax.networks.face_maps import STRIDE, face_maps_net
from exp_jax.training.exports import load_export
from exp_jax.training.task import Task

_KEYS = ('image', 'matte', 'normals', 'depth', 'parts', 'landmarks')
_KINDS = {
  'normals': jnp.float32,
  'depth': jnp.float32,
  'parts': jnp.int32,
  'known': jnp.float32,
  'inside': jnp.float32,
}
SCRATCH = 'scratch'  # of `model.weights`: to train from nothing is said, not forgotten


class Pictures(ArrayRecords):
  """Random access to the pictures of a folder; see `ArrayRecords` for errors."""

  def __init__(self, path: str):
    super().__init__(
      path,
      f'no pictures at {path!r}: draw them by `python -m exp_jax.estimator -o FOLDER`, and set '
      'config.data.path',
    )

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    try:
      return record_bytes.unpack(self.packed(index), _KEYS)
    except ValueError as error:
      file, local = self.place(index)
      raise DamagedRecord(f'record {local} of {file} is damaged: {error}') from error


def _normal_picture(normals, mask):
  return jnp.where(mask[..., None] > 0, 0.5 + 0.5 * normals * jnp.array([1.0, -1.0, -1.0]), 0.5)


def task(config) -> Task:
  """See `Task`."""
  own, data = dict(config.model), config.data
  start = own.pop('weights')
  model = face_maps_net(own.pop('variant'), **own)
  if data.side % STRIDE:
    raise UserError(f'config.data.side must divide by {STRIDE}, got {data.side}')
  if not start:
    raise UserError(
      'config.model.weights is empty: name an export to go on from, or say '
      f"config.model.weights='{SCRATCH}'"
    )
  B, S = config.batch_size, data.side
  shapes = dict(
    image=((S, S, 3), jnp.uint8),
    normals=((S, S, 3), jnp.float16),
    depth=((S, S), jnp.float16),
    parts=((S, S), jnp.uint8),
    known=((S, S), jnp.uint8),
    inside=((S, S), jnp.uint8),
  )

  def init_fn(rng):
    return model.init(rng, jnp.zeros((1, STRIDE, STRIDE, 3)))['params']

  def see(params, batch):
    truth = {name: batch[name].astype(kind) for name, kind in _KINDS.items()}
    maps = model.apply({'params': params}, batch['image'].astype(jnp.float32) / 255)
    return maps, truth, losses(maps, truth)

  def loss_fn(params, batch, rng):
    del rng
    _, _, terms = see(params, batch)
    return sum(config.loss[name] * terms[name] for name in dict(config.loss)), terms

  def evaluate(params, batch, rng):
    del rng
    maps, truth, terms = see(params, batch)
    rows = (
      batch['image'] / 255.0,
      _normal_picture(truth['normals'], truth['known']),
      _normal_picture(maps.normals, (maps.logits.argmax(-1) > 0).astype(jnp.float32)),
    )
    return terms | {
      'maps': jnp.concatenate([jnp.concatenate(list(row[:4]), axis=1) for row in rows])
    }

  return Task(
    init_fn,
    loss_fn,
    {name: jax.ShapeDtypeStruct((B, *shape), kind) for name, (shape, kind) in shapes.items()},
    (('held out', evaluate),),
    start=None if start == SCRATCH else lambda: load_export(start)[1],
  )


def _examples(config, path: str) -> tuple:
  return Pictures(path), lambda example, rng: spoil(example, rng, config.data.side)


def examples(config):
  """(source, transform) of this task's batches."""
  return _examples(config, config.data.path)


def held_out(config):
  """The same of `config.data.held_out`; None if that is empty."""
  return _examples(config, config.data.held_out) if config.data.held_out else None
