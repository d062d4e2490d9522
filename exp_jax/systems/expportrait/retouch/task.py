"""Task 'expportrait/retouch': learns from the records of `exp-jax retouch.records` to repair
textured previews.

  loss = mean of w |result - truth|,  w = outside + (1 - outside) matte + mouth m + eyes e
       + square * mean of w (result - truth)^2
       + perceptual * LPIPS (AlexNet's features) of result and truth
       + temporal * mean of w |change of the result between two frames - change of the truth|
       + smooth * mean |gradient of the flow|
       + calm * mean of exp(-|preview - truth| / 0.02) |result - preview|: what is right already
         stays as it is

Config: `model` (variant and overrides of `network.py`), `data.path` and `data.held_out` (folders of
records), `data.size` (pixels of the records, and of what the network will see), `data.side` (of the
squares that are cut out of them to train on), `data.right` (share of the examples whose preview is
the truth itself, where nothing is to be done), `batch_size` (pairs of frames), `loss` (weights
above; `network`: the folder of LPIPS, or 'fetched' for the one that set-up fetches; it is not
opened where `perceptual` is 0).
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.preview.drawing import KNOWN
from exp_jax.errors import UserError
from exp_jax.files import record_bytes
from exp_jax.files.array_records import ArrayRecords, DamagedRecord
from exp_jax.files.resources import metric_weights, setup_command
from exp_jax.heads.trained_head import found_beside
from exp_jax.networks.metric.perceptual import lpips_distance
from exp_jax.networks.weights import load_weights
from exp_jax.systems.expportrait.retouch.network import (
  STRIDE,
  repaired,
  retouch_net,
  seen_by_network,
)
from exp_jax.training.task import Task

_KEYS = ('preview', 'known', 'truth', 'matte', 'focus', 'photo', 'photo_normals')
_EYES, _MOUTH = 128, 255  # of `focus`
# channels of the x axis; the last of `known` is the way to the source
_MIRRORED = {'known': (0, 3, 11), 'photo_normals': (0,)}
FETCHED = 'fetched'
_RIGHT = (
  0.02  # of colours in 0..1: a preview that is nearer to the truth than about this counts as right
)


class Repairs(ArrayRecords):
  """Random access to the records of a folder; see `ArrayRecords` for errors."""

  def __init__(self, path: str):
    super().__init__(
      path,
      f'no records at {path!r}: draw them by `exp-jax retouch.records -o FOLDER`, and set '
      'config.data.path',
    )

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    try:
      return record_bytes.unpack(self.packed(index), _KEYS)
    except ValueError as error:
      file, local = self.place(index)
      raise DamagedRecord(f'record {local} of {file} is damaged: {error}') from error


def cut(example: dict, left: int, top: int, side: int) -> dict[str, np.ndarray]:
  """The square of that corner and side out of every picture of a record [..., S, S] or [..., S, S,
  C]."""
  axis = {name: -2 if name in ('matte', 'focus') else -3 for name in example}
  take = lambda a, axis: np.take(
    np.take(a, range(top, top + side), axis), range(left, left + side), axis + 1
  )
  return {name: take(value, axis[name]) for name, value in example.items()}


def mirrored(example: dict) -> dict[str, np.ndarray]:
  """A record as a mirror shows it: normals and ways to the source turn about with the pictures."""
  found = {}
  for name, value in example.items():
    value = np.flip(value, -1 if name in ('matte', 'focus') else -2).copy()
    for channel in _MIRRORED.get(name, ()):
      # 0 of a normal is 'off the head', not a direction
      off = (
        (value[..., channel // 3 * 3 : channel // 3 * 3 + 3] == 0).all(-1) if channel < 6 else False
      )
      value[..., channel] = np.where(off, 0, 255 - value[..., channel])
    found[name] = value
  return found


def relit(example: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Preview, truth and portrait under another exposure, white balance and contrast, all by the same
  curve."""
  gain, gamma = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.06, 3)), np.exp(rng.normal(0, 0.12))
  levels = np.arange(256)[:, None] / 255.0
  curve = np.uint8(np.round(255 * np.clip(gain * levels**gamma, 0, 1)))  # [256, 3]
  bent = lambda image: np.stack([curve[:, c][image[..., c]] for c in range(3)], -1)
  return example | {name: bent(example[name]) for name in ('preview', 'truth', 'photo')}


def prepared(
  example: dict,
  rng: np.random.Generator,
  *,
  size: int,
  side: int,
  right: float = 0.0,
  wild: bool = True,
) -> dict[str, np.ndarray]:
  """A stored record as it is trained on: a square of it, perhaps mirrored, relit; without `wild`
  the middle of it as it is.

  right: chance that the truth takes the preview's place.

  Raises:
    UserError: the record's pictures do not have `size` pixels.
  """
  found = example['preview'].shape[-2]
  if found != size:
    raise UserError(
      f'config.data.size is {size}, the records have {found} pixels: set it to that, or draw '
      'others (--size)'
    )
  if not wild:
    return cut(example, (size - side) // 2, (size - side) // 2, side)
  left, top = rng.integers(0, size - side + 1, 2)
  example = cut(example, left, top, side)
  example = mirrored(example) if rng.random() < 0.5 else example
  example = example | {'preview': example['truth']} if rng.random() < right else example
  return relit(example, rng) if rng.random() < 0.6 else example


def pixel_weights(batch: dict, *, outside: float, mouth: float, eyes: float) -> jax.Array:
  """[B, 2, S, S, 1] how much each pixel counts."""
  focus = batch['focus'].astype(jnp.int32)
  weights = outside + (1 - outside) * batch['matte'].astype(jnp.float32) / 255
  return (weights + mouth * (focus == _MOUTH) + eyes * (focus == _EYES))[..., None]


def _psnr(a, b, mask):
  error = jnp.sum(mask * jnp.square(a - b)) / jnp.maximum(3 * jnp.sum(mask), 1.0)
  return -10.0 * jnp.log10(jnp.maximum(error, 1e-10))


def metric_network(place: str) -> tuple[dict, str]:
  """(parameters, variant) of LPIPS.

  Raises:
    UserError: it is not there.
  """
  path = metric_weights() / 'lpips_alex' if place == FETCHED else pathlib.Path(place)
  if not path.is_dir():
    raise UserError(
      f'config.loss.perceptual needs the network lpips_alex, which {setup_command("--metrics")} '
      'fetches; or say '
      'config.loss.perceptual=0'
    )
  weights = load_weights(path, 'lpips')
  return jax.tree.map(jnp.asarray, weights.tree()), weights.sizes['variant']


def task(config) -> Task:
  """See `Task`."""
  own, data, loss = dict(config.model), config.data, config.loss
  model = retouch_net(own.pop('variant'), **own)
  if data.side % STRIDE or data.size % STRIDE or not 0 < data.side <= data.size:
    raise UserError(
      f'config.data.side and size must divide by {STRIDE}, and side be at most size; got '
      f'{data.side} and {data.size}'
    )
  S = data.side
  lpips = metric_network(loss.network) if loss.perceptual else None

  def init_fn(rng):
    seen = seen_by_network(
      *(jnp.zeros((1, STRIDE, STRIDE, channels)) for channels in (3, KNOWN, 3, 3))
    )
    return model.init(rng, seen)['params']

  def see(params, batch):
    unit = lambda name: batch[name].astype(jnp.float32) / 255
    both = lambda values: jnp.repeat(values[:, None], 2, 1)
    preview, truth = unit('preview'), unit('truth')
    seen = seen_by_network(preview, unit('known'), both(unit('photo')), both(unit('photo_normals')))
    repair = model.apply({'params': params}, seen.reshape(-1, *seen.shape[2:]))
    repair = jax.tree.map(lambda x: x.reshape(*preview.shape[:-1], -1), repair)
    return preview, truth, repair, repaired(preview, repair)

  def terms_of(batch, preview, truth, repair, result):
    weights = pixel_weights(batch, outside=loss.outside, mouth=loss.mouth, eyes=loss.eyes)
    mean = lambda values: jnp.mean(weights * values) / jnp.mean(weights)
    bend = sum(jnp.abs(jnp.diff(repair.flow, axis=axis)).mean() for axis in (-3, -2)) / 0.004
    terms = {
      'l1': mean(jnp.abs(result - truth)),
      'square': mean(jnp.square(result - truth)),
      'temporal': mean(jnp.abs((result - truth)[:, 1] - (result - truth)[:, 0])[:, None]),
      'smooth': bend,
      'calm': jnp.mean(
        jnp.exp(-jnp.abs(preview - truth).mean(-1, keepdims=True) / _RIGHT)
        * jnp.abs(result - preview)
      ),
    }
    if lpips is not None:
      params, variant = lpips
      flat = lambda x: jnp.clip(x, 0, 1).reshape(-1, S, S, 3)
      terms['perceptual'] = lpips_distance(
        params, flat(result), flat(truth), variant=variant
      ).mean()
    return terms

  def loss_fn(params, batch, rng):
    del rng
    preview, truth, repair, result = see(params, batch)
    terms = terms_of(batch, preview, truth, repair, result)
    total = terms['l1'] + sum(loss[name] * terms[name] for name in terms if name != 'l1')
    return total, terms

  def evaluate(params, batch, rng):
    del rng
    preview, truth, repair, result = see(params, batch)
    result = jnp.clip(result, 0, 1)
    mask = batch['matte'].astype(jnp.float32)[..., None] / 255
    found = terms_of(batch, preview, truth, repair, result)
    before = terms_of(batch, preview, truth, repair, preview)
    found |= {
      f'preview_{name}': value for name, value in before.items() if name not in ('smooth', 'calm')
    }
    found |= {'psnr': _psnr(result, truth, mask), 'preview_psnr': _psnr(preview, truth, mask)}
    rows = jnp.concatenate(
      [jnp.concatenate(list(x[:4, 0]), axis=1) for x in (preview, result, truth)]
    )
    return found | {'frames': rows}

  return Task(
    init_fn,
    loss_fn,
    _batch_spec(config.batch_size, S),
    (('held out', evaluate),),
  )


def _batch_spec(count: int, side: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Bytes of a batch: two frames of each person, and the photograph."""
  S = side
  pictures = dict(
    preview=(2, S, S, 3),
    known=(2, S, S, KNOWN),
    truth=(2, S, S, 3),
    matte=(2, S, S),
    focus=(2, S, S),
    photo=(S, S, 3),
    photo_normals=(S, S, 3),
  )
  return {k: jax.ShapeDtypeStruct((count, *shape), jnp.uint8) for k, shape in pictures.items()}


def _examples(config, path: str, *, wild: bool) -> tuple:
  return Repairs(path), lambda example, rng: prepared(
    example, rng, size=config.data.size, side=config.data.side, right=config.data.right, wild=wild
  )


def examples(config):
  """(source, transform) of this task's batches."""
  return _examples(config, config.data.path, wild=True)


def held_out(config):
  """The same of `config.data.held_out`; None if that is empty."""
  return _examples(config, config.data.held_out, wild=False) if config.data.held_out else None


def export_files(config) -> dict:
  """What an export carries beside parameters: `head.json`, which says whose head the records
  show."""
  found = found_beside(config.data.path)
  return {} if found is None else {found.name: found}
