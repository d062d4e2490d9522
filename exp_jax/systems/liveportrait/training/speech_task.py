"""Task 'liveportrait/speech': learns to continue a head's motion from what is said.

  loss = |m - m'| + velocity |(m_t - m_t-1) - (m'_t - m'_t-1)|        mean over frames and numbers

The motions before each frame are the true ones, disturbed by noise, so that the network learns to
come back from its own mistakes.
Records: a folder of templates <id>.npz (`animate --save_motion`) beside <id>_speech.npz with
`features` [N, D]; or 'toy_speech',
motions that follow a drawn signal by a fixed rule. Letters: B batch, T frames, D features, M
numbers of a motion.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.files import npz
from exp_jax.files.array_records import DamagedRecord
from exp_jax.systems.liveportrait.motion.driving import resample
from exp_jax.systems.liveportrait.motion.speech import (
  NUMBERS,
  aligned,
  continued,
  speech_motion,
  to_numbers,
)
from exp_jax.systems.liveportrait.motion.templates import load_template
from exp_jax.training.task import Task


class ToySpeech:
  """`count` clips in which the motion is a fixed mixture of the speech, smoothed: what a network
  must be able to learn."""

  def __init__(self, count: int, frames: int, features: int, seed: int = 0):
    self.count, self.frames, self.features, self.seed = count, frames, features, seed
    self.fingerprint = repr((count, frames, features, seed))
    self.mixture = np.random.default_rng(5).normal(size=(features, NUMBERS)) / np.sqrt(features)

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    rng = np.random.default_rng([self.seed, int(index)])
    speech = np.cumsum(rng.normal(size=(2 * self.frames + 4, self.features)), 0)
    speech = speech - speech[:1]
    speech = np.tanh(0.3 * speech).astype(np.float32)
    motion = (speech @ self.mixture).astype(np.float32)
    return {'features': speech, 'motion': motion - motion[:1]}


class SpokenMotions:
  """Pairs of <id>.npz and <id>_speech.npz in a folder, at `rate` frames a second.

  Raises:
    UserError: there are none. DamagedRecord: on access, if one of a pair cannot be used.
  """

  def __init__(self, folder: str, *, rate: float, features_rate: float, features: int):
    self.rate, self.features_rate, self.features = rate, features_rate, features
    found = sorted(pathlib.Path(folder).glob('*_speech.npz')) if folder else []
    self.pairs = [(p.with_name(p.name.removesuffix('_speech.npz') + '.npz'), p) for p in found]
    if not self.pairs:
      raise UserError(
        f'no speech at {folder!r}: it takes templates NAME.npz beside NAME_speech.npz with an '
        'array `features`'
      )
    self.fingerprint = repr([(p.name, p.stat().st_size) for _, p in self.pairs])

  def __len__(self):
    return len(self.pairs)

  def __getitem__(self, index):
    path, beside = self.pairs[index]
    try:
      template, features = load_template(path), npz.read_npz(beside)['features']
    except (UserError, KeyError) as error:
      raise DamagedRecord(f'{path.name}: {error}') from None
    if features.ndim != 2 or features.shape[1] != self.features:
      raise DamagedRecord(
        f'{beside.name} has features of {list(features.shape)}, config.model.features is '
        f'{self.features}'
      )
    frames = max(1, int(template.seconds[-1] * self.rate) + 1)
    motion = resample(template.motion, template.seconds, np.arange(frames) / self.rate)
    return {
      'features': aligned(
        features, rate=self.rate, features_rate=self.features_rate, frames=frames
      ),
      'motion': to_numbers(motion),
    }


def examples(config, *, part: str = 'train'):
  """(source, transform): a window of frames, its motion relative to the clip's first frame."""
  data = config.data
  if data.name == 'toy_speech':
    source = ToySpeech(
      data.count if part == 'train' else data.holdout,
      data.frames,
      config.model.features,
      part != 'train',
    )
  elif data.name == 'speech':
    source = SpokenMotions(
      data.path if part == 'train' else data.held_out,
      rate=data.rate,
      features_rate=data.features_rate,
      features=config.model.features,
    )
  else:
    raise UserError(f"config.data.name is {data.name!r}; choose 'speech' or 'toy_speech'")

  def transform(record, rng):
    motion, features = record['motion'], record['features']
    if len(motion) <= data.frames:
      raise DamagedRecord(f'a clip has {len(motion)} frames, training asks for {data.frames + 1}')
    start = rng.integers(0, len(motion) - data.frames)
    take = slice(start, start + data.frames)
    before = motion[start - 1 : start] if start else np.zeros_like(motion[:1])
    return {
      'features': features[take],
      'motion': motion[take],
      'before': np.concatenate([before, motion[take][:-1]]),
    }

  return source, transform


def held_out(config):
  """The same of clips that are not trained on; None if there are none."""
  has = config.data.held_out if config.data.name == 'speech' else config.data.holdout
  return examples(config, part='held_out') if has else None


def task(config) -> Task:
  """See `Task`. Config: `model`, `data`, `loss`, `batch_size`."""
  network, T, B = speech_motion(config), config.data.frames, config.batch_size
  shape = lambda *axes: jax.ShapeDtypeStruct((B, *axes), jnp.float32)
  spec = dict(
    features=shape(T, config.model.features), motion=shape(T, NUMBERS), before=shape(T, NUMBERS)
  )

  def init_fn(rng):
    return network.init(rng, jnp.zeros((1, T, config.model.features)), jnp.zeros((1, T, NUMBERS)))[
      'params'
    ]

  def loss_fn(params, batch, rng):
    before = batch['before'] + config.loss.noise * jax.random.normal(rng, batch['before'].shape)
    found = network.apply({'params': params}, batch['features'], before)
    error = found - batch['motion']
    place = jnp.abs(error).mean()
    speed = jnp.abs(error[:, 1:] - error[:, :-1]).mean()
    return place + config.loss.velocity * speed, {
      'error': place,
      'still_error': jnp.abs(batch['before'] - batch['motion']).mean(),
    }

  def evaluate(params, batch, rng):
    """Alone from rest on, beside standing still."""
    del rng
    wanted = batch['motion'] - batch['motion'][:, :1]
    found = continued(network, params, batch['features'], window=T)
    return {'error': jnp.abs(found - wanted).mean(), 'still_error': jnp.abs(wanted).mean()}

  return Task(init_fn, loss_fn, spec, (('alone', evaluate),))
