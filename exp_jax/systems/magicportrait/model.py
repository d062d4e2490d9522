"""MagicPortrait's networks and what they compute: the guidance of maps, the reference's tokens, a
prediction.

  guidance = sum over maps m of encoder_m(m)                             once a frame: it knows no time
  bank     = tokens of AppearanceNet at t = 0 on the clean latents of the reference, same text          once a portrait
  v        = UNet(x_t, t, text; + guidance, bank at every self-attention, motion modules over frames)

Parameters are {'denoiser', 'appearance', 'guidance': {map: ...}}; the motion modules are part of
the denoiser. Every ablation is a value of the config:

  condition.maps       some of 'depth', 'normals', 'render', and 'landmarks'; () for none
  condition.attend     False: the encoders have a convolution in place of self-attention
  model.fusion         'concat': the reference's tokens are further keys and values, as published weights need it; 'add': its hidden
                       tokens are added before each block, as the paper writes; 'none': no reference
                       at all
  model.motion         '' of the first stage, 'frame' of the second; 'clip': another norm, of weights finetuned elsewhere

Letters: B clips, T frames, H, W pixels, h, w, C latents, W_0 width of the finest level, M tokens
and D width of the text.
Source: MagicPortrait, arXiv 2504.21497, sections III-A to III-C, and its published code.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from exp_jax.errors import UserError
from exp_jax.networks.codec import Codec
from exp_jax.networks.motion_module import NORMS
from exp_jax.networks.sd_start import read_prompt
from exp_jax.networks.sd_unet import FUSIONS, VARIANTS, SdUNet, sd_unet
from exp_jax.systems.magicportrait.guidance_encoder import GuidanceEncoder, guidance_encoder
from exp_jax.systems.magicportrait.maps import MAPS

NONE = 'none'
PROMPT = 'prompt.npz'  # in an export: what the networks read in place of a text
SENTENCE = 'A close up of a person.'


@dataclasses.dataclass(frozen=True)
class Networks:
  """The networks of a config.

  Attributes:
    denoiser: the UNet that predicts.
    appearance: the UNet whose tokens are read, without output norm and convolution; None: no
      reference.
    encoder: of every map.
    maps: names of the maps.
    text: [1, M, D] what both UNets read in place of a prompt; None where they read none.
  """

  denoiser: SdUNet
  appearance: SdUNet | None
  encoder: GuidanceEncoder
  maps: tuple[str, ...]
  text: np.ndarray | None = None

  def guidance(self, params: dict, shown: dict[str, jax.Array]) -> jax.Array | None:
    """{map: [B, T, H, W, 3]} of `shown_maps` -> [B, T, h, w, W_0]; None without maps."""
    found = [
      self.encoder.apply({'params': params['guidance'][name]}, shown[name]) for name in self.maps
    ]
    return sum(found) if found else None

  def bank(self, params: dict, latents: jax.Array) -> tuple[jax.Array, ...] | None:
    """Clean latents [B, h, w, C] of the reference -> its tokens, in the order of the forward pass;
    None without a reference."""
    if self.appearance is None:
      return None
    count = len(latents)
    return self.appearance.apply(
      {'params': params['appearance']},
      latents,
      jnp.zeros(count),
      self._text(count),
      method='features',
    )

  def predict(
    self,
    params: dict,
    x: jax.Array,
    times: jax.Array,
    guidance: jax.Array | None,
    bank,
    keep: jax.Array | None = None,
  ) -> jax.Array:
    """What the denoiser says of noisy latents: float32 [B, T, h, w, C].

    Args:
      x: [B, T, h, w, C].
      times: [B].
      guidance: of `guidance`. bank: of `bank`.
      keep: [B] bool, which clips see their reference; None: all. Text and guidance are seen by all.
    """
    return self.denoiser.apply(
      {'params': params['denoiser']},
      x,
      times,
      self._text(len(x)),
      guidance=guidance,
      reference=bank,
      keep=None if bank is None else keep,
    )

  def _text(self, count: int) -> jax.Array | None:
    return None if self.text is None else jnp.repeat(jnp.asarray(self.text), count, axis=0)


def networks_of(config, codec: Codec, *, planned: bool = False) -> Networks:
  """The networks of a config's `model` and `condition`.

  Args:
    planned: shapes alone are wanted, so that the prompt's file need not be there yet.

  Raises:
    UserError: an unknown choice, an encoder that does not fit the autoencoder or the UNet, or no
      prompt for a network with text.
  """
  model, condition = config.model, config.condition
  for name, given, choices in (
    ('model.variant', model.variant, sorted(VARIANTS)),
    ('model.fusion', model.fusion, (*FUSIONS, NONE)),
    ('model.motion', model.motion, ('', *NORMS)),
  ):
    if given not in choices:
      raise UserError(f'config.{name} is {given!r}, choose from {", ".join(map(repr, choices))}')
  if unknown := [name for name in condition.maps if name not in MAPS]:
    raise UserError(f'config.condition.maps names {unknown[0]!r}, choose from {", ".join(MAPS)}')
  if len(set(condition.maps)) != len(condition.maps):
    raise UserError(f'config.condition.maps names a map twice: {", ".join(condition.maps)}')
  shared = dict(
    in_channels=codec.channels,
    out_channels=codec.channels,
    dtype=model.dtype,
    attention=model.attention,
  )
  shared |= {
    name: model[name] for name in ('widths', 'heads', 'blocks', 'text_dim') if name in model
  }
  shared |= {'fusion': model.fusion} if model.fusion != NONE else {}
  denoiser = sd_unet(model.variant, **shared, motion=model.motion, remat=model.remat)
  appearance = (
    None
    if model.fusion == NONE
    else sd_unet(model.variant, **shared, head=False, remat=model.remat)
  )
  encoder = guidance_encoder(
    condition.encoder,
    attend=condition.attend,
    gain=condition.gain,
    dtype=model.dtype,
    implementation=model.attention,
    remat=model.remat != 'none',
  )
  if (
    encoder.out != denoiser.widths[0]
    or encoder.stride != codec.strides[1]
    or config.data.size % encoder.stride
  ):
    raise UserError(
      f'the guidance encoder {condition.encoder!r} makes {encoder.out} channels a '
      f'{encoder.stride}th of the size, the '
      f'UNet takes {denoiser.widths[0]} and the autoencoder a {codec.strides[1]}th of '
      f'{config.data.size}: choose '
      'another config.condition.encoder'
    )
  text = (
    read_prompt(model.get('prompt', ''), denoiser.text_dim, SENTENCE, planned=planned)
    if denoiser.text_dim
    else None
  )
  return Networks(denoiser, appearance, encoder, tuple(condition.maps), text)


def initial_params(networks: Networks, rng: jax.Array, *, size: int, codec: Codec) -> dict:
  """{'denoiser'[, 'guidance'][, 'appearance']} at random weights; last layers of encoders and
  motion modules are zero.

  Args:
    size: pixels of a frame.
  """
  for_denoiser, for_appearance, *for_maps = jax.random.split(rng, 2 + len(networks.maps))
  side = size // codec.strides[1]
  x = jnp.zeros((1, 1, side, side, codec.channels))
  text = None if networks.text is None else jnp.asarray(networks.text)
  params = {'denoiser': networks.denoiser.init(for_denoiser, x, jnp.zeros(1), text)['params']}
  if networks.maps:
    shown = jnp.zeros((1, 1, size, size, 3))
    params['guidance'] = {
      name: networks.encoder.init(key, shown)['params']
      for name, key in zip(networks.maps, for_maps)
    }
  if networks.appearance is not None:
    params['appearance'] = networks.appearance.init(for_appearance, x, jnp.zeros(1), text)['params']
  return params


def is_motion(path: str) -> bool:
  """Whether a parameter, by its path joined by '/', belongs to the motion modules."""
  return path.startswith('denoiser/') and '/motion/' in path


def is_read(networks: Networks, path: str) -> bool:
  """Whether a parameter of AppearanceNet bears on what is read of it; what lies behind its last
  tokens does not."""
  parts = path.split('/')
  if parts[0] != 'appearance':
    return True
  last = f'up{len(networks.appearance.widths) - 1}_{networks.appearance.blocks}'
  if parts[1:3] != [last, 'att']:
    return True
  if parts[3] == 'block':
    return parts[4] == 'norm1' and networks.denoiser.fusion == 'concat'
  return parts[3] != 'proj_out'
