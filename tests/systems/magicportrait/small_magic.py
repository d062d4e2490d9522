"""MagicPortrait at its smallest: the smoke config, its networks at random weights none of which is
zero, and an export of them."""

import functools
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.networks.codec import open_codec
from exp_jax.systems.magicportrait.model import initial_params, networks_of
from exp_jax.training.exports import write_export

ROOT = pathlib.Path(__file__).parents[3]


def config_of(mode='smoke2', **changes):
  """configs/magicportrait.py in a mode, with values by dotted keys joined by '__'."""
  config = (
    runpy.run_path(str(ROOT / 'configs' / 'magicportrait.py'))['get_config'](mode)
    .copy_and_resolve_references()
    .unlock()
  )
  for key, value in changes.items():
    *sections, last = key.split('__')
    section = config
    for name in sections:
      section = section[name]
    section[last] = value
  return config.lock()


def random_params(networks, *, size, codec, seed=0):
  """Parameters of small numbers, biases and zero layers too; made without compiling the
  networks."""
  shapes = jax.eval_shape(
    functools.partial(initial_params, networks, size=size, codec=codec), jax.random.key(0)
  )
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    inputs = max(int(np.prod(leaf.shape[:-1])), 1)
    noise = rng.normal(0, 1, leaf.shape) / (inputs**0.5 if len(leaf.shape) > 1 else 10)
    return jnp.asarray(noise + (getattr(path[-1], 'key', '') == 'scale'), jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def small(mode='smoke2', seed=0, **changes):
  """(config, networks, params, codec)."""
  config = config_of(mode, **changes)
  codec = open_codec(**config.vae)
  networks = networks_of(config, codec)
  return (
    config,
    networks,
    random_params(networks, size=config.data.size, codec=codec, seed=seed),
    codec,
  )


def write_small_export(path, mode='smoke2', **changes):
  """An export of random weights; returns its path."""
  config, _, params, _ = small(mode, **changes)
  write_export(path, config, params, dtype='float32')
  return path


def drawn(total, size=16, seed=3):
  """{map: uint8 [total, size, size(, 3)]}."""
  rng = np.random.default_rng(seed)
  draw = lambda *last: rng.integers(0, 256, (total, size, size, *last)).astype(np.uint8)
  return {'depth': draw(), 'normals': draw(3), 'render': draw(3), 'landmarks': draw()}
