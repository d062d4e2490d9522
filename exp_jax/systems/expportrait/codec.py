"""Pixels to latents and back: which autoencoder a generator was trained with.

| name | strides (time, rows, columns) | channels | weights |
|---|---|---|---|
| space_to_depth | 1, 4, 4 | 48 | none: exactly invertible, for smoke runs |
| patch | 1, 8, 8 | 16 | an export of task 'expportrait/vae' |
| wan | 4, 8, 8 | 16 | converted Wan 2.1 autoencoder; training reads its latents from the records |
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from exp_jax.errors import UserError
from exp_jax.networks.patch_vae import depth_to_space, patch_vae, space_to_depth
from exp_jax.training.exports import load_export


@dataclasses.dataclass(frozen=True)
class Codec:
  """encode: [..., T, H, W, 3] in [-1, 1] -> [..., F, h, w, C] of about unit variance; decode: back."""
  strides: tuple[int, int, int]
  channels: int
  encode: Callable[[jax.Array], jax.Array]
  decode: Callable[[jax.Array], jax.Array]


def _no_weights(*_):
  raise UserError("the 'wan' autoencoder has no weights here: store its latents in the records")


def open_codec(name: str, path: str) -> Codec:
  """A codec by name; `path` is an export folder where weights are needed.

  Raises:
    UserError: if the name is unknown, or the export is missing, damaged or of another task.
  """
  if name == 'space_to_depth':
    return Codec((1, 4, 4), 48, lambda x: space_to_depth(x, 4), lambda z: depth_to_space(z, 4))
  if name == 'wan':
    return Codec((4, 8, 8), 16, _no_weights, _no_weights)
  if name != 'patch':
    raise UserError(f"unknown autoencoder {name!r}, choose from ['patch', 'space_to_depth', 'wan']")
  config, params = load_export(path)
  if config.task != 'expportrait/vae':
    raise UserError(f'{path} is an export of {config.task!r}, not of expportrait/vae')
  model = patch_vae(**config.model)
  params = jax.tree.map(jnp.asarray, params)
  return Codec(model.strides, model.channels,
               lambda x: model.apply({'params': params}, x, method='encode'),
               lambda z: model.apply({'params': params}, z, method='decode'))
