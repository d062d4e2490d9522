"""Pixels to latents and back: which autoencoder a generator was trained with.

| name | strides (time, rows, columns) | channels | weights |
|---|---|---|---|
| space_to_depth | 1, 4, 4 | 48 | none: exactly invertible, for smoke runs |
| patch | 1, 8, 8 | 16 | an export of task 'expportrait/vae', or 'embedded': the small one of the package, 1, 4, 4 and 8 channels |
| sd | 1, 8, 8 | 4 | the autoencoder of Stable Diffusion by `convert.sd`, by the mean; without weights latents are in the records |
| wan | 4, 8, 8 | 16 | the Wan 2.1 autoencoder by `convert.wan`; training reads its latents from the records |

With `tile` Wan's autoencoder sees squares of that many pixels, neighbours sharing a quarter, faded
into each other: the memory of a square on the device for frames of any size, at results that are
close to those of whole frames and not equal to them.
"""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from exp_jax.errors import UserError
from exp_jax.files.resources import package_file
from exp_jax.networks.patch_vae import depth_to_space, patch_vae, space_to_depth
from exp_jax.networks.sd_vae import SdVAE, decode_frames
from exp_jax.networks.wan_vae import WanVAE, denormalize, encode_in_chunks, in_tiles, normalize
from exp_jax.networks.weights import load_weights
from exp_jax.training.exports import load_export


@dataclasses.dataclass(frozen=True)
class Codec:
  """encode: [..., T, H, W, 3] in [-1, 1] -> [..., F, h, w, C] of about unit variance; decode:
  back. open_decoder() -> a function [F, h, w, C] -> [T, H, W, 3] to be called with the parts of one
  clip in their order."""

  strides: tuple[int, int, int]
  channels: int
  encode: Callable[[jax.Array], jax.Array]
  decode: Callable[[jax.Array], jax.Array]
  open_decoder: Callable[[], Callable[[jax.Array], jax.Array]] | None = None

  def __post_init__(self):
    if self.open_decoder is None:  # frames are coded one by one: nothing to remember
      decode = jax.jit(lambda z: jax.lax.map(lambda frame: self.decode(frame[None])[0], z))
      object.__setattr__(self, 'open_decoder', lambda: decode)

  def reference_code(self, reference: jax.Array, frames: int) -> jax.Array:
    """[H, W, 3] in [0, 1] -> the condition [1, 1 or `frames`, h, w, C]: the image alone, or
    followed by blank video."""
    image = reference[None, None] * 2.0 - 1.0
    if self.strides[0] == 1:
      return self.encode(image)
    return self.encode(
      jnp.pad(image, ((0, 0), (0, self.strides[0] * (frames - 1)), (0, 0), (0, 0), (0, 0)))
    )


def _no_weights(*_):
  raise UserError(
    "the 'wan' autoencoder has no weights here: store its latents in the records, or name "
    'converted weights '
    'in vae.path'
  )


def _wan(path: str, tile: int) -> Codec:
  if not path:
    return Codec((4, 8, 8), 16, _no_weights, _no_weights, _no_weights)
  weights = load_weights(path, 'vae')
  model, params = WanVAE(**weights.sizes), jax.tree.map(jnp.asarray, weights.tree())
  to_codes = jax.jit(lambda params, x: normalize(encode_in_chunks(model, params, x)))

  @jax.jit
  def to_frames(params, cache, z):
    out, kept = model.apply(
      {'params': params, 'cache': cache}, denormalize(z)[None], method='decode', mutable=['cache']
    )
    return out[0], kept['cache']

  stride = tile - tile // 4

  def encode_clip(clip):
    if not tile:
      return to_codes(params, clip[None])[0]
    return in_tiles(
      lambda part: to_codes(params, part), clip[None], tile=tile, stride=stride, scale=1 / 8
    )[0]

  def open_decoder():
    caches = {}  # of each tile, in the order of `in_tiles`; without tiles there is one

    def push(z):
      # two programs, memory of one frame
      return jnp.concatenate([(one_frame if tile else of_tile)(one[None]) for one in z])

    def of_tile(z, index=0):
      out, kept = to_frames(params, caches.get(index, {}), z)
      # those of other tiles wait in the host's memory
      caches[index] = jax.device_get(kept) if tile else kept
      return out

    def one_frame(z):
      order = itertools.count()
      return in_tiles(
        lambda part: of_tile(part[0], next(order))[None],
        z[None],
        tile=tile // 8,
        stride=stride // 8,
        scale=8,
      )[0]

    return push

  def over_clips(fn, x):
    return jnp.stack([fn(clip) for clip in x.reshape(-1, *x.shape[-4:])]).reshape(
      *x.shape[:-4], *fn_shape(x)
    )

  def fn_shape(x):
    T, H, W, C = x.shape[-4:]
    return ((T - 1) // 4 + 1, H // 8, W // 8, 16) if C == 3 else (4 * T - 3, 8 * H, 8 * W, 3)

  decode = lambda z: over_clips(lambda clip: open_decoder()(clip), z)
  return Codec((4, 8, 8), 16, lambda x: over_clips(encode_clip, x), decode, open_decoder)


def _no_sd_weights(*_):
  raise UserError(
    "the 'sd' autoencoder has no weights here: store its latents in the records, or convert its "
    'weights with '
    '`python -m exp_jax.convert.sd` and name the folder in vae.path'
  )


def _sd(path: str) -> Codec:
  if not path:
    return Codec((1, 8, 8), 4, _no_sd_weights, _no_sd_weights, lambda: _no_sd_weights)
  weights = load_weights(path, 'sd_vae')
  model, params = SdVAE(**weights.sizes), jax.tree.map(jnp.asarray, weights.tree())
  encode = jax.jit(lambda x: model.apply({'params': params}, x, method='encode'))
  decode = jax.jit(lambda z: model.apply({'params': params}, z, method='decode'))
  return Codec(
    (1, model.stride, model.stride),
    model.channels,
    encode,
    decode,
    lambda: lambda z: decode_frames(decode, z),
  )


def open_codec(name: str, path: str, tile: int = 0) -> Codec:
  """A codec by name; `path` is a folder of weights where they are needed, `tile` the edge of tiles
  in pixels, 0: whole frames.

  Raises:
    UserError: if the name is unknown, the weights are missing, damaged or of another network, or
      the tile does not fit.
  """
  if tile and (name != 'wan' or tile < 64 or tile % 32):
    raise UserError(
      f"tiles of {tile} pixels for the autoencoder {name!r}: only 'wan' has tiles, of 64 pixels or "
      'more, a multiple '
      'of 32'
    )
  if name == 'space_to_depth':
    return Codec((1, 4, 4), 48, lambda x: space_to_depth(x, 4), lambda z: depth_to_space(z, 4))
  if name == 'wan':
    return _wan(path, tile)
  if name == 'sd':
    return _sd(path)
  if name != 'patch':
    raise UserError(
      f"unknown autoencoder {name!r}, choose from ['patch', 'sd', 'space_to_depth', 'wan']"
    )
  path = package_file('embedded', 'vae') if path == 'embedded' else path
  config, params = load_export(path)
  if config.task != 'expportrait/vae':
    raise UserError(f'{path} is an export of {config.task!r}, not of expportrait/vae')
  model = patch_vae(**config.model)
  params = jax.tree.map(jnp.asarray, params)
  return Codec(
    model.strides,
    model.channels,
    jax.jit(lambda x: model.apply({'params': params}, x, method='encode')),
    jax.jit(lambda z: model.apply({'params': params}, z, method='decode')),
  )
