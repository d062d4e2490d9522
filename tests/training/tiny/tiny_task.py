"""A task that compiles in a second, with faults on demand: what the engine's tests train."""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.data.sources import DamagedRecord
from exp_jax.training.task import Task

WIDTH = 16


class Records:
  def __init__(self, config, offset=0):
    self.data, self.offset = config.data, offset

  def __len__(self):
    return self.data.count

  def __getitem__(self, index):
    time.sleep(self.data.pace)
    if index in self.data.damaged:
      raise DamagedRecord(f'record {index} is damaged: on demand')
    if index == self.data.hang:
      time.sleep(3600)
    if index == self.data.die:
      os.kill(os.getpid(), 9)
    if index == self.data.bug:
      raise ZeroDivisionError(f'record {index}: on demand')
    x = np.random.default_rng((index, self.offset)).normal(size=WIDTH).astype(np.float32)
    if index in self.data.nan:
      x[3] = np.nan
    return x


def task(config):
  fault = config.fault

  def init_fn(rng):
    a, b = jax.random.split(rng)
    return {
      'one': {'kernel': 0.3 * jax.random.normal(a, (WIDTH, 32)), 'bias': jnp.zeros(32)},
      'two': {'kernel': 0.3 * jax.random.normal(b, (32, WIDTH))},
    }

  def loss_fn(params, batch, rng):
    noisy = batch['x'] + 0.1 * jax.random.normal(rng, batch['x'].shape)
    y = jnp.tanh(noisy @ params['one']['kernel'] + params['one']['bias']) @ params['two']['kernel']
    loss = jnp.square(y - batch['x']).mean()
    if fault.nan_loss:  # where the batch holds a given value, so that it repeats exactly
      bad = (batch['flag'] > 0).any()
      loss = jnp.where(bad, jnp.nan, loss)
    return loss, {'energy': jnp.square(y).mean()}

  def evaluate(params, batch, rng):
    picture = jnp.clip(params['one']['kernel'][:, :, None] * jnp.ones(3) + 0.5, 0, 1)
    return {
      'loss': loss_fn(params, batch, rng)[0],
      'kernel': picture,
      'clip': jnp.stack([picture, 1 - picture]),
    }

  shape = jax.ShapeDtypeStruct((config.batch_size, WIDTH), jnp.float32)
  frozen = config.frozen
  return Task(
    init_fn,
    loss_fn,
    {'x': shape, 'flag': jax.ShapeDtypeStruct((config.batch_size,), jnp.float32)},
    (('tiny', evaluate),),
    trainable=(lambda name: not name.startswith(frozen)) if frozen else None,
    tokens=1,
    start=(lambda: {'two': {'kernel': np.full((32, WIDTH), 0.01)}}) if config.start else None,
  )


def examples(config):
  flagged = config.fault.flagged
  return Records(config), lambda x, rng: {
    'x': x + 0.01 * rng.normal(size=WIDTH).astype(np.float32),
    'flag': np.float32(abs(x[0] - _first(config, flagged)) < 1e-6),
  }


def held_out(config):
  return Records(config, offset=1), lambda x, rng: {'x': x, 'flag': np.float32(0)}


def _first(config, index):
  return (
    np.random.default_rng((index, 0)).normal(size=WIDTH).astype(np.float32)[0]
    if index >= 0
    else np.inf
  )
