"""Loki's networks and what they compute: the map's guidance, the reference's tokens, a prediction.

  guidance = encoder(driver map)                                  once a window: it knows no time
  bank     = inputs of the self-attentions of a frozen UNet at t = 0, on the clean latents of the reference     once a portrait
  eps      = UNet without text(x_t, t; + guidance, keys and values of bank), self-attention below the finest level over all frames

Parameters are {'generator', 'encoder', 'reference'}. Every ablation is a value of the config:

  condition.map     'full' 45 channels; 'no_posenc' 3; 'no_deform' 42; 'ndc' encodes places on the screen; 'vector' coefficients with
                    translation and shape, its MLP trained; 'rgb' the driver's own frames, which
                    leak who it is
  model.reference   'frozen' as published; 'trained' from the same start; 'random' frozen at random weights; 'none'

Letters: B clips, T frames, H, W pixels, h, w, C latents, W_0 width of the finest level, D
coefficients.
Source: Loki, arXiv 2605.24176, and its published code.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.controls.driver_map import (
  CHANNELS,
  DEFORMATION_CHANNELS,
  POSITION_CHANNELS,
  encoded,
  screen_points,
)
from exp_jax.errors import UserError
from exp_jax.networks.codec import Codec
from exp_jax.networks.sd_start import read_prompt
from exp_jax.networks.sd_unet import VARIANTS, SdUNet, sd_unet
from exp_jax.systems.loki.map_encoder import MapEncoder, VectorEncoder, map_encoder

MAPS = {
  'full': CHANNELS,
  'no_posenc': DEFORMATION_CHANNELS,
  'no_deform': POSITION_CHANNELS,
  'ndc': CHANNELS,
  'vector': 0,
  'rgb': 3,
}
REFERENCES = ('frozen', 'trained', 'random', 'none')
PROMPT = 'prompt.npz'  # in an export: what the reference network reads in place of a text
OF_MAPS = ('places', 'depth', 'deformation', 'mask')


@dataclasses.dataclass(frozen=True)
class Networks:
  """The three networks of a config.

  Attributes:
    generator: a UNet without text, attention over all frames.
    reference: the UNet whose tokens are read; None: no identity.
    encoder: of maps, or of vectors.
    kind: a key of `MAPS`.
    text: [1, M, D] what the reference reads in place of a prompt; None where it reads none.
  """

  generator: SdUNet
  reference: SdUNet | None
  encoder: MapEncoder | VectorEncoder
  kind: str
  text: np.ndarray | None = None

  def guidance(self, params: dict, shown: jax.Array) -> jax.Array:
    """[B, T, H, W, channels] maps of `shown_maps`, or [B, T, D] vectors -> [B, T, h, w, W_0]."""
    return self.encoder.apply({'params': params['encoder']}, shown)

  def bank(self, params: dict, latents: jax.Array) -> tuple[jax.Array, ...] | None:
    """Clean latents [B, h, w, C] of the reference -> its tokens, in the order of the forward pass;
    None without identity."""
    if self.reference is None:
      return None
    text = None if self.text is None else jnp.repeat(jnp.asarray(self.text), len(latents), axis=0)
    return self.reference.apply(
      {'params': params['reference']}, latents, jnp.zeros(len(latents)), text, method='features'
    )

  def predict(
    self,
    params: dict,
    x: jax.Array,
    times: jax.Array,
    guidance: jax.Array,
    bank,
    keep: jax.Array | None = None,
  ):
    """What the generator says of noisy latents: float32 [B, T, h, w, C].

    Args:
      x: [B, T, h, w, C].
      times: [B] or, one a frame, [B, T].
      guidance: of `guidance`. bank: of `bank`.
      keep: [B] bool, which clips see their reference; None: all.
    """
    return self.generator.apply(
      {'params': params['generator']},
      x,
      times,
      guidance=guidance,
      reference=bank,
      keep=None if bank is None else keep,
    )


def networks_of(config, codec: Codec, *, vector: int = 0, planned: bool = False) -> Networks:
  """The networks of a config's `model` and `condition`.

  Args:
    vector: numbers in a coefficient vector, where `condition.map` is 'vector'.
    planned: shapes alone are wanted, so that the prompt's file need not be there yet.

  Raises:
    UserError: an unknown ablation, an encoder that does not fit the autoencoder or the UNet, or no
      prompt for a reference with text.
  """
  model, condition = config.model, config.condition
  if condition.map not in MAPS:
    raise UserError(f'config.condition.map is {condition.map!r}, choose from {", ".join(MAPS)}')
  if model.reference not in REFERENCES:
    raise UserError(
      f'config.model.reference is {model.reference!r}, choose from {", ".join(REFERENCES)}'
    )
  if model.variant not in VARIANTS:
    raise UserError(
      f'config.model.variant is {model.variant!r}, choose from {", ".join(sorted(VARIANTS))}'
    )
  shared = dict(
    in_channels=codec.channels,
    out_channels=codec.channels,
    dtype=model.dtype,
    attention=model.attention,
  )
  shared |= {name: model[name] for name in ('widths', 'heads', 'blocks') if name in model}
  generator = sd_unet(model.variant, **shared, text_dim=0, three_d=True, remat=model.remat)
  reference = None if model.reference == 'none' else sd_unet(model.variant, **shared, head=True)
  return Networks(
    generator,
    reference,
    _encoder(config, codec, generator),
    condition.map,
    read_prompt(model.get('prompt', ''), reference.text_dim, '', planned=planned)
    if reference is not None and reference.text_dim
    else None,
  )


def _encoder(config, codec: Codec, generator: SdUNet) -> MapEncoder | VectorEncoder:
  condition, side = config.condition, config.data.size // codec.strides[1]
  if condition.map == 'vector':
    return VectorEncoder(generator.widths[0], (side, side), condition.gain)
  encoder = map_encoder(
    condition.encoder,
    gain=condition.gain,
    dtype=config.model.dtype,
    remat=config.model.remat != 'none',
  )
  if (
    encoder.out != generator.widths[0]
    or encoder.stride != codec.strides[1]
    or config.data.size % encoder.stride
  ):
    raise UserError(
      f'the map encoder {condition.encoder!r} makes {encoder.out} channels a {encoder.stride}th of '
      'the size, the UNet '
      f'takes {generator.widths[0]} and the autoencoder a {codec.strides[1]}th of '
      f'{config.data.size}: choose another '
      'config.condition.encoder'
    )
  return encoder


def shown_maps(kind: str, maps: dict) -> jax.Array:
  """What the encoder sees of a batch.

  Args:
    kind: a key of `MAPS`.
    maps: `places`, `depth`, `deformation`, `mask` as of `DriverMaps` with leading axes; for 'rgb'
      `video` uint8, for 'vector' `vector` alone.

  Returns:
    float32 [..., H, W, MAPS[kind]], or [..., D].
  """
  if kind == 'vector':
    return jnp.asarray(maps['vector'], jnp.float32)
  if kind == 'rgb':
    return maps['video'].astype(jnp.float32) / 127.5 - 1.0
  points = screen_points(maps['depth']) if kind == 'ndc' else maps['places']
  return encoded(
    points,
    maps['deformation'],
    maps['mask'],
    positions=kind != 'no_posenc',
    deformed=kind != 'no_deform',
  )


def nothing_shown(shown: jax.Array) -> jax.Array:
  """The null branch's map: zeros, which pass the encoder as any map does."""
  return jnp.zeros_like(shown)


def initial_params(
  networks: Networks, rng: jax.Array, *, size: int, codec: Codec, vector: int = 0
) -> dict:
  """{'generator', 'encoder'[, 'reference']} at random weights; the encoder's last convolution is
  zero.

  Args:
    size: pixels of a frame. vector: numbers in a coefficient vector.
  """
  for_generator, for_encoder, for_reference = jax.random.split(rng, 3)
  side = size // codec.strides[1]
  x, channels = jnp.zeros((1, 1, side, side, codec.channels)), MAPS[networks.kind]
  shown = jnp.zeros((1, 1, size, size, channels)) if channels else jnp.zeros((1, 1, vector))
  params = {
    'generator': networks.generator.init(for_generator, x, jnp.zeros(1))['params'],
    'encoder': networks.encoder.init(for_encoder, shown)['params'],
  }
  if networks.reference is not None:
    text = None if networks.text is None else jnp.asarray(networks.text)
    params['reference'] = networks.reference.init(for_reference, x, jnp.zeros(1), text)['params']
  return params
